"""VideoMAE's forward and training step against `transformers`' with the same weights.

    python benchmarks/bench_videomae.py [--small] [--only small base memory compiled]

`transformers`' model with its plain ("eager") and its default attention ("sdpa"); both sides also
through torch.compile. A training step is forward, backward and AdamW. Peak memory is what a fresh
process holds at most while it does it twice, above what it held before.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import timing
import torch
import transformers
from torch import nn

from vidlib import published
from vidlib.tubelets import CONFIGS, Config, tube_mask
from vidlib.videomae import Classifier, Pretrainer

CLASSES = tuple(f"action {i}" for i in range(8))
TASKS = ("classify", "fine-tuning step", "pre-training step")
WHO = ("ours", "eager", "sdpa")
PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def theirs(c: Config, task: str, attention: str) -> nn.Module:
    config = transformers.VideoMAEConfig(
        image_size=c.size, patch_size=c.patch, num_frames=c.frames, tubelet_size=c.tubelet,
        hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads,
        intermediate_size=c.hidden, decoder_hidden_size=c.decoder_width,
        decoder_num_hidden_layers=c.decoder_depth, decoder_num_attention_heads=c.decoder_heads,
        decoder_intermediate_size=c.decoder_hidden, use_mean_pooling=True,
        num_labels=len(CLASSES), attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    kind = "VideoMAEForPreTraining" if task.startswith("pre") else "VideoMAEForVideoClassification"
    return getattr(transformers, kind)(config)


def model(c: Config, task: str, who: str, same: bool = True) -> nn.Module:
    """Both sides with the same weights: `transformers`' own beginning. Not the `same`: ours
    alone, since memory that theirs has left behind would serve it."""
    kind = Pretrainer if task.startswith("pre") else Classifier
    if who == "ours" and not same:
        return kind(replace(c, classes=CLASSES, mean_pool=True))
    their = theirs(c, task, who if who != "ours" else "sdpa")
    if who != "ours":
        return their
    about = published.shape(their.config.to_dict(), "theirs")
    own = kind(Config(**about | {"classes": CLASSES}))
    state = published.from_transformers(their.state_dict())
    own.load_state_dict(published.fitting(own, state, "theirs"))
    return own


def work(
    c: Config,
    task: str,
    who: str,
    batch: int,
    precision: str,
    compiled: bool = False,
    same: bool = True,
) -> Callable[[], torch.Tensor]:
    """One forward (its logits) or one training step (its loss)."""
    net = model(c, task, who, same).train(task != "classify")
    run = torch.compile(net) if compiled else net
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, c.frames, 3, c.size, c.size, generator=generator)
    mask = tube_mask(batch, c.slices, c.patches, 0.9, generator)
    target = torch.arange(batch) % len(CLASSES)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-5)
    cast = torch.autocast("cpu", PRECISION[precision], enabled=precision != "float32")

    def forward() -> Any:
        out = run(x)
        return out if who == "ours" else out.logits

    def loss() -> torch.Tensor:
        if task.startswith("fine"):
            return nn.functional.cross_entropy(forward().float(), target)
        return run(x, mask)[0] if who == "ours" else run(x, bool_masked_pos=mask).loss

    def step() -> torch.Tensor:
        with cast:
            value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        return value.detach()

    @torch.inference_mode()
    def look() -> torch.Tensor:
        with cast:
            return forward()

    return look if task == "classify" else step


def bytes_at_most(shape: str, task: str, who: str, batch: str, precision: str) -> None:
    """In a process of its own."""
    call = work(CONFIGS[shape], task, who, int(batch), precision, same=False)
    before = timing.held()
    call()
    call()
    print(json.dumps(timing.peak() - before))


def cases(shape: str, small: bool) -> Iterator[tuple[str, str, int]]:
    """Task, precision and clips in a batch of what is measured of a shape."""
    for task in TASKS if shape == "small" and not small else (TASKS[0], TASKS[-1]):
        for precision in list(PRECISION)[: 1 if small else None]:
            yield task, precision, 4 if shape == "small" and not small else 1


def seconds(page: timing.Section, shape: str, small: bool) -> None:
    """A forward and the training steps of a shape, in both precisions."""
    c, rows = CONFIGS[shape], []
    for task, precision, batch in cases(shape, small):
        what = [f"{task}, {batch} clip{'s' * (batch > 1)}", precision]
        ways = {who: work(c, task, who, batch, precision) for who in WHO}
        first = {who: call() for who, call in ways.items()}
        near = 1e-3 if precision == "float32" else 0.1
        for who in WHO:
            torch.testing.assert_close(
                first[who].float(), first["ours"].float(), atol=near, rtol=near
            )
        took = timing.in_turn(ways, 1 if small else 7)
        rows.append([*what, *(timing.brief(took[who]) for who in WHO),
                         timing.ratio(took["eager"], took["ours"]),
                         timing.ratio(took["sdpa"], took["ours"])])  # fmt: skip
        print(*rows[-1], sep=" | ", flush=True)
        del ways
    print()
    page.table(("", "precision", "ours", "theirs, eager", "theirs, sdpa (their default)",
                "over eager (range)", "over sdpa (range)"), rows)  # fmt: skip


def memory(page: timing.Section, small: bool) -> None:
    """The most that a process holds above what it held before, doing it twice."""
    rows = []
    for shape in ("small",) if small else ("small", "base"):
        for task, precision, batch in cases(shape, small):
            most = [
                timing.fresh(Path(__file__), "--peak", shape, task, who, str(batch), precision)
                for who in WHO
            ]
            rows.append([f"{shape}, {task}, {batch} clip{'s' * (batch > 1)}", precision,
                         *(f"{m / 2**20:,.0f} MiB" for m in most),
                         f"{most[0] / most[1]:.2f}", f"{most[0] / most[2]:.2f}"])  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    print()
    page.say("Peak memory above the start, and ours in parts of theirs (under 1: less):")
    page.say()
    page.table(("", "precision", "ours", "theirs, eager", "theirs, sdpa", "of eager's",
                "of sdpa's"), rows)  # fmt: skip


def compiled(page: timing.Section, batch: int, rounds: int) -> None:
    """The same through torch.compile, in float32."""
    c, rows = CONFIGS["small"], []
    for task in (TASKS[0], TASKS[-1]):
        ways, first = {}, {}
        for who in ("ours", "sdpa"):
            ways[f"{who} plain"] = work(c, task, who, batch, "float32")
            ways[f"{who} compiled"] = work(c, task, who, batch, "float32", True)
            began = time.perf_counter()
            ways[f"{who} compiled"]()
            first[who] = time.perf_counter() - began
        took = timing.in_turn(ways, rounds)
        rows.append([f"{task}, {batch} clips", *(timing.brief(t) for t in took.values()),
                     *(f"{first[who]:.0f} s" for who in first),
                     timing.ratio(took["sdpa compiled"], took["ours compiled"])])  # fmt: skip
        torch._dynamo.reset()
    page.say("Also the seconds until the first compiled call is done:")
    page.say()
    page.table(("", "ours", "ours compiled", "theirs, sdpa", "theirs compiled", "ours first",
                "theirs first", "compiled over compiled (range)"), rows)  # fmt: skip


ABOUT = {
    "small": "The course's shape (32 pixels, 16 frames, 128 tokens, width 128, 4 blocks). ",
    "base": "The published shape (224 pixels, 1,568 tokens, width 768, 12 blocks). ",
}


def main() -> None:
    asked = timing.arguments(__doc__, ("small", "base", "memory", "compiled"))
    for part in asked.only:
        if asked.small and part in ("base", "compiled"):
            continue
        with timing.section(f"VideoMAE, {part}", ("torch", "transformers"), asked.small) as page:
            if part == "compiled":
                compiled(page, 4, 7)
            elif part == "memory":
                memory(page, asked.small)
            else:
                page.say(ABOUT[part] + "Both sides have the same weights; logits and losses were "
                         "compared before the clock ran.")  # fmt: skip
                page.say()
                seconds(page, part, asked.small)


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--peak"]:
        bytes_at_most(*sys.argv[2:])
    else:
        main()
