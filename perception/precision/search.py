"""Which blocks may be int8? Each is quantized alone, its harm is measured, and the most harmful stay in float.

Harm is what the answers on calibration images lose against fp32. Blocks are taken in the order of their harm, as many
as the asked agreement allows; how many, is found by bisection with all of them quantized together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto
from tqdm import tqdm

from perception.parity import matched_share
from perception.precision.graph import batches
from perception.precision.int8 import measure_ranges, quantizable, quantize

__all__ = ["Choice", "agreement", "choose_blocks", "responses"]

Answers = Sequence[Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the search found."""

    model: ModelProto
    agreement: float  # with fp32, on the calibration images
    quantized: tuple[str, ...]  # blocks in int8
    kept: tuple[str, ...]  # blocks in float, the most harmful last
    harm: Mapping[str, float]  # block -> 1 - agreement when it alone is quantized


def responses(model: ModelProto | Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What a graph, or a file, answers on (h, w, 3) uint8 RGB images on the CPU: a dict of (1, ...) outputs for each.

    A graph for B images in one call gets B that follow each other, beginning again where the last ones are fewer.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = []
    for batch in batches(images, session.get_inputs()[0].shape[0]):
        outputs = session.run(names, {"image": batch})
        answers += [{name: o[i : i + 1] for name, o in zip(names, outputs, strict=True)} for i in range(len(batch))]
    return answers[: len(images)]


def agreement(truth: Answers, other: Answers) -> float:
    """The worst of: the share of pixels with the same class, of each map; the share of boxes that have a partner."""
    maps = [name for name, value in truth[0].items() if value.dtype == np.uint8]
    shares = [float(np.mean([(a[name] == b[name]).mean() for a, b in zip(truth, other, strict=True)])) for name in maps]
    if "boxes" in truth[0]:
        found = [matched_share(a["boxes"][0], b["boxes"][0]) for a, b in zip(truth, other, strict=True)]
        counts = sum(count for _, count in found)
        shares.append(sum(share * count for share, count in found) / counts if counts else 1.0)
    return min(shares)


def choose_blocks(model: ModelProto, images: Sequence[np.ndarray], asked: float, static: bool = False) -> Choice:
    """fp32 graph of `open_fp32` -> the int8 graph with the most blocks whose agreement on `images` is `asked` or more.

    `static`: see `int8.quantize`. Answers are ONNX Runtime's either way.

    Raises ValueError if not even one block can be quantized.
    """
    blocks = quantizable(model)
    ranges = measure_ranges(model, images)
    truth = responses(model, images)

    def attempt(names: Sequence[str]) -> tuple[ModelProto, float]:
        candidate = quantize(model, ranges, [node for name in names for node in blocks[name]], static)
        return candidate, agreement(truth, responses(candidate, images))

    best = list(blocks), *attempt(list(blocks))
    if best[2] >= asked:
        return Choice(best[1], best[2], tuple(blocks), (), {})
    harm = {name: 1 - attempt([name])[1] for name in tqdm(blocks, "blocks", leave=False, disable=None)}
    order = sorted(blocks, key=harm.__getitem__)
    low, high = 0, len(order)  # so many are known to agree, so many are known not to
    found: tuple[ModelProto, float] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        candidate = attempt(order[:middle])
        if candidate[1] >= asked:
            low, found = middle, candidate
        else:
            high = middle
    if found is None:
        raise ValueError(
            f"no block can be int8 with an agreement of {asked}: the best alone reaches {1 - harm[order[0]]:.4f}; "
            "ask for less with --agreement"
        )
    return Choice(*found, tuple(order[:low]), tuple(order[low:]), harm)
