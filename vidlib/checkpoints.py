"""Weight files: written whole or not at all, read without running code, refused when they do not
belong together."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from . import encoders
from .settings import MOST_PIXELS, PretrainConfig, TrainConfig, UserError, write
from .temporal import TemporalTransformer

FORMAT = 1
# what some of a file's parts have to be, where it has them
TYPES = {"key": str, "history": list, "sampling": dict, "config": dict, "classes": list,
         "encoder_id": str}  # fmt: skip
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


def save(path: Path, content: Meta) -> None:
    """Write a weight file, atomically."""
    write(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load(path: Path, kind: str, remedy: str) -> Meta:
    """Read a file of `save`; UserError when it is missing, damaged, or of another kind."""
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}: {remedy}")
    try:
        # weights_only: tensors and plain values; a hostile file runs no code
        with zipfile.ZipFile(path) as parts:  # torch does not look at the checksums that it writes
            if damaged := parts.testzip():
                raise ValueError(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise a dozen kinds of errors
        raise UserError(f"{path} is damaged or not a weight file of vidlib: {remedy}") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(f"{path} holds no {kind} of vidlib: {remedy}")
    version = content.get("format")
    if not isinstance(version, int) or version != FORMAT:
        raise UserError(f"{path} was written by another version of vidlib: {remedy}")
    with sound(path, remedy):
        for name, type_ in TYPES.items():
            if not isinstance(content.get(name, type_()), type_):
                raise TypeError(name)
        if not all(isinstance(record, dict) for record in content.get("history", [])):
            raise TypeError("history")
    return content


def pretrained_by(meta: Meta, path: Path) -> PretrainConfig:
    """The settings that an encoder's file says it was made with."""
    with sound(path, "make it again with: vidlib pretrain"):
        return PretrainConfig(**meta["config"])


@contextlib.contextmanager
def sound(path: Path | str, remedy: str = "make it again") -> Iterator[None]:
    """A file's content may be anybody's: whatever it makes fail here is one UserError that names
    the file."""
    try:
        yield
    except UserError as error:
        told = " ".join(str(error).split())  # a value that it quotes may be of many lines
        if told == str(error) and str(path) in told:
            raise
        raise UserError(told if str(path) in told else f"{path}: {told}") from error
    except Exception as error:
        raise UserError(f"{path} is damaged, or of another version of vidlib: {remedy}") from error


def finite(content: Any) -> bool:
    """Whether all numbers of all tensors in nested dicts and lists are finite."""
    if isinstance(content, torch.Tensor):
        return bool(torch.isfinite(content).all())
    inner = content.values() if isinstance(content, dict) else content
    return not isinstance(content, dict | list | tuple) or all(map(finite, inner))


def stored_key(path: Path) -> str | None:
    """The key of what a weight file was made from; None when there is no readable file."""
    try:
        key = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("key")
        return key if isinstance(key, str) else None
    except Exception:  # absent, damaged, not ours: whatever it is, it has no key
        return None


def save_encoder(path: Path, encoder: encoders.FrameEncoder, meta: Meta) -> None:
    """`meta` has at least `sampling` (size, fps, background), `key`, `config`, `history`."""
    save(path, {"kind": "frame encoder", "spec": encoder.spec(), "state": _state(encoder), **meta})


def load_encoder(path: Path) -> tuple[encoders.FrameEncoder, Meta]:
    """-> the encoder (eval mode, CPU, float32) and its meta, `id` (its identity) among it."""
    content = load(path, "frame encoder", "make it with: vidlib pretrain")
    with sound(path):
        encoder = _encoder(content.pop("spec"), content.pop("state"), path)
        content["sampling"] = PretrainConfig(**content["sampling"]).sampling
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
    with sound(path):
        if content["encoder_id"] != encoder_id:
            raise UserError(
                f"{path} was trained on another encoder's features ({content['encoder_id'][:8]}, "
                f"not {encoder_id[:8]}): run vidlib train again, or name the encoder it belongs to"
            )
        spec, state = content.pop("spec"), content.pop("state")
        TrainConfig(**{k: v for k, v in spec.items() if k not in ("dim", "actions")})
        with torch.device("meta"):  # without memory: a damaged file may ask for too much
            _check(TemporalTransformer(**spec), state, path)
        model = TemporalTransformer(**spec)
        model.load_state_dict(state)
        names = content["classes"]
        if len(names) != spec["actions"] or not all(isinstance(name, str) for name in names):
            raise ValueError("classes")
        content["sampling"] = PretrainConfig(**content["sampling"]).sampling
        if tuned := content.get("tuned"):
            content["tuned"] = _encoder(**tuned, path=path)
    return model.eval(), content


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu() for k, v in model.state_dict().items()}


def _encoder(spec: Meta, state: dict[str, torch.Tensor], path: Path) -> encoders.FrameEncoder:
    # no other option of `build`: a file must not name weights to be fetched. A size stands in the
    # specs that depend on it; any will do for the others, if it is not under what they ask for
    size = spec.get("size", MOST_PIXELS)
    if size > MOST_PIXELS:
        raise UserError(f"{path} holds an encoder of {size} pixels: {MOST_PIXELS} are the most")
    encoder = encoders.build(spec["name"], spec["stem"], size=size)
    _check(encoder, state, path)
    encoder.load_state_dict(state)  # half-precision files are widened here
    return encoder.eval()


def _check(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """UserError unless the state is the model's."""
    shapes = {name: value.shape for name, value in state.items()}
    if shapes != {name: value.shape for name, value in model.state_dict().items()}:
        raise UserError(f"{path} does not fit the model it names: make it again")
    if not finite(state):
        raise UserError(f"{path} holds weights that are not finite: make it again")
