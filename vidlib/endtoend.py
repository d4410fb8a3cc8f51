"""Encoder and Transformer trained together from labels: what pre-training is measured against,
and, from a pre-trained encoder at a small rate, fine-tuning.

B clips in a step, F frames of each, T frames in a window, D features, K actions.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from . import catalog, checkpoints, encoders, loop, motion, settings
from .catalog import Clip
from .features import extract_features
from .pretraining import Frames, random_view, spread_draw
from .settings import PretrainConfig, TrainConfig, UserError
from .temporal import TemporalTransformer
from .training import answers, people_folds, temperature


def train_together(
    clips: Sequence[Clip],
    pre: PretrainConfig,
    train: TrainConfig,
    steps: int,
    encoder: encoders.FrameEncoder | None = None,
    encoder_lr: float | None = None,
    out: Path | None = None,
    meta: dict[str, Any] | None = None,
    device: torch.device | None = None,
    on_step: Callable[[loop.Record], None] | None = None,
    stop_at: int | None = None,
    progress: bool = True,
    people: Sequence[str | None] | None = None,
    batch: int = 16,
    frames: int = 8,
) -> tuple[encoders.FrameEncoder, TemporalTransformer, list[str], list[loop.Record]]:
    """Minimise the cross-entropy of encoder and Transformer at once; nothing is frozen.

    Input and augmentation are `pre`'s, the Transformer is `train`'s, with AdamW. A step sees a
    window of each of `batch` clips, of which `frames` frames spread over it are encoded; the
    Transformer takes the others for padding. Without `encoder` it starts from the one that
    pre-training starts from; the given one is left as it is. `encoder_lr` is the encoder's
    learning rate (None: `train.lr`). `out`, `meta`, `on_step` and `stop_at` are as
    `train_classifier`'s; the file holds the tuned encoder, too. With `people`, who is in each
    clip, it is all done once more without a third of them, to calibrate the probabilities.
    Returns encoder, Transformer (CPU, eval mode), the actions in the order of its logits, and a
    record a step: step, loss, accuracy (on the step's own windows), seconds.
    Raises UserError for fewer than two actions or a non-finite loss, Interrupted when stopped.
    """
    clips = catalog.labelled(clips)
    labels, actions = [str(c.action) for c in clips], catalog.classes(clips)
    run_key = checkpoints.key(
        "together", asdict(pre), asdict(train), steps, encoder_lr, batch, frames,
        encoder and encoders.identity(encoder), list(people or ()), catalog.fingerprint(clips),
        motion.FORMAT,
    )  # fmt: skip
    if out and loop.finished(out, run_key):
        model, stored = checkpoints.load_classifier(out, (meta or {}).get("encoder_id", ""))
        return stored["tuned"], model, stored["classes"], stored["history"]
    device = device or settings.device()
    settings.seed_everything(train.seed)
    start = encoder
    encoder = copy.deepcopy(encoder) or encoders.build(pre.backbone, pre.stem, pre.init, pre.size)
    encoders.of_frames(encoder, "training end to end")
    target = torch.tensor([actions.index(label) for label in labels], device=device)
    model = TemporalTransformer(
        encoder.dim, len(actions), train.width, train.depth, train.heads, train.window,
        train.positions, train.pool, train.center, train.dropout,
    ).to(device)  # fmt: skip
    encoder = encoder.to(device, memory_format=torch.channels_last)
    rates = {encoder: encoder_lr or train.lr, model: train.lr}
    groups = [{"params": list(m.parameters()), "peak": rate} for m, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
    films = Frames(clips, pre)

    def step(i: int) -> loop.Record:
        rng = np.random.default_rng([train.seed, i])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * loop.warm_cosine(i, steps)
        rows = rng.choice(len(clips), batch, len(clips) < batch)
        picked, at = [], []
        for row in rows:
            length = films.lengths[row]
            most = min(length, train.window)
            first = int(rng.integers(0, length - most + 1))
            at.append(spread_draw(most, frames, rng))
            picked.append(films.take(row, first + at[-1]))
        x = torch.from_numpy(np.stack(picked)).permute(0, 1, 4, 2, 3).to(device)
        x = x / encoders.LEVELS[pre.background]
        view = random_view(x, pre, torch.Generator().manual_seed(int(rng.integers(2**62))))
        view = encoders.normalise(view, pre.background)
        encoder.train()
        model.train()
        where = torch.from_numpy(np.stack(at)).to(device)
        with settings.autocast(device):
            images = view.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            features = encoder(images).view(batch, frames, -1)
            window = features.new_zeros(batch, train.window, features.shape[-1])
            window = window.scatter(1, where[..., None].expand_as(features), features)
            valid = torch.zeros(batch, train.window, dtype=torch.bool, device=device)
            valid = valid.scatter(1, where, True)
            if i == 0:
                model.fit_scale(window.detach().float(), valid)
            logits = model(window, valid).float()
        loss = F.cross_entropy(logits, target[rows], label_smoothing=train.smoothing)
        if not torch.isfinite(loss):
            raise UserError(f"the loss is not finite at step {i + 1}: try a smaller rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        accuracy = (logits.argmax(1) == target[rows]).float().mean().item()
        return {"loss": loss.item(), "accuracy": accuracy}

    history = loop.run(
        "training end to end", steps, step,
        {"encoder": encoder, "model": model, "optimiser": optimiser}, run_key, out, on_step,
        stop_at=stop_at, progress=progress,
    )  # fmt: skip
    encoder, model = encoder.cpu().eval(), model.cpu().eval()
    if people is not None:
        fold = people_folds(people)
        known, asked = ([c for c, f in zip(clips, fold, strict=True) if (f == 0) == out_of]
                        for out_of in (False, True))  # fmt: skip
        if {c.action for c in known} == {c.action for c in clips}:
            with loop.calibration(out):
                held = train_together(known, pre, train, steps, start, encoder_lr, device=device,
                                      progress=progress, batch=batch, frames=frames)  # fmt: skip
            x = extract_features(held[0], asked, pre.sampling, device, progress=False, keep=False)
            found = answers(held[1], x, [str(c.action) for c in asked], actions)
            model.temperature.fill_(temperature(*found))
    if out:
        content = {"key": run_key, "classes": actions, "config": asdict(train), "history": history}
        checkpoints.save_classifier(out, model, content | {"tuned": encoder} | (meta or {}))
        loop.finish(out)
    return encoder, model, actions, history
