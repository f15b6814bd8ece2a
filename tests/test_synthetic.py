"""The synthetic drive: reproducible, and its truth is what the picture shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data.synthetic import Drive, SyntheticFrame
from data.synthetic.canvas import SCENE, Canvas
from data.synthetic.drive import truth
from data.synthetic.prepare import main
from perception.labels import BOX_CLASSES, DRIVE_CLASSES, IGNORE, SCENE_CLASSES
from perception.layout import read_layout

ROOT = Path(__file__).resolve().parents[1]
HW = (72, 128)
SCENE_OF_BOX = [SCENE["person"] if name == "pedestrian" else SCENE[name] for name in BOX_CLASSES]
FIELDS = ("image", "boxes", "classes", "track_ids", "scene", "drive", "visible", "ignore")


def same(a: SyntheticFrame, b: SyntheticFrame) -> bool:
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in FIELDS)


@pytest.mark.parametrize("condition", ["day", "dusk", "night", "rain", "fog"])
def test_same_seed_same_bytes_in_any_order(condition):
    first, second = (Drive(7, HW, frames=9, condition=condition) for _ in range(2))
    forwards = {index: first[index] for index in (0, 4, 8)}
    backwards = {index: second[index] for index in (8, 4, 0)}
    assert all(same(forwards[index], backwards[index]) for index in forwards)
    assert not same(forwards[0], forwards[8])
    assert not same(Drive(8, HW, condition=condition)[0], forwards[0])


def test_length_iteration_and_time():
    drive = Drive(1, (32, 48), fps=10.0, frames=3)
    assert len(drive) == 3
    assert [frame.timestamp_s for frame in drive] == pytest.approx([0.0, 0.1, 0.2])
    assert same(drive[-1], drive[2])
    with pytest.raises(IndexError):
        drive[3]


@pytest.mark.parametrize("hw", [(8, 8), (16, 16), (17, 33), (160, 90), (90, 400)])
@pytest.mark.parametrize("seed", [23])
def test_any_size(hw, seed):
    frame = Drive(seed, hw, condition="any")[1]
    assert frame.image.shape == (*hw, 3) and frame.image.dtype == np.uint8
    assert frame.scene.shape == frame.drive.shape == hw


def test_empty_world_has_a_road_and_nothing_else():
    frame = Drive(2, HW, density=0)[0]
    assert frame.boxes.shape == (0, 4) and frame.boxes.dtype == np.float32
    assert frame.classes.shape == frame.track_ids.shape == frame.visible.shape == (0,)
    assert frame.ignore.shape == (0, 4)
    assert (frame.drive == 1).mean() > 0.1
    assert not np.isin(frame.scene, SCENE_OF_BOX).any()


@pytest.mark.parametrize("seed", range(8))
def test_truth_is_what_the_masks_show(seed):
    h, w = HW
    frame = Drive(seed, HW, condition="any")[0]
    assert set(np.unique(frame.scene)) <= {*range(len(SCENE_CLASSES)), IGNORE}
    assert set(np.unique(frame.drive)) <= {*range(len(DRIVE_CLASSES)), IGNORE}
    assert np.array_equal(frame.drive == 1, frame.scene == SCENE["road"])
    assert np.array_equal(frame.drive == 2, frame.scene == SCENE["lane marking"])
    assert np.array_equal(frame.drive == IGNORE, frame.scene == IGNORE)
    assert ((frame.boxes >= 0) & (frame.boxes <= (w, h, w, h))).all()
    assert (frame.boxes[:, 2:] - frame.boxes[:, :2] >= 3).all()
    assert len(set(frame.track_ids.tolist())) == len(frame.track_ids)

    covered = np.zeros(HW, bool)
    for x1, y1, x2, y2 in np.concatenate([frame.boxes, frame.ignore]).tolist():
        covered[max(int(y1) - 1, 0) : int(y2) + 2, max(int(x1) - 1, 0) : int(x2) + 2] = True
    assert covered[np.isin(frame.scene, SCENE_OF_BOX)].all()  # nothing with a box class is without a box

    for box, box_class, visible in zip(frame.boxes, frame.classes, frame.visible, strict=True):
        (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        inside = frame.scene[y1:y2, x1:x2] == SCENE_OF_BOX[box_class]
        assert inside.sum() >= 5
        if visible > 0.99 and inside.size > 200:
            assert inside.mean() > 0.25
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert rows[0] <= 3 and columns[0] <= 3
            assert rows[-1] >= inside.shape[0] - 4 and columns[-1] >= inside.shape[1] - 4


def test_an_id_stays_with_its_object():
    drive = Drive(21, HW, frames=20)
    seen: dict[int, tuple[int, np.ndarray]] = {}
    moved = []
    for frame in drive:
        now = {}
        for box, box_class, track_id in zip(frame.boxes, frame.classes, frame.track_ids, strict=True):
            if track_id in seen:
                assert seen[track_id][0] == box_class
                moved.append(float(np.abs(box - seen[track_id][1]).max() / np.ptp(box.reshape(2, 2), 0).max()))
            now[int(track_id)] = (int(box_class), box)
        seen.update(now)
    assert len(moved) > 60
    assert np.median(moved) < 0.1  # a frame later a box is nearly where it was
    assert len(seen) < 8 * len(drive)  # ids are not made anew


def test_hidden_objects():
    canvas = Canvas((20, 40))

    def box(track_id: int, x1: int, x2: int) -> None:
        owner = canvas.begin(track_id, BOX_CLASSES.index("car"), SCENE["car"])
        canvas.owner[5:15, max(x1, 0) : x2] = owner
        canvas.end(owner, (x1, 5, x2, 15))

    box(1, 0, 10)  # half of it will be hidden
    box(2, 12, 18)  # all of it
    box(3, 20, 30)  # nine tenths of it
    box(4, -5, 5)  # nearer, and cut by the frame
    box(5, 11, 29)
    frame = truth(canvas, 0.5)
    assert frame.track_ids.tolist() == [1, 4, 5]
    assert frame.visible.tolist() == pytest.approx([0.5, 1.0, 1.0])
    assert frame.boxes.tolist() == [[0, 5, 10, 15], [0, 5, 5, 15], [11, 5, 29, 15]]
    assert frame.ignore.tolist() == [[20, 5, 30, 15]]


def test_every_class_is_drawn():
    found = set()
    for seed in range(8):
        found |= set(Drive(seed, (135, 240), condition="any", density=1.3)[0].classes.tolist())
    assert {BOX_CLASSES[index] for index in found} == set(BOX_CLASSES) - {"train"}


def test_light():
    day, night, fog = (Drive(12, HW, condition=condition)[0] for condition in ("day", "night", "fog"))
    assert night.image.mean() < 0.7 * day.image.mean()
    assert fog.image[:24].std() < day.image[:24].std()
    assert np.array_equal(day.scene, night.scene)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hw": (4, 640)}, "8x8"),
        ({"fps": 0}, "fps"),
        ({"frames": 0}, "frames"),
        ({"condition": "snow"}, "condition must be one of day"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Drive(0, **options)


def test_prepare_writes_the_common_layout(tmp_path):
    out = tmp_path / "synthetic"
    assert main([str(out), "--frames-train", "5", "--frames-val", "2", "--hw", "64", "96"]) == 0
    labels, train = read_layout(out, "train")
    _, val = read_layout(out, "val")
    assert labels.name == "synthetic" and labels.boxes is not None
    assert len(train) == 5 and len(val) == 2
    assert not {sample.image.name for sample in train} & {sample.image.name for sample in val}
    for sample in train:
        assert sample.boxes is not None and set(sample.masks) == {"scene", "drive"}
        image, mask = cv2.imread(str(sample.image)), cv2.imread(str(sample.masks["scene"]), cv2.IMREAD_UNCHANGED)
        assert image.shape == (64, 96, 3) and mask.shape == (64, 96)
        assert sample.attributes["condition"] == sample.image.stem.split("_")[1]


def test_prepare_writes_a_film(tmp_path):
    path = tmp_path / "drive.mp4"
    assert main(["--video", str(path), "--seconds", "0.4", "--hw", "48", "64"]) == 0
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


def test_prepare_without_a_task_says_so(capsys):
    assert main([]) == 2
    assert "OUT_DIR" in capsys.readouterr().err


def test_prepare_runs_as_a_script_from_anywhere(tmp_path):
    script = ROOT / "data" / "synthetic" / "prepare.py"
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--frames-train" in done.stdout


def test_depths_are_where_the_boxes_end():
    """The lower edge of what stands on a flat road lies where the camera projects its depth."""
    hw = (180, 320)
    for index, drive in enumerate(
        [Drive(21, hw, density=1.0, flat=True), Drive(21, hw, density=1.0, flat=True, yaw=6)]
    ):
        frame = drive[10]
        expected = hw[0] * drive.horizon + drive.focal_px * drive.height_m / frame.depth_m
        stands = np.isfinite(frame.depth_m) & (frame.boxes[:, 3] < hw[0]) & (frame.depth_m > 6) & (frame.visible > 0.6)
        assert stands.sum() > 3, index
        assert np.median(np.abs(frame.boxes[stands, 3] - expected[stands])) < 1
        poles = np.isin(frame.classes, [BOX_CLASSES.index("traffic light"), BOX_CLASSES.index("traffic sign")])
        assert np.isnan(frame.depth_m[poles]).all() and np.isfinite(frame.depth_m[~poles]).all()


def test_a_camera_that_swings_shifts_the_far_world():
    still, yawing, nodding = (
        Drive(21, (180, 320), density=1.0, frames=30, **more) for more in ({}, {"yaw": 5.0}, {"pitch": 3.0})
    )
    assert same(still[0], yawing[0]) and same(still[0], nodding[0])
    t = 12 / still.fps
    yaw = np.radians(5) * np.sin(2.4 * t)
    far = [{i: (b[0] + b[2]) / 2 for i, b, z in zip(f.track_ids, f.boxes, f.depth_m, strict=True) if z > 25}
           for f in (still[12], yawing[12])]  # fmt: skip
    shifts = [far[1][i] - far[0][i] for i in far[0] if i in far[1]]
    assert shifts and np.median(shifts) == pytest.approx(-still.focal_px * np.tan(yaw), abs=3)
    rows = [np.flatnonzero((f.scene == SCENE["sky"]).any(1)).max(initial=0) for f in (still[5], nodding[5])]
    assert rows[0] != rows[1]
