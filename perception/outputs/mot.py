"""Tracks as MOTChallenge text, the format that TrackEval and its kind score.

One line a track and frame: frame, id, left, top, width, height, score, -1, -1, -1. Frames, ids and the top left pixel
count from 1 (Milan et al. 2016, arXiv:1603.00831). The format has no classes, and a file is one sequence: of several
cameras, each has a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perception.outputfile import TextFile
from perception.structures import Frame, Result, Track

__all__ = ["MotWriter"]


class MotWriter:
    """Writes the tracks that were seen in their frame; predictions are left out, as the benchmark's scorers expect."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        """Make a file for each camera; a single one is named "". Raises OSError if one can not be had: none stays."""
        self._files: dict[str, TextFile] = {}
        try:
            for camera, path in paths.items():
                self._files[camera] = TextFile(path)
        except OSError:
            self.close()
            for file in self._files.values():
                file.path.unlink()
            raise

    def write(
        self, frame: Frame, result: Result, tracks: Sequence[Track], timings: Mapping[str, float] | None = None
    ) -> None:
        """Add one frame; it may have no tracks. Raises OSError if the file can not be written."""
        lines = []
        for track in tracks:
            if track.unseen_s == 0:
                left, top, right, bottom = track.box
                box = f"{left + 1:.2f},{top + 1:.2f},{right - left:.2f},{bottom - top:.2f}"
                lines.append(f"{frame.id + 1},{track.id},{box},{track.score:.4f},-1,-1,-1\n")
        self._files[frame.camera].put("".join(lines))

    def close(self) -> None:
        """Complete the files. More than once does no harm."""
        for file in self._files.values():
            file.close()
