"""The systems that benchmarks/peers.py sets side by side: what each is, does, needs, and under which licence.

Packages are installed by that script into environments of their own, and never imported by ours: some are AGPL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ENVIRONMENTS", "SHARED", "SYSTEMS", "Peer"]

SHARED = ("torch", "torchvision", "numpy", "opencv-python-headless", "onnxruntime")  # what all environments see
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {  # name -> packages on top of the shared ones
    "torch": (),
    "ultralytics": (
        "ultralytics-opencv-headless",
        "onnx",
        "onnxslim",
        "openvino",
    ),  # Ultralytics' own build for machines without screen
    "rfdetr": ("rfdetr", "transformers"),
    "lightly": ("lightly-train",),
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system.

    `environment` "" is the one that runs the benchmark. `option` names the option of peers.py that gives its file;
    without a file it is left out. `own_loop`: it reads video itself; else OpenCV reads for it.
    """

    kind: str  # of peer_worker.KINDS
    does: str
    licence: str
    weights: str  # "random" or "trained"
    environment: str = ""
    own_loop: bool = False
    option: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


SYSTEMS: Mapping[str, Peer] = {
    "ours": Peer(
        kind="ours",
        does="boxes, scene, lanes and area, tracks",
        licence="Apache-2.0",
        weights="trained",
        own_loop=True,
        note="loop: perception.live with records and without video; frames: perception.Model and its tracker",
    ),
    "ours, OpenVINO": Peer(
        kind="ours",
        does="boxes, scene, lanes and area, tracks",
        licence="Apache-2.0",
        weights="trained",
        own_loop=True,
        options={"provider": "openvino"},
        note="as ours, with --provider openvino",
    ),
    "YOLO26n": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo26n.yaml"},
        note="640, a rectangle of the frame's shape, as its predict does by default",
    ),
    "YOLO26n, ONNX": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo26n.yaml", "export": "onnx"},
        note="640x640, as its export does by default; ONNX Runtime's own choice of threads",
    ),
    "YOLO26n, OpenVINO": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo26n.yaml", "export": "openvino"},
        note="640x640, as its export does by default; OpenVINO's own choice of threads and arithmetic",
    ),
    "YOLO11n": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo11n.yaml"},
        note="as YOLO26n; random weights leave its suppression nothing to do",
    ),
    "YOLO11n, ONNX": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo11n.yaml", "export": "onnx"},
        note="as YOLO26n, ONNX",
    ),
    "YOLO11n, OpenVINO": Peer(
        kind="yolo",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="ultralytics",
        own_loop=True,
        options={"yaml": "yolo11n.yaml", "export": "openvino"},
        note="as YOLO26n, OpenVINO",
    ),
    "RF-DETR Nano": Peer(kind="rfdetr", does="boxes", licence="Apache-2.0", weights="random", environment="rfdetr"),
    "EoMT-S 640": Peer(
        kind="eomt",
        does="panoptic masks",
        licence="Apache-2.0",
        weights="random",
        environment="rfdetr",
        note="as transformers has it",
    ),
    "LightlyTrain PicoDet-S": Peer(
        kind="picodet",
        does="boxes",
        licence="AGPL-3.0",
        weights="random",
        environment="lightly",
        note="416x416; its larger detectors are of another class of cost",
    ),
    "SSDLite320": Peer(
        kind="ssdlite",
        does="boxes",
        licence="BSD-3-Clause",
        weights="random",
        environment="torch",
        note="random weights give its suppression the most boxes that it takes",
    ),
    "LR-ASPP": Peer(kind="lraspp", does="scene", licence="BSD-3-Clause", weights="random", environment="torch"),
    "YOLOX-nano": Peer(
        kind="onnx",
        does="boxes",
        licence="Apache-2.0",
        weights="trained",
        option="yolox",
        options={"peer": "yolox"},
        note="decoding and suppression in numpy, of benchmarks/coco_peers.py",
    ),
    "NanoDet-m 416": Peer(
        kind="onnx",
        does="boxes",
        licence="Apache-2.0",
        weights="trained",
        option="nanodet",
        options={"peer": "nanodet"},
        note="decoding and suppression in numpy, of benchmarks/coco_peers.py",
    ),
}
