"""One system under test in a process of its own, in whatever environment has its packages. Started by peers.py.

    python peer_worker.py '{"kind": "yolo", "frames": "frames.npy", "video": "drive.mp4", "threads": 2, ...}'

It answers JSON with JSON, a line each: {"do": "model" | "frames" | "loop", "count": N} -> {"seconds": s, "found": n}.

- model: the network alone, on an input that is ready.
- frames: from decoded frames (H, W, 3) uint8 BGR to answers in frame pixels, as the system's own call does it.
- loop: from the video file to answers, with the system's own reading where it has one, else with OpenCV's.

`found` is the mean number of boxes a frame, where there are boxes: with random weights it says how much work the
suppression and the like had. Imports of a system's packages stay inside its class: no environment has all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


class System:
    """What a worker asks of a system. Options come from peers.py."""

    about = ""  # what the numbers depend on, in a few words

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        """Build it and run it once on `frame`."""
        self.options = options

    def model(self) -> object:
        """The network once, on an input that is ready."""
        raise NotImplementedError

    def frame(self, image: np.ndarray) -> int:
        """A frame (H, W, 3) uint8 BGR -> number of boxes, 0 where there are none by design."""
        raise NotImplementedError

    def loop(self, video: str, count: int) -> int:
        """The first `count` frames of a video file -> number of boxes."""
        import cv2

        capture, found = cv2.VideoCapture(video), 0
        for _ in range(count):
            ok, image = capture.read()
            if not ok:
                raise ValueError(f"{video}: expected {count} frames, but it has fewer")
            found += self.frame(image)
        capture.release()
        return found


class Ours(System):
    """perception.live without video output, and perception.Model."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        from perception.model import load
        from perception.tracks import Tracker

        self.model_ = load(options.get("file"), options.get("provider", "cpu"), threads=options["threads"])
        self.tensor, names = self.model_.buffer(), self.model_.engine.metadata.box_names
        self.tracker, self.at = Tracker(box_names=names), itertools.count()
        self.frame(frame)
        self.about = f"input {self.model_.engine.input_hw}, {self.model_.provider_reason}"

    def model(self) -> object:
        return self.model_.engine.run(self.tensor)

    def frame(self, image: np.ndarray) -> int:
        result = self.model_(image)
        self.tracker.update(result.detections, next(self.at) / 25, image.shape[:2], image)
        return len(result.detections)

    def loop(self, video: str, count: int) -> int:
        import tempfile

        from perception.frames import open_source
        from perception.live import LiveConfig, Stop, process

        with tempfile.TemporaryDirectory() as folder, open_source(video) as source:
            config = LiveConfig(source=(video,), out=Path(folder), video=False, max_frames=count)
            with contextlib.redirect_stdout(sys.stderr):
                return int(process(config, self.model_, [source], Stop())["detections"])


class Yolo(System):
    """Ultralytics from its YAML with random weights, its own predict loop at its defaults; or that exported."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        import torch
        from ultralytics import YOLO

        name = options["yaml"]
        torch.manual_seed(0)
        if exported := options.get("export", ""):
            ending = {"onnx": ".onnx", "openvino": "_openvino_model"}[exported]
            target = Path(options["folder"]) / f"{Path(name).stem}{ending}"
            if not target.exists():
                os.chdir(options["folder"])
                Path(YOLO(name).export(format=exported)).replace(target)
            self.yolo = YOLO(str(target), task="detect")
        else:
            self.yolo = YOLO(name)
        self.keep = dict(device="cpu", verbose=False)
        self.yolo.predict(frame, **self.keep)
        self.threads(options["threads"])
        self.input = torch.zeros(1, 3, *self.shape(frame))
        self.about = f"input {tuple(self.input.shape[2:])}, {exported or 'torch'}"
        self.model()

    def threads(self, count: int) -> None:
        """Ultralytics takes one core fewer than there are; give it as many as the others."""
        import torch
        from ultralytics.utils import torch_utils

        torch.set_num_threads(count)
        torch_utils.NUM_THREADS = count  # what it sets when it chooses its device again

    def shape(self, frame: np.ndarray) -> tuple[int, int]:
        """Height and width that its own preprocessing makes of a frame."""
        made = self.yolo.predictor.preprocess([frame])
        return int(made.shape[2]), int(made.shape[3])

    def model(self) -> object:
        import torch

        with torch.inference_mode():
            return self.yolo.predictor.model(self.input)

    def frame(self, image: np.ndarray) -> int:
        return len(self.yolo.predict(image, **self.keep)[0].boxes)

    def loop(self, video: str, count: int) -> int:
        stream = self.yolo.predict(video, stream=True, **self.keep)
        found = sum(len(result.boxes) for result in itertools.islice(stream, count))
        stream.close()
        return found


class Torch(System):
    """A torch module under inference mode; subclasses say what a frame goes through."""

    def start(self, frame: np.ndarray) -> None:
        """Set the threads and run once."""
        import torch

        torch.set_num_threads(self.options["threads"])
        self.frame(frame)
        self.model()

    def rgb(self, image: np.ndarray, hw: tuple[int, int]) -> Any:
        """(H, W, 3) uint8 BGR -> (1, 3, h, w) float32 RGB in [0, 1], normalised as ImageNet is."""
        import cv2
        import torch

        image = cv2.cvtColor(cv2.resize(image, hw[::-1]), cv2.COLOR_BGR2RGB)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (tensor - mean) / std


class SsdLite(Torch):
    """torchvision's SSDLite320 with MobileNetV3-Large; it resizes, normalises and suppresses by itself."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        import torch
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large

        torch.manual_seed(0)
        self.net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
        self.input = torch.zeros(1, 3, 320, 320)
        self.about = "input (320, 320), torch"
        self.start(frame)

    def model(self) -> object:
        import torch

        with torch.inference_mode():
            return self.net.head(list(self.net.backbone(self.input).values()))

    def frame(self, image: np.ndarray) -> int:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            return len(self.net([tensor])[0]["boxes"])


class LrAspp(Torch):
    """torchvision's LR-ASPP with MobileNetV3-Large at height 520, as its published weights are used: 21 classes."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        import torch
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large

        torch.manual_seed(0)
        self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
        self.hw = (520, round(520 * frame.shape[1] / frame.shape[0]))
        self.input = torch.zeros(1, 3, *self.hw)
        self.about = f"input {self.hw}, torch"
        self.start(frame)

    def model(self) -> object:
        import torch

        with torch.inference_mode():
            return self.net(self.input)["out"]

    def frame(self, image: np.ndarray) -> int:
        import cv2
        import torch

        with torch.inference_mode():
            classes = self.net(self.rgb(image, self.hw))["out"][0].argmax(0).to(torch.uint8).numpy()
        cv2.resize(classes, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return 0


class RfDetr(Torch):
    """RF-DETR Nano with random weights and its own predict on one frame after the other."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        import torch
        from rfdetr import RFDETRNano

        torch.manual_seed(0)
        self.net = RFDETRNano(pretrain_weights=None, device="cpu")
        self.traced = True
        try:
            self.net.inference()  # its own speed-up for the CPU: a traced copy
        except Exception as error:  # whatever tracing raises where its version and torch do not agree
            print(f"not traced: {error}", file=sys.stderr)
            self.traced = False
        side = self.net.model.resolution
        self.input = torch.zeros(1, 3, side, side)
        self.about = f"input ({side}, {side}), torch{', traced by itself' if self.traced else ', not traced'}"
        self.start(frame)

    def model(self) -> object:
        import torch

        module = self.net.model.inference_model if self.traced else self.net.model.model
        with torch.inference_mode():
            return module(self.input)

    def frame(self, image: np.ndarray) -> int:
        return len(self.net.predict(np.ascontiguousarray(image[..., ::-1])))


class Eomt(Torch):
    """EoMT-S (arXiv:2503.19108) in transformers with random weights: panoptic masks by 200 queries."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        import torch
        from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

        torch.manual_seed(0)
        shape = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=640, num_queries=200)
        labels = {i: str(i) for i in range(133)}
        self.net = EomtForUniversalSegmentation(EomtConfig(**shape, num_blocks=3, id2label=labels)).eval()
        side = {"shortest_edge": 640, "longest_edge": 640}
        self.processor = EomtImageProcessor(size=side, do_pad=True)
        self.input = torch.zeros(1, 3, 640, 640)
        self.about = "input (640, 640), torch"
        self.start(frame)

    def model(self) -> object:
        import torch

        with torch.inference_mode():
            return self.net(self.input)

    def frame(self, image: np.ndarray) -> int:
        import torch

        batch = self.processor(images=np.ascontiguousarray(image[..., ::-1]), return_tensors="pt")
        with torch.inference_mode():
            outputs = self.net(**batch)
        self.processor.post_process_panoptic_segmentation(outputs, target_sizes=[image.shape[:2]])
        return 0


class PicoDet(Torch):
    """LightlyTrain's PicoDet-S with random weights and its own predict on one frame after the other."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        super().__init__(options, frame)
        import torch
        from lightly_train._task_models.picodet_object_detection.task_model import PicoDetObjectDetection

        torch.manual_seed(0)
        size = (416, 416)
        self.net = PicoDetObjectDetection(model_name="picodet/s-416", image_size=size, num_classes=80).eval()
        self.input = torch.zeros(1, 3, *size)
        self.about = f"input {size}, torch"
        self.start(frame)

    def model(self) -> object:
        import torch

        with torch.inference_mode():
            return self.net.forward_backend(self.input)

    def frame(self, image: np.ndarray) -> int:
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)
        with torch.inference_mode():
            return len(self.net.predict(tensor)["bboxes"])


class Onnx(System):
    """YOLOX-nano or NanoDet of benchmarks/coco_peers.py, at its threshold of 0.3."""

    def __init__(self, options: dict[str, Any], frame: np.ndarray) -> None:
        from benchmarks.coco_peers import PEERS

        self.peer = PEERS[options["peer"]](Path(options["file"]), options["threads"])
        self.input = np.zeros((1, 3, *self.peer.input_hw), np.float32)
        self.name = self.peer.session.get_inputs()[0].name
        self.about = f"input {self.peer.input_hw}, ONNX Runtime"
        self.frame(frame)

    def model(self) -> object:
        return self.peer.session.run(None, {self.name: self.input})

    def frame(self, image: np.ndarray) -> int:
        return len(self.peer(image))


Kinds = dict[str, Callable[[dict[str, Any], np.ndarray], System]]
KINDS: Kinds = {
    "ours": Ours,
    "yolo": Yolo,
    "ssdlite": SsdLite,
    "lraspp": LrAspp,
    "rfdetr": RfDetr,
    "eomt": Eomt,
    "picodet": PicoDet,
    "onnx": Onnx,
}


def work(system: System, frames: np.ndarray, options: dict[str, Any], order: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks for; timed with a monotonic clock until the answers are there."""
    count, found = int(order["count"]), 0
    begin = time.perf_counter()
    if order["do"] == "model":
        for _ in range(count):
            system.model()
    elif order["do"] == "frames":
        for i in range(count):
            found += system.frame(frames[i % len(frames)])
    else:
        found = system.loop(options["video"], count)
    return {"seconds": time.perf_counter() - begin, "found": round(found / count, 2)}


def serve(
    options: dict[str, Any], orders: Iterator[str], answer: Callable[[dict[str, Any]], None], kinds: Kinds = KINDS
) -> None:
    """Build the system, say so, then answer every line."""
    frames = np.load(options["frames"])
    system = kinds[options["kind"]](options, frames[0])
    answer({"ready": True, "about": system.about})
    for line in orders:
        answer(work(system, frames, options, json.loads(line)))


def main(kinds: Kinds = KINDS) -> int:
    """Standard output is for answers only; whatever a library prints goes to standard error."""
    options, pipe = json.loads(sys.argv[1]), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        pipe.write(json.dumps(values) + "\n")
        pipe.flush()

    try:
        serve(options, iter(sys.stdin), answer, kinds)
    except Exception as error:  # whatever a peer's code raises: the others go on
        answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
