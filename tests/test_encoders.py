"""Backbones by name, what they are fed, and their identity."""

import pytest
import torch

from vidlib import encoders
from vidlib.settings import UserError


@pytest.mark.parametrize(
    ("name", "dim"),
    [("resnet8", 256), ("resnet10", 512), ("resnet18", 512), ("mobilenet_v3_small", 1024)],
)
def test_backbones_by_name(name: str, dim: int) -> None:
    encoder = encoders.build(name).eval()
    assert encoder.dim == dim
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, dim)


def test_small_stem_keeps_more_pixels_and_fits_resnets_only() -> None:
    assert encoders.build("resnet8", "small").eval()(torch.randn(1, 3, 32, 32)).shape == (1, 256)
    with pytest.raises(UserError, match="small"):
        encoders.build("mobilenet_v3_small", "small")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet999",), "no backbone"),
        (("resnet10", "huge"), "stem"),
        (("resnet10", "imagenet", "imagenet"), "no ImageNet weights"),
        (("resnet18", "small", "imagenet"), "do not fit"),
        (("resnet10", "imagenet", "/no/such/file.pth"), "no weights at"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        encoders.build(*arguments)


def test_identity_follows_the_weights() -> None:
    torch.manual_seed(0)
    a = encoders.build()
    torch.manual_seed(0)
    b = encoders.build()
    assert encoders.identity(a) == encoders.identity(b)
    with torch.no_grad():
        next(b.parameters()).view(-1)[0] += 1e-3
    assert encoders.identity(a) != encoders.identity(b)


def test_red_stays_red_up_to_the_model_and_the_median_takes_the_blue_wall_away() -> None:
    clip = torch.zeros(1, 5, 3, 8, 8, dtype=torch.uint8)
    clip[:, :, 2] = 255  # a blue wall (channel 2 of RGB)
    for t in range(5):  # a red square moves over it
        clip[0, t, :, 2:4, t : t + 2] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    plain = encoders.to_float(clip, "none")
    assert plain[0, 0, :, 2, 0].tolist() == [1, 0, 0]
    assert plain[0, 0, :, 7, 7].tolist() == [0, 0, 1]
    moving = encoders.to_float(clip, "median")
    assert moving[0, :, :, 7, 7].abs().max() == 0  # the wall is gone
    assert moving[0, 0, :, 2, 0].tolist() == [1, 0, -1]  # red came, blue went


def test_unknown_background_is_named() -> None:
    with pytest.raises(UserError, match="background"):
        encoders.to_float(torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8), "wall")
