"""Profiles, folders, device and seed: the one place where numbers that everybody reads live."""

import contextlib
import os
import platform
import random
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import; `vidlib --help` must not wait for it
    import torch


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what is wrong and the remedy."""


@dataclass(frozen=True)
class Profile:
    """How much of everything. Notebooks, command line and tests read their numbers here."""

    name: str
    # the drawn data: `val` people are never in `train`
    people_train: int
    people_val: int
    takes_train: int  # clips per person and action
    takes_val: int
    # pre-training
    backbone: str
    pretrain_steps: int  # one step = batch_clips x frames_per_clip frames, two views of each
    batch_clips: int
    # the Transformer
    train_steps: int  # not epochs: sixty clips need as many steps as six hundred
    width: int  # token width
    depth: int  # layers
    # the small VideoMAE of notebook 08
    mae_steps: int  # of pre-training
    mae_tune_steps: int  # of fine-tuning, and of training from scratch
    # the same for every profile, so that weights of one serve another
    draw_size: int = 96  # pixels; a clip of the studio is about 50 KB
    draw_fps: float = 16.0
    draw_seconds: float = 2.0
    size: int = 64  # pixels at the encoder's input: ResNet features at a laptop's speed
    fps: float = 12.0  # frames are sampled by seconds on this grid, whatever the file's rate
    window: int = 24  # frames in one Transformer window: 2 s, a period or more of every action
    frames_per_clip: int = 4  # frames that share one view's crop, flip and colour


PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile("quick", 4, 2, 2, 1, "resnet8", 40, 16, 200, 64, 2, 20, 10),
        Profile("standard", 24, 12, 3, 2, "resnet8", 1500, 32, 1000, 128, 2, 1200, 400),
        Profile("full", 96, 24, 5, 2, "resnet18", 12000, 64, 3000, 192, 4, 20000, 2000),
    )
}


def profile(name: str | None = None) -> Profile:
    """The profile called `name`; without one, the one in $VIDLIB_PROFILE, else `standard`."""
    name = name or os.environ.get("VIDLIB_PROFILE") or "standard"
    if name not in PROFILES:
        raise UserError(f"no profile '{name}': choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


BACKGROUNDS = ("follow", "median", "none")
STEMS = ("imagenet", "small")
MOST_PIXELS = 4096  # a side of what an encoder is shown; more is a slip of the keyboard


def option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float = float("inf"),
    among: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is also an option of the command line: its help, and which values it
    takes (low to high, or one among several words)."""
    text += f": {', '.join(among[:-1])} or {among[-1]}" if among else ""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "among": among})


class _Checked:
    """A config that refuses values no run could use, before anything is computed."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value, takes = getattr(self, f.name), f.metadata
            flag = f"--{f.name.replace('_', '-')} is {value}"
            if takes["among"] and value not in takes["among"]:
                raise UserError(f"{flag}: choose one of {', '.join(takes['among'])}")
            low, high = takes["low"], takes["high"]
            if low is not None and not low <= value <= high:  # nan is never within
                upper = "or more" if high == float("inf") else f"to {high}"
                raise UserError(f"{flag}: choose {low} {upper}")


@dataclass(frozen=True)
class PretrainConfig(_Checked):
    """What pre-training depends on. The command line's options are these fields.

    Raises UserError for values that no run could use.
    """

    backbone: str = option("resnet8", "resnet8, resnet10, any torchvision classifier, or of clips "
                           "swin3d_t (for which: --steps 0)")  # fmt: skip
    stem: str = option("imagenet", "the first layers; small (3x3, stride 2) for small pictures",
                       among=STEMS)  # fmt: skip
    init: str = option("none", "starting weights: none, imagenet, kinetics (swin3d_t), or a file "
                       "of vidlib pretrain")  # fmt: skip
    size: int = option(64, "pixels at the encoder's input", 8, MOST_PIXELS)
    fps: float = option(12.0, "frames per second of the sampling grid", 0.1, 1000)
    background: str = option("follow", "what the encoder is shown: what moves, held still and "
                             "followed; frames minus the clip's median frame; frames as they are",
                             among=BACKGROUNDS)  # fmt: skip
    center: bool = option(True, "subtract each view's mean feature before the frames' projector")
    clip_loss: float = option(1.0, "weight of the loss on the clip's mean and spread of features",
                              0, 100)  # fmt: skip
    steps: int = option(1500, "optimiser steps; 0 keeps the starting weights as they are", 0)
    batch_clips: int = option(32, "clips in a step", 1)
    frames_per_clip: int = option(4, "frames that share one crop, flip and colour", 1)
    shared_view: bool = option(True, "a clip's frames share crop, flip and colour")
    gap: float = option(0.0, "seconds between the frames that two views have of a clip", 0, 1000)
    recipe: str = option("motion", "augmentation: paper, body (for few clips), no-colour, motion, "
                         "blur, solarise, or walls (for --background none)")  # fmt: skip
    lr: float = option(0.2, "learning rate for 256 frames; scaled by batch / 256", 0, 1000)
    weight_decay: float = option(1e-4, "of SGD with momentum 0.9", 0, 1000)
    hidden: int = option(512, "size of the projector's layers and output", 1)
    bottleneck: int = option(128, "size of the predictor's hidden layer", 1)
    stop_gradient: bool = option(True, "off shows the collapse, and is of no other use")
    output_norm: bool = option(True, "batch norm (not affine) at the projector's output")
    seed: int = option(0, "random seed", 0, 2**32 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.center and self.frames_per_clip < 2:
            raise UserError(
                "centring needs --frames-per-clip of 2 or more: one frame is its own mean"
            )
        if self.clip_loss and self.batch_clips < 2:
            raise UserError("the clips' loss needs --batch-clips of 2 or more, or --clip-loss 0")
        if self.batch_clips * self.frames_per_clip < 2:
            raise UserError("batch norm needs a step of two frames: raise --batch-clips")

    @classmethod
    def of(cls, profile: Profile, **changes: Any) -> "PretrainConfig":
        """The profile's numbers, with changes."""
        base = {
            "backbone": profile.backbone, "size": profile.size, "fps": profile.fps,
            "steps": profile.pretrain_steps, "batch_clips": profile.batch_clips,
            "frames_per_clip": profile.frames_per_clip,
        }  # fmt: skip
        return cls(**{**base, **changes})

    @property
    def sampling(self) -> dict[str, Any]:
        return {"size": self.size, "fps": self.fps, "background": self.background}


@dataclass(frozen=True)
class TrainConfig(_Checked):
    """What training the Transformer depends on, besides the encoder and the clips.

    Raises UserError for values that no run could use.
    """

    width: int = option(128, "token width, even, a multiple of the heads", 2, 2**16)
    depth: int = option(2, "layers", 1, 1000)
    heads: int = option(4, "attention heads", 1)
    window: int = option(24, "frames in a window, on the encoder's sampling grid", 1, 10_000)
    positions: str = option("sincos", "how a frame's place is told", among=("sincos", "learned"))
    pool: str = option("mean", "over frames, or a token of its own", among=("mean", "cls"))
    center: bool = option(True, "subtract each window's mean feature")
    dropout: float = option(0.1, "dropout", 0, 0.95)
    steps: int = option(1000, "optimiser steps", 1)
    batch: int = option(32, "windows in a step", 1)
    lr: float = option(1e-3, "peak learning rate of AdamW", 0, 1000)
    weight_decay: float = option(0.05, "of AdamW", 0, 1000)
    smoothing: float = option(0.1, "label smoothing", 0, 1)
    shortest: float = option(0.7, "random windows are this share of the window or longer", 0, 1)
    seed: int = option(0, "random seed", 0, 2**32 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads or self.width % 2:
            raise UserError(
                f"--width is {self.width}: choose an even multiple of --heads, {self.heads}"
            )

    @classmethod
    def of(cls, profile: Profile, **changes: Any) -> "TrainConfig":
        """The profile's numbers, with changes."""
        base = {
            "width": profile.width, "depth": profile.depth, "window": profile.window,
            "steps": profile.train_steps,
        }  # fmt: skip
        return cls(**{**base, **changes})


REPO = Path(__file__).resolve().parents[1]


def data_dir() -> Path:
    """The data folder: $VIDLIB_DATA, else `data` beside the module."""
    return Path(os.environ.get("VIDLIB_DATA") or REPO / "data").expanduser()


def raw_dir() -> Path:
    """Where videos lie: `raw_videos/{train,val}/<action>/`."""
    return data_dir() / "raw_videos"


def weights_dir() -> Path:
    """Where weights are written."""
    return data_dir() / "weights"


def cache_dir() -> Path:
    """Where decoded frames and features are kept; deleting it costs only time."""
    return data_dir() / "cache"


def shipped_dir() -> Path:
    """Weights that come with the course; nothing writes here, and $VIDLIB_DATA does not move it."""
    return REPO / "data" / "weights" / "shipped"


def encoder_path() -> Path:
    """The learner's own pre-trained encoder."""
    return weights_dir() / "ssl_feature_extractor.pth"


def classifier_path() -> Path:
    """The learner's own Transformer."""
    return weights_dir() / "transformer_pose_classifier.pth"


def write(path: Path, fill: Callable[[IO[bytes]], object], keep: bool = True) -> None:
    """Write a file atomically: a reader sees the old one or the whole new one. UserError when the
    disk is full or the folder read-only; nothing half-written is left. `keep=False` only tries:
    better to know before hours of training than after."""
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.tmp")  # short, whatever the length of the name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            fill(file)
        if keep:
            os.replace(part, path)
    except (OSError, RuntimeError) as error:
        # NumPy and torch do not say why a write fell short
        reason = getattr(error, "strerror", None) or "the disk is full, most likely"
        raise UserError(
            f"{path} could not be written ({reason}): free some space, or name another folder, "
            "for example by VIDLIB_DATA"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def device(name: str | None = None) -> "torch.device":
    """The device called `name`, else the best there is: cuda, mps, cpu.

    Raises UserError when the named device is not there.
    """
    import torch

    if name is None:
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device '{name}' is not usable here ({reason}): leave --device out, or use cpu"
        ) from error
    return torch.device(name)


def machine(dev: "torch.device") -> str:
    """What a training took its minutes on, in words."""
    import torch

    if dev.type == "cuda":
        return torch.cuda.get_device_name(dev)
    return f"{os.cpu_count()} {platform.machine()} cores ({dev.type})"


def has_fast_bfloat16(dev: "torch.device") -> bool:
    """Whether bfloat16 arithmetic is in the hardware; emulated, it is slower than float32."""
    import torch

    if os.environ.get("VIDLIB_PRECISION") == "float32":
        return False
    if dev.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public question for this yet; without an answer plain float32 is right
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return dev.type == "cpu" and asked is not None and bool(asked())


def autocast(dev: "torch.device") -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast where the hardware has it, nothing elsewhere ($VIDLIB_PRECISION=float32
    switches it off)."""
    import torch

    if has_fast_bfloat16(dev):
        return torch.autocast(dev.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def bar(*args: Any, **options: Any) -> Any:
    """A tqdm progress bar; in a notebook on stdout, since a stored notebook must read without
    widgets and with nothing on stderr."""
    from tqdm import tqdm

    file = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(*args, **{"file": file, "mininterval": 0.5} | options)
