"""Everything that can go wrong under way: kill -9, full disks, folders that vanish or may not be
written to, two processes at once, odd names. Each ends in one clear error or in the right result,
and running again always in what an undisturbed run gives."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if sys.platform != "linux":  # elsewhere forks after `import torch` are not safe, or there are none
    pytest.skip("forks and limits as Linux has them", allow_module_level=True)

import faulting
import test_datasets
from conftest import rounds
from faulting import Told, attempt, kept
from vidlib import checkpoints, encoders, settings, video

KILLS = 35  # at random moments, in each of the six stages: 210 in all
server = test_datasets.server  # the fixture: a server on 127.0.0.1


@dataclass
class Right:
    """What an undisturbed run leaves, and how much it does."""

    home: Path
    files: dict[str, Any]
    steps: int
    seconds: float
    longest: int  # bytes of the longest file


@dataclass
class Bench:
    """The stages' inputs, and their undisturbed runs, each done once."""

    folder: Path
    done: dict[str, Right] = field(default_factory=dict)

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    def right(self, stage: str) -> Right:
        if stage not in self.done:
            home = self.folder / stage
            told = attempt(stage, home, self.inputs)
            assert told and told.code == 0, told
            longest = max(p.stat().st_size for p in home.rglob("*") if p.is_file())
            self.done[stage] = Right(home, kept(home), told.steps, told.seconds, longest)
        return self.done[stage]


def small_clips(folder: Path) -> None:
    """Six clips: three people, two actions."""
    rng = np.random.default_rng(0)
    for action in ("clapping", "waving"):
        for person in ("ann", "bob", "cyd"):
            frames = np.zeros((12, 48, 64, 3), np.uint8)
            frames[..., 2] = rng.integers(100, 200)
            for k, frame in enumerate(frames):
                left = 4 + 3 * k if action == "waving" else 20 + 10 * (k % 2)
                frame[10:30, left : left + 12] = rng.integers(0, 255, 3)
            video.write_video(folder / "train" / action / f"{person}_{action}.webm", frames, 12)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that everybody may enter: pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="vidlib-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def whole_bench(folder: Path, small_video: Path) -> Iterator[Bench]:
    bench = Bench(folder)
    small_clips(bench.inputs / "clips")
    torch.manual_seed(0)
    meta = {"key": "k", "sampling": faulting.SAMPLE, "config": {}, "history": []}
    checkpoints.save_encoder(bench.inputs / "encoder.pth", encoders.build(), meta)
    archives = bench.inputs / "archives"
    archives.mkdir()
    for name, content in test_datasets.weizmann_files(small_video.read_bytes()).items():
        (archives / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, faulting.forkserver():
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            patch.setenv(name, "1")
        here = os.pathsep.join([str(settings.REPO), str(settings.REPO / "tests")])
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        right = bench.right("train")
        weights = right.home / "weights" / settings.classifier_path().name
        shutil.copy(weights, bench.inputs / "classifier.pth")
        yield bench


@pytest.fixture
def bench(whole_bench: Bench, server: test_datasets.Served) -> Bench:
    for path in (whole_bench.inputs / "archives").iterdir():
        server.files[path.name] = path.read_bytes()
    (whole_bench.inputs / "address").write_text(server.url)
    return whole_bench


@pytest.fixture
def homes(folder: Path) -> Iterator[Callable[[], Path]]:
    """A function that names a new data folder."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        numbers = iter(range(10**6))
        yield lambda: Path(name, str(next(numbers)))


def check_whole(home: Path, right: Right, told: object = None) -> None:
    """No final name has anything but what an undisturbed run leaves there; unfinished runs have a
    piece of its history."""
    for name, content in kept(home).items():
        if name.endswith(".part"):
            finished = right.files[name.removesuffix(".part")]["history"]
            assert content["history"] == finished[: len(content["history"])], (name, told)
        else:
            assert content == right.files[name], (name, told)


def check_rerun(stage: str, home: Path, bench: Bench) -> None:
    told = attempt(stage, home, bench.inputs)
    assert told and told.code == 0, told
    left = kept(home)
    assert left == bench.right(stage).files, (left.keys(), told)


def check_refused(told: Told | None, *names: Path | str) -> None:
    """One line that names one of `names` and a remedy."""
    assert told and told.code == 2, told
    lines = [line for line in told.said.splitlines() if line.startswith("vidlib: ")]
    assert len(lines) == 1 and "Traceback" not in told.said, told.said
    assert any(str(name) in lines[0] for name in names), lines[0]
    assert re.search("free some|folder|check|space", lines[0].partition(": ")[2]), lines[0]
    assert "None" not in lines[0], lines[0]


def some(count: int, stage: str) -> list[int]:
    """Of so many numbers all in the long form, else a twentieth."""
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    return sorted(rng.choice(count, rounds(count), replace=False).tolist())


# -- kill -9 --


@pytest.mark.soak
@pytest.mark.parametrize("stage", faulting.STAGES)
def test_after_kill_9_the_same_command_ends_as_if_nothing_had_been(
    stage: str, bench: Bench, homes: Callable[[], Path], record_property: Callable[..., None]
) -> None:
    right = bench.right(stage)
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    # before each of its steps
    steps = some(right.steps, stage)
    for step in steps:
        home = homes()
        assert attempt(stage, home, bench.inputs, die=step) is None
        check_whole(home, right, step)
        check_rerun(stage, home, bench)
        shutil.rmtree(home)
    # within a write, however much of it is on the disk then
    for _ in range(rounds(20)):
        home = homes()
        most = int(rng.integers(right.longest))
        assert attempt(stage, home, bench.inputs, cut=most) is None
        check_whole(home, right, most)
        check_rerun(stage, home, bench)
        shutil.rmtree(home)
    # at random moments, again and again until it happens to end
    kills, home = 0, homes()
    while kills < rounds(KILLS):
        after = float(rng.uniform(0, right.seconds + 0.05))  # about what a fork takes
        told = attempt(stage, home, bench.inputs, after=after)
        check_whole(home, right, after)
        kills += told is None
        if told:
            assert told.code == 0 and kept(home) == right.files, told
            shutil.rmtree(home)
            home = homes()
    check_rerun(stage, home, bench)
    print(f"{stage}: {len(steps)} kills at steps, {rounds(20)} in writes, {kills} at random")
