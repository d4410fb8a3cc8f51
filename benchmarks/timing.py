"""What the benchmarks of speed share: rounds in turn, medians, fresh processes, the page of
results (`RESULTS.md`, of which each script writes its own section and leaves the others)."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from vidlib import settings

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# Speed

`make bench` writes this page: each script its own section. In a row both sides took turns within
one run; seconds and rates are medians over the rounds, a ratio is that of the medians, over 1 where
this course's code is the faster. "Other work" is the share of the cores' time that other processes
of the machine took meanwhile: a single figure of a run beside much other work says little.
"""
ROUNDS = 7


def arguments(
    doc: str | None, parts: Sequence[str] = (), argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """`--small`: seconds instead of minutes, and nothing is written; `--only`: some of the parts,
    each of which is a section of its own."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a trial of seconds; writes nothing")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    return parser.parse_args(argv)


def in_turn(
    ways: dict[str, Callable[[], Any]], rounds: int = ROUNDS, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each way, called in turn `warm + rounds` times, of which the first are left out;
    every other round backwards. A way that returns a float has measured itself."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(warm + rounds):
        for name in list(ways)[:: (-1) ** i]:
            began = time.perf_counter()
            own = ways[name]()
            taken = time.perf_counter() - began
            if i >= warm:
                seconds[name].append(own if isinstance(own, float) else taken)
    return seconds


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """How many times as fast ours is: of the medians, and the range over the rounds."""
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{median(theirs) / median(ours):.2f} x ({min(each):.2f} to {max(each):.2f})"


def brief(seconds: Sequence[float]) -> str:
    """The median, in ms or s."""
    value = median(seconds)
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def peak() -> int:
    """The most bytes this process has held so far. (`getrusage` would count, on Linux, what the
    process that started this one held.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held() -> int:
    """The bytes this process holds now; where Linux allows it `peak` counts from here on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return psutil.Process().memory_info().rss


def fresh(script: str | Path, *arguments: str, **environment: str) -> Any:
    """Run Python in a process of its own, a file or the text of one; what its last line says in
    JSON."""
    first = [str(script)] if isinstance(script, Path) else ["-c", script]
    done = subprocess.run(
        [sys.executable, *first, *arguments], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(settings.REPO), *sys.path])}
        | environment,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{script} {arguments} failed:\n{done.stderr[-3000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def has(*modules: str) -> bool:
    """Whether all of these can be imported; a rival that is not installed is left out."""
    return all(importlib.util.find_spec(name) for name in modules)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


@dataclass
class Section:
    """One script's part of the page."""

    title: str
    packages: Sequence[str]
    lines: list[str] = field(default_factory=list)
    other_work: float = float("nan")  # share of the cores' time

    def say(self, line: str = "") -> None:
        """Add a line, and print it."""
        print(line, flush=True)
        self.lines.append(line)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in (header, ["---"] * len(header), *rows):
            self.say("| " + " | ".join(row) + " |")
        self.say()

    def text(self) -> str:
        versions = ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in self.packages if _there(name)
        )
        where = (
            f"{processor()}; Python {platform.python_version()}, {versions}; "
            f"{time.strftime('%Y-%m-%d')}; other work {100 * self.other_work:.0f} %."
        )
        return f"## {self.title}\n\n{where}\n\n" + "\n".join(self.lines).strip() + "\n"


def _there(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@contextmanager
def section(title: str, packages: Sequence[str], small: bool) -> Iterator[Section]:
    """Collect a section; at the end of the block it takes the place of its like in RESULTS.md."""
    new = Section(title, packages)
    began, busy, own = time.perf_counter(), _busy(), sum(os.times()[:4])
    yield new
    of_all = (time.perf_counter() - began) * (os.cpu_count() or 1)
    # children count once they have ended
    new.other_work = max(0.0, (_busy() - busy) - (sum(os.times()[:4]) - own)) / of_all
    print(new.text().splitlines()[2])
    if not small:
        RESULTS.write_text(
            merged(RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "", new.text()),
            encoding="utf-8",
        )


def _busy() -> float:
    """Seconds that the machine's cores have worked, for whomever."""
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "steal", 0.0)


def merged(page: str, section: str) -> str:
    """The page with this section in the place of that of the same title; sorted by title."""
    parts = {p.splitlines()[0]: p.strip() for p in page.split("\n## ")[1:]}
    new = section.removeprefix("## ").strip()
    parts[new.splitlines()[0]] = new
    return HEAD + "".join(f"\n## {parts[title]}\n" for title in sorted(parts))
