"""Pre-train the frame encoder by SimSiam on clips, with no label.

G clips in a step, F frames of each, H x W pixels.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import (
    augment,
    catalog,
    checkpoints,
    distributed,
    encoders,
    loop,
    motion,
    probes,
    sampling,
    settings,
)
from .catalog import Clip
from .features import extract_features
from .loop import Record
from .settings import PretrainConfig, UserError
from .simsiam import SimSiam, collapse_measure

COLLAPSED = 0.3  # a collapse measure that stays below is a run that learns nothing
PATIENCE = 30  # steps it has to stay there
OPEN = 512  # clips kept open: each takes a file descriptor, of which a process often has 1,024


class Collapsed(UserError):
    """The outputs became alike, and the run was stopped."""


class Frames:
    """Decoded clips, ready to draw batches from."""

    def __init__(
        self, clips: Sequence[Clip], config: PretrainConfig, progress: bool = False
    ) -> None:
        self.cache = sampling.FrameCache(**config.sampling)
        self.config = config
        self.paths = [clip.path for clip in clips]
        mine = distributed.share(range(len(clips)))
        if distributed.world() > 1:
            self.cache.build([self.paths[i] for i in mine], distributed.workers(), progress)
        lengths = distributed.gather({i: len(self.cache.frames(self.paths[i])) for i in mine})
        self.lengths = [lengths[i] for i in range(len(clips))]
        self.film = functools.lru_cache(OPEN)(self._film)

    def _film(self, clip: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """A clip's frames (T, H, W, 3) and what is subtracted from each of them."""
        frames = self.cache.frames(self.paths[clip])
        still = motion.ZERO if self.config.background == "follow" else 0
        if self.config.background == "median":
            still = motion.still(frames)
        return frames, np.asarray(still, np.float32)

    def take(self, clip: int, at: NDArray[np.intp]) -> NDArray[np.float32]:
        """The clip's frames `at`, less what stands still: (F, H, W, 3), in grey levels."""
        frames, still = self.film(clip)
        return frames[at] - still

    def batch(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """-> float (G, F, 3, H, W) x 2 as `encoders.to_float` makes it, one for each view, `gap`
        seconds apart (the same without), and the step's generator.

        Of several processes each draws the whole batch and reads its part of it, G / R clips."""
        c = self.config
        apart = round(c.gap * c.fps)
        rng = np.random.default_rng([c.seed, step])
        picked = rng.choice(len(self.paths), c.batch_clips, len(self.paths) < c.batch_clips)
        views = 2 if apart else 1
        part = c.batch_clips // distributed.world()
        first = part * distributed.rank()
        out = np.empty((part, views, c.frames_per_clip, c.size, c.size, 3), np.float32)
        for k, i in enumerate(picked):
            at = spread_draw(self.lengths[i], c.frames_per_clip, rng)
            if not first <= k < first + part:
                continue
            for row, later in zip(out[k - first], (0, apart), strict=False):
                # before or after, whichever the clip has
                moved = np.where(at + later < self.lengths[i], at + later, at - later)
                row[:] = self.take(i, np.clip(moved, 0, self.lengths[i] - 1))
        x = torch.from_numpy(out).permute(1, 0, 2, 5, 3, 4) / encoders.LEVELS[c.background]
        return x[0], x[-1], torch.Generator().manual_seed(int(rng.integers(2**62)))


def spread_draw(length: int, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """`count` frames of `length`, sorted, one at random from each of as many equal parts."""
    edges = np.linspace(0, length, count + 1)
    at = np.floor(edges[:-1] + rng.random(count) * np.diff(edges)).astype(int)
    return np.minimum(at, length - 1)


def pretrain(
    clips: Sequence[Clip],
    config: PretrainConfig,
    out: Path | None = None,
    device: torch.device | None = None,
    on_step: Callable[[Record], None] | None = None,
    monitor_every: int = 0,
    save_every: float = 60.0,
    stop_at: int | None = None,
    progress: bool = True,
) -> tuple[encoders.FrameEncoder, list[Record]]:
    """Pre-train a frame encoder by SimSiam on clips, with no label.

    Returns the last step's encoder (never the one of lowest loss: a collapsed run has the lowest)
    and a record a step: step, loss, collapse, lr, seconds, and `knn` every `monitor_every` steps
    where clips are labelled (half of the training people against the other half). With no step
    that is the encoder as it starts.
    With `out` the encoder is written there; a file made from the same settings and clips is loaded
    instead, and an interrupted run goes on (see `loop.run`, also for `on_step`, `save_every`,
    `stop_at`). Raises Interrupted, Collapsed, UserError (no clips, non-finite loss).

    In several processes (`distributed.processes`) each takes an equal part of every batch, and a
    run that was stopped goes on with any number of them. Loss and collapse measure are means over
    the processes; without CUDA each normalises its part by itself (`distributed.parallel`).
    """
    if not clips:
        raise UserError("no clips to pre-train on: run vidlib studio, or add videos")
    augment.named(config.recipe, config.background)  # refused before anything is computed
    parts = distributed.world()
    _check_parts(config, parts)
    sampling.learn_keys([c.path for c in clips])
    start = sampling.file_key(config.init) if Path(config.init).is_file() else config.init
    run_key = checkpoints.key(
        "pretrain", asdict(config), start, catalog.fingerprint(clips), motion.FORMAT
    )
    if out and distributed.from_first(lambda: loop.finished(out, run_key)):
        encoder, meta = distributed.from_first(lambda: checkpoints.load_encoder(out))
        return encoder, meta["history"]
    device = device or settings.device()
    settings.seed_everything(config.seed)
    encoder = distributed.from_first(
        lambda: encoders.build(config.backbone, config.stem, config.init, config.size)
    )
    if not config.steps:
        return _keep(out, encoder, [], run_key, config, clips, device), []
    encoders.of_frames(encoder, "SimSiam")
    model = SimSiam(
        encoder, encoder.dim, config.center, config.clip_loss,
        hidden=config.hidden, bottleneck=config.bottleneck,
        stop_gradient=config.stop_gradient, output_norm=config.output_norm,
    ).to(device, memory_format=torch.channels_last)  # fmt: skip
    peak = config.lr * config.batch_clips * config.frames_per_clip / 256
    predictors = [p for n, p in model.named_parameters() if ".predictor." in n]
    body = [p for n, p in model.named_parameters() if ".predictor." not in n]
    groups = [{"params": body}, {"params": predictors}]
    optimiser = torch.optim.SGD(groups, peak, momentum=0.9, weight_decay=config.weight_decay)
    frames = Frames(clips, config, progress and distributed.rank() == 0)
    together = distributed.parallel(model, device)
    low: list[float] = []  # the collapse measure's last values

    def step(i: int) -> Record:
        # cosine decay, but for the predictor, whose rate stays (section 4.2 of the paper)
        rate = peak * 0.5 * (1 + math.cos(math.pi * i / config.steps))
        optimiser.param_groups[0]["lr"] = rate
        *pair, rng = frames.batch(i)
        view1, view2 = (
            encoders.normalise(
                random_view(x.to(device), config, rng, distributed.rank(), parts),
                config.background,
            )
            for x in pair
        )
        model.train()
        with settings.autocast(device):
            loss, z = together(view1, view2)
        shown, collapse = distributed.mean(loss.item(), collapse_measure(z))
        if not math.isfinite(shown):
            raise UserError(f"the loss is not finite at step {i + 1}: try a smaller --lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        record = {"loss": shown, "collapse": collapse, "lr": rate}
        monitored = monitor_every and ((i + 1) % monitor_every == 0 or i + 1 == config.steps)
        if monitored and distributed.rank() == 0:
            record["knn"] = knn_monitor(encoder, clips, config, device)
        low.append(record["collapse"])
        if config.stop_gradient and len(low) >= PATIENCE and max(low[-PATIENCE:]) < COLLAPSED:
            raise Collapsed(
                f"stopped at step {i + 1}: the collapse measure stayed under {COLLAPSED} for "
                f"{PATIENCE} steps, so all outputs are alike: lower --lr, or add clips"
            )
        return record

    history = loop.run(
        "pre-training", config.steps, step, {"model": model, "optimiser": optimiser}, run_key,
        out, on_step, save_every, stop_at, progress,
    )  # fmt: skip
    if parts > 1 and device.type == "cuda":  # back to the plain batch norm, of the same names
        state = encoder.state_dict()
        encoder = encoders.build(**encoder.spec())
        encoder.load_state_dict(state)
    return _keep(out, encoder, history, run_key, config, clips, device), history


def _keep(
    out: Path | None,
    encoder: encoders.FrameEncoder,
    history: list[Record],
    run_key: str,
    config: PretrainConfig,
    clips: Sequence[Clip],
    device: torch.device,
) -> encoders.FrameEncoder:
    """The finished encoder, ready to use, and written to `out`."""
    encoder, parts = encoder.cpu().eval(), distributed.world()

    def write(out: Path) -> None:
        meta = {
            "key": run_key, "sampling": config.sampling, "config": asdict(config),
            "history": history, "clips": len(clips), "torch": str(torch.__version__),
            "machine": f"{parts} x " * (parts > 1) + settings.machine(device),
        }  # fmt: skip
        checkpoints.save_encoder(out, encoder, meta)
        loop.finish(out)

    if out:
        distributed.from_first(lambda: write(out))
    return encoder


def _check_parts(config: PretrainConfig, parts: int) -> None:
    """UserError where a batch cannot be shared out equally: unequal parts would weigh clips
    unequally."""
    if config.batch_clips % parts:
        raise UserError(
            f"--batch-clips is {config.batch_clips}: choose a multiple of the {parts} processes"
        )
    part = config.batch_clips // parts
    if part * config.frames_per_clip < 2 or (config.clip_loss and part < 2):
        raise UserError(
            f"--batch-clips is {config.batch_clips}: batch norm needs two clips in each of the "
            f"{parts} processes, so {2 * parts} or more"
        )


def random_view(
    x: Tensor, config: PretrainConfig, rng: torch.Generator, part: int = 0, parts: int = 1
) -> Tensor:
    """A random view of float (G, F, 3, H, W), of the same shape, by the config's recipe. When `x`
    is one of several equal parts of a batch, its views are those it would have in the whole."""
    each = x if config.shared_view else x.flatten(0, 1)[:, None]  # a frame a clip of its own
    recipe = augment.named(config.recipe, config.background)
    views = augment.draw(len(each) * parts, recipe, rng)
    return augment.apply(each, views.part(part, parts)).view_as(x)


def knn_monitor(
    encoder: encoders.FrameEncoder,
    clips: Sequence[Clip],
    config: PretrainConfig,
    device: torch.device,
    most: int = 160,
) -> float:
    """kNN accuracy, 0..1, of half of the training people's clips against the other half's; nan
    without labels or with one person. It shows; it chooses nothing."""
    known = [c for c in clips if c.action is not None and c.person is not None]
    known = known[:: max(1, -(-len(known) // most))]
    people = sorted({c.person for c in known if c.person})
    if len(people) < 2:
        return float("nan")
    features = extract_features(encoder, known, config.sampling, device, progress=False, keep=False)
    memory = set(people[::2])
    side = np.array([c.person in memory for c in known])
    x = probes.pool(features)
    labels = np.array([c.action for c in known])
    predicted = probes.knn(x[side], list(labels[side]), x[~side])
    return probes.accuracy(predicted, list(labels[~side]))
