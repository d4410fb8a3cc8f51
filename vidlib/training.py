"""Train the Transformer on frame features, with and without labels, and classify with it.

N clips, T_i frames of clip i, D features; W windows; K actions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import checkpoints, loop, sampling, settings
from .loop import Record
from .settings import TrainConfig, UserError
from .temporal import MaskedFeatures, TemporalTransformer, hide

# of masked pre-training: frames hidden, and how many in a row
SHARE, RUN = 0.25, 2


def windows(
    features: Sequence[NDArray[np.float32]], window: int, stride: int
) -> tuple[Tensor, Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """All sliding windows of all clips: (W, window, D), valid (W, window), each window's clip
    (W,) and first frame (W,)."""
    xs, valids, owner, starts = [], [], [], []
    for i, f in enumerate(features):
        for start in sampling.window_starts(len(f), window, stride):
            x, valid = sampling.take_window(f, start, window)
            xs.append(x)
            valids.append(valid)
            owner.append(i)
            starts.append(start)
    x, v = torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(valids))
    return x, v, np.array(owner), np.array(starts)


def train_classifier(
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    config: TrainConfig,
    out: Path | None = None,
    meta: dict[str, Any] | None = None,
    device: torch.device | None = None,
    on_step: Callable[[Record], None] | None = None,
    stop_at: int | None = None,
    progress: bool = True,
    people: Sequence[str | None] | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[TemporalTransformer, list[str], list[Record]]:
    """Train the Transformer on clips' features (T_i, D) and their actions.

    An epoch takes one random window of each clip. Returns the last step's model (CPU, eval mode),
    the actions in the order of its logits, and a record a step: step, loss, accuracy (on the
    step's own windows), seconds. With `out` the weights are written there, with `meta`
    (`encoder_id` and `sampling` are needed to use them); a file made from the same settings and
    clips is loaded instead. With `people`, who is in each clip, the probabilities are calibrated
    (see `calibrate`). `start` is what `pretrain_features` returns (None: random weights). Raises
    UserError for fewer than two actions or a non-finite loss, Interrupted when stopped.
    """
    actions = sorted(set(labels))
    if len(actions) < 2:
        raise UserError(f"training needs two actions or more, found {actions}: add labelled clips")
    _check(features, len(labels))
    run_key = checkpoints.key(
        "train", asdict(config), list(labels), list(people or ()), checkpoints.arrays_key(features),
        *([checkpoints.arrays_key([v.numpy() for v in start.values()])] if start else []),
    )  # fmt: skip
    if out and loop.finished(out, run_key):
        model, stored = checkpoints.load_classifier(out, (meta or {}).get("encoder_id", ""))
        return model, stored["classes"], stored["history"]
    device = device or settings.device()
    settings.seed_everything(config.seed)
    model = _fresh(features, len(actions), config)
    if start:  # all but the last layer, its scale among it
        model.load_state_dict(start, strict=False)
    model = model.to(device)
    target = torch.tensor([actions.index(label) for label in labels], device=device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    batches = -(-len(features) // config.batch)

    def step(i: int) -> Record:
        epoch, batch = divmod(i, batches)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(features))
        rows = np.array_split(order, batches)[batch]
        rng = np.random.default_rng([config.seed, epoch, batch])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        for group in optimiser.param_groups:
            group["lr"] = config.lr * loop.warm_cosine(i, config.steps)
        x, valid = random_windows([features[r] for r in rows], config, rng)
        model.train()
        with settings.autocast(device):
            logits = model(x.to(device), valid.to(device)).float()
        loss = F.cross_entropy(logits, target[rows], label_smoothing=config.smoothing)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {i + 1}: try a smaller --lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        accuracy = (logits.argmax(1) == target[rows]).float().mean().item()
        return {"loss": loss.item(), "accuracy": accuracy, "epoch": epoch + 1}

    history = loop.run(
        "training", config.steps, step, {"model": model, "optimiser": optimiser}, run_key, out,
        on_step, stop_at=stop_at, progress=progress,
    )  # fmt: skip
    model = model.cpu().eval()
    if people is not None:
        with loop.calibration(out):
            told = calibrate(features, labels, people, config, device, progress, start)
            model.temperature.fill_(told)
    if out:
        content = {"key": run_key, "classes": actions, "config": asdict(config), "history": history}
        checkpoints.save_classifier(out, model, content | (meta or {}))
        loop.finish(out)
    return model, actions, history


def _check(features: Sequence[NDArray[np.float32]], count: int) -> None:
    """UserError unless these are features (T_i, D) of `count` clips: better now than as a loss that
    is not finite, hours later."""
    if not features or len(features) != count:
        raise UserError(f"features of {len(features)} clips for {count}: training needs each's")
    for i, f in enumerate(features):
        if f.ndim != 2 or 0 in f.shape or f.shape[1] != features[0].shape[1]:
            raise UserError(f"features of clip {i + 1} are {f.shape}, the first's "
                            f"{features[0].shape}: extract them by one encoder")  # fmt: skip
        if not np.isfinite(f).all():
            raise UserError(f"features of clip {i + 1} are not finite: make the encoder's weights "
                            "again with vidlib pretrain, at a smaller --lr")  # fmt: skip


def _fresh(
    features: Sequence[NDArray[np.float32]], actions: int, config: TrainConfig
) -> TemporalTransformer:
    """An untrained Transformer, its scale set from the clips' windows."""
    model = TemporalTransformer(
        features[0].shape[1], actions, config.width, config.depth, config.heads,
        config.window, config.positions, config.pool, config.center, config.dropout,
    )  # fmt: skip
    x, valid, _, _ = windows(features, config.window, config.window)
    model.fit_scale(x, valid)
    return model


def pretrain_features(
    features: Sequence[NDArray[np.float32]],
    config: TrainConfig,
    steps: int,
    share: float = SHARE,
    run: int = RUN,
    out: Path | None = None,
    device: torch.device | None = None,
    on_step: Callable[[Record], None] | None = None,
    stop_at: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, Tensor], list[Record]]:
    """Pre-train the Transformer on clips' features (T_i, D) without labels: of a random window of
    each clip in a step (`config.batch` of them) the `share` of frames is hidden, in runs of `run`,
    and their features are predicted (`temporal.MaskedFeatures`; mean squared error).

    Returns the state for `train_classifier(start=...)`, all but its last layer, and a record a
    step: step, loss, plain (what predicting 0, the mean of what is seen, would give), seconds.
    With `out` it is kept there, and loaded if it was made from the same settings and clips. Raises
    UserError for a non-finite loss, Interrupted when stopped.
    """
    _check(features, len(features))
    run_key = checkpoints.key(
        "masked", asdict(config), steps, share, run, checkpoints.arrays_key(features)
    )
    if out and loop.finished(out, run_key):
        stored = checkpoints.load(out, "masked features", "delete it and start again")
        return stored["state"], stored["history"]
    device = device or settings.device()
    settings.seed_everything(config.seed)
    model = _fresh(features, 1, config)
    whole = MaskedFeatures(model).to(device)
    optimiser = torch.optim.AdamW(
        whole.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )

    def step(i: int) -> Record:
        rng = np.random.default_rng([config.seed, i])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        rows = rng.choice(len(features), min(config.batch, len(features)), replace=False)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * loop.warm_cosine(i, steps)
        x, valid = random_windows([features[r] for r in rows], config, rng)
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        hidden = hide(valid, share, run, draw).to(device)
        whole.train()
        with settings.autocast(device):
            told, true = whole(x.to(device), valid.to(device), hidden)
        count = max(1, true.numel())  # clips of one frame have none to hide
        loss = (told.float() - true).square().sum() / count
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {i + 1}: try a smaller --lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        plain = true.square().sum().item() / count
        return {"loss": loss.item(), "plain": plain}

    history = loop.run(
        "masked pre-training", steps, step, {"model": whole, "optimiser": optimiser}, run_key, out,
        on_step, stop_at=stop_at, progress=progress,
    )  # fmt: skip
    kept = model.cpu().state_dict().items()
    state = {k: v.detach() for k, v in kept if not k.startswith("head.")}
    if out:
        content = {"kind": "masked features", "key": run_key, "state": state, "history": history}
        checkpoints.save(out, content)
        loop.finish(out)
    return state, history


def calibrate(
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    people: Sequence[str | None],
    config: TrainConfig,
    device: torch.device | None = None,
    progress: bool = True,
    start: Mapping[str, Tensor] | None = None,
    folds: int = 3,
) -> float:
    """The temperature at which the answers for unseen people are as often right as they are
    probable (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2).

    It is fitted on training people alone: the same training, `folds` times, each without some of
    them, and those are then answered for. A clip of unknown person counts as a person of its own.
    1.0 where a fold would lack an action, or there are fewer than two people.
    """
    fold = people_folds(people, folds)
    actions, target = sorted(set(labels)), np.array(labels)
    if any(set(target[fold != k]) != set(actions) for k in np.unique(fold)):
        return 1.0
    logits, true = [], []
    for k in np.unique(fold):
        known = np.flatnonzero(fold != k)
        model = train_classifier(
            [features[i] for i in known], list(target[known]), config, device=device,
            progress=progress, start=start,
        )[0]  # fmt: skip
        asked = np.flatnonzero(fold == k)
        told, right = answers(model, [features[i] for i in asked], list(target[asked]), actions)
        logits.append(told)
        true.append(right)
    return temperature(torch.cat(logits), torch.cat(true))


def answers(
    model: TemporalTransformer,
    features: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    actions: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """The logits (W, K) of all windows, end to end, of labelled clips, and their actions (W,)."""
    window = model.spec["window"]
    x, valid, owner, _ = windows(features, window, window)
    with torch.inference_mode():
        return model(x, valid), torch.tensor([actions.index(labels[i]) for i in owner])


def people_folds(people: Sequence[str | None], folds: int = 3) -> NDArray[np.int64]:
    """Each clip's fold, (N,): a person's clips are in one. An unknown person is one of its own."""
    who = [name or f"clip {i}" for i, name in enumerate(people)]
    names = sorted(set(who))
    return np.array([names.index(name) % min(folds, len(names)) for name in who])


def temperature(logits: Tensor, true: Tensor) -> float:
    """The number to divide logits (N, K) by, at which the true actions (N,) surprise least."""
    # between a tenth and ten times the logits: beyond, all or nothing would be certain
    grid = torch.logspace(-1, 1, 201, dtype=torch.float64)
    surprise = [F.cross_entropy(logits.double() / t, true).item() for t in grid]
    return float(grid[int(np.argmin(surprise))])


def random_windows(
    features: Sequence[NDArray[np.float32]], config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A window of random place and length of each clip: (B, window, D), valid (B, window)."""
    pairs = []
    for f in features:
        most = min(len(f), config.window)
        length = int(rng.integers(max(1, round(most * config.shortest)), most + 1))
        start = int(rng.integers(0, len(f) - length + 1))
        pairs.append(sampling.take_window(f[start : start + length], 0, config.window))
    x, valid = (np.stack(part) for part in zip(*pairs, strict=True))
    return torch.from_numpy(x), torch.from_numpy(valid)


@torch.inference_mode()
def classify(
    model: TemporalTransformer, features: Sequence[NDArray[np.float32]], stride: int | None = None
) -> NDArray[np.float32]:
    """Probabilities (N, K): each clip's sliding windows (half a window apart), averaged."""
    window = model.spec["window"]
    x, valid, owner, _ = windows(features, window, stride or max(1, window // 2))
    parts = [model(a, b).softmax(1) for a, b in zip(x.split(512), valid.split(512), strict=True)]
    p = torch.cat(parts).numpy()
    return np.stack([p[owner == i].mean(0) for i in range(len(features))])
