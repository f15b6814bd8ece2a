"""Distillation without labels: the student's tokens must tell what one or several trained networks see at that place.

The features of each teacher are standardised channel by channel, so that none drowns another (AM-RADIO,
arXiv:2312.06709), and each has a linear head of its own: what the student must say with its tokens, a linear probe can
read from them. LightlyTrain recommends this kind of pretraining for small students.

Legend: B = batch, D = width of the student, C = channels of a teacher, h, w = the student's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.network.tokens import Tokens
from perception.pretraining.method import Method, Picture, as_image
from perception.pretraining.pca import pca_images
from perception.pretraining.teachers import Lessons, taught
from perception.pretraining.views import Views

__all__ = ["Distil", "DistilConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig:
    """Who teaches, and what counts."""

    teachers: tuple[str, ...] = ()  # NAME or NAME=WEIGHTS, any timm model; without WEIGHTS they come from the hub
    cosine: float = 0.5  # weight of the direction of a feature beside its values
    cache: Path | None = None  # folder of what the teachers said; None = RUN/teachers

    def __post_init__(self) -> None:
        if not 0 <= self.cosine <= 1:
            raise ValueError(f"--distil.cosine must be between 0 and 1, but is {self.cosine:g}")


class Distil(Method):
    """Smooth L1 and cosine distance to each teacher's standardised features, averaged over places and teachers."""

    def __init__(
        self, tokens: Tokens, config: DistilConfig, files: list[Path], cache: Path, device: torch.device
    ) -> None:
        super().__init__()
        if not config.teachers:
            raise ValueError("--distil.teachers: name at least one, such as tf_efficientnet_lite0=WEIGHTS.pth")
        self.tokens, self.cosine = tokens, config.cosine
        self.lessons: list[Lessons] = [taught(spec, files, tokens.grid_hw, cache, device) for spec in config.teachers]
        self.heads = nn.ModuleList(nn.Linear(tokens.width, lesson.features.shape[1]) for lesson in self.lessons)

    def losses(self, views: Views, draw: torch.Generator) -> dict[str, Tensor]:
        tokens = self.see(views)  # (B, h, w, D)
        out = {}
        for number, (head, lesson) in enumerate(zip(self.heads, self.lessons, strict=True)):
            said = head(tokens).float()  # (B, h, w, C)
            truth = self.truth(lesson, views).permute(0, 2, 3, 1)
            near = F.smooth_l1_loss(said, truth)
            turned = 1 - F.cosine_similarity(said, truth, dim=-1).mean()
            out[f"{number}_{lesson.name}"] = ((1 - self.cosine) * near + self.cosine * turned) / len(self.lessons)
        return out

    def see(self, views: Views) -> Tensor:
        """(B, h, w, D), the student's tokens."""
        return self.tokens(views.image.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1)

    def truth(self, lesson: Lessons, views: Views) -> Tensor:
        """(B, C, h, w), what a teacher sees where the views are."""
        return lesson.cut(views.frame, views.place, self.tokens.grid_hw).to(views.image.device)

    def pictures(self, views: Views, draw: torch.Generator) -> list[Picture]:
        tokens = self.see(views)
        hw = (views.image.shape[1], views.image.shape[2])
        titles = ["view"]
        columns = [[as_image(image.float()) for image in views.image]]
        for head, lesson in zip(self.heads, self.lessons, strict=True):
            truth = self.truth(lesson, views)
            said = head(tokens).float().permute(0, 3, 1, 2)
            both = pca_images(torch.cat([truth, said]), hw)  # the same three directions for both
            titles += [f"{lesson.name}, teacher", f"{lesson.name}, student"]
            columns += [both[: len(truth)], both[len(truth) :]]
        return [Picture(tuple(titles), images) for images in zip(*columns, strict=True)]
