"""What all files that a run writes have in common: opened at once, closed once, and one line about what went wrong."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

import av

__all__ = ["OutputFile", "TextFile"]

log = logging.getLogger(__name__)


class OutputFile:
    """A file that is being written: a context manager that closes once, and says once what went wrong."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.failed(error) from None

    def close(self) -> None:
        """Complete the file. More than once does no harm. Raises OSError if the rest can not be written."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OSError as second:
            if error is None:
                raise
            log.warning("%s", second)  # the first error is the one to tell

    def failed(self, error: OSError | av.FFmpegError) -> OSError:
        """Mark the file as lost; the one line for the user, with the error number kept."""
        self.closed = True
        reason = error.strerror or str(error) or type(error).__name__
        failure = OSError(
            f"{self.path}: can not be written: {reason}; expected a writable folder with free space; choose another"
        )
        failure.errno = error.errno
        return failure

    def require_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path}: already closed; expected an open file; write before close()")


class TextFile(OutputFile):
    """ASCII text that has left the program when `put` returns, so that a killed run keeps it."""

    def __init__(self, path: str | Path) -> None:
        """Makes or empties the file. Raises OSError if it can't be written."""
        super().__init__(path)
        self._end = 0
        try:
            self._file = self.path.open("wb", buffering=0)
        except OSError as error:
            raise self.failed(error) from None

    def put(self, text: str, over: int = 0) -> None:
        """Append, or first step back over the last `over` characters: one write either way."""
        self.require_open()
        data = memoryview(text.encode("ascii"))
        self._end -= over
        try:
            self._file.seek(self._end)
            while data:
                n = self._file.write(data)
                self._end, data = self._end + n, data[n:]
        except OSError as error:
            self._file.close()
            raise self.failed(error) from None

    def close(self) -> None:
        """Complete the file. More than once does no harm."""
        self.closed = True
        self._file.close()
