"""Views: shared by a clip's frames, in range, linear in colour."""

import pytest
import torch

from vidlib import augment
from vidlib.augment import RECIPES, Recipe

STILL = Recipe(crop=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_identity() -> None:
    x = torch.rand(2, 3, 3, 8, 8)
    torch.testing.assert_close(
        augment.apply(x, augment.draw(2, STILL, rng())), x, atol=1e-5, rtol=1e-5
    )


def test_flip_mirrors_left_and_right_only() -> None:
    x = torch.rand(2, 3, 3, 8, 8)
    views = augment.draw(2, Recipe(crop=(1, 1), ratio=(1, 1), flip=1, jitter=0, grey=0), rng())
    torch.testing.assert_close(augment.apply(x, views), x.flip(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_frames_of_a_clip_share_the_view_and_clips_differ(name: str) -> None:
    frame = torch.rand(1, 1, 3, 16, 16)
    out = augment.apply(frame.expand(4, 3, 3, 16, 16), augment.draw(4, RECIPES[name], rng()))
    torch.testing.assert_close(out[:, 0], out[:, 1])
    torch.testing.assert_close(out[:, 0], out[:, 2])
    assert (out[0, 0] - out[1, 0]).abs().max() > 0.01


def test_one_generator_one_result() -> None:
    a, b = (augment.draw(5, RECIPES["paper"], rng(3)) for _ in range(2))
    assert torch.equal(a.theta, b.theta) and torch.equal(a.colour, b.colour)


def test_crops_stay_inside_and_cover_the_stated_area() -> None:
    views = augment.draw(2000, RECIPES["paper"], rng())
    w, h = views.theta[:, 0, 0].abs(), views.theta[:, 1, 1]
    assert (views.theta[:, 0, 2].abs() + w <= 1 + 1e-5).all()
    assert (views.theta[:, 1, 2].abs() + h <= 1 + 1e-5).all()
    area = w * h
    assert area.min() >= 0.15 and area.max() <= 1.0
    assert area.mean().item() == pytest.approx(0.6, abs=0.04)  # uniform on 0.2..1, sides clipped


def test_grey_stays_grey_and_red_turns_grey_by_luma() -> None:
    grey = torch.full((1, 1, 3, 4, 4), 0.5)
    out = augment.apply(grey, augment.draw(1, RECIPES["paper"], rng(1)))
    assert (out[:, :, 0] - out[:, :, 1]).abs().max() < 1e-5
    red = torch.zeros(1, 1, 3, 4, 4)
    red[:, :, 0] = 1
    only_grey = Recipe(crop=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=1)
    out = augment.apply(red, augment.draw(1, only_grey, rng()))
    torch.testing.assert_close(out, torch.full_like(out, 0.299), atol=1e-5, rtol=0)


def test_colour_is_linear_so_that_differences_of_pixels_can_be_augmented() -> None:
    a, b = torch.rand(2, 3, 2, 3, 8, 8)
    views = augment.draw(3, RECIPES["paper"], rng(2))
    torch.testing.assert_close(
        augment.apply(a, views) - augment.apply(b, views),
        augment.apply(a - b, views),
        atol=1e-5,
        rtol=1e-4,
    )


def test_mixing_has_signs_and_rectified_pictures_hold_sizes() -> None:
    """A difference and its opposite become the same up to sign where rectified; colours of one
    pixel stay one colour; what stands still (0) stays 0."""
    x = torch.randn(200, 1, 3, 4, 4)
    x[..., 0] = 0
    recipe = Recipe(crop=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mix=1, rectify=1)
    views = augment.draw(200, recipe, rng())
    a, b = augment.apply(x, views), augment.apply(-x, views)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a[:, :, 0], a[:, :, 1])
    assert a[..., 0].abs().max() < 1e-5
    assert 0.3 < (a.sum((1, 2, 3, 4)) > 0).float().mean() < 0.7  # either sign
    signs = augment.draw(200, Recipe(mix=1, jitter=0, grey=0), rng()).colour.sum(dim=(1, 2)) > 0
    assert 0.3 < signs.float().mean() < 0.7
    rows = augment.draw(200, Recipe(mix=1, jitter=0, grey=0), rng()).colour.norm(dim=2)
    assert rows.max() <= 1 + 1e-5  # never louder than the picture was
