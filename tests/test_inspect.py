"""The inspection of a dataset: what it counts, what it finds wrong, what it takes for a duplicate, what it writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bad_data import jpeg, png

from perception.charts import bars, confusion, histogram
from perception.inspect import main
from perception.inspection.likeness import fingerprint, near_pairs
from perception.inspection.sheets import blend, grid, label_colours, spread
from perception.labels import SCENE_CLASSES, BoxLabels, DatasetLabels, MaskLabels
from perception.layout import LayoutWriter

HW = (120, 200)
SEG = MaskLabels(
    "seg",
    {0: "street", 1: "any vehicle", 2: "nothing", 3: "lorry"},
    {0: frozenset({"road"}), 1: frozenset({"car", "truck"}), 2: frozenset(), 3: frozenset({"car"})},
    SCENE_CLASSES,
)
LABELS = DatasetLabels(
    "town <&>",
    "CC0",
    boxes=BoxLabels({"Car": frozenset({"car"}), "Rest": frozenset()}, frozenset({"car"})),
    masks={"scene": SEG},
)


def scene(seed: int, contrast: int = 100) -> np.ndarray:
    """(H, W, 3) uint8: blurred blobs, so that it has the structure of a photograph."""
    rough = np.random.default_rng(seed).integers(128 - contrast, 128 + contrast, (9, 15, 3)).astype(np.uint8)
    return cv2.resize(rough, HW[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Two splits with one of everything that can be wrong."""
    root = tmp_path_factory.mktemp("data")
    mask = np.zeros(HW, np.uint8)
    mask[60:] = 1
    with LayoutWriter(root / "town", LABELS) as writer:
        boxes = [[10, 10, 60, 50], [10, 10, 60, 50.5], [5, 5, 6.2, 40], [0, 0, 199, 119], [80, 80, 90, 90]]
        writer.add("train", "a", scene(1), boxes=boxes, categories=["Car"] * 4 + ["Rest"], masks={"seg": mask})
        few = np.full(HW, 2, np.uint8)
        few[:2] = 0
        writer.add("train", "b", scene(2), boxes=[], masks={"seg": few})
        writer.add("train", "flat", np.full((*HW, 3), 90, np.uint8), boxes=[[1, 1, 50, 50]], categories=["Car"])
        writer.add("val", "c", scene(1), boxes=[[1, 1, 50, 50]], categories=["Car"])
        brighter = cv2.convertScaleAbs(scene(2), alpha=1.02, beta=2)
        writer.add("val", "d", brighter)
        writer.add("val", "flat2", np.full((*HW, 3), 92, np.uint8))
    folder = root / "town"
    (folder / "images/val/broken.jpg").write_bytes(jpeg(scene(3))[:-500])
    (folder / "images/val/turned.jpg").write_bytes(jpeg(scene(4), 6))
    for name, content in (
        ("c", png(np.zeros(HW, int), 8, 3, np.zeros((256, 3)))),
        ("d", png(np.zeros((5, 5), int), 8, 0)),
        ("turned", png(np.full(HW[::-1], 9), 8, 0)),
        ("flat2", b"no"),
    ):
        path = folder / f"masks/seg/val/{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def inspected(town, tmp_path_factory):
    """The page of `town` and its figures."""
    out = tmp_path_factory.mktemp("page") / "out"
    assert main([str(town), "--out", str(out), "--json", str(out.parent / "figures.json")]) == 0
    return out, json.loads((out.parent / "figures.json").read_text())


def test_counts(inspected):
    train = inspected[1]["splits"]["train"]
    assert train["images"] == 3 and train["sizes"] == {"200x120": 3}
    assert train["files"] == {"JPEG, colour, 8 bits": 3} and train["annotated"] == {"boxes": 3, "scene": 2}
    assert train["boxes"] == {"Car": 5} and train["ignore_regions"] == 1 and train["images_with_box"] == {"Car": 2}
    assert train["pixels"]["scene"] == {"nothing": 118 * 200, "street": 62 * 200, "any vehicle": 60 * 200}
    assert train["images_with_label"]["scene"] == {"street": 2, "any vehicle": 1, "nothing": 1}
    assert train["box_height_px"]["p100"] == 119
    assert train["box_height_model_px"]["p100"] == pytest.approx(119 * 256 / 120, abs=0.1)  # fits by its height
    val = inspected[1]["splits"]["val"]
    assert val["sizes"] == {"200x120": 3, "120x200": 1} and val["images"] == 4
    assert val["files"]["JPEG, colour, 8 bits, turned by EXIF"] == 1


@pytest.mark.parametrize(
    ("split", "kind", "example"),
    [
        ("train", "under 3 px in the model's input", "a.jpg Car"),
        ("train", "longer than 10 times", "a.jpg Car"),
        ("train", "over 90% of the frame", "a.jpg Car"),
        ("train", "two boxes of one label", "a.jpg Car"),
        ("train", "under 5% of its pixels labelled", "b.jpg 1.7%"),
        ("train", "image of one colour", "flat.jpg"),
        ("val", "image that can not be read", "broken.jpg is cut short"),
        ("val", "mask that can not be read", "flat2.jpg (seg) is not a JPEG or PNG"),
        ("val", "not one grey channel of 8 bits", "c.jpg (seg) PNG, palette, 8 bits"),
        ("val", "another size", "d.jpg (seg) is 5x5, the image 200x120"),
        ("val", "id that dataset.json does not name", "turned.jpg id 9"),
    ],
)
def test_findings(inspected, split, kind, example):
    found = inspected[1]["splits"][split]["findings"]
    (entry,) = [entry for name, entry in found.items() if kind in name]
    assert entry["count"] == 1 and entry["examples"][0].startswith(example)


def test_nothing_else_is_found(inspected):
    counts = {split: len(found["findings"]) for split, found in inspected[1]["splits"].items()}
    assert counts == {"train": 6, "val": 7}  # val: also an image of one colour, and under 5 % of turned.jpg is labelled


def test_duplicates_of_two_splits(inspected):
    rows = {tuple(row["splits"]): row for row in inspected[1]["duplicates"]}
    across = rows["train", "val"]
    assert (across["exact_pairs"], across["near_pairs"], across["images"], across["of"]) == (1, 1, 2, 4)
    pairs = [(pair["first"], pair["second"], pair["exact"]) for pair in across["first_pairs"]]
    assert pairs == [("a.jpg", "c.jpg", True), ("b.jpg", "d.jpg", False)]
    assert rows["train", "train"]["images"] == rows["val", "val"]["images"] == 0


def test_the_page_stands_alone(inspected):
    out, _ = inspected
    text = (out / "index.html").read_text()
    assert "town &lt;&amp;&gt;" in text and "<script" not in text
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', text)
    assert sources and all(source.startswith(("data:image/", "#")) for source in sources)
    assert {"box_counts.png", "pixels_scene.png", "samples_train_boxes.jpg", "samples_train_scene.jpg"} <= {
        path.name for path in out.iterdir()
    }
    assert json.loads((out / "inspection.json").read_text()) == inspected[1]


def test_users_mistakes(tmp_path, capsys, town):
    for arguments, message in (
        ([str(tmp_path / "none")], "not a folder"),
        ([str(tmp_path)], "no dataset.json"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main([str(town), "--samples", "0"])
    assert "must be 1 or more" in " ".join(capsys.readouterr().err.split())


def test_it_needs_no_torch():
    code = "import sys, perception.inspect; print([m for m in ('torch', 'pycocotools', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------------ likeness


def prints(*images):
    return [fingerprint(bytes([n]), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)) for n, image in enumerate(images)]


def test_near_means_the_same_picture():
    image = scene(5)
    smaller = cv2.resize(image, (150, 90), interpolation=cv2.INTER_AREA)
    squeezed = cv2.imdecode(np.frombuffer(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], np.uint8), 1)
    found = [(like.first, like.second) for like in near_pairs(prints(image, scene(6), smaller, squeezed, image[::-1]))]
    assert found == [(0, 2), (0, 3), (2, 3)]


def test_fog_is_not_alike():
    """Bright above and dark below, hardly any contrast: the brightness agrees, the content does not."""
    fade = np.linspace(200, 120, HW[0])[:, None, None]
    foggy = [
        np.clip(fade + (scene(seed, 60).astype(float) - 128) * 0.08, 0, 255).astype(np.uint8) for seed in range(20)
    ]
    assert not list(near_pairs(prints(*foggy)))
    assert len(list(near_pairs(prints(*foggy, foggy[3])))) == 1


def test_all_pairs_against_a_slower_truth(monkeypatch):
    """Blocks of the comparison join without a gap."""
    images = [scene(seed % 7) for seed in range(23)]
    expected = [(i, j) for i in range(23) for j in range(i + 1, 23) if i % 7 == j % 7]
    monkeypatch.setattr("perception.inspection.likeness.BLOCK", 4)
    assert sorted((like.first, like.second) for like in near_pairs(prints(*images))) == expected
    assert not list(near_pairs([])) and not list(near_pairs(prints(scene(1))))


# ------------------------------------------------------------------------------------------------------------ pictures


def test_every_label_has_a_colour_of_its_own():
    colours = label_colours(SEG)
    assert set(colours) == {0, 1, 3} and len(set(colours.values())) == 3


def test_blending_leaves_what_has_no_colour():
    image, ids = scene(1), np.zeros(HW, np.uint8)
    ids[:, 100:] = 7
    out = blend(image, ids, {7: (0, 0, 255)}, opacity=1.0)
    assert np.array_equal(out[:, :100], image[:, :100]) and (out[:, 100:] == (0, 0, 255)).all()


def test_charts_hold_odd_values():
    for picture in (
        bars("t", {}),
        bars("t", {"a": {"train": 0.0}, "b" * 40: {"train": 5, "val": 2e9}}, log=True),
        histogram("t", ["0", "1", "more"], {"train": [0, 0], "val": [3, 1]}, "px"),
        histogram("t", ["0", "1"], {}, "px"),
        confusion("a long title " * 5, np.zeros((1, 2)), ["straße"], ["straße", "none"]),
        grid([]),
    ):
        assert picture.dtype == np.uint8 and picture.ndim == 3 and min(picture.shape[:2]) > 20


def test_samples_are_spread():
    assert spread(list("abcdefghi"), 3) == ["a", "e", "i"] and spread(["a"], 9) == ["a"] and spread([], 3) == []
