"""SimSiam (Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021).

The symbols are the paper's: f the encoder with its projector, h the predictor, z = f(x), p = h(z).
G clips, F frames of each, D the encoder's feature size, d the size of z.
"""

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


class SimSiam(nn.Module):
    """Encoder, projector, predictor; section 3 of the paper, at sizes for a laptop.

    center: subtract each view's mean feature over its frames before the projector. What stands
    still through a clip (wall, clothes, build) is in that mean, and two views agree on it for
    free; what is left to agree on is the pose. With one frame a clip it must be off, or nothing
    would be left.
    stop_gradient: False shows the collapse (the paper's figure 2); never for real use.
    output_norm: False leaves out the projector's last batch norm (the paper's table 3, row c). With
    it a collapsed batch cannot be one point: it becomes two, +v and -v, with a share q of the
    frames at the smaller, and the collapse measure stops at 2 sqrt(q (1 - q)) instead of 0.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        hidden: int = 512,
        bottleneck: int = 128,
        center: bool = True,
        stop_gradient: bool = True,
        output_norm: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.center, self.stop_gradient = encoder, center, stop_gradient
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

    def project(self, view: Tensor) -> Tensor:
        """(G, F, 3, H, W) -> z (G x F, d)."""
        g, f = view.shape[:2]
        images = view.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.encoder(images).view(g, f, -1)
        if self.center:
            features = features - features.mean(dim=1, keepdim=True)
        return self.projector(features.flatten(0, 1))

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of the same frames -> (loss, z of the first view); equation 2."""
        z1, z2 = self.project(view1), self.project(view2)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        if self.stop_gradient:
            loss = negative_cosine(p1, z2) / 2 + negative_cosine(p2, z1) / 2
        else:
            pairs = ((p1.float(), z2.float()), (p2.float(), z1.float()))
            loss = -sum(F.cosine_similarity(p, z).mean() for p, z in pairs) / 2
        return loss, z1
