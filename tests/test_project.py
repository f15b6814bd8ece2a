"""The project around the code: budgets, documents that are true, pinned versions, what may import what."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import perception

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_LINES = 400
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".sh", ""}
TORCH = ("albumentations", "onnx", "pycocotools", "safetensors", "tensorboard", "timm", "torch", "torchvision")


def files(*folders: str, suffixes: set[str] | None = None) -> list[Path]:
    """What is ours in these folders: no caches, no environments."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [p for p in found if "__pycache__" not in p.parts and (suffixes is None or p.suffix in suffixes)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def test_no_file_outgrows_its_budget():
    lengths = {p: p.read_text().count("\n") for p in files("perception", "data", "benchmarks", suffixes={".py"})}
    assert len(lengths) > 20
    assert not {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_LINES}


def test_no_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.])/(?:" + "|".join(("work", "farm", "root", "home")) + r")/")
    texts = files("perception", "data", "deploy", "benchmarks", "tests", "requirements", ".ci", suffixes=TEXT)
    texts += [ROOT / "pyproject.toml", ROOT / "Makefile", *ROOT.glob("*.md")]
    assert not [f"{p.relative_to(ROOT)}: {hit[0]}" for p in texts if (hit := pattern.search(p.read_text()))]


def readme_tree() -> set[str]:
    """Paths in the README's file tree."""
    tree = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    paths, parents = set(), [""]
    for line in tree.strip("\n").splitlines():
        name = line.split("#")[0].strip()
        depth = (len(line) - len(line.lstrip())) // 4
        parents[depth + 1 :] = [parents[depth] + name]
        paths.add(parents[depth] + name)
    return paths


def test_the_tree_in_the_readme_is_the_tree():
    tree = readme_tree()
    assert not [name for name in sorted(tree) if not (ROOT / name).exists()]
    modules = {p.relative_to(ROOT).as_posix() for p in files("perception", suffixes={".py"}) if p.stem != "__init__"}
    assert modules - tree == set()


def test_every_dataset_is_in_the_readme_and_documented():
    text = (ROOT / "README.md").read_text()
    folders = [p for p in (ROOT / "data").iterdir() if p.is_dir() and not p.name.startswith(("_", "."))]
    assert folders
    assert not [p.name for p in folders if f"`data/{p.name}`" not in text]
    assert not [name for name in re.findall(r"`(data/[a-z0-9_]+)`", text) if not (ROOT / name / "README.md").is_file()]


def test_links_in_the_documents_lead_somewhere():
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert "://" in target or (ROOT / target).exists(), f"{document.name}: {target}"


def test_the_version_has_a_changelog():
    assert f"## [{perception.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_exported_names():
    assert set(perception.__all__) == {
        "Detections", "Engine", "Frame", "Letterbox", "Metadata", "Model", "Result", "Track", "Tracker",
        "TrackerConfig", "__version__", "draw", "load", "open_source",
    }  # fmt: skip
    assert not [name for name in perception.__all__ if not hasattr(perception, name)]


@pytest.mark.parametrize("name", ["base", "dev"])
def test_requirements_are_pins_and_nothing_else(name: str):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.+!]*( ; .+)?", line)]
    pinned = {line.split("==")[0] for line in lines}
    wanted = list(PROJECT["project"]["dependencies"])
    if name == "dev":
        wanted += [spec for extra in PROJECT["project"]["optional-dependencies"].values() for spec in extra]
    names = {re.split(r"[\[<>=;]", spec)[0].lower() for spec in wanted} - {PROJECT["project"]["name"]}
    assert names - pinned == set()
    if name == "base":
        assert not [package for package in pinned if package in TORCH or package.startswith(("nvidia", "cuda"))]


def test_base_and_dev_pin_the_same_versions():
    base, dev = ((ROOT / "requirements" / f"{name}.txt").read_text().splitlines() for name in ("base", "dev"))
    assert set(base) <= set(dev)


def test_live_imports_nothing_that_the_base_install_lacks():
    code = f"import sys, perception.live; print([name for name in {TORCH} if name in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_import_contracts_hold():
    pytest.importorskip("importlinter")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_says_when_there_is_no_python(tmp_path: Path):
    folder = tmp_path / "with space"
    (folder / "requirements").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "requirements/base.txt"):
        shutil.copy(ROOT / name, folder / name)
    done = run("make", "-C", str(folder), "live", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "error: no Python 3.11 or newer with venv among: no-such-python" in done.stderr
    assert not (folder / ".venv" / ".ready").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_help_names_the_targets_of_the_readme():
    done = run("make", "help")
    assert {"live", "test", "lint", "format", "lock", "clean"} <= set(re.findall(r"make (\w+)", done.stdout))
