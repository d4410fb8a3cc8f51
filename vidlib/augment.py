"""Random views, a whole batch at once, on the batch's device.

A clip's frames share one crop, flip and colour: a difference between two frames of a view is then
motion, never the augmentation. G views (one a clip), F frames each.
"""

from collections.abc import Callable
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
    # one grid serves a clip's frames, which are channels of one picture here
    grid = F.affine_grid(views.theta.to(x.device), [g, f * 3, h, w], align_corners=False)
    x = F.grid_sample(x.flatten(1, 2), grid, align_corners=False, padding_mode="border")
    x = x.view(g, f, 3, h, w)
    if views.hue is not None:
        x = turn_hue(x, views.hue)
    # contrast scales around the mean grey, which is that of the mean colour: one affine map in all
    colour, c = views.colour.to(x), views.contrast.to(x).view(g, 1, 1)
    mean = x.mean((3, 4)) @ (x.new_tensor(GREY) @ colour)[:, :, None]  # (G, F, 1)
    each = (c * colour)[:, None].expand(g, f, 3, 3).flatten(0, 1)
    out = torch.baddbmm(((1 - c) * mean).view(-1, 1, 1), each, x.view(g * f, 3, h * w))
    x = out.view_as(x).type_as(x)  # autocast would leave bfloat16
    if views.hue is not None:
        x.clamp_(0, 1)
    _change(x, views.rectify, lambda x, sign: _each(sign, x) * x.abs().amax(2, keepdim=True))
    _change(x, views.blur, lambda x, sigma: blur(x, sigma * w))
    _change(x, views.solarise, solarise)
    return x


def _each(parameter: Tensor, x: Tensor) -> Tensor:
    """One number a clip, (G,) -> (G, 1, 1, 1, 1), where x is."""
    return parameter.to(x.device).view(-1, 1, 1, 1, 1)


def _change(x: Tensor, parameter: Tensor | None, how: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change, in place, those clips of x whose parameter (G,) is not 0."""
    if parameter is not None and (rows := parameter.nonzero()[:, 0]).numel():
        at = rows.to(x.device)
        x[at] = how(x[at], parameter[rows])


def turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of pictures (G, F, 3, H, W) by `turns` (G,) in the HSV model, whose value and
    chroma (the highest channel, and how far above the lowest it is) stay."""
    if turns.abs().max() > 1 / 6:  # farther than what follows holds
        return turn_hue(turn_hue(x, turns / 2), turns / 2)
    # No hue is computed. The middle channel moves by a share of the chroma; as far as it would pass
    # the highest, that one falls instead, and the lowest rises likewise. So with d the step, and
    # all clamped, middle becomes 2 middle - middle + d, high 2 high - middle - d, low the same way.
    red, green, blue = x.unbind(2)
    low = red.minimum(green).minimum(blue)[:, :, None]
    high = red.maximum(green).maximum(blue)[:, :, None]
    middle = (red + green).add_(blue)[:, :, None].sub_(low).sub_(high)
    step = (high - low).mul_(_each(-6 * turns, x))
    out = torch.empty_like(x)
    for i in range(3):  # negative for the middle channel and positive for the others, or all turned
        torch.sub(x[:, :, i - 2], x[:, :, i - 1], out=out[:, :, i])
    out.sign_().mul_(step).sub_(middle).add_(x, alpha=2)
    return torch.clamp(out, low, high, out=out)


def solarise(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert of (G, F, 3, H, W) what is at least the threshold (G,); of differences the size,
    never the sign: what stands still stays 0."""
    size = x.abs()
    return torch.where(size >= _each(threshold, x), x.sign() * (1 - size).clamp(min=0), x)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (G, F, 3, H, W), sigma (G,) > 0 in pixels; edges are mirrored."""
    f, c, h, w = x.shape[1:]
    reach = min(int(torch.ceil(3 * sigma.max())), h - 1, w - 1)
    at = torch.arange(-reach, reach + 1) / sigma[:, None]
    kernel = torch.exp(-0.5 * at**2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x)
    x = F.pad(x.flatten(1, 2), [reach] * 4, mode="reflect").unflatten(1, (f, c))
    for dim, length in ((3, h), (4, w)):  # conv2d would be compiled for each G
        out = x.narrow(dim, 0, length) * _each(kernel[:, 0], x)
        for i in range(1, 2 * reach + 1):
            out.addcmul_(x.narrow(dim, i, length), _each(kernel[:, i], x))
        x = out
    return x
