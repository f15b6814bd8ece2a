"""Files that others wrote: broken copies are read or refused in one line, and nothing in them is ever run as code."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import campaign
from safetensors.torch import save_file

from perception.camera import Camera
from perception.jsonfile import from_json, read_json, read_object
from perception.layout import read_layout
from perception.network.network import Network, NetworkConfig
from perception.network.tokens import read_weights
from perception.train import TrainConfig, saved_options
from perception.training import checkpoint
from perception.training.loop import LoopConfig
from perception.training.policy import POLICIES, save_policy

ROOT = Path(__file__).resolve().parents[1]
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
LABELS = {
    "name": "toy", "licence": "none", "source": "here",
    "boxes": {"categories": {"car": ["car"], "dirt": []}, "exhaustive": ["car"]},
    "masks": {"drive": {"folder": "lines", "labels": {"0": {"name": "no", "classes": ["background"]},
                                                      "1": {"name": "line", "classes": ["lane marking"]}}}},
}  # fmt: skip
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "car"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "attributes": {"occlusion": 1}}],
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset in the common layout with one image, whose pixels nobody reads."""
    root = tmp_path / "toy"
    for folder in ("images/train", "boxes"):
        (root / folder).mkdir(parents=True)
    (root / "images/train/a.jpg").write_bytes(b"")
    (root / "dataset.json").write_text(json.dumps(LABELS))
    (root / "boxes/train.json").write_text(json.dumps(COCO))
    return root


def clean(kind: str, path: Path, count: int) -> None:
    result = campaign(kind, path, seed=0, count=count)
    assert not result["wrong"]
    assert result["read"] and result["refused"], "some copies are harmless, others are not"


def test_broken_dataset_files(dataset: Path) -> None:
    clean("dataset", dataset / "dataset.json", 300)
    clean("dataset", dataset / "boxes/train.json", 300)


def test_broken_camera_files(tmp_path: Path) -> None:
    camera = Camera(hw=(48, 64), focal_xy=(50, 50), centre_xy=(31, 23), distortion=(-0.2, 0.05, 0, 0, 0), height_m=1.4)
    camera.save(tmp_path / "camera.json")
    clean("camera", tmp_path / "camera.json", 300)


def test_broken_policy_files(tmp_path: Path) -> None:
    save_policy(POLICIES["driving-2"], tmp_path / "policy.json")
    clean("policy", tmp_path / "policy.json", 300)


def test_broken_weight_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16)}, tmp_path / "vit.safetensors")
    clean("safetensors", tmp_path / "vit.safetensors", 300)
    torch.save({"a": torch.zeros(2, 3)}, tmp_path / "vit.pth")
    clean("safetensors", tmp_path / "vit.pth", 100)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of the smallest network."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    network = Network(NetworkConfig(hw=(32, 32), width=8, detail="none", box_classes=("car",), heads={}))
    meta = {"network": asdict(network.config), "data": ["toy"], "train": asdict(LoopConfig(steps=3))}
    checkpoint.save_weights(folder, 3, network.state_dict(), meta)
    options = TrainConfig(data=("a", "b:2"), out=folder)
    (folder / "config.json").write_text(json.dumps(asdict(options), indent=1, default=str))
    return folder


def test_broken_checkpoints(run: Path) -> None:
    clean("run", run / "step_000003/meta.json", 40)
    clean("options", run / "config.json", 200)


def test_options_survive_the_file(run: Path) -> None:
    saved = saved_options(TrainConfig(out=run, data=()))
    assert saved.data == ("a", "b:2") and saved.resume and saved.loop == LoopConfig()
    assert saved.augment.policy == str(run / "policy.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hw": [32, -32]}, "input size must be a multiple of 32"),
        ({"hw": [32]}, "network: hw must be"),
        ({"width": 10**9}, "width of 1 to 4096"),
        ({"width": "8"}, "network: width must be int, but is '8'"),
        ({"max_boxes": 0}, "up to 10000 boxes"),
        ({"vit": "hf-hub:someone/something"}, "expected the name of a model of timm"),
        ({"vit": "local-dir:/x"}, "expected the name of a model of timm"),
        ({"detail": "../x"}, "expected the name of a model of timm"),
        ({"branch": "both"}, "network: branch must be"),
        ({"colour": 1}, "network: unknown key 'colour'"),
        ({"heads": {"drive": "xy"}}, r"network: heads\.drive must be"),
    ],
)
def test_networks_that_are_not_sane_are_refused(changes: dict[str, Any], message: str) -> None:
    good = json.loads(json.dumps(asdict(NetworkConfig(hw=(32, 32)))))
    assert checkpoint.network_config({"network": good}) == NetworkConfig(hw=(32, 32))
    with pytest.raises(ValueError, match=message):
        checkpoint.network_config({"network": good | changes})


def test_a_weight_file_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "vit.pth")
    with pytest.raises(ValueError, match="can't be read as weights"):
        read_weights(tmp_path / "vit.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("folder", ["/x", "../x", "a/../../x", 3, None])
def test_masks_are_inside_the_dataset(dataset: Path, folder: Any) -> None:
    changed = json.loads(json.dumps(LABELS))
    changed["masks"]["drive"]["folder"] = folder
    (dataset / "dataset.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="folder must be the name of a folder"):
        read_layout(dataset, "train")


def test_json_is_an_object_and_not_bottomless(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, message in (
        ("[" * 100_000, "nested too deeply"),
        ("{", "is not JSON"),
        ("[]", "expected a JSON object"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"x\.json.*{message}"):
            read_object(path)
    path.write_bytes("{}".encode("utf-16"))
    assert read_json(path) == {}


def test_types_of_options_are_checked() -> None:
    assert from_json(LoopConfig, {"steps": 5, "lr": 1}, "x") == LoopConfig(steps=5, lr=1.0)
    for bad in ({"steps": "5"}, {"steps": True}, {"steps": 5.0}, {"lr": float("nan")}, {"lr": 10**400}, {"lr": None}):
        with pytest.raises(ValueError, match=f"x: {next(iter(bad))} must be (int|float), but is"):
            from_json(LoopConfig, bad, "x")


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
    """What in a source could run code that is in a file."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in names if name.split(".")[0] in UNPICKLERS]
    for name, call in calls(tree):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            found.append(f"{name} with allow_pickle")
        if name in (
            "yaml.load",
            "yaml.unsafe_load",
            "yaml.full_load",
            "eval",
            "exec",
            "torch.jit.load",
            "torch.package",
        ):
            found.append(name)
        if name == "onnx.load" and keywords.get("load_external_data") != "False":
            found.append("onnx.load without load_external_data=False")
    return found


def test_nothing_in_the_sources_runs_what_is_in_a_file() -> None:
    sources = [
        path for folder in ("perception", "data", "benchmarks", "deploy") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 100
    assert not {str(path.relative_to(ROOT)): bad for path in sources if (bad := unsafe(path.read_text()))}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "torch.load(x)", "torch.load(x, weights_only=False)", "yaml.load(x)",
     "np.load(x, allow_pickle=True)", "eval(x)", "onnx.load(x)"],
)  # fmt: skip
def test_the_scan_sees(source: str) -> None:
    assert unsafe(source)
