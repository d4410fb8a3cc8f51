"""Stages of the course, each in a process of its own in which something goes wrong: test_faults.py.

The process is forked from one that has imported everything (multiprocessing's forkserver), so that
hundreds of them cost no more than their work. What goes wrong does so at the k-th *step*: a call
that is about to change the data folder. Python's audit events tell of them before they happen.
"""

import contextlib
import errno
import hashlib
import inspect
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import torch

from vidlib import (
    checkpoints,
    cli,
    datasets,
    endtoend,
    evaluation,
    features,
    fetching,
    figures,
    loop,
    sampling,
    settings,
    studio,
)
from vidlib.catalog import find_clips
from vidlib.fetching import Archive
from vidlib.settings import UserError

# what commands import when they need it, and torch with its first optimiser
LATE = (endtoend, evaluation, figures, studio, fetching.libraries())
torch.optim.SGD([torch.zeros(1)], 0.1)
PATIENCE = 60.0  # seconds for a stage that takes one at most
NOBODY = 65534  # a user without rights
SAMPLE = {"size": 32, "fps": 12.0, "background": "follow"}
CPU = "--device=cpu"

# -- stages: (inputs, more arguments) -> exit code; they write below $VIDLIB_DATA --


def draw(inputs: Path, *more: str) -> int:
    look = {"draw_size": 32, "draw_seconds": 0.25, "people_train": 1, "people_val": 1}
    quick = replace(settings.PROFILES["quick"], **look, takes_train=1)
    settings.PROFILES["quick"] = quick
    return cli.main(["studio", "--workers=1", *more])


def decode(inputs: Path, *more: str) -> int:
    clips = find_clips(inputs / "clips")
    sampling.FrameCache(**SAMPLE).build([c.path for c in clips], progress=False)
    return 0


def pretrain(inputs: Path, *more: str) -> int:
    small = ["--steps=4", "--batch-clips=2", "--size=32", "--hidden=16", "--bottleneck=8"]
    return cli.main(["pretrain", f"--data={inputs / 'clips'}", CPU, *small, *more])


def extract(inputs: Path, *more: str) -> int:
    encoder, _ = checkpoints.load_encoder(inputs / "encoder.pth")
    clips = find_clips(inputs / "clips")
    features.extract_features(encoder, clips, SAMPLE, torch.device("cpu"), progress=False)
    return 0


def train(inputs: Path, *more: str) -> int:
    small = ["--steps=4", "--width=8", "--depth=1", "--heads=2", "--window=8", "--batch=4"]
    where = [f"--data={inputs / 'clips'}", f"--encoder={inputs / 'encoder.pth'}"]
    return cli.main(["train", *where, CPU, *small, *more])


def download(inputs: Path, *more: str) -> int:
    """Two archives from a server that has the files of inputs/archives; its address lies there,
    too."""
    known = datasets.SETS["weizmann"]
    url, files = (inputs / "address").read_text(), inputs / "archives"
    archives = []
    for each in known.archives[:2]:
        content = (files / each.name).read_bytes()
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        archives.append(Archive(f"{url}/{each.name}", len(content), checksum, each.folder))
    size = sum(a.size or 0 for a in archives)
    datasets.SETS["weizmann"] = replace(
        known, clips=4, archives=tuple(archives), download_bytes=size, unpacked_bytes=10 * size
    )
    fetching.WAIT, fetching.BLOCK = 0.0, 512
    return cli.main(["download", "weizmann", *more])


def embed(inputs: Path, *more: str) -> int:
    where = [f"--data={inputs / 'clips'}", f"--encoder={inputs / 'encoder.pth'}"]
    return cli.main(["embed", *where, CPU, *more])


def predict(inputs: Path, *more: str) -> int:
    """All clips, by the weights among the inputs."""
    weights = [f"--encoder={inputs / 'encoder.pth'}", f"--classifier={inputs / 'classifier.pth'}"]
    return cli.main(["predict", str(inputs / "clips"), *weights, CPU, *more])


def inspect_clips(inputs: Path, *more: str) -> int:
    return cli.main(["inspect", f"--data={inputs / 'clips'}", *more])


STAGES: dict[str, Callable[..., int]] = {
    s.__name__: s for s in (draw, decode, pretrain, extract, train, download)
}
COMMANDS = STAGES | {s.__name__: s for s in (embed, predict, inspect_clips)}


# -- what goes wrong --


@dataclass(frozen=True)
class Trouble:
    """At most one thing. Steps are counted from 0."""

    die: int | None = None  # kill -9 before this step
    cut: int | None = None  # the kernel kills it in the write that makes a file longer than this
    limit: int | None = None  # that write fails, as on a full disk
    full: int | None = None  # from this step on, nothing new can be made
    remove: int | None = None  # before this step the folder `victim` is deleted
    victim: Path | None = None
    nobody: bool = False  # without root's rights, where it has them


def _step(event: str, args: tuple[Any, ...], home: Path) -> bool:
    """Whether an audit event tells of a step."""
    if event == "open" and isinstance(args[0], str | Path):
        changes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    elif event in ("os.rename", "os.remove", "os.rmdir"):
        changes = os.path.lexists(args[0])
    else:
        changes = event == "os.mkdir" and not os.path.lexists(args[0])
    return changes and str(args[0]).startswith(f"{home}")


def _watch(trouble: Trouble, home: Path) -> list[int]:
    """Count the steps, in the list's one number, and let the trouble come."""
    count, busy = [0], False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy or not event.startswith(("open", "os.")) or not _step(event, args, home):
            return
        if count[0] == trouble.die:
            os.kill(os.getpid(), signal.SIGKILL)
        if count[0] == trouble.remove:
            busy = True
            shutil.rmtree(trouble.victim or home, ignore_errors=True)
            busy = False
        new = event == "os.mkdir" or (event == "open" and args[2] & os.O_CREAT)
        count[0] += 1
        if trouble.full is not None and count[0] > trouble.full and new:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

    sys.addaudithook(hook)
    return count


@dataclass
class Told:
    """What became of a process that was not killed."""

    code: int | None  # None: an exception got through
    said: str  # on both outputs
    steps: int
    seconds: float


def _save_always(run: Callable[..., Any]) -> Callable[..., Any]:
    """`loop.run`, which saves after every step."""

    def saving(*args: Any, **options: Any) -> Any:
        given = inspect.signature(run).bind(*args, **options).arguments
        return run(**given | {"save_every": 0.0})

    return saving


def run(pipe: Connection, stage: str, home: Path, inputs: Path, more: list[str], trouble: Trouble):
    """The process: one stage, whose data folder is `home`."""
    os.environ.update(VIDLIB_DATA=str(home), VIDLIB_PROFILE="quick", VIDLIB_PRECISION="float32")
    for name in [n for n in os.environ if n.startswith("VIDLIB_MIRROR")]:
        del os.environ[name]
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    loop.run = _save_always(loop.run)
    if trouble.nobody and os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    most = trouble.cut if trouble.cut is not None else trouble.limit
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if trouble.limit is None else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    steps, said, began = _watch(trouble, home), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = COMMANDS[stage](inputs, *more)
        except UserError as error:  # of the stages that no command does alone
            print(f"vidlib: {error}")
            code = 2
        except BaseException:
            traceback.print_exc(file=said)
            code = None
    pipe.send(Told(code, said.getvalue(), steps[0], time.perf_counter() - began))


def start(
    stage: str, home: Path, inputs: Path, *more: str, **trouble: Any
) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    args = (there, stage, home, inputs, list(more), Trouble(**trouble))
    process = context.Process(target=run, args=args)
    process.start()
    there.close()
    return process, here


def end(process: BaseProcess, pipe: Connection) -> Told | None:
    """What it told; None when it was killed."""
    try:
        if not pipe.poll(PATIENCE):
            process.kill()
            raise AssertionError("it hangs")
        told = pipe.recv()
    except EOFError:
        told = None
    finally:
        process.join()
        pipe.close()
    assert told or process.exitcode in (-signal.SIGKILL, -signal.SIGXFSZ), process.exitcode
    return told


def attempt(
    stage: str, home: Path, inputs: Path, *more: str, after: float | None = None, **trouble: Any
) -> Told | None:
    """Run a stage; with `after` it is killed after so many seconds, unless it has ended."""
    process, pipe = start(stage, home, inputs, *more, **trouble)
    if after is not None:
        process.join(after)
        process.kill()
    return end(process, pipe)


def prepare() -> None:
    """Let the process that all others are forked from import everything; it has one thread."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["faulting"])


# -- what is left --


def kept(home: Path) -> dict[str, Any]:
    """What lies below `home` under final names, as values that can be compared. What is not whole
    raises some error."""
    files = {p.relative_to(home).as_posix(): p for p in home.rglob("*") if p.is_file()}
    return {name: _content(files[name]) for name in sorted(files) if "/." not in f"/{name}"}


def _content(path: Path) -> Any:
    if ".pth" in path.suffixes:
        return _plain(torch.load(path, weights_only=True))
    return path.read_bytes()


def _plain(content: Any) -> Any:
    """Without the seconds that it took."""
    if isinstance(content, torch.Tensor):
        return str(content.dtype), tuple(content.shape), content.numpy().tobytes()
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items() if key != "seconds"}
    return [*map(_plain, content)] if isinstance(content, list | tuple) else content
