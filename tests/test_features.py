"""Features of clips, and of random views of them: right, kept, and the same again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidlib import encoders, settings
from vidlib.catalog import Clip
from vidlib.features import encode, extract_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> encoders.FrameEncoder:
    torch.manual_seed(0)
    return encoders.build().eval()


@pytest.mark.parametrize("background", settings.BACKGROUNDS)
def test_views_stand_beside_the_clip_itself(
    encoder: encoders.FrameEncoder, background: str
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    alone = encode(encoder, frames, background)
    several = encode(encoder, frames, background, views=3, seed=7)
    assert alone.shape == (5, encoder.dim) and several.shape == (4, 5, encoder.dim)
    # other batches round otherwise, in bfloat16 in the third digit
    np.testing.assert_allclose(several[0], alone, atol=0.02 * np.abs(alone).max())
    apart = [np.abs(a - b).max() for i, a in enumerate(several) for b in several[:i]]
    assert min(apart) > 1e-3
    assert (several == encode(encoder, frames, background, views=3, seed=7)).all()
    assert (several[1:] != encode(encoder, frames, background, views=3, seed=8)[1:]).any()


def test_a_views_frames_are_cropped_alike(encoder: encoders.FrameEncoder) -> None:
    still = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8).repeat(4, 0)
    for view in encode(encoder, still, "none", views=3):
        np.testing.assert_allclose(view, view[:1].repeat(4, 0), atol=0.02 * np.abs(view).max())


def test_views_are_kept_beside_the_plain_features(
    encoder: encoders.FrameEncoder, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, sample = [Clip(small_video)], {"size": 32, "fps": 12.0, "background": "follow"}
    both = [extract_features(encoder, clips, sample, CPU, False, views=v)[0] for v in (0, 2)]
    assert both[0].shape == (12, encoder.dim) and both[1].shape == (3, 12, encoder.dim)
    monkeypatch.setattr("vidlib.features.encode", None)  # nothing is computed again
    for kept, v in zip(both, (0, 2), strict=True):
        assert (extract_features(encoder, clips, sample, CPU, False, views=v)[0] == kept).all()
