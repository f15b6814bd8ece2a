"""Several datasets in the common layout -> one endless, reproducible stream of training samples, and its batches.

Which sample comes n-th is a pure function of the seed and n, and so is its augmentation: resuming at any step, with any
number of workers, goes on exactly where the interrupted run stopped.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perception.imagefile import read_ids
from perception.labels import BOX_CLASSES, HEADS, IGNORE, DatasetLabels
from perception.layout import Sample, read_layout
from perception.tensors import boxes_model_from_frame, mask_model_from_frame, tensor_from_frame
from perception.training.augment import Augment, AugmentConfig, too_little
from perception.training.batch import Collate, Example
from perception.training.decode import read_frame
from perception.training.distributed import ALONE, Processes, Share
from perception.training.mosaic import one_or_mosaic
from perception.training.order import Draw, shuffled
from perception.training.samples import Samples

__all__ = ["Mixture", "batches", "one_thread"]


class Mixture(Dataset[Example]):
    """The n-th training sample of a run over several datasets, each drawn in proportion to its weight.

    Within a dataset every image comes once before any comes again. Only a `share` of each dataset's images is drawn:
    another one for another seed, and a smaller one is part of a larger one. Raises ValueError for a dataset that can't
    be read, a split without images, labels of which none is ours (without `own_labels`), and weights that are not
    above 0.
    """

    def __init__(
        self,
        folders: list[Path],
        weights: list[float],
        total: int,
        hw: tuple[int, int],
        augment: AugmentConfig,
        seed: int,
        own_labels: bool = False,
        share: float = 1.0,
    ) -> None:
        self.folders = folders
        self.labels: list[DatasetLabels] = []
        self.samples: list[Samples] = []
        for folder in folders:
            labels, samples = read_layout(folder, "train", own_labels)
            if not own_labels and not labels.names_ours:
                raise ValueError(f"{folder}: none of its labels is one of our classes; train with --own-labels")
            if not samples:
                raise ValueError(f"{folder} has no image in images/train; leave it out, or convert it again")
            if share < 1:
                fewer = max(1, round(share * len(samples)))
                samples = [samples[shuffled(n, len(samples), seed, 1 << 32)] for n in range(fewer)]
            self.labels.append(labels)
            self.samples.append(Samples(samples, folder))
        self.heads = tuple(sorted({head for labels in self.labels for head in labels.masks} | set(HEADS)))
        self.box_classes = next((labels.boxes.classes for labels in self.labels if labels.boxes), BOX_CLASSES)
        self.hw, self.seed, self.own_labels = hw, seed, own_labels
        self.augment = Augment(augment, hw)
        self.smallest_crop = augment.crop_area[0], augment.crop_aspect
        self.total, self.draw = total, Draw(weights, seed)

    @property
    def names(self) -> list[str]:
        """Dataset names, in the order of their index; a second one of a name is NAME-2."""
        names: list[str] = []
        for labels in self.labels:
            again = (f"{labels.name}-{n}" for n in count(2))
            names.append(next(name for name in chain([labels.name], again) if name not in names))
        return names

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, n: int) -> Example:
        dataset, nth = self.draw[n]
        samples = self.samples[dataset]
        epoch, position = divmod(nth, len(samples))
        place = shuffled(position, len(samples), self.seed, dataset, epoch)
        seed = int(self.seed * 1_000_003 + n) % 2**31
        return one_or_mosaic(partial(self.example, dataset), samples[place], samples, self.augment.mosaic, seed)

    def example(self, dataset: int, sample: Sample, seed: int) -> Example:
        """Read, augment and preprocess one sample."""
        labels = self.labels[dataset]
        image, reduced = read_frame(sample.image, self.hw, *self.smallest_crop)
        masks = {path: reduced_mask(read_mask(path), reduced) for path in dict.fromkeys(sample.masks.values())}
        own = np.zeros((0, 4), np.float32) if sample.boxes is None else sample.boxes
        n = len(own)
        everything = np.concatenate([own, sample.ignore]).astype(np.float32) / reduced
        image, boxes, kept, share, warped = self.augment.reshape(seed, image, everything, list(masks.values()))

        tensor, letterbox = tensor_from_frame(image, self.hw)
        tensor = self.augment.recolour(seed, tensor, letterbox)
        boxes = boxes_model_from_frame(boxes, letterbox)
        learn = (kept < n) & ~too_little(boxes, share)
        spec = labels.boxes if sample.boxes is not None else None
        if spec is None:
            members, exhaustive = np.zeros((0, 0), bool), np.zeros(0, bool)
        else:
            members = np.array([spec.membership(sample.categories[i]) for i in kept[learn]], bool)
            exhaustive = np.array([name in spec.exhaustive for name in spec.classes], bool)
        by_path = {p: mask_model_from_frame(m, letterbox, IGNORE) for p, m in zip(masks, warped, strict=True)}
        in_model = {head: by_path[path] for head, path in sample.masks.items()}
        return Example(dataset, tensor, boxes[learn], members, boxes[~learn], exhaustive, in_model)

    def tables(self, head: str, classes: int) -> Tensor:
        """(datasets, 256, C) bool: what each dataset's label ids mean for a head."""
        empty = np.zeros((256, classes), bool)
        specs = [labels.masks.get(head) for labels in self.labels]
        return torch.from_numpy(np.stack([spec.membership() if spec else empty for spec in specs]))


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 label ids from an index PNG."""
    mask = read_ids(path)
    if mask.ndim != 2:
        raise ValueError(f"{path} is not an index PNG with one channel; run the dataset's prepare.py again")
    return mask


def reduced_mask(mask: np.ndarray, n: int) -> np.ndarray:
    """(H, W) label ids -> (H / n, W / n): of each n x n the one in its middle, for a frame that was decoded smaller."""
    return mask if n == 1 else np.ascontiguousarray(mask[n // 2 :: n, n // 2 :: n])


def batches(
    mixture: Mixture, batch_size: int, start_step: int, workers: int, processes: Processes = ALONE
) -> DataLoader[Any]:
    """This process's share of the batches of a run from `start_step` on, each `batch_size` samples in all processes."""
    return DataLoader(
        mixture,
        batch_size=processes.share_of(batch_size),
        sampler=Share(start_step, len(mixture), batch_size, processes),
        num_workers=workers,
        drop_last=True,
        collate_fn=Collate(mixture.heads, len(mixture.box_classes)),
        worker_init_fn=one_thread,
        persistent_workers=False,
    )


def one_thread(_: int) -> None:
    """A worker uses one core: the others belong to the network."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
