"""VideoMAE's two trainings: pre-training on clips with no label, fine-tuning with them.

B clips in a step, T frames of each, K actions.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from . import augment, catalog, checkpoints, encoders, loop, motion, published, sampling, settings
from .catalog import Clip
from .loop import Record
from .settings import UserError, _Checked, option
from .tubelets import RATIO, Config, normalise, tube_mask
from .videomae import Classifier, Pretrainer, VideoMAE, parameter_groups

# published models take every fourth frame of films that have 25 to 30 a second
PUBLISHED_FPS = 7.5


@dataclass(frozen=True)
class MaskConfig(_Checked):
    """How VideoMAE is pre-trained; the model's shape is a `tubelets.Config`."""

    ratio: float = option(RATIO, "share of the tubes that is hidden", 0.01, 0.99)
    steps: int = option(1000, "optimiser steps", 1)
    batch: int = option(16, "clips in a step", 1)
    lr: float = option(1e-3, "peak learning rate of AdamW", 0, 1000)
    weight_decay: float = option(0.05, "of AdamW", 0, 1000)
    recipe: str = option("no-colour", "augmentation: crop and flip alone, or more",
                         among=tuple(augment.RECIPES))  # fmt: skip
    seed: int = option(0, "random seed", 0, 2**32 - 1)


@dataclass(frozen=True)
class TuneConfig(_Checked):
    """How VideoMAE is fine-tuned, or trained from scratch."""

    steps: int = option(500, "optimiser steps", 1)
    batch: int = option(16, "clips in a step, even (MixUp mixes neighbours)", 1)
    lr: float = option(1e-3, "peak learning rate of AdamW at the head", 0, 1000)
    layer_decay: float = option(0.75, "each layer's rate, in rates of the layer above", 0, 1)
    weight_decay: float = option(0.05, "of AdamW", 0, 1000)
    drop_path: float = option(0.1, "how often the last block is left out", 0, 0.95)
    smoothing: float = option(0.1, "label smoothing", 0, 1)
    mixup: float = option(0.8, "parameter of MixUp's Beta distribution; 0: no MixUp", 0, 100)
    recipe: str = option("body", "augmentation", among=tuple(augment.RECIPES))
    seed: int = option(0, "random seed", 0, 2**32 - 1)


def on_grid(config: Config) -> Config:
    """The config with frames taken by seconds, as the frame cache has them: a published one says
    every fourth frame, whatever their rate."""
    return config if config.fps else replace(config, fps=PUBLISHED_FPS, stride=1)


class Films:
    """Decoded clips, ready to draw batches from."""

    def __init__(self, clips: Sequence[Clip], config: Config, progress: bool = True) -> None:
        self.config = config
        cache = sampling.FrameCache(size=config.size, fps=config.fps, background=config.background)
        cache.build([clip.path for clip in clips], progress=progress)
        self.frames = [cache.frames(clip.path) for clip in clips]

    def batch(
        self, count: int, recipe: str, rng: np.random.Generator, device: torch.device
    ) -> tuple[NDArray[np.intp], Tensor]:
        """Which clips (B,), and a random window and view of each, float (B, T, 3, H, W) as
        `tubelets.normalise` makes it."""
        c = self.config
        rows = rng.choice(len(self.frames), count, len(self.frames) < count)
        picked = []
        for frames in (self.frames[row] for row in rows):
            first = int(rng.integers(0, max(1, len(frames) - (c.frames - 1) * c.stride)))
            at = first + np.arange(c.frames) * c.stride
            picked.append(frames[np.minimum(at, len(frames) - 1)])
        x = torch.from_numpy(np.stack(picked)).to(device).permute(0, 1, 4, 2, 3)
        drawn = augment.draw(count, augment.RECIPES[recipe], _generator(rng))
        return rows, augment.apply(normalise(x, c.background), drawn)


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def _optimiser(model: nn.Module, options: MaskConfig | TuneConfig) -> torch.optim.AdamW:
    decay = options.layer_decay if isinstance(options, TuneConfig) else 1.0
    groups = parameter_groups(model, options.lr, options.weight_decay, decay)
    # pre-training forgets gradients' sizes sooner (the paper's tables 8 and 9)
    betas = (0.9, 0.999) if isinstance(options, TuneConfig) else (0.9, 0.95)
    return torch.optim.AdamW(groups, lr=options.lr, betas=betas)


def _update(loss: Tensor, optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
    """One step of the optimiser, its rates warmed up and then lowered along a cosine."""
    if not torch.isfinite(loss):
        raise UserError(f"the loss is not finite at step {step + 1}: try a smaller lr")
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * loop.warm_cosine(step, steps)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _finished(out: Path | None, run_key: str) -> list[Record] | None:
    """The history in a file made from the same settings and clips."""
    if out and loop.finished(out, run_key):
        return checkpoints.load(out, published.KIND, "delete it")["history"]
    return None


def _finish(
    out: Path | None, model: Pretrainer | Classifier, run_key: str, history: list[Record]
) -> None:
    """Bring the trained model to the CPU, in eval mode, and write it to `out`."""
    model.cpu().eval()
    if not out:
        return
    state = {name: value.detach() for name, value in model.state_dict().items()}
    content = {"kind": published.KIND, "config": asdict(model.config), "state": state}
    checkpoints.save(out, content | {"key": run_key, "history": history})
    loop.finish(out)


def pretrain_videomae(
    clips: Sequence[Clip],
    config: Config,
    options: MaskConfig,
    out: Path | None = None,
    device: torch.device | None = None,
    on_step: Callable[[Record], None] | None = None,
    save_every: float = 60.0,
    stop_at: int | None = None,
    progress: bool = True,
) -> tuple[Pretrainer, list[Record]]:
    """Pre-train by hiding tubes of clips and predicting their pixels; no label is used.

    Returns the last step's model (CPU, eval mode) and a record a step: step, loss, seconds. With
    `out` the weights are written there; a file made from the same settings and clips is loaded
    instead, and an interrupted run goes on (see `loop.run`). Raises Interrupted, UserError (no
    clips, non-finite loss).
    """
    if not clips:
        raise UserError("no clips to pre-train on: run vidlib studio, or add videos")
    config = on_grid(config)
    run_key = checkpoints.key(
        "videomae", asdict(config), asdict(options), catalog.fingerprint(clips), motion.FORMAT
    )
    if (done := _finished(out, run_key)) is not None:
        return Pretrainer.from_pretrained(out), done
    device = device or settings.device()
    settings.seed_everything(options.seed)
    model = Pretrainer(config).to(device)
    optimiser = _optimiser(model, options)
    films = Films(clips, config, progress)

    def step(i: int) -> Record:
        rng = np.random.default_rng([options.seed, i])
        _, x = films.batch(options.batch, options.recipe, rng, device)
        mask = tube_mask(len(x), config.slices, config.patches, options.ratio, _generator(rng))
        model.train()
        with settings.autocast(device):
            loss, _ = model(x, mask.to(device))
        _update(loss, optimiser, i, options.steps)
        return {"loss": loss.item()}

    history = loop.run(
        "pre-training VideoMAE", options.steps, step, {"model": model, "optimiser": optimiser},
        run_key, out, on_step, save_every, stop_at, progress,
    )  # fmt: skip
    _finish(out, model, run_key, history)
    return model, history


def finetune_videomae(
    clips: Sequence[Clip],
    start: Pretrainer | VideoMAE | Config,
    options: TuneConfig,
    out: Path | None = None,
    device: torch.device | None = None,
    on_step: Callable[[Record], None] | None = None,
    save_every: float = 60.0,
    stop_at: int | None = None,
    progress: bool = True,
) -> tuple[Classifier, list[Record]]:
    """Train a classifier of clips' actions, from a pre-trained encoder (which is left as it is) or,
    given a config, from scratch: layer decay (not from scratch, where nothing is to be kept), drop
    path, label smoothing and MixUp (Zhang et al., ICLR 2018), as published.

    Returns the last step's classifier (CPU, eval mode; `config.classes` are its actions) and a
    record a step: step, loss, accuracy (of the mixed clips' main action), seconds. `out` and the
    rest are as `pretrain_videomae`'s. Raises Interrupted, UserError (fewer than two actions,
    non-finite loss).
    """
    clips = catalog.labelled(clips)
    actions = catalog.classes(clips)
    scratch = isinstance(start, Config)
    if isinstance(start, Config):
        config, weights, options = on_grid(start), None, replace(options, layer_decay=1.0)
    else:
        config, weights = on_grid(start.config), encoders.identity(start)
    run_key = checkpoints.key(
        "tune", asdict(config), asdict(options), catalog.fingerprint(clips), motion.FORMAT,
        weights,
    )  # fmt: skip
    if (done := _finished(out, run_key)) is not None:
        return Classifier.from_pretrained(out), done
    device = device or settings.device()
    settings.seed_everything(options.seed)
    model = Classifier.of(
        VideoMAE(config) if isinstance(start, Config) else start, actions, options.drop_path
    ).to(device)
    optimiser = _optimiser(model, options)
    films = Films(clips, config, progress)
    target = torch.tensor([actions.index(str(c.action)) for c in clips], device=device)
    mix = v2.MixUp(alpha=options.mixup, num_classes=len(actions)) if options.mixup else None

    def step(i: int) -> Record:
        rng = np.random.default_rng([options.seed, i])
        rows, x = films.batch(options.batch, options.recipe, rng, device)
        torch.manual_seed(int(rng.integers(2**62)))  # MixUp and drop path
        y = F.one_hot(target[rows], len(actions)).float()
        if mix:
            x, y = mix(tv_tensors.Video(x), target[rows])
        model.train()
        with settings.autocast(device):
            logits = model(x.as_subclass(Tensor)).float()
        _update(
            loss := F.cross_entropy(logits, y, label_smoothing=options.smoothing),
            optimiser, i, options.steps,
        )  # fmt: skip
        accuracy = (logits.argmax(1) == y.argmax(1)).float().mean().item()
        return {"loss": loss.item(), "accuracy": accuracy}

    history = loop.run(
        "training VideoMAE" if scratch else "fine-tuning VideoMAE", options.steps, step,
        {"model": model, "optimiser": optimiser}, run_key, out, on_step, save_every, stop_at,
        progress,
    )  # fmt: skip
    _finish(out, model, run_key, history)
    return model, history


def classify_videomae(
    model: Classifier,
    clips: Sequence[Clip],
    views: int = 3,
    device: torch.device | None = None,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Probabilities (N, K) of the model's `config.classes`: the mean over up to `views` windows
    spread over each clip."""
    config = on_grid(model.config)
    device = device or settings.device()
    films = Films(clips, config, progress)
    model = model.to(device).eval()
    out = []
    for frames in films.frames:
        x = sampling.views(frames, config.frames, config.stride, config.size, views)[0]
        out.append(model.multi_view(torch.from_numpy(x)).softmax(1).mean(0).cpu().numpy())
    return np.stack(out)
