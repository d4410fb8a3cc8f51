"""Weight files: written whole or not at all, read without running code, refused when they do not
belong together."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from . import encoders
from .settings import UserError
from .temporal import TemporalTransformer

FORMAT = 1
Meta = dict[str, Any]


def key(*parts: Any) -> str:
    """A hash of settings and data: what a stage's result depends on."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def arrays_key(arrays: Sequence[NDArray[Any]]) -> str:
    """A hash of arrays' content."""
    digest = hashlib.blake2b(digest_size=12)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def write(path: Path, fill: Callable[[IO[bytes]], object], keep: bool = True) -> None:
    """Write a file atomically: a reader sees the old one or the whole new one. UserError when the
    disk is full or the folder read-only; nothing half-written is left. `keep=False` only tries:
    better to know before hours of training than after."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            fill(file)
        if keep:
            os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            f"{path} could not be written ({reason}): free some space, or name another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def save(path: Path, content: Meta) -> None:
    """Write a weight file, atomically."""
    write(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load(path: Path, kind: str, remedy: str) -> Meta:
    """Read a file of `save`; UserError when it is missing, damaged, or of another kind."""
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}: {remedy}")
    try:
        # weights_only: tensors and plain values; a hostile file runs no code
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen kinds of errors
        raise UserError(f"{path} is damaged or not a weight file of vidlib: {remedy}") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(f"{path} holds no {kind} of vidlib: {remedy}")
    if content.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of vidlib: {remedy}")
    return content


def stored_key(path: Path) -> str | None:
    """The key of what a weight file was made from; None when there is no readable file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("key")
    except Exception:  # absent, damaged, not ours: whatever it is, it has no key
        return None


def save_encoder(path: Path, encoder: encoders.FrameEncoder, meta: Meta) -> None:
    """`meta` has at least `sampling` (size, fps, background), `key`, `config`, `history`."""
    save(path, {"kind": "frame encoder", "spec": encoder.spec(), "state": _state(encoder), **meta})


def load_encoder(path: Path) -> tuple[encoders.FrameEncoder, Meta]:
    """-> the encoder (eval mode, CPU, float32) and its meta, `id` (its identity) among it."""
    content = load(path, "frame encoder", "make it with: vidlib pretrain")
    encoder = _encoder(content.pop("spec"), content.pop("state"), path)
    return encoder, {**content, "id": encoders.identity(encoder)}


def save_classifier(path: Path, model: TemporalTransformer, meta: Meta) -> None:
    """`meta` has at least `classes`, `sampling`, `encoder_id`, `key`, `config`, `history`, and may
    have `tuned`: the encoder `encoder_id` as fine-tuning left it, for this classifier alone."""
    content = {"kind": "action classifier", "spec": model.spec, "state": _state(model), **meta}
    if tuned := meta.get("tuned"):
        content["tuned"] = {"spec": tuned.spec(), "state": _state(tuned)}
    save(path, content)


def load_classifier(path: Path, encoder_id: str) -> tuple[TemporalTransformer, Meta]:
    """-> the model (eval mode, CPU) and its meta, in which `tuned` is the fine-tuned encoder to use
    (eval mode, CPU), if it has one. UserError when it was trained on the features of another
    encoder: its answers would be noise."""
    content = load(path, "action classifier", "make it with: vidlib train")
    if content["encoder_id"] != encoder_id:
        raise UserError(
            f"{path} was trained on another encoder's features ({content['encoder_id'][:8]}, "
            f"not {encoder_id[:8]}): run vidlib train again, or name the encoder it belongs to"
        )
    model = TemporalTransformer(**content.pop("spec"))
    _fill(model, content.pop("state"), path)
    if tuned := content.get("tuned"):
        content["tuned"] = _encoder(**tuned, path=path)
    return model.eval(), content


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu() for k, v in model.state_dict().items()}


def _encoder(spec: Meta, state: dict[str, torch.Tensor], path: Path) -> encoders.FrameEncoder:
    encoder = encoders.build(**spec)
    _fill(encoder, state, path)
    return encoder.eval()


def _fill(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)  # half-precision files are widened here
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model it names: make it again") from error
