"""Random views, a whole batch at once, on the batch's device.

A clip's frames share one crop, flip and colour: a difference between two frames of a view is then
motion, never the augmentation. G views (one a clip), F frames each.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import UserError

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, what torchvision's grayscale uses


@dataclass(frozen=True)
class Recipe:
    """Ranges of the random view. The defaults are those of SimSiam's paper (section 3), less the
    blur. What a recipe does not ask for is not drawn, so that one's random numbers do not depend on
    what others can do."""

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
    blur: float = 0.0  # how often it is blurred
    sigma: tuple[float, float] = (0.1, 2.0)  # of that, in pixels of a picture of BLUR_SIZE
    solarise: float = 0.0  # how often what is bright is inverted (BYOL, NeurIPS 2020)
    threshold: float = 0.5  # from this value on
    wall: float = 0.0  # how often another clip's still picture is mixed in
    share: tuple[float, float] = (0.0, 0.5)  # and how much of the mixture is that
    exact: bool = False  # of pictures in 0..1, crop and colour just as torchvision's (see `named`)


BLUR_SIZE = 224
# The small-data recipe. A crop of a fifth of the picture often holds no person; actions need the
# whole body.
BODY = Recipe(crop=(0.4, 1.0))
# For differences from the still picture: a dark shirt before a bright wall and a bright one before
# a dark wall are opposite in sign, and the same pose.
MOTION = replace(BODY, mix=0.8, rectify=0.5)

RECIPES: dict[str, Recipe] = {
    # SimSiam's own, as torchvision's transforms make it
    "paper": Recipe(blur=0.5, exact=True),
    "body": BODY,
    "no-colour": replace(BODY, jitter=0.0, grey=0.0),
    "motion": MOTION,
    "blur": replace(MOTION, blur=0.5),
    # a strong difference is 0.6 (`encoders.LEVELS`), the threshold half of it
    "solarise": replace(MOTION, solarise=0.2, threshold=0.3),
    # For pictures as they are. Two views agree on the wall for free, unless each has another wall
    # mixed into its own: "Removing the Background by Adding the Background" (Wang et al., CVPR
    # 2021), who mix in a frame of the same video.
    "walls": replace(BODY, wall=0.8),
}


def named(name: str, background: str) -> Recipe:
    """The recipe for what the encoder is shown (`settings.BACKGROUNDS`). Differences have no hue to
    turn through HSV, so that there no recipe is `exact`. Raises UserError for an unknown name, or
    walls to be mixed where there are none."""
    if name not in RECIPES:
        raise UserError(f"no recipe '{name}': choose {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if recipe.wall and background != "none":
        raise UserError(
            f"recipe '{name}' mixes walls, which background '{background}' takes away: "
            "use --background none, or another --recipe"
        )
    return replace(recipe, exact=recipe.exact and background == "none")


@dataclass
class Views:
    """Drawn parameters of G views. `theta` (G, 2, 3) is `affine_grid`'s; `colour` (G, 3, 3) maps
    RGB to RGB; `contrast` (G,) scales around the picture's mean grey; `rectify` (G,): 0 leaves
    the picture, +1 and -1 replace every channel by +-max |channel|. The others are None where the
    recipe does not ask for them: `hue` (G,) in turns, through HSV (then it is not in `colour`);
    `blur` (G,), its sigma in widths of the picture, and `solarise` (G,), its threshold, 0 for none;
    `wall` (G,), the share of another clip in the mixture, and `other` (G,), 0..1, which one."""

    theta: Tensor
    colour: Tensor
    contrast: Tensor
    rectify: Tensor
    hue: Tensor | None = None
    blur: Tensor | None = None
    solarise: Tensor | None = None
    wall: Tensor | None = None
    other: Tensor | None = None

    def part(self, index: int, parts: int) -> "Views":
        """One of several equal parts of the views."""
        return Views(*(v if v is None else v.chunk(parts)[index] for v in vars(self).values()))


def _uniform(g: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(g, generator=rng) * (high - low) + low


def _sometimes(p: float, value: Tensor, rng: torch.Generator) -> Tensor:
    """The values (G,), each with probability p, else 0."""
    return torch.where(torch.rand(len(value), generator=rng) < p, value, 0.0)


def hue_matrix(turns: Tensor) -> Tensor:
    """Rotation about the grey axis, (G,) -> (G, 3, 3) (Rodrigues' formula): linear, so that it
    serves differences of pixels too; torchvision goes through HSV, which clips."""
    angle = turns * 2 * torch.pi
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return c * torch.eye(3) + s * cross + (1 - c) * torch.full((3, 3), 1 / 3)


def draw(g: int, recipe: Recipe, rng: torch.Generator) -> Views:
    """Draw the parameters of G views."""
    # torchvision draws again, up to ten times, what reaches over the picture; else it is cut off
    tries = 10 if recipe.exact else 1
    area = _uniform(tries * g, *recipe.crop, rng)
    low, high = (torch.log(torch.tensor(r)).item() for r in recipe.ratio)
    ratio = torch.exp(_uniform(tries * g, low, high, rng))
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()]).view(2, tries, g)
    first = (sides.amax(0) <= 1).float().argmax(0)
    w, h = sides[:, first, torch.arange(g)].clamp(max=1)
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
    colour = bright[:, None, None] * ((1 - s) * grey + s * torch.eye(3))
    colour = colour if recipe.exact else colour @ hue_matrix(hue)
    rectify = torch.zeros(g)
    if recipe.mix:
        mixed = torch.randn(g, 3, 3, generator=rng)
        mixed = mixed / (mixed.norm(dim=2, keepdim=True) + 0.3)  # rows shorter than 1
        some = torch.rand(g, generator=rng) < recipe.mix
        colour = torch.where(some[:, None, None], mixed @ colour, colour)
    if recipe.rectify:
        sign = torch.where(torch.rand(g, generator=rng) < 0.5, -1.0, 1.0)
        rectify = torch.where(torch.rand(g, generator=rng) < recipe.rectify, sign, 0.0)
    views = Views(theta, colour, contrast, rectify, hue if recipe.exact else None)
    if recipe.blur:
        low, high = (s / BLUR_SIZE for s in recipe.sigma)
        views.blur = _sometimes(recipe.blur, _uniform(g, low, high, rng), rng)
    if recipe.solarise:
        views.solarise = _sometimes(recipe.solarise, torch.full((g,), recipe.threshold), rng)
    if recipe.wall:
        views.wall = _sometimes(recipe.wall, _uniform(g, *recipe.share, rng), rng)
        views.other = torch.rand(g, generator=rng)
    return views


def apply(x: Tensor, views: Views) -> Tensor:
    """Cut and colour float (G, F, 3, H, W) -> (G, F, 3, H, W); each clip's frames alike."""
    g, f, _, h, w = x.shape
    if views.wall is not None and views.other is not None:
        share = _each(views.wall, x)
        # one of the others in x, which may be a part of the batch that was drawn for
        on = 1 + (views.other.to(x.device) * (g - 1)).long()
        other = (torch.arange(g, device=x.device) + on) % g
        x = (1 - share) * x + share * x[other, :1]
    theta = views.theta.to(x.device).repeat_interleave(f, dim=0)
    grid = F.affine_grid(theta, [g * f, 3, h, w], align_corners=False)
    x = F.grid_sample(x.flatten(0, 1), grid, align_corners=False, padding_mode="border")
    if views.hue is not None:
        x = turn_hue(x.view(g, f, 3, h, w), _each(views.hue, x))
    x = torch.einsum("gij,gfjk->gfik", views.colour.to(x), x.view(g, f, 3, h * w))
    c = views.contrast.to(x).view(g, 1, 1, 1)
    mean = (x * x.new_tensor(GREY).view(3, 1)).sum(2, keepdim=True).mean(-1, keepdim=True)
    x = (c * x + (1 - c) * mean).view(g, f, 3, h, w)
    if views.hue is not None:
        x = x.clamp(0, 1)
    if views.rectify.any():
        sign = _each(views.rectify, x)
        x = torch.where(sign == 0, x, sign * x.abs().amax(2, keepdim=True))
    if views.blur is not None and (rows := views.blur.nonzero()[:, 0]).numel():
        x[rows.to(x.device)] = blur(x[rows.to(x.device)], views.blur[rows] * w)
    if views.solarise is not None:
        # of differences the size, never the sign: what stands still stays 0
        at, size = _each(views.solarise, x), x.abs()
        x = torch.where((at > 0) & (size >= at), x.sign() * (1 - size).clamp(min=0), x)
    return x


def _each(parameter: Tensor, x: Tensor) -> Tensor:
    """One number a clip, (G,) -> (G, 1, 1, 1, 1), where x is."""
    return parameter.to(x.device).view(-1, 1, 1, 1, 1)


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of pictures (..., 3, H, W) in 0..1 in the HSV model, whose value and chroma
    stay; `turns` as many dimensions."""
    value, brightest = x.max(-3, keepdim=True)
    chroma = value - x.amin(-3, keepdim=True)
    # place on the wheel, 0..6: 0 red, 2 green, 4 blue
    ahead, behind = x.roll(-1, -3).gather(-3, brightest), x.roll(-2, -3).gather(-3, brightest)
    hue = 2 * brightest + (ahead - behind) / chroma.clamp(min=1e-6) + 6 * turns
    # a channel lacks the more of the value, up to the chroma, the farther the hue is from its own
    away = (hue - x.new_tensor([0.0, 2.0, 4.0]).view(3, 1, 1)).remainder(6)
    return value - chroma * (torch.minimum(away, 6 - away) - 1).clamp(0, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (G, F, 3, H, W), sigma (G,) > 0 in pixels; edges are mirrored."""
    g, f, c, h, w = x.shape
    reach = min(int(torch.ceil(3 * sigma.max())), h - 1, w - 1)
    at = torch.arange(-reach, reach + 1) / sigma[:, None]
    kernel = torch.exp(-0.5 * at**2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x).repeat_interleave(f * c, dim=0)
    x = F.pad(x.reshape(1, g * f * c, h, w), [reach] * 4, mode="reflect")
    x = F.conv2d(x, kernel[:, None, :, None], groups=g * f * c)
    return F.conv2d(x, kernel[:, None, None, :], groups=g * f * c).view(g, f, c, h, w)
