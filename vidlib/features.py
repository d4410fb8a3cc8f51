"""Clips -> features, through a frame encoder; kept on disk, so that nothing is computed twice."""

import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import distributed, encoders, sampling, settings
from .catalog import Clip


@torch.inference_mode()
def encode(
    encoder: encoders.FrameEncoder,
    frames: NDArray[np.uint8],
    background: str,
    device: torch.device | None = None,
    batch: int = 256,
) -> NDArray[np.float32]:
    """One clip's frames uint8 (T, H, W, 3), as the frame cache gives them for this background, ->
    features float32 (T, D)."""
    device = device or next(encoder.parameters()).device
    clip = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2)[None]
    x = encoders.normalise(encoders.to_float(clip.to(device), background), background)[0]
    with settings.autocast(device):
        if isinstance(encoder, encoders.ClipEncoder):
            return encoder(x[None])[0].float().cpu().numpy()
        parts = [
            encoder(p.contiguous(memory_format=torch.channels_last)).float() for p in x.split(batch)
        ]
    return torch.cat(parts).cpu().numpy()


def extract_features(
    encoder: encoders.FrameEncoder,
    clips: Sequence[Clip],
    sample: dict[str, Any],
    device: torch.device | None = None,
    progress: bool = True,
    keep: bool = True,
) -> list[NDArray[np.float32]]:
    """Features (T_i, D) of every clip, in order. With `keep` they are kept on disk, by the
    identity of the encoder and the content of the clip, and only what lacks is computed."""
    return list(_features(encoder, clips, sample, device, progress, keep))


def fill_store(
    encoder: encoders.FrameEncoder,
    clips: Sequence[Clip],
    sample: dict[str, Any],
    device: torch.device | None = None,
    progress: bool = True,
) -> None:
    """Compute what the store lacks of the clips' features, each process its share of the clips;
    all wait until it is whole. Nothing but one clip's frames and features is held in memory."""
    for _ in _features(encoder, distributed.share(clips), sample, device, progress, True):
        pass
    distributed.wait()


def _features(
    encoder: encoders.FrameEncoder,
    clips: Sequence[Clip],
    sample: dict[str, Any],
    device: torch.device | None,
    progress: bool,
    keep: bool,
) -> Iterator[NDArray[np.float32]]:
    """The features of every clip, one after the other."""
    progress = progress and distributed.rank() == 0
    device = device or settings.device()
    was_training = encoder.training
    encoder = encoder.to(device).eval()
    cache = sampling.FrameCache(**sample)
    cache.build([c.path for c in clips], distributed.workers(), progress)
    folder = settings.cache_dir() / "features" / encoders.identity(encoder) if keep else None
    for clip in settings.bar(clips, "features", disable=not progress):
        file = folder / f"{cache.key(clip.path)}-{sample['background']}.npy" if folder else None
        features = _kept(file, encoder.dim) if file else None
        if features is None:
            features = encode(encoder, cache.frames(clip.path), sample["background"], device)
            if file:
                settings.write(file, partial(_keep, features=features))
        yield np.asarray(features)
    encoder.train(was_training)


def _keep(file: IO[bytes], features: NDArray[np.float32]) -> None:
    np.save(file, features)
    file.write(zlib.crc32(features).to_bytes(4, "big"))


def _kept(file: Path, dim: int) -> NDArray[np.float32] | None:
    """A feature file's content (T, dim); None when it is absent or damaged."""
    try:
        with file.open("rb") as kept:
            features, checksum = np.load(kept), kept.read()
        right = features.shape[1:] == (dim,) and features.dtype == np.float32
        if right and checksum == zlib.crc32(features).to_bytes(4, "big"):
            return features
    except Exception:  # whatever is wrong with it, it is computed again
        pass
    return None
