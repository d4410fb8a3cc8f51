"""Random views of a whole batch at once against torchvision's, clip by clip: seconds, and pixels.

    python benchmarks/bench_augment.py [--small]

The same views of the same drawn clips by `augment.apply` and by torchvision's functions, fed the
same drawn parameters; and torchvision's own random transforms, as one would write them, on float
and on uint8 frames. A view's frames go through torchvision together, so that it is called once a
clip, not once a frame.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import timing
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from vidlib import augment, studio, video
from vidlib.augment import RECIPES, Recipe, Views

ROUNDS = 9


def pictures(clips: int, frames: int, size: int) -> Tensor:
    """Drawn clips as they are, people and scenes all different: uint8 (G, F, 3, size, size)."""
    films = []
    for i in range(clips):
        film = studio.draw_clip(studio.ACTIONS[i % len(studio.ACTIONS)], i, i, 0, seed=5)
        at = np.linspace(0, len(film) - 1, frames).astype(int)
        films.append(np.stack([video.letterbox(film[k], size) for k in at]))
    return torch.from_numpy(np.stack(films)).permute(0, 1, 4, 2, 3).contiguous()


def in_whole_pixels(views: Views, size: int) -> Views:
    """The same views, their crops moved to whole pixels: torchvision's take no others."""
    theta = views.theta.clone()
    for row, length in ((0, theta[:, 0, 0]), (1, theta[:, 1, 1])):
        side = (length.abs() * size).round().clamp(min=1)
        start = ((theta[:, row, 2] - length.abs() + 1) / 2 * size).round()
        theta[:, row, row] = side / size * length.sign()
        theta[:, row, 2] = (2 * start + side) / size - 1
    return replace(views, theta=theta)


def numbers(views: Views, size: int) -> list[dict[str, Any]]:
    """The parameters of each view of an exact recipe, as torchvision's functions take them."""
    out = []
    for i, theta in enumerate(views.theta.tolist()):
        (w, _, x), (_, h, y) = theta
        bright = float(views.colour[i, 0].sum())  # the rows of b ((1 - s) grey + s) sum to b
        out.append({
            "box": [round((y - h + 1) / 2 * size), round((x - abs(w) + 1) / 2 * size),
                    round(h * size), round(abs(w) * size)],
            "flip": w < 0,
            "hue": float(views.hue[i]) if views.hue is not None else 0.0,
            "saturation": max(0.0, float(views.colour[i, 0, 0] - views.colour[i, 1, 0]) / bright),
            "brightness": bright,
            "contrast": float(views.contrast[i]),
            "sigma": float(views.blur[i]) * size if views.blur is not None else 0.0,
            "threshold": float(views.solarise[i]) if views.solarise is not None else 0.0,
        })  # fmt: skip
    return out


def by_torchvision(clip: Tensor, view: dict[str, Any]) -> Tensor:
    """One view of one clip, float (F, 3, H, W) in 0..1, by torchvision's functions."""
    size = list(clip.shape[-2:])
    x = TF.resized_crop(clip, *view["box"], size=size, antialias=True)
    x = TF.horizontal_flip(x) if view["flip"] else x
    x = TF.adjust_hue(x, view["hue"]) if view["hue"] else x
    for name in ("saturation", "brightness", "contrast"):
        if abs(view[name] - 1) > 1e-6:
            x = getattr(TF, f"adjust_{name}")(x, view[name])
    if view["sigma"]:
        reach = max(1, math.ceil(3 * view["sigma"]))
        x = TF.gaussian_blur(x, [2 * reach + 1] * 2, [view["sigma"]] * 2)
    return TF.solarize(x, view["threshold"]) if view["threshold"] else x


def transforms(recipe: Recipe, size: int, as_float: bool) -> Callable[[Tensor], Tensor]:
    """torchvision's random transforms of the same recipe, drawing for themselves."""
    low, high = (s * size / augment.BLUR_SIZE for s in recipe.sigma)
    odd = 2 * math.ceil(3 * high) + 1
    steps = [
        T.RandomResizedCrop(size, recipe.crop, recipe.ratio, antialias=True),
        T.RandomHorizontalFlip(recipe.flip),
        T.RandomApply([T.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation,
                                     recipe.hue)], recipe.jitter),
        T.RandomGrayscale(recipe.grey),
        T.RandomApply([T.GaussianBlur(odd, (low, high))], recipe.blur),
    ]  # fmt: skip
    end = [] if as_float else [T.ToDtype(torch.float32, scale=True)]
    return T.Compose([*steps, *end])


def difference(x: Tensor, views: Views) -> tuple[float, float]:
    """Mean over all pixels, and of the clip that differs most, in grey levels of 255."""
    ours = augment.apply(x, views)
    told = numbers(in_whole_pixels(views, x.shape[-1]), x.shape[-1])
    theirs = torch.stack([by_torchvision(c, v) for c, v in zip(x, told, strict=True)])
    each = 255 * (ours - theirs).abs().mean((1, 2, 3, 4))
    return float(each.mean()), float(each.max())


def with_linear_hue(views: Views) -> Views:
    """The same views with the hue turned as the other recipes turn it, for comparison."""
    assert views.hue is not None
    return replace(views, hue=None, colour=views.colour @ augment.hue_matrix(views.hue))


def main() -> None:
    small = timing.arguments(__doc__).small
    torch.set_num_threads(2)
    clips, frames, sizes = (4, 2, (64,)) if small else (32, 4, (64, 112))
    recipe, rng = RECIPES["paper"], torch.Generator().manual_seed(0)
    apart, rows = [], []
    with timing.section("Random views", ("torch", "torchvision"), small) as page:
        for size in sizes:
            raw = pictures(clips, frames, size)
            x = raw / 255
            views = augment.draw(len(x), recipe, rng)
            whole = in_whole_pixels(views, size)
            for what, v in {"the same parameters": whole,
                            "hue turned linearly, as the other recipes do": with_linear_hue(whole),
                            "crops not in whole pixels": views}.items():  # fmt: skip
                apart.append([f"{size} px", what, *(f"{d:.2f}" for d in difference(x, v))])
            floats, bytes_ = (transforms(recipe, size, as_float) for as_float in (True, False))

            def batch(x: Tensor = x) -> Tensor:
                return augment.apply(x, augment.draw(len(x), recipe, rng))

            def same(x: Tensor = x, size: int = size) -> Tensor:
                told = numbers(augment.draw(len(x), recipe, rng), size)
                return torch.stack([by_torchvision(c, v) for c, v in zip(x, told, strict=True)])

            took = timing.in_turn(
                {
                    "ours, the whole batch at once": batch,
                    "torchvision's functions by clip": same,
                    "its transforms by clip, float": lambda x=x, f=floats: torch.stack(
                        [*map(f, x)]
                    ),
                    "its transforms by clip, uint8": lambda x=raw, f=bytes_: torch.stack(
                        [*map(f, x)]
                    ),
                },
                1 if small else ROUNDS,
                warm=2,
            )
            first = next(iter(took.values()))
            rows += [[f"{size} px", name, timing.brief(seconds), timing.ratio(seconds, first)]
                     for name, seconds in took.items()]  # fmt: skip
        page.say(f"Views of {clips} clips x {frames} frames by the paper's recipe, 2 threads:")
        page.say()
        page.table(("pictures", "way", "a batch", "ours against it (range)"), rows)
        page.say("How far ours are from torchvision's pictures, fed the same drawn parameters, in "
                 "grey levels of 255:")  # fmt: skip
        page.say()
        page.table(("pictures", "views", "mean", "the clip that differs most"), apart)


if __name__ == "__main__":
    main()
