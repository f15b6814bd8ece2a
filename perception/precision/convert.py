"""An exported fp32 file -> an fp16 or int8 file, written only if its answers agree with those of the fp32 file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from perception.precision.graph import about, open_fp32, set_about
from perception.precision.half import half, kept_in_fp32
from perception.precision.search import agreement, choose_blocks, responses

__all__ = ["Int8Engine", "convert"]

Int8Engine = Literal["onnxruntime", "openvino"]


def convert(
    source: Path,
    out: Path,
    kind: Literal["fp16", "int8"],
    images: Sequence[np.ndarray],
    asked: float,
    int8_for: Int8Engine = "onnxruntime",
) -> dict[str, Any]:
    """Write `out`, of which the metadata's config says under "precision" how it was made; returns the same.

    Args:
        source: an fp32 file of perception.export.
        out: the file to write.
        kind: fp16, or int8 where the agreement allows it.
        images: (h, w, 3) uint8 RGB in the model's size: ranges are measured and answers compared on them.
        asked: least agreement with fp32 on `images`, see `search.agreement`.
        int8_for: the engine that an int8 file is to be fast in; the other one answers alike, but slowly.

    Raises ValueError if `source` is not such a file, or the agreement is not reached; then nothing is written.
    """
    fp32 = open_fp32(source)
    metadata = about(fp32)
    facts: dict[str, Any] = {"kind": kind, "images": len(images), "asked": asked}
    if kind == "fp16":
        model = half(fp32)
        facts["agreement"] = agreement(responses(fp32, images), responses(model, images))
        facts["fp32_nodes"] = len(kept_in_fp32(fp32))
        if facts["agreement"] < asked:
            raise ValueError(
                f"fp16 agrees with fp32 by {facts['agreement']:.4f}, but {asked} is asked; stay with fp32, "
                "or ask for less with --agreement"
            )
    else:
        choice = choose_blocks(fp32, images, asked, static=int8_for == "openvino")
        model = choice.model
        facts |= {"agreement": choice.agreement, "int8_blocks": choice.quantized, "float_blocks": choice.kept}
        facts["int8_for"] = int8_for
    set_about(model, metadata, facts)
    onnx.checker.check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        draft = Path(folder) / "draft.onnx"
        onnx.save(model, draft)
        os.replace(draft, out)
    return facts
