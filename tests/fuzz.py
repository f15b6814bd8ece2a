"""Hand broken copies of a file to its reader: each must be read, or refused by ValueError or OSError that names it.

    python tests/fuzz.py KIND FILE --count 5000 --seed 1

KIND is one of READERS. Readers run in a process of their own, so that a native crash or a hang is found and counted,
and the rest still runs. The last line is JSON: how many were read, how many refused, and what went wrong.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 8 * 2**30  # bytes of address space for the readers, where the platform can limit it
START_S = 600  # a reader may take that long to start: torch is imported
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 3, 2**31, 2**63, 10**400, float("nan"), float("inf"), 1e300, "", "x", "x" * 5000, "../../x",
    "/x", "a\x00b", "\ud800", [], [[]], {}, {"x": {}}, [None], [1e300, 2], ["x", 1], [0] * 50,
)  # fmt: skip


def read_onnx(path: Path) -> None:
    from perception.engine import Engine

    Engine(path, "cpu", threads=1).warm_up()


def read_safetensors(path: Path) -> None:
    from perception.network.tokens import read_weights

    read_weights(path)


def read_camera(path: Path) -> None:
    import numpy as np

    from perception.camera import Camera

    camera = Camera.load(path)
    if camera.hw[0] * camera.hw[1] < 1e6:
        camera.undistort(np.zeros((*camera.hw, 3), np.uint8))
    assert np.isfinite(camera.straight.horizon)


def read_policy(path: Path) -> None:
    from perception.training.policy import load_policy

    load_policy(str(path))


def read_dataset(path: Path) -> None:
    """`path` takes the place of dataset.json or of boxes/train.json of the dataset around it."""
    from perception.layout import read_layout

    root = path.parent if path.name == "dataset.json" else path.parents[1]
    for own_space in (False, True):
        labels, _ = read_layout(root, "train", own_space)
        for spec in labels.masks.values():
            spec.membership()


def read_run(path: Path) -> None:
    """`path` takes the place of meta.json (or another file) of a checkpoint."""
    from perception.training.checkpoint import open_run

    open_run(path.parents[1])


def read_options(path: Path) -> None:
    """`path` takes the place of config.json of a run of perception.train."""
    from perception.train import TrainConfig, saved_options

    saved_options(TrainConfig(data=(), out=path.parent))


READERS: dict[str, Callable[[Path], None]] = {
    "onnx": read_onnx,
    "safetensors": read_safetensors,
    "camera": read_camera,
    "policy": read_policy,
    "dataset": read_dataset,
    "run": read_run,
    "options": read_options,
}


def mutated(content: bytes, rng: random.Random, places: list[range]) -> bytes:
    """A broken copy. JSON is broken as text or as values; `places` says where other files are."""
    if content[:1] == b"{" and rng.random() < 0.7:
        return mutated_json(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        place = rng.choice(places)
        at = rng.randrange(place.start, place.stop) % max(1, len(data))
        size = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(8):
            case 0 | 1 | 2:
                data[at] ^= 1 << rng.randrange(8)
            case 3:
                data[at] = rng.choice((0, 1, 127, 128, 255))
            case 4:
                del data[at : at + size]
            case 5:
                data[at:at] = data[at : at + size]
            case 6:
                data[at:at] = rng.randbytes(size)
            case 7:
                data[at : at + size] = rng.randbytes(size)
        if not data:
            return b""
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data)


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """One to three values of the object are replaced, taken away or put elsewhere."""
    whole = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        inner: list[tuple[Any, Any]] = []
        stack = [whole]
        while stack:
            node = stack.pop()
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                inner.append((node, key))
                if isinstance(node[key], dict | list):
                    stack.append(node[key])
        if not inner:
            break
        node, key = rng.choice(inner)
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[rng.choice(("", "x", "schema", "name", "1"))] = node[key]
            case 2:
                node[key] = [json.loads(json.dumps(node[key]))]
            case _:
                node[key] = copy.deepcopy(rng.choice(NASTY))
    return json.dumps(whole).encode()


def structure(content: bytes) -> list[range]:
    """Where to break an ONNX file: everywhere but inside of long weights."""
    import onnx

    cuts = [0, len(content)]
    for tensor in onnx.load_from_string(content).graph.initializer:
        if len(tensor.raw_data) > 256 and (at := content.find(tensor.raw_data)) >= 0:
            cuts += [at + 8, at + len(tensor.raw_data)]
    cuts.sort()
    return [range(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True) if b > a]


def work(kind: str, path: Path, seed: int, first: int, count: int) -> None:
    """In the reading process: break, read, and print one line before and one after each copy."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    content = path.read_bytes()
    places = structure(content) if kind == "onnx" else [range(len(content))]
    READERS[kind](path)  # what is not broken is read
    try:
        for i in range(first, count):
            print(f"> {i}", flush=True)
            path.write_bytes(mutated(content, random.Random(f"{seed}/{i}"), places))
            outcome = "read"
            try:
                READERS[kind](path)
            except (ValueError, OSError) as error:
                named = path.name in str(error) or path.parent.name in str(error)
                outcome = "refused" if named else f"the file is not named: {type(error).__name__}: {error}"
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
            print(ascii(f"< {i} {' '.join(outcome.split())}")[1:-1], flush=True)
    finally:
        path.write_bytes(content)


def campaign(kind: str, path: Path, seed: int, count: int, limit_s: float = 60.0) -> dict[str, Any]:
    """Break `path`, which is in use until the end, `count` times; `limit_s` is for one copy.

    Returns {"read": n, "refused": n, "wrong": {index: what happened}}.
    """
    content, counts, wrong = path.read_bytes(), Counter[str](), {}
    first = 0
    while first < count:
        path.write_bytes(content)
        command = [sys.executable, __file__, kind, str(path), "--seed", str(seed), "--count", str(count)]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [*command, "--first", str(first)], stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=Path(__file__).parents[1],
            )  # fmt: skip
            heard = [time.monotonic() + START_S]
            done = threading.Event()
            hung: list[bool] = []

            def watch(process: Any = process, heard: Any = heard, done: Any = done, hung: Any = hung) -> None:
                while not done.wait(0.5):
                    if time.monotonic() - heard[0] > limit_s:
                        hung.append(True)
                        process.kill()
                        return

            watcher = threading.Thread(target=watch)
            watcher.start()
            begun = None
            assert process.stdout is not None
            for line in process.stdout:
                heard[0] = time.monotonic()
                mark, number, *rest = line.split(maxsplit=2)
                if mark == ">":
                    begun = int(number)
                elif mark == "<":
                    begun, outcome = None, rest[0].strip()
                    first = int(number) + 1
                    counts[outcome] += 1
                    if outcome not in ("read", "refused"):
                        wrong[int(number)] = outcome
            code = process.wait()
            process.stdout.close()
            done.set()
            watcher.join()
            if begun is not None:
                wrong[begun] = f"hung for {limit_s:g} s" if hung else f"the process ended with {code}"
                first = begun + 1
            elif code:
                errors.seek(0)
                raise RuntimeError(f"the reader of {kind} does not start: {errors.read()[-2000:]}")
    path.write_bytes(content)
    return {"read": counts["read"], "refused": counts["refused"], "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=READERS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, help="read in this process, from this copy on (campaigns use it)")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if options.first is not None:
        work(options.kind, options.file, options.seed, options.first, options.count)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / options.file.name
        copy.write_bytes(options.file.read_bytes())
        print(json.dumps(campaign(options.kind, copy, options.seed, options.count)))


if __name__ == "__main__":
    main()
