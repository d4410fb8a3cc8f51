"""Clips -> features, through a frame encoder; kept on disk, so that nothing is computed twice."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import augment, checkpoints, encoders, sampling, settings
from .catalog import Clip

# What a clip's random views differ in, for the Transformer to learn from: crop and mirror, as an
# encoder that is frozen has made its peace with colours.
VIEWS = augment.RECIPES["no-colour"]


@torch.inference_mode()
def encode(
    encoder: encoders.FrameEncoder,
    frames: NDArray[np.uint8],
    background: str,
    device: torch.device | None = None,
    batch: int = 256,
    views: int = 0,
    seed: int = 0,
) -> NDArray[np.float32]:
    """One clip's frames uint8 (T, H, W, 3), as the frame cache gives them for this background, ->
    features float32 (T, D). With `views`, (1 + views, T, D): of the clip itself, then of as many
    random views (VIEWS, by `seed`), each of which crops all frames alike."""
    device = device or next(encoder.parameters()).device
    clip = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)[None]
    x = encoders.to_float(clip.to(device), background)  # (1, T, 3, H, W)
    if views:
        drawn = augment.draw(views, VIEWS, torch.Generator().manual_seed(seed))
        x = torch.cat([x, augment.apply(x.expand(views, *x.shape[1:]), drawn)])
    x = encoders.normalise(x, background).flatten(0, 1)
    with settings.autocast(device):
        parts = [
            encoder(p.contiguous(memory_format=torch.channels_last)).float() for p in x.split(batch)
        ]
    features = torch.cat(parts).cpu().numpy()
    return features.reshape(1 + views, len(frames), -1) if views else features


def extract_features(
    encoder: encoders.FrameEncoder,
    clips: Sequence[Clip],
    sample: dict[str, Any],
    device: torch.device | None = None,
    progress: bool = True,
    keep: bool = True,
    views: int = 0,
) -> list[NDArray[np.float32]]:
    """Features (T_i, D) of every clip, in order; with `views` (1 + views, T_i, D), as `encode`
    makes them, each clip with random numbers of its own. With `keep` they are kept on disk, by the
    identity of the encoder and the content of the clip, and only what lacks is computed."""
    device = device or settings.device()
    was_training = encoder.training
    encoder = encoder.to(device).eval()
    cache = sampling.FrameCache(**sample)
    cache.build([c.path for c in clips], progress=progress)
    folder = settings.cache_dir() / "features" / encoders.identity(encoder) if keep else None
    out = []
    for clip in settings.bar(clips, "features", disable=not progress):
        key, more = cache.key(clip.path), f"-{views}" if views else ""
        file = folder / f"{key}-{sample['background']}{more}.npy" if folder else None
        features = _kept(file)
        if features is None:
            features = encode(
                encoder, cache.frames(clip.path), sample["background"], device,
                views=views, seed=int(key[:12], 16),
            )  # fmt: skip
            if file:
                checkpoints.write(file, partial(np.save, arr=features))
        out.append(np.asarray(features))
    encoder.train(was_training)
    return out


def _kept(file: Path | None) -> NDArray[np.float32] | None:
    """A feature file's content; None when it is absent or damaged."""
    try:
        return np.load(file) if file else None
    except (OSError, ValueError, EOFError):
        return None
