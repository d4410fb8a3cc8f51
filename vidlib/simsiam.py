"""SimSiam (Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021).

The symbols are the paper's: f the encoder with its projector, h the predictor, z = f(x), p = h(z).
G clips, F frames of each, D the encoder's feature size, d the size of z.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """The paper's D(p, z), equation 1, with z's gradient stopped (equation 3): (N, d) x2 -> ()."""
    # in float32: bfloat16 would round the loss to two digits
    return -F.cosine_similarity(p.float(), z.detach().float(), dim=-1).mean()


def collapse_measure(z: Tensor) -> float:
    """Spread of the normalised outputs x sqrt(d), (N, d) -> near 1 healthy, 0 collapsed.

    The paper's figure 2: were all outputs alike the standard deviation of z / |z| would be 0; for
    an isotropic Gaussian it is 1 / sqrt(d).
    """
    z = F.normalize(z.detach().float(), dim=-1)
    return (z.std(dim=0).mean() * z.shape[-1] ** 0.5).item()


def summary(features: Tensor) -> Tensor:
    """Mean and spread over the frames, (G, F, D) -> (G, 2 D); of no order, as `probes.pool`."""
    f = features.float()
    # the small term: at a spread of 0 (a still clip) the root has no gradient
    return torch.cat([f.mean(1), (f.var(1, correction=0) + 1e-6).sqrt()], dim=1)


class Head(nn.Module):
    """Projector and predictor, section 3 of the paper, at sizes for a laptop.

    stop_gradient: False shows the collapse (the paper's figure 2); never for real use.
    output_norm: False leaves out the projector's last batch norm (the paper's table 3, row c). With
    it a collapsed batch cannot be one point: it becomes two, +v and -v, with a share q of the
    frames at the smaller, and the collapse measure stops at 2 sqrt(q (1 - q)) instead of 0.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 512,
        bottleneck: int = 128,
        stop_gradient: bool = True,
        output_norm: bool = True,
    ) -> None:
        super().__init__()
        self.stop_gradient = stop_gradient
        self.projector = nn.Sequential(
            nn.Linear(dim, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden, affine=False) if output_norm else nn.Identity(),
        )
        self.predictor = nn.Sequential(
            nn.Linear(hidden, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, hidden),
        )

    def forward(self, features1: Tensor, features2: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, dim) of two views -> (loss, z of the first view); equation 2."""
        z1, z2 = self.projector(features1), self.projector(features2)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        if self.stop_gradient:
            loss = negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2
        else:
            pairs = ((p1.float(), z2.float()), (p2.float(), z1.float()))
            loss = -sum(F.cosine_similarity(p, z).mean() for p, z in pairs) / 2
        return loss, z1


class SimSiam(nn.Module):
    """An encoder of D features and one or two heads.

    center: subtract each view's mean feature over its frames before the frames' head. What stands
    still through a clip (wall, clothes, build) is in that mean, and two views agree on it for
    free; what is left to agree on is the pose. With one frame a clip it must be off, or nothing
    would be left.
    clip_loss: weight of a second loss, in which two views of a clip agree as wholes: on the mean
    and the spread of each feature over the frames. Without it a centred loss never sees the mean,
    and read-outs that use it (kNN, a linear probe) get worse.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        center: bool = True,
        clip_loss: float = 0.0,
        **head: Any,
    ) -> None:
        super().__init__()
        self.encoder, self.center, self.clip_loss = encoder, center, clip_loss
        self.frames = Head(dim, **head)
        self.clips = Head(2 * dim, **head) if clip_loss else None

    def features(self, view: Tensor) -> Tensor:
        """(G, F, 3, H, W) -> (G, F, D)."""
        images = view.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.encoder(images).view(*view.shape[:2], -1)

    def what_moves(self, features: Tensor) -> Tensor:
        """(G, F, D) -> (G x F, D): what the frames' head is given."""
        if self.center:
            features = features - features.mean(dim=1, keepdim=True)
        return features.flatten(0, 1)

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the same frames -> (loss, the frames' z of the first view)."""
        h1, h2 = self.features(view1), self.features(view2)
        loss, z = self.frames(self.what_moves(h1), self.what_moves(h2))
        if self.clips is not None:
            loss = loss + self.clip_loss * self.clips(summary(h1), summary(h2))[0]
        return loss, z
