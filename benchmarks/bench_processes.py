"""What a large data set is reckoned from: processor seconds of one core for a clip of ten seconds,
and for a step of pre-training alone and in each of two processes that share it.

    python benchmarks/bench_processes.py [--small]

The clip is drawn, 340 x 256 pixels at 25 frames per second (VP8), a usual form of Kinetics.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timing
import torch

from vidlib import encoders, features, sampling, settings, studio, video

SECONDS, FPS, SIDES = 10, 25, (256, 340)
TRIES, STEPS = 7, 12
TRAIN = """
import statistics, sys, time
from vidlib import catalog, distributed, pretraining
from vidlib.settings import PretrainConfig
with distributed.processes("cpu"):
    config, at = PretrainConfig(steps=int(sys.argv[1])), []
    clips = [c for c in catalog.find_clips(source="studio") if c.split == "train"]
    pretraining.pretrain(clips, config, on_step=lambda r: at.append(time.process_time()),
                         progress=False)
    steps = [b - a for a, b in zip(at[2:], at[3:])]
    print(f"{statistics.median(steps):.2f} ({min(steps):.2f} to {max(steps):.2f})")
"""


def film() -> list[np.ndarray]:
    """Frames uint8 (256, 340, 3): blurred noise that drifts, and a square that crosses it."""
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.integers(0, 256, (400, 700, 3), np.uint8), (0, 0), 4)
    frames = []
    for k in range(SECONDS * FPS):
        frame = wall[20 : 20 + SIDES[0], k // 2 : k // 2 + SIDES[1]].copy()
        frame[100:180, k : k + 40] = 200, 30, 30
        frames.append(frame)
    return frames


def core_seconds(work: Callable[[], Any]) -> str:
    """Processor seconds of `work`: the median of TRIES, least and most."""
    taken = []
    for _ in range(TRIES):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return f"{np.median(taken):.3f} ({min(taken):.3f} to {max(taken):.3f})"


def steps(count: int) -> str:
    """Processor seconds of a step in the first of `count` processes of one thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(TRAIN)
        script.flush()
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(settings.REPO)}
        return subprocess.run(
            [sys.executable, *(torchrun if count > 1 else []), script.name, str(STEPS)],
            env=os.environ | threads, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip


def main() -> None:
    small = timing.arguments(__doc__).small
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cpu = torch.device("cpu")
    with timing.section("Processor seconds", ("torch", "opencv-python"), small) as page:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.webm"
            video.write_video(path, film(), FPS)
            precision = "bfloat16" if settings.has_fast_bfloat16(cpu) else "float32"
            page.say("Seconds of one core, median (range); the clip has ten seconds, "
                     f"{path.stat().st_size / 1e6:.2f} MB; steps in {precision}.")  # fmt: skip
            cache = sampling.FrameCache(Path(folder), background="follow")
            rows = [
                ["open, first frame", core_seconds(lambda: video.read_frames(path, max_frames=1))],
                ["decode and follow", core_seconds(lambda: cache._decode(path))],
            ]
            frames = cache.frames(path)
        for name in ("resnet8", "resnet18"):
            encoder = encoders.build(name).eval()
            x = core_seconds(lambda e=encoder: features.encode(e, frames, "follow", cpu))
            rows.append([f"encode by {name}, {len(frames)} frames of {frames.shape[1]} pixels", x])
        with tempfile.TemporaryDirectory() as folder:
            os.environ["VIDLIB_DATA"] = folder
            studio.make_dataset(profile=settings.profile("quick"), progress=False)
            for count in (1,) if small else (1, 2):
                rows.append([f"a step of 256 views in {count} process(es), each", steps(count)])
        page.say()
        page.table(("", "seconds"), rows)


if __name__ == "__main__":
    main()
