"""The bundled model on a drawn road: is the answer the one that was written down, and how long does it take?

The expectation lies beside the model and names its SHA-256; `python -m perception.doctor --renew` writes it again when
the model was replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from perception.engine import Engine
from perception.execution.providers import GpuOptions, Provider, file_sha256
from perception.model import BUNDLED_MODEL
from perception.tensors import tensor_from_frame
from perception.timings import Timings

__all__ = ["EXPECTATION", "Answer", "SelfTest", "differences", "drawn_road", "expectation", "renew", "self_test"]

EXPECTATION = BUNDLED_MODEL.with_suffix(".expected.json")
SECONDS, MOST_RUNS = 2.0, 100
SHARE, SCORE = 0.03, 0.05  # how far an answer may be from the expected one; FP16 is nearer, a wrong kernel is not


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, boiled down to what must not change."""

    sha256: str  # of the model file
    scores: tuple[float, ...]  # the best five of the boxes, falling
    shares: Mapping[str, tuple[float, ...]]  # head -> part of the pixels that each class has


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What came of it."""

    ran_on: str  # Engine.provider_reason
    p50_ms: float  # of the engine alone, batch 1
    runs: int
    wrong: str  # how the answer differs from the expected one; "" = it is right


def drawn_road(hw: tuple[int, int] = (720, 1280)) -> np.ndarray:
    """(H, W, 3) uint8 BGR: a road with markings between meadows under a sky, and the backs of two cars."""
    h, w = hw
    image = np.empty((h, w, 3), np.uint8)
    image[: h // 2] = np.linspace((200, 150, 110), (225, 215, 205), h // 2)[:, None]
    image[h // 2 :] = (60, 110, 80)

    def polygon(colour: tuple[int, int, int], *corners: tuple[float, float]) -> None:
        points = np.array([[x * w, y * h] for x, y in corners]).round().astype(np.int32)
        cv2.fillPoly(image, [points], colour)

    polygon((95, 95, 95), (0.46, 0.5), (0.54, 0.5), (1.0, 1.0), (0.0, 1.0))
    for left, right in ((0.465, 0.06), (0.535, 0.94)):
        polygon((230, 230, 230), (left, 0.51), (left + 0.002, 0.51), (right + 0.012, 1.0), (right - 0.012, 1.0))
    for x, y, size, colour in ((0.42, 0.62, 0.09, (40, 40, 150)), (0.56, 0.55, 0.05, (150, 150, 150))):
        polygon(colour, (x, y), (x + size, y), (x + size, y + size), (x, y + size))
        polygon((50, 40, 35), (x + size * 0.12, y + size * 0.08), (x + size * 0.88, y + size * 0.08),
                (x + size * 0.94, y + size * 0.4), (x + size * 0.06, y + size * 0.4))  # fmt: skip
        for wheel in (0.05, 0.77):
            polygon((20, 20, 20), (x + size * wheel, y + size * 0.9), (x + size * (wheel + 0.18), y + size * 0.9),
                    (x + size * (wheel + 0.18), y + size * 1.12), (x + size * wheel, y + size * 1.12))  # fmt: skip
    return image


def differences(expected: Answer, found: Answer) -> str:
    """How `found` differs by more than rounding, in words; "" = it does not."""
    if expected.sha256 != found.sha256:
        return "the expectation is of another model file; python -m perception.doctor --renew writes it again"
    if len(expected.scores) != len(found.scores) or expected.shares.keys() != found.shares.keys():
        return "other outputs than expected"
    parts = []
    scores = np.subtract(found.scores, expected.scores)
    if not np.all(np.abs(scores) <= SCORE):  # NaN is wrong as well
        parts.append(f"best scores {_figures(found.scores)} where {_figures(expected.scores)} were expected")
    for head, shares in expected.shares.items():
        far = np.abs(np.subtract(found.shares[head], shares))
        if not np.all(far <= SHARE):
            worst = int(np.argmax(far))
            parts.append(
                f"{head}: class {worst} on {found.shares[head][worst]:.0%} of the picture, expected {shares[worst]:.0%}"
            )
    return "; ".join(parts)


def self_test(provider: Provider, gpu: GpuOptions, threads: int = 0, seconds: float = SECONDS) -> SelfTest:
    """Run the bundled model for about `seconds`. Raises ValueError or OSError if it can not run at all."""
    engine = Engine(BUNDLED_MODEL, provider, threads, gpu)
    tensor, _ = tensor_from_frame(drawn_road(), engine.input_hw)
    found = _answer(engine, tensor)
    timings, begin = Timings(), perf_counter()
    while timings.count < MOST_RUNS and (not timings.count or perf_counter() - begin < seconds):
        start = perf_counter()
        engine.run(tensor[None])
        timings.add(1e3 * (perf_counter() - start))
    wrong = differences(expectation(), found)
    return SelfTest(engine.provider_reason, timings.percentile(50), timings.count, wrong)


def expectation(path: Path = EXPECTATION) -> Answer:
    """What was written down. Raises ValueError or OSError if it can not be read."""
    try:
        data = json.loads(path.read_text())
        shares = {str(head): tuple(map(float, values)) for head, values in data["shares"].items()}
        return Answer(str(data["sha256"]), tuple(map(float, data["scores"])), shares)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not an expectation ({error!r}); python -m perception.doctor --renew") from None


def renew(path: Path = EXPECTATION) -> Answer:
    """Write down what the bundled model answers on the CPU, for a model that is known to be good."""
    engine = Engine(BUNDLED_MODEL, "cpu")
    tensor, _ = tensor_from_frame(drawn_road(), engine.input_hw)
    answer = _answer(engine, tensor)
    path.write_text(json.dumps(asdict(answer), indent=1) + "\n")
    return answer


def _answer(engine: Engine, tensor: np.ndarray) -> Answer:
    outputs: dict[str, Any] = engine.run(tensor[None])
    boxes = outputs["boxes"][0] if "boxes" in outputs else np.empty((0, 6))
    shares = {}
    for head, names in engine.metadata.heads.items():
        counts = np.bincount(outputs[head].ravel(), minlength=len(names))
        shares[head] = tuple(round(float(part), 4) for part in counts / counts.sum())
    scores = tuple(round(float(score), 4) for score in boxes[:5, 4])
    return Answer(file_sha256(engine.path), scores, shares)


def _figures(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
