"""Random views, a whole batch at once, on the batch's device.

A clip's frames share one crop, flip and colour: a difference between two frames of a view is then
motion, never the augmentation. G views (one a clip), F frames each.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, what torchvision's grayscale uses


@dataclass(frozen=True)
class Recipe:
    """Ranges of the random view. The defaults are the paper's (section 3), less the blur."""

    crop: tuple[float, float] = (0.2, 1.0)  # share of the area that the crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # its width : height
    flip: float = 0.5
    jitter: float = 0.8  # how often colour is changed at all
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # in turns of the colour wheel
    grey: float = 0.2
    mix: float = 0.0  # how often channels are mixed at random, with signs
    rectify: float = 0.0  # how often a picture becomes the size of its differences


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    # A crop of a fifth of the picture often holds no person; actions need the whole body.
    "body": Recipe(crop=(0.4, 1.0)),
    "no-colour": Recipe(crop=(0.4, 1.0), jitter=0.0, grey=0.0),
    # For differences from the still picture: a dark shirt before a bright wall and a bright one
    # before a dark wall are opposite in sign, and the same pose.
    "motion": Recipe(crop=(0.4, 1.0), mix=0.8, rectify=0.5),
}


@dataclass
class Views:
    """Drawn parameters of G views. `theta` (G, 2, 3) is `affine_grid`'s; `colour` (G, 3, 3) maps
    RGB to RGB; `contrast` (G,) scales around the picture's mean grey; `rectify` (G,): 0 leaves
    the picture, +1 and -1 replace every channel by +-max |channel|."""

    theta: Tensor
    colour: Tensor
    contrast: Tensor
    rectify: Tensor

    def part(self, index: int, parts: int) -> "Views":
        """One of several equal parts of the views."""
        return Views(*(v.chunk(parts)[index] for v in vars(self).values()))


def _uniform(g: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(g, generator=rng) * (high - low) + low


def _hue_matrix(turns: Tensor) -> Tensor:
    """Rotation about the grey axis, (G,) -> (G, 3, 3) (Rodrigues' formula): linear, so that it
    serves differences of pixels too; torchvision goes through HSV, which clips."""
    angle = turns * 2 * torch.pi
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return c * torch.eye(3) + s * cross + (1 - c) * torch.full((3, 3), 1 / 3)


def draw(g: int, recipe: Recipe, rng: torch.Generator) -> Views:
    """Draw the parameters of G views."""
    area = _uniform(g, *recipe.crop, rng)
    low, high = (torch.log(torch.tensor(r)).item() for r in recipe.ratio)
    ratio = torch.exp(_uniform(g, low, high, rng))
    w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    # the crop's centre, in affine_grid's coordinates (-1..1), such that it stays inside
    x = (torch.rand(g, generator=rng) * 2 - 1) * (1 - w)
    y = (torch.rand(g, generator=rng) * 2 - 1) * (1 - h)
    sign = torch.where(torch.rand(g, generator=rng) < recipe.flip, -1.0, 1.0)
    zero = torch.zeros(g)
    theta = torch.stack([torch.stack([w * sign, zero, x]), torch.stack([zero, h, y])])
    theta = theta.permute(2, 0, 1)

    on = (torch.rand(g, generator=rng) < recipe.jitter).float()
    bright = 1 + on * _uniform(g, -recipe.brightness, recipe.brightness, rng)
    contrast = 1 + on * _uniform(g, -recipe.contrast, recipe.contrast, rng)
    saturation = 1 + on * _uniform(g, -recipe.saturation, recipe.saturation, rng)
    hue = on * _uniform(g, -recipe.hue, recipe.hue, rng)
    saturation = torch.where(torch.rand(g, generator=rng) < recipe.grey, 0.0, saturation)
    grey = torch.tensor(GREY).expand(3, 3)
    s = saturation[:, None, None]
    colour = bright[:, None, None] * ((1 - s) * grey + s * torch.eye(3)) @ _hue_matrix(hue)
    rectify = torch.zeros(g)
    if recipe.mix:
        mixed = torch.randn(g, 3, 3, generator=rng)
        mixed = mixed / (mixed.norm(dim=2, keepdim=True) + 0.3)  # rows shorter than 1
        some = torch.rand(g, generator=rng) < recipe.mix
        colour = torch.where(some[:, None, None], mixed @ colour, colour)
    if recipe.rectify:
        sign = torch.where(torch.rand(g, generator=rng) < 0.5, -1.0, 1.0)
        rectify = torch.where(torch.rand(g, generator=rng) < recipe.rectify, sign, 0.0)
    return Views(theta, colour, contrast, rectify)


def apply(x: Tensor, views: Views) -> Tensor:
    """Cut and colour float (G, F, 3, H, W) -> (G, F, 3, H, W); each clip's frames alike."""
    g, f, _, h, w = x.shape
    theta = views.theta.to(x.device).repeat_interleave(f, dim=0)
    grid = F.affine_grid(theta, [g * f, 3, h, w], align_corners=False)
    x = F.grid_sample(x.flatten(0, 1), grid, align_corners=False, padding_mode="border")
    x = torch.einsum("gij,gfjk->gfik", views.colour.to(x), x.view(g, f, 3, h * w))
    c = views.contrast.to(x).view(g, 1, 1, 1)
    mean = (x * x.new_tensor(GREY).view(3, 1)).sum(2, keepdim=True).mean(-1, keepdim=True)
    x = (c * x + (1 - c) * mean).view(g, f, 3, h, w)
    if not views.rectify.any():
        return x
    sign = views.rectify.to(x).view(g, 1, 1, 1, 1)
    return torch.where(sign == 0, x, sign * x.abs().amax(2, keepdim=True))
