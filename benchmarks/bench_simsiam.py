"""A training step of SimSiam, data and all, in views per second: against lightly's SimSiam with its
own transforms, and against ours in plain float32 with torchvision's transforms a sample.

    pip install lightly        # else its rows are left out
    python benchmarks/bench_simsiam.py [--small]

All train the same encoder (the course's resnet8, heads of the same sizes) on the same cached frames
of 64 pixels, 128 frames or 256 views in a step, with SGD, on two cores; the others fetch through a
DataLoader with two workers, as they are meant to. "The same task": every frame a sample of its own,
with the paper's views (crop, flip, colour, grey, blur) and the frames' loss alone. "By default":
what each does without being told: ours the course's recipe in bfloat16 where the processor has it,
lightly's its transforms in float32. A round is an epoch of some steps from its first batch's
fetching on.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timing
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from vidlib import augment, catalog, encoders, pretraining, settings, studio
from vidlib.settings import PretrainConfig
from vidlib.simsiam import SimSiam

CPU = torch.device("cpu")
SIZE, BATCH, HIDDEN, BOTTLENECK = 64, 128, 512, 128
# a frame a sample, as lightly has it
PLAIN = PretrainConfig(batch_clips=BATCH, frames_per_clip=1, background="none", center=False,
                       clip_loss=0.0, recipe="paper")  # fmt: skip
DEFAULT = PretrainConfig()
MEAN, STD = [encoders.PIXEL_MEAN] * 3, [encoders.PIXEL_STD] * 3


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Two views of a frame. `transform` is given a PIL picture and gives both."""

    def __init__(self, frames: np.ndarray, transform: Callable[[Any], Any]) -> None:
        self.frames, self.transform = frames, transform

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        first, second = self.transform(Image.fromarray(self.frames[i]))
        return first, second


class Twice:
    """torchvision's transforms of the same recipe, twice."""

    def __init__(self) -> None:
        recipe = augment.RECIPES["paper"]
        low, high = (s * SIZE / augment.BLUR_SIZE for s in recipe.sigma)
        self.view = v2.Compose([
            v2.ToImage(),
            v2.RandomResizedCrop(SIZE, recipe.crop, recipe.ratio, antialias=True),
            v2.RandomHorizontalFlip(recipe.flip),
            v2.RandomApply([v2.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation,
                                           recipe.hue)], recipe.jitter),
            v2.RandomGrayscale(recipe.grey),
            v2.RandomApply([v2.GaussianBlur(5, (low, high))], recipe.blur),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        return self.view(picture), self.view(picture)


class Lightly(nn.Module):
    """As lightly's documentation writes SimSiam."""

    def __init__(self, encoder: encoders.FrameEncoder) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

        self.backbone = encoder
        self.projection_head = SimSiamProjectionHead(encoder.dim, HIDDEN, HIDDEN)
        self.prediction_head = SimSiamPredictionHead(HIDDEN, BOTTLENECK, HIDDEN)
        self.criterion = NegativeCosineSimilarity()

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projection_head(self.backbone(x).flatten(start_dim=1))
        return z.detach(), self.prediction_head(z)

    def forward(self, x0: Tensor, x1: Tensor) -> Tensor:
        (z0, p0), (z1, p1) = self.embed(x0), self.embed(x1)
        return 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))


class Ours(nn.Module):
    """Our model, giving its loss alone."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        encoder = encoders.build("resnet8")
        self.model = SimSiam(encoder, encoder.dim, config.center, config.clip_loss,
                             hidden=HIDDEN, bottleneck=BOTTLENECK)  # fmt: skip

    def forward(self, view1: Tensor, view2: Tensor) -> Tensor:
        return self.model(view1, view2)[0]


def batches(clips: list[catalog.Clip], config: PretrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Our views, as `pretraining.pretrain` makes them."""
    frames = pretraining.Frames(clips, config)
    for step in itertools.count():
        *pair, rng = frames.batch(step)
        view1, view2 = (
            encoders.normalise(pretraining.random_view(x, config, rng), config.background)
            for x in pair
        )
        yield view1, view2


def epoch(
    model: nn.Module, steps: int, fetch: Callable[[], Iterator[Any]], bfloat16: bool
) -> Callable[[], float]:
    """Train some steps; the mean seconds of one."""
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)

    def run() -> Any:
        for pair in itertools.islice(fetch(), steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = model(*pair)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if not np.isfinite(loss.item()):
                raise RuntimeError("the loss is not finite")

    return run


def main() -> None:
    small = timing.arguments(__doc__).small
    steps, rounds = (1, 1) if small else (6, 7)
    fast = settings.has_fast_bfloat16(CPU)
    packages = ("torch", "torchvision", "lightly")
    with (
        tempfile.TemporaryDirectory() as folder,
        timing.section("SimSiam, a training step", packages, small) as page,
    ):
        os.environ["VIDLIB_DATA"] = folder
        studio.make_dataset(profile=settings.profile("quick"), progress=False)
        clips = [c for c in catalog.find_clips(source="studio") if c.split == "train"]
        cache = pretraining.Frames(clips, PLAIN).cache
        pool = np.concatenate([cache.frames(c.path) for c in clips])
        pool = pool[np.random.default_rng(0).permutation(len(pool))[: steps * BATCH]]

        def loader(transform: Callable[[Any], Any]) -> Callable[[], Iterator[Any]]:
            made = DataLoader(
                Pairs(pool, transform), BATCH, shuffle=True, drop_last=True, num_workers=2,
                persistent_workers=True,
            )  # fmt: skip
            return made.__iter__

        def ours(config: PretrainConfig, bfloat16: bool) -> Callable[[], float]:
            stream = batches(clips, config)
            model = Ours(config).to(memory_format=torch.channels_last)
            return epoch(model, steps, lambda: stream, bfloat16)

        def plain() -> Callable[[], float]:
            """Ours in float32, its views made a sample at a time by torchvision."""
            model, fetch = Ours(PLAIN), loader(Twice())
            frame_a_clip = lambda: ((a[:, None], b[:, None]) for a, b in fetch())  # noqa: E731
            return epoch(model, steps, frame_a_clip, False)

        ways = {"ours, the same task, float32": ours(PLAIN, False)}
        if fast:
            ways["ours, the same task, bfloat16"] = ours(PLAIN, True)
        ways["ours by default"] = ours(DEFAULT, fast)
        ways["ours, float32, torchvision's transforms a sample"] = plain()
        if timing.has("lightly", "lightning_utilities"):
            with contextlib.redirect_stdout(None):
                from lightly.transforms import SimSiamTransform

            transform = SimSiamTransform(input_size=SIZE)
            for name, bfloat16 in (("float32", False), ("bfloat16", True)):
                if fast or not bfloat16:
                    model = Lightly(encoders.build("resnet8"))
                    ways[f"lightly, {name}"] = epoch(model, steps, loader(transform), bfloat16)
        else:
            page.say("lightly is not installed (pip install lightly): its rows are left out.\n")
        took = timing.in_turn(ways, rounds)
        views = 2 * BATCH * steps
        page.table(("", "views/s", "range"),
                   [[name, f"{views / timing.median(t):.0f}",
                     f"{views / max(t):.0f} to {views / min(t):.0f}"]
                    for name, t in took.items()])  # fmt: skip
        pairs = [
            ("ours, the same task, float32", "lightly, float32", "at least 1.2 x"),
            ("ours, the same task, bfloat16", "lightly, bfloat16", "at least 1.2 x"),
            ("ours by default", "lightly, float32", "2 x"),
            ("ours by default", "ours, float32, torchvision's transforms a sample", ""),
        ]
        page.table(("ours", "against", "ratio (range)", "aim"),
                   [[a, b, timing.ratio(took[b], took[a]), aim]
                    for a, b, aim in pairs if {a, b} <= took.keys()])  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
