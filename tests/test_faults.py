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
from dataclasses import dataclass, field, replace
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
from vidlib import checkpoints, encoders, loop, settings, studio, video

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
    longer = small_video.read_bytes() + bytes(20_000)  # than its archive: it is cut in unpacking
    for name, content in test_datasets.weizmann_files(longer).items():
        (archives / name).write_bytes(content)
    faulting.prepare()
    with pytest.MonkeyPatch.context() as patch:
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
    assert re.search("free some|folder|check|space|wait for it", lines[0].partition(": ")[2]), (
        lines[0]
    )
    assert "None" not in lines[0], lines[0]


def some(count: int, stage: str, most: int = 10**6) -> list[int]:
    """Of so many numbers all in the long form, but not over `most` of them; else a twentieth."""
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    return sorted(rng.choice(count, rounds(min(count, most)), replace=False).tolist())


def trials(
    troubles: list[dict[str, int]], stage: str, bench: Bench, homes: Callable[[], Path]
) -> Iterator[tuple[dict[str, int], Path, Told | None]]:
    """Let each trouble come in a new data folder, hand out what became of it, and run again."""
    for trouble in troubles:
        home = homes()
        told = attempt(stage, home, bench.inputs, **trouble)
        check_whole(home, bench.right(stage), trouble)
        yield trouble, home, told
        check_rerun(stage, home, bench)
        shutil.rmtree(home)


# -- kill -9 --


@pytest.mark.soak
@pytest.mark.parametrize("stage", faulting.STAGES)
def test_after_kill_9_the_same_command_ends_as_if_nothing_had_been(
    stage: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    right = bench.right(stage)
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    # before each of its steps; within a write, however much of it is on the disk then
    steps = some(right.steps, stage)
    troubles = [{"die": step} for step in steps]
    troubles += [{"cut": int(rng.integers(right.longest))} for _ in range(rounds(10))]
    for trouble, _, told in trials(troubles, stage, bench, homes):
        assert told is None, (trouble, told)
    # at random moments, again and again until it happens to end
    kills, home = 0, homes()
    while kills < rounds(KILLS):
        after = float(rng.uniform(0, right.seconds + 0.05))  # about what a fork takes
        told = attempt(stage, home, bench.inputs, after=after)
        check_whole(home, right, after)
        kills += told is None
        if told:  # it was done before
            assert told.code == 0 and kept(home) == right.files, told
            shutil.rmtree(home)
            home = homes()
    check_rerun(stage, home, bench)
    print(f"{stage}: {len(steps)} kills at steps, {rounds(10)} in writes, {kills} at random")


def test_what_a_run_left_that_was_killed_when_it_had_ended_goes(tmp_path: Path) -> None:
    """Killed between the writing of its weights and the removal of what it went on from."""
    out, part = tmp_path / "out.pth", tmp_path / "out.pth.part"
    checkpoints.save(out, {"kind": "a run", "key": "one"})
    for key in ("one", "two"):
        checkpoints.save(part, {"kind": "unfinished run", "key": key})
        assert loop.finished(out, "one") and not loop.finished(out, "two")
        assert part.exists() == (key == "two")  # another run's is not its to remove


# -- disks that are full, folders that vanish or are closed --


@pytest.mark.soak
@pytest.mark.parametrize("stage", faulting.STAGES)
def test_a_full_disk_is_one_line_and_nothing_half_written_stays(
    stage: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    """No space for a new file from some step on; then files that cannot grow over some size, so
    that writes fall short, OpenCV's and torch's among them."""
    right = bench.right(stage)
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    troubles = [{"full": step} for step in some(right.steps, stage, 20)]
    troubles += [{"limit": int(rng.integers(right.longest))} for _ in range(rounds(10))]
    refused = 0
    for trouble, home, told in trials(troubles, stage, bench, homes):
        if told and told.code == 0:  # the last steps only tidy up
            assert kept(home) == right.files, trouble
        else:
            check_refused(told, home)
            refused += 1
        hidden = [p for p in home.rglob(".*") if p.is_file()] if stage != "download" else []
        assert not hidden, (trouble, hidden)
    assert refused > len(troubles) / 2


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_full_disk_leaves_the_earlier_weights(
    stage: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    home, right = homes(), bench.right(stage)
    shutil.copytree(right.home, home)
    shutil.rmtree(home / "cache")
    told = attempt(stage, home, bench.inputs, "--seed=1", limit=right.longest - 1000)
    check_refused(told, home)
    (name,) = [name for name in right.files if name.startswith("weights/")]
    assert kept(home)[name] == right.files[name]


@pytest.mark.parametrize("stage", ["draw", "pretrain", "download"])
def test_a_disk_that_is_really_full(stage: str, bench: Bench, homes: Callable[[], Path]) -> None:
    right, home = bench.right(stage), homes()
    home.mkdir()
    size = sum(p.stat().st_size for p in right.home.rglob("*") if p.is_file())
    mount = ["mount", "-t", "tmpfs", "-o"]
    made = subprocess.run([*mount, f"size={size // 2}", "vidlib", home], capture_output=True)
    if made.returncode:
        pytest.skip("a small disk can be made by root alone")
    try:
        check_refused(attempt(stage, home, bench.inputs), home)
        check_whole(home, right)
        subprocess.run([*mount, "remount,size=1g", "vidlib", home], check=True)
        check_rerun(stage, home, bench)
    finally:
        subprocess.run(["umount", home], check=True)


@pytest.mark.soak
@pytest.mark.parametrize("stage", faulting.STAGES)
def test_a_data_folder_that_vanishes_is_one_line_or_is_made_again(
    stage: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    troubles = [{"remove": step} for step in some(bench.right(stage).steps, stage, 20)]
    for _, home, told in trials(troubles, stage, bench, homes):
        if told is None or told.code:
            check_refused(told, home)


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["decode", "pretrain", "extract", "train"])
def test_clips_that_vanish_are_one_line_or_no_longer_needed(
    stage: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    for step in some(20, stage):
        home, inputs = homes(), homes()
        shutil.copytree(bench.inputs, inputs)
        told = attempt(stage, home, inputs, remove=step, victim=inputs / "clips")
        if told is None or told.code:
            check_refused(told, home, inputs / "clips")
        check_rerun(stage, home, bench)
        shutil.rmtree(home)


@pytest.fixture
def closed() -> Iterator[Callable[[Path], None]]:
    """A function that takes all rights to write below a folder away."""
    shut: list[Path] = []

    def close(folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        shut.append(folder)

    yield close
    for folder in shut:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("stage", [*faulting.STAGES, "embed"])
def test_a_read_only_folder_is_one_line(
    stage: str, bench: Bench, homes: Callable[[], Path], closed: Callable[[Path], None]
) -> None:
    home = homes()
    home.mkdir()
    closed(home)
    check_refused(attempt(stage, home, bench.inputs, nobody=True), home)
    assert not list(home.iterdir())


@pytest.mark.parametrize("stage", [*faulting.STAGES, "predict", "inspect_clips"])
def test_what_is_done_is_of_use_in_a_read_only_folder(
    stage: str, bench: Bench, homes: Callable[[], Path], closed: Callable[[Path], None]
) -> None:
    home = homes()
    if stage in faulting.STAGES:
        shutil.copytree(bench.right(stage).home, home)
    else:
        home.mkdir()
    closed(home)
    told = attempt(stage, home, bench.inputs, nobody=True)
    assert told and told.code == 0 and told.steps == 0, told


# -- two at once --


@pytest.mark.soak
@pytest.mark.parametrize("stage", faulting.STAGES)
def test_two_at_once_end_alike(stage: str, bench: Bench, homes: Callable[[], Path]) -> None:
    right = bench.right(stage)
    rng = np.random.default_rng(zlib.crc32(stage.encode()))
    for number in range(rounds(20)):
        home = homes()
        one = faulting.start(stage, home, bench.inputs)
        one[0].join(float(rng.uniform(0, right.seconds)) if number % 2 else 0)
        two = faulting.start(stage, home, bench.inputs)
        told = [faulting.end(*run) for run in (one, two)]
        for each in told:
            if stage == "download" and each and each.code == 2:
                check_refused(each, f"{home}/sets/weizmann/.download: another process")
            else:
                assert each and each.code == 0, each
        assert any(each and each.code == 0 for each in told)
        assert kept(home) == right.files
        shutil.rmtree(home)


def test_clips_that_another_process_has_just_drawn_are_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began after this one had looked for what is there, and has not written its table yet."""
    small = {"people_train": 1, "people_val": 1, "takes_train": 1}
    look = replace(settings.profile("quick"), **small, draw_size=32, draw_seconds=0.25)
    draw = partial(studio.make_dataset, tmp_path, look, workers=1, progress=False)
    table = draw()
    right = kept(tmp_path)
    table.unlink()
    remembered, once = studio._remembered, [{}]
    monkeypatch.setattr(studio, "_remembered", lambda path: (once or [remembered(path)]).pop())
    draw()
    assert kept(tmp_path) == right


def test_an_unfinished_run_that_another_process_ends_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file goes between the look at its key and the reading."""
    model, out = torch.nn.Linear(1, 1), tmp_path / "out.pth"
    run = partial(loop.run, "a run", 3, lambda i: {"loss": float(i)}, {"model": model}, "key", out)
    with pytest.raises(loop.Interrupted):
        run(stop_at=1, progress=False)

    def key(path: Path) -> str:
        path.unlink()
        return "key"

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "stored_key", key)
        assert [record["step"] for record in run(progress=False)] == [1, 2, 3]


# -- names --

ODD = {
    "spaces": " a  b ",
    "accents": "été",
    "far": "日本 العربية",
    "emoji": "🎬👩‍🎤",
    "long": "x" * 250,
    "deep": "/".join(["y" * 200] * 5),
    "quotes": 'it\'s "50%" {a} [b]*?',
    "dash": "-rf",
    "newline": "a\nb",
}


@pytest.mark.soak
@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_folders_change_nothing(
    name: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    stages = sorted(faulting.STAGES)
    turn = [*ODD].index(name) % len(stages)
    for stage in stages if rounds(20) > 1 else [stages[turn]]:
        home, inputs = homes() / ODD[name] / "data", homes() / ODD[name]
        shutil.copytree(bench.inputs, inputs)
        told = attempt(stage, home, inputs)
        assert told and told.code == 0, told
        assert kept(home) == bench.right(stage).files


def test_odd_names_of_clips_change_nothing(bench: Bench, homes: Callable[[], Path]) -> None:
    inputs = homes()
    shutil.copytree(bench.inputs, inputs)
    files = sorted((inputs / "clips").rglob("*.webm"))
    names = [ODD["spaces"] + ODD["dash"], ODD["accents"], ODD["far"] + ODD["emoji"], ODD["long"],
             ODD["quotes"], ODD["newline"]]  # fmt: skip
    for path, name in zip(files, names, strict=True):
        path.rename(path.with_name(f"{path.stem}_{name}"[:240] + path.suffix))
    for stage in ("pretrain", "train"):
        home = homes()
        told = attempt(stage, home, inputs)
        assert told and told.code == 0, told
        assert kept(home) == bench.right(stage).files
    out = homes() / f"{'w' * 246}.pth"  # and .part, which makes 255, the most that there is
    told = attempt("pretrain", homes(), inputs, f"--out={out}")
    assert told and told.code == 0 and out.is_file(), told
    video.write_video(out.with_suffix(".webm"), np.zeros((2, 16, 16, 3), np.uint8), 12)
    told = attempt("predict", homes(), inputs, "--json")
    assert told and told.code == 0 and told.said.count('"path"') == len(files), told


@pytest.mark.parametrize("place", ["home", "clips", "out"])
@pytest.mark.parametrize("name", ["component", "path"])
def test_names_that_no_disk_takes_are_one_line(
    name: str, place: str, bench: Bench, homes: Callable[[], Path]
) -> None:
    odd = {"component": "x" * 300, "path": "/".join(["y" * 200] * 25)}[name]
    home, more = homes(), []
    if place == "home":
        home = home / odd
    else:
        more = [f"--{'data' if place == 'clips' else 'out'}={homes() / odd}"]
    check_refused(attempt("pretrain", home, bench.inputs, *more), odd)


def test_loops_of_links_and_hidden_parts_are_passed_over(
    bench: Bench, homes: Callable[[], Path]
) -> None:
    """Links as folders, as films, and as the folders that are named."""
    inputs = homes()
    shutil.copytree(bench.inputs, inputs)
    clips = inputs / "clips"
    for link, target in [
        ("train/waving/up", clips), ("loop", clips / "loop"), ("train/again", clips / "train"),
        ("train/waving/self.webm", clips / "train" / "waving" / "self.webm"),
        ("train/waving/gone.webm", clips / "nowhere.webm"),
    ]:  # fmt: skip
        (clips / link).symlink_to(target)
    (clips / "train" / "waving" / ".part.webm").write_bytes(b"half a film")
    for stage in ("pretrain", "train"):
        home = homes()
        told = attempt(stage, home, inputs)
        assert told and told.code == 0 and told.said.count("skipped: ") == 2, told
        assert "self.webm" in told.said and "gone.webm" in told.said
        assert kept(home) == bench.right(stage).files
    told = attempt("predict", homes(), inputs)
    assert told and told.code == 2, told
    assert told.said.count("vidlib: ") == 2 and told.said.count("_waving.webm: ") == 3
    for more in ([f"--data={clips / 'loop'}"], [f"--out={clips / 'loop' / 'e.pth'}"]):
        check_refused(attempt("pretrain", homes(), inputs, *more), clips / "loop")
    home = homes()
    home.symlink_to(home)
    for stage in faulting.STAGES:
        check_refused(attempt(stage, home, inputs), home)
