"""The converters of datasets with boxes, each on a few files in its native layout."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cits import prepare as cits
from data.kitti import prepare as kitti
from data.voc import prepare as voc
from perception.layout import read_layout

HW = (40, 120)


def photo(path: Path, hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*hw, 3), 90, np.uint8))


def rows(folder: Path, split: str) -> dict[str, list[tuple[str, list[float]]]]:
    """Image name -> (category, xyxy) of its boxes."""
    return {
        sample.image.stem: list(zip(sample.categories, sample.boxes.tolist(), strict=True))
        for sample in read_layout(folder, split)[1]
    }


# ---------------------------------------------------------------------------------------------------------------- kitti


def kitti_line(kind: str, box: str) -> str:
    return f"{kind} 0.00 0 -0.20 {box} 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"


def test_kitti(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    labels = {
        "000000": kitti_line("Pedestrian", "71.40 14.00 81.75 30.50"),
        "000001": kitti_line("Car", "10 5 30 20") + kitti_line("DontCare", "50 5 60 20")
        + kitti_line("Misc", "1 1 9 9"),
        "000005": "",
        "000012": kitti_line("Zebra", "10 5 30 20") + kitti_line("Van", "30 5 10 20") + kitti_line("Tram", "x 5 10 20")
        + kitti_line("Truck", "100 10 140 30") + "Car 0 0\n\n",
    }  # fmt: skip
    for name, text in labels.items():
        photo(source / f"training/image_2/{name}.png")
        (source / "training/label_2").mkdir(exist_ok=True)
        (source / f"training/label_2/{name}.txt").write_text(text)
    photo(source / "training/image_2/000013.png")
    arguments = [str(source), str(out), "--json", "-"]
    assert kitti.main([*arguments, "--strict"]) == 2
    assert not out.exists()
    capsys.readouterr()

    assert kitti.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["images"] == {"train": 2, "val": 2} and summary["ignore_regions"] == 2
    assert summary["boxes"] == {"Pedestrian": 1, "Car": 1, "Truck": 1}
    problems = "; ".join(summary["problems"])
    for part in (
        "without a label file",
        "less than 8 fields",
        "'Zebra'",
        "inverted",
        "not four numbers",
        "partly outside",
    ):
        assert part in problems
    assert rows(out, "val") == {"000000": [("Pedestrian", pytest.approx([71.4, 14, 81.75, 30.5]))], "000005": []}
    assert rows(out, "train") == {"000001": [("Car", [10, 5, 30, 20])], "000012": [("Truck", [100, 10, 120, 30])]}
    labels, samples = read_layout(out, "train")
    assert samples[0].ignore.tolist() == [[50, 5, 60, 20], [1, 1, 9, 9]]
    assert labels.boxes.sets["Cyclist"] == {"rider", "bicycle"} and "bicycle" not in labels.boxes.exhaustive


def test_kitti_attributes(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    photo(source / "training/image_2/000001.png")
    (source / "training/label_2").mkdir()
    (source / "training/label_2/000001.txt").write_text(
        "Car 0.25 2 -0.20 10 5 30 20 1.89 0.48 1.20 1.84 1.47 8.41 0.01\n"
        "DontCare -1 -1 -10 50 5 60 20 -1 -1 -1 -1000 -1000 -1000 -10\n"
        "Van 0.00 3 -0.20 20 5 40 20 1.89 0.48 1.20 -1000 -1000 -1000 0.01\n"
        "Truck -1 9 -0.20 30 5 50 20\n"
    )
    assert kitti.main([str(source), str(out), "--strict"]) == 0
    (sample,) = read_layout(out, "train")[1]
    assert sample.categories == ("Car", "Van", "Truck") and len(sample.ignore) == 1
    assert sample.box_attributes == (
        {"occlusion": 2, "truncation": 0.25, "distance_m": 8.41},
        {"occlusion": 3, "truncation": 0.0},
        {},
    )


# ------------------------------------------------------------------------------------------------------------------ voc


def voc_file(path: Path, objects: list[tuple[str, str]], size: tuple[int, int] = HW) -> None:
    """An annotation as LabelImg writes it; objects are (name, "xmin ymin xmax ymax")."""
    parts = []
    for name, box in objects:
        corners = "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False)
        )
        parts.append(f"<object><name>{name}</name><pose>Unspecified</pose><bndbox>{corners}</bndbox></object>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n<folder>x</folder><filename>{path.stem}.png</filename>"
        f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
    )


def test_dawn(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(10):
        photo(source / f"JPEGImages/foggy-{number:03}.jpg")
        voc_file(source / f"Annotations/foggy-{number:03}.xml", [("car", "10 5 30 20")])
    photo(source / "JPEGImages/rain-1.jpg")  # not annotated
    voc_file(source / "Annotations/rain-2.xml", [("car", "10 5 30 20")])  # no image
    photo(source / "JPEGImages/rain-3.jpg")
    (source / "Annotations/rain-3.xml").write_text("<annotation><object>")
    photo(source / "JPEGImages/rain-4.jpg", (30, 30))
    voc_file(source / "Annotations/rain-4.xml", [("car", "10 5 30 20")])  # another size
    photo(source / "JPEGImages/rain-5.jpg")
    voc_file(
        source / "Annotations/rain-5.xml",
        [("bus", "30 5 10 20"), ("person", "a b c d"), ("person", "1 2 3"), ("zebra", "1 1 9 9"), ("truck", "1 2 9 8")],
        (0, 0),  # size not stated
    )
    assert voc.main(["--set", "dawn", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "2 x missing or broken annotation", "missing image", "another size than annotated", "inverted", "'zebra'",
        "2 x box that is not four numbers",
    ):  # fmt: skip
        assert part in printed
    assert set(rows(out, "val")) == {"foggy-004", "foggy-009", "rain-5"}
    assert len(rows(out, "train")) == 8
    assert rows(out, "val")["rain-5"] == [("truck", [1, 2, 9, 8])]
    assert rows(out, "val")["foggy-004"] == [("car", [10, 5, 30, 20])]
    assert read_layout(out, "val")[0].boxes.sets["person"] == {"pedestrian", "rider"}


def test_road_sign(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(5):
        photo(source / f"images/road{number}.png", (40, 30))  # portrait
        voc_file(
            source / f"annotations/road{number}.xml", [("trafficlight", "1 2 9 30"), ("stop", "5 5 20 20")], (40, 30)
        )
    assert voc.main(["--set", "road_sign", str(source), str(out), "--strict"]) == 0
    assert rows(out, "val") == {"road4": [("trafficlight", [1, 2, 9, 30]), ("stop", [5, 5, 20, 20])]}
    labels = read_layout(out, "train")[0].boxes
    assert labels.exhaustive == {"traffic light"} and labels.sets["stop"] == {"traffic sign"}


def test_carla_keeps_its_split(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for part, town in (("train", "Town01"), ("test", "Town05")):
        for number in range(6):
            photo(source / f"{part}/images/{town}_{number}.jpg")
            objects = [("vehicle", "10 5 30 20"), ("motobike", "1 2 9 8"), ("traffic_light", "3 3 5 9")]
            voc_file(source / f"{part}/annotations/{town}_{number}.xml", objects if number else [])
    assert voc.main(["--set", "carla", str(source), str(out), "--strict"]) == 0
    assert set(rows(out, "train")) == {f"Town01_{number}" for number in range(6)}
    assert set(rows(out, "val")) == {f"Town05_{number}" for number in range(6)}
    assert rows(out, "val")["Town05_0"] == [] and len(rows(out, "val")["Town05_1"]) == 3


def test_voc_wrong_source_is_one_clear_line(tmp_path, capsys):
    for name, expected in (("none", "not a folder"), ("source", "JPEGImages or images")):
        (tmp_path / "source").mkdir(exist_ok=True)
        assert voc.main(["--set", "dawn", str(tmp_path / name), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------- cits signs


def test_cits_signs(tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(1, 6):
        photo(source / f"IMG ({number}).jpg")
    (source / "00_gt.csv").write_text(
        'IMG (1).jpg;"60;4;25;17";Ceda_el_paso\n'
        'IMG (1).jpg;"5;6;7;8";Peligro\n'
        'IMG (2).jpg;"110;4;25;17";Obligatoriedad\n'
        'IMG (3).jpg;"1;2;3";Peligro\n'
        'IMG (3).jpg;"1;2;-3;4";Peligro\n'
        'IMG (3).jpg;"1;2;3;4";Camello\n'
        'IMG (4).jpg;"x;2;3;4";Peligro\n'
        'IMG (5).jpg;"1;2;3;4";Prohibicion\n'
        'IMG (6).jpg;"1;2;3;4";Prohibicion\n'
        "broken\n",
    )
    assert cits.main(["--part", "signs", str(source), str(out)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "2 x line that is not",
        "missing image",
        "'Camello'",
        "inverted",
        "not four numbers",
        "partly outside",
    ):
        assert part in printed
    assert rows(out, "val") == {"IMG (5)": [("Prohibicion", [1, 2, 4, 6])]}
    assert rows(out, "train") == {
        "IMG (1)": [("Ceda_el_paso", [60, 4, 85, 21]), ("Peligro", [5, 6, 12, 14])],
        "IMG (2)": [("Obligatoriedad", [110, 4, 120, 21])],
        "IMG (3)": [],
        "IMG (4)": [],
    }
    labels = read_layout(out, "val")[0].boxes
    assert not labels.exhaustive and all(members == {"traffic sign"} for members in labels.sets.values())


def test_a_train_image_that_is_in_val_too_is_left_out(tmp_path):
    source = tmp_path / "source"
    (source / "JPEGImages").mkdir(parents=True)
    (source / "Annotations").mkdir()
    for number in range(5):  # the fifth is val, and the second shows the same under another name
        rng = np.random.default_rng(4 if number == 1 else number)
        coarse = cv2.resize(rng.integers(0, 255, (6, 9, 3), np.uint8), (90, 60), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(source / "JPEGImages" / f"{number}.jpg"), coarse, [cv2.IMWRITE_JPEG_QUALITY, 90 - number])
        (source / "Annotations" / f"{number}.xml").write_text("<annotation></annotation>")
    assert voc.main(["--set", "dawn", str(source), str(tmp_path / "out")]) == 0
    assert sorted(p.stem for p in (tmp_path / "out" / "images" / "train").iterdir()) == ["0", "2", "3"]
    assert [p.stem for p in (tmp_path / "out" / "images" / "val").iterdir()] == ["4"]
