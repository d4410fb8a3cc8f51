"""Encoder and Transformer trained together from labels: what pre-training is measured against,
and, from a pre-trained encoder at a small rate, fine-tuning.

B clips in a step, F frames of each, T frames in a window, D features, K actions.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from . import encoders, loop, settings
from .catalog import Clip
from .pretraining import Frames, random_view, spread_draw
from .settings import PretrainConfig, TrainConfig
from .temporal import TemporalTransformer


def train_together(
    clips: Sequence[Clip],
    pre: PretrainConfig,
    train: TrainConfig,
    steps: int,
    encoder: encoders.FrameEncoder | None = None,
    encoder_lr: float | None = None,
    batch: int = 16,
    frames: int = 8,
    device: torch.device | None = None,
    on_step: Callable[[loop.Record], None] | None = None,
    progress: bool = True,
) -> tuple[encoders.FrameEncoder, TemporalTransformer, list[str]]:
    """Minimise the cross-entropy of encoder and Transformer at once; nothing is frozen.

    Input and augmentation are `pre`'s, the Transformer is `train`'s, with AdamW. A step sees a
    window of each of `batch` clips, of which `frames` frames spread over it are encoded; the
    Transformer takes the others for padding. Without `encoder` it starts from the one that
    pre-training starts from; `encoder_lr` is the encoder's learning rate (None: `train.lr`);
    `on_step` is told each step's record.
    Returns encoder, Transformer (CPU, eval mode) and the actions in the order of its logits.
    """
    device = device or settings.device()
    settings.seed_everything(train.seed)
    encoder = encoder or encoders.build(pre.backbone, pre.stem, pre.init)
    labels = [str(c.action) for c in clips]
    actions = sorted(set(labels))
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
    warm = max(1, steps // 20)

    def step(i: int) -> loop.Record:
        rng = np.random.default_rng([train.seed, i])
        torch.manual_seed(int(rng.integers(2**62)))  # dropout
        decay = 0.5 * (1 + math.cos(math.pi * max(0, i - warm) / max(1, steps - warm)))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * min(1.0, (i + 1) / warm) * decay
        rows = rng.choice(len(clips), batch, len(clips) < batch)
        picked, at = [], []
        for row in rows:
            length = len(films.frames[row])
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
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        accuracy = (logits.argmax(1) == target[rows]).float().mean().item()
        return {"loss": loss.item(), "accuracy": accuracy}

    loop.run(
        "training end to end", steps, step, {"model": model}, "", on_step=on_step, progress=progress
    )
    return encoder.cpu().eval(), model.cpu().eval(), actions
