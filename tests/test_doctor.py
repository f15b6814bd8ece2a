"""perception.doctor: made-up machines, and this one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception import doctor
from perception.diagnosis import selftest
from perception.diagnosis.facts import Facts
from perception.diagnosis.findings import Finding, findings
from perception.diagnosis.selftest import Answer, SelfTest, differences, drawn_road, expectation, renew
from perception.execution.libraries import Gpu
from perception.execution.providers import GpuOptions, file_sha256
from perception.model import BUNDLED_MODEL

AVAILABLE = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
PLAIN = Facts(  # a machine without a GPU, as the base install is on it
    system="Linux x86_64, Python 3.12.1",
    packages={"av": "18.1.0", "onnxruntime-gpu": "1.31.1", "opencv-python-headless": "5.0.0"},
    onnxruntime="1.31.1",
    cuda_of_ort="13.0",
    available=AVAILABLE,
    no_gpu="no NVIDIA GPU/driver found (libcuda.so.1)",
    ran={"cpu": "CPU: as asked for"},
    operators=frozenset({"Conv", "MatMul", "Softmax", "Add"}),
    decoders=("h264", "hevc"),
    encoders=("libx264",),
    opencv_video=("FFMPEG",),
    self_test=SelfTest("CPU: as asked for", 20.0, 90, ""),
)
GPU = replace(  # all is well on it
    PLAIN,
    no_gpu="",
    gpus=(Gpu("NVIDIA T4", (7, 5), 15109),),
    driver="580.95",
    cuda_of_driver="13.0",
    packages={**PLAIN.packages, "nvidia-cudnn-cu13": "9.24.0"},
    tensorrt="10.13.0",
    ran={"cpu": "CPU: as asked for", "cuda": "CUDA: as asked for"},
)


def judged(facts: Facts, asked: Any = "auto", **gpu: Any) -> list[Finding]:
    return findings(facts, asked, GpuOptions(**gpu))


def test_machines_in_order_have_nothing_to_mend() -> None:
    assert judged(PLAIN) == judged(PLAIN, "cpu") == judged(GPU) == judged(GPU, "cuda") == []


def test_no_driver_is_an_error_only_where_a_gpu_is_asked_for() -> None:
    (found,) = judged(PLAIN, "cuda")
    assert found == Finding("error", "CUDA can not run: no NVIDIA GPU/driver found (libcuda.so.1)")


@pytest.mark.parametrize(("asked", "level"), [("auto", "warning"), ("cuda", "error")])
def test_a_driver_too_old_for_the_cuda_of_the_wheel(asked: str, level: str) -> None:
    old = replace(GPU, cuda_of_driver="12.4", missing={"cuda": "libcublasLt.so.13"}, ran={"cpu": ""})
    (found,) = judged(old, asked)
    assert found.level == level and found.text == "CUDA can not run: libcublasLt.so.13 is missing"
    assert "update the driver, or pip install 'onnxruntime-gpu[cuda,cudnn]<1.27'" in found.mend


def test_wheels_of_another_cuda_are_named() -> None:
    other = replace(GPU, packages={**PLAIN.packages, "nvidia-cudnn-cu12": "9.1.0"})
    (found,) = judged(other)
    assert (found.level, found.mend) == ("warning", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    assert found.text == "nvidia-cudnn-cu12 is installed, but this onnxruntime-gpu needs CUDA 13"


def test_missing_cudnn() -> None:
    (found,) = judged(replace(GPU, missing={"cuda": "libcudnn.so.9"}), "cuda")
    assert found == Finding(
        "error", "CUDA can not run: libcudnn.so.9 is missing", "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_both_builds_of_onnxruntime() -> None:
    both = replace(GPU, packages={**GPU.packages, "onnxruntime": "1.31.1"}, available=AVAILABLE[2:])
    error, warning, note = judged(both, "cuda")
    assert error.level == "error" and "built without CUDA" in error.text and "uninstall -y onnxruntime &&" in error.mend
    assert "the GPU providers are gone (github.com" in warning.text
    assert warning.mend == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert note.text == "TensorRT can not run: this onnxruntime was built without TensorRT"


def test_an_onnxruntime_that_can_not_be_imported() -> None:
    broken = replace(PLAIN, onnxruntime="", broken="its folder lacks files", available=(), ran={}, self_test=None)
    (found,) = judged(broken)
    assert found.level == "error" and found.mend.endswith("pip install onnxruntime-gpu")
    assert "ONNX Runtime        missing or broken" in doctor.text(broken, [found])


def test_a_provider_that_is_there_and_fails_at_its_start() -> None:
    broken = replace(GPU, ran={"cpu": ""}, failed={"cuda": "CUDA failed: CUDNN_STATUS_NOT_INITIALIZED"})
    assert judged(broken)[0] == Finding("warning", "CUDA can not run: CUDA failed: CUDNN_STATUS_NOT_INITIALIZED")
    assert judged(broken, "cuda")[0].level == "error"


def test_a_tensorrt_of_another_major_version() -> None:
    newer = replace(
        GPU, packages={**GPU.packages, "tensorrt": "11.2.1"}, tensorrt="", missing={"tensorrt": "libnvinfer.so.10"}
    )
    found = judged(newer, "tensorrt")
    assert [f.level for f in found] == ["error", "note"] and "tensorrt 11.2.1 is installed, but" in found[1].text
    assert {f.mend for f in found} == {"pip install 'tensorrt-cu13<11'"}


def test_a_tensorrt_that_computes_vits_wrong() -> None:
    bad = replace(GPU, tensorrt="10.3.0")
    assert judged(bad) == []
    (warning,) = judged(bad, fp16=True)
    (error,) = judged(bad, "tensorrt", fp16=True)
    assert (warning.level, error.level) == ("warning", "error") and "issues/4723" in error.text


def test_two_copies_of_cv2_and_missing_codecs() -> None:
    odd = replace(
        PLAIN,
        packages={**PLAIN.packages, "opencv-python": "4.12", "av": "14.0"},
        decoders=(),
        encoders=(),
        opencv_video=(),
    )
    mends = [f.mend for f in judged(odd)]
    assert mends[0] == "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    assert len(mends) == 5 and sum("av>=15" in mend for mend in mends) == 3


def test_a_wrong_answer_is_an_error_whatever_was_asked() -> None:
    wrong = replace(PLAIN, self_test=SelfTest("CUDA: NVIDIA GPU found", 3.0, 100, "scene: class 1 on 100% ..."))
    assert [f.level for f in judged(wrong)] == ["error"]


EXPECTED = Answer("a", (0.9, 0.5), {"scene": (0.25, 0.75)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"scores": (0.88, 0.52), "shares": {"scene": (0.27, 0.73)}}, ""),
        ({"scores": (0.2, 0.1)}, "best scores 0.20 0.10 where 0.90 0.50 were expected"),
        ({"scores": (float("nan"), 0.5)}, "best scores nan"),
        ({"scores": ()}, "other outputs"),
        ({"shares": {"scene": (1.0, 0.0)}}, "scene: class 0 on 100% of the picture, expected 25%"),
        ({"sha256": "b"}, "another model file; python -m perception.doctor --renew"),
    ],
)
def test_answers_are_compared_beyond_rounding(changes: dict[str, Any], words: str) -> None:
    found = differences(EXPECTED, replace(EXPECTED, **changes))
    assert found.startswith(words) if not words or words[0] != "a" else words in found
    assert bool(found) == bool(words)


def test_the_expectation_is_of_the_bundled_model() -> None:
    """Mend with `python -m perception.doctor --renew` after the model was replaced."""
    assert expectation().sha256 == file_sha256(BUNDLED_MODEL)
    assert max(expectation().scores) > 0.1  # it sees something on the drawn road


def test_an_expectation_is_renewed_and_a_damaged_one_refused(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "BUNDLED_MODEL", tiny_model)
    path = tmp_path / "expected.json"
    written = renew(path)
    assert written == expectation(path) and set(written.shares) == {"scene", "drive"} and written.scores[0] > 0
    for text in ("{}", "[]", '{"sha256": "a", "scores": [1], "shares": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not an expectation"):
            expectation(path)


def test_the_drawn_road_is_always_the_same() -> None:
    road = drawn_road()
    assert road.shape == (720, 1280, 3) and road.dtype == np.uint8 and np.array_equal(road, drawn_road())
    assert len({tuple(pixel) for pixel in drawn_road((90, 160)).reshape(-1, 3).tolist()}) > 8


@pytest.fixture
def tiny(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model in place of the bundled one."""
    from perception.diagnosis import facts

    for module in (selftest, facts):
        monkeypatch.setattr(module, "BUNDLED_MODEL", tiny_model)
    path = tmp_path / "expected.json"
    renew(path)
    monkeypatch.setattr(selftest.expectation, "__defaults__", (path,))


def test_this_machine(tiny: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert doctor.main(["--seconds", "0.2", "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert "the expected answer; p50" in printed and "CPU                 runs" in printed
    assert "  auto                takes C" in printed  # CPU or CUDA: conftest.py
    assert max(map(len, printed.splitlines())) <= 130
    data = json.loads((tmp_path / "all.json").read_text())
    assert data["self_test"]["runs"] >= 1 and data["ran"]["cpu"] == "CPU: as asked for" and data["packages"]["numpy"]
    assert "FFMPEG" in data["opencv_video"]  # as the wheel of opencv-python-headless is built


def test_a_gpu_that_was_asked_for_and_is_not_there_is_exit_code_1(
    tiny: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from perception.diagnosis import facts

    def no_driver() -> None:
        raise OSError("no NVIDIA GPU/driver found (libcuda.so.1)")

    monkeypatch.setattr(facts, "cuda_driver", no_driver)
    assert doctor.main(["--provider", "cuda"]) == 1
    printed = capsys.readouterr().out
    assert "error               CUDA can not run: " in printed and "self-test: not run" in printed


def test_an_option_that_makes_no_sense_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--seconds", "-1"]) == 2
    assert capsys.readouterr().err == "error: --seconds must be 0 or more, but got -1.0\n"


def test_text_names_the_gpu_and_keeps_commands_whole() -> None:
    facts = replace(GPU, missing={"cuda": "libcudnn.so.9"})
    lines = doctor.text(facts, judged(facts, "cuda")).splitlines()
    assert "  GPU                 NVIDIA T4, 15109 MB, compute 7.5" in lines
    assert "  mend              pip install 'onnxruntime-gpu[cuda,cudnn]'".split() in [line.split() for line in lines]
