"""A report on the environment, fit for a bug report: each line is `ok`, or `FIX` with its remedy.

Everything heavy is imported inside its own check, so that one broken package costs one line. Home
folders are printed as ~.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import __version__, settings
from .settings import UserError

MIN_PYTHON = (3, 11)
MIN_MEMORY_GB = 4.0  # a standard run holds torch, a backbone and a batch in about half of it
MIN_DISK_GB = 1.0  # the full profile's clips, decoded frames and weights
REINSTALL = "run make venv, or: python -m pip install -e '.[test]'"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# the same module under other names: opencv without windows, with extras, or conda's
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
          "opencv-contrib-python-headless", "opencv")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One line of the report. `remedy` is empty when `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'ok ' if self.ok else 'FIX'}  {self.name}: {self.detail}"
        return line if self.ok else f"{line} -> {self.remedy}"


def tidy(text: str) -> str:
    """One line, with the home folder (and so the user's name) as ~."""
    text = " ".join(text.split())
    for home in {str(Path.home()), os.path.realpath(Path.home())}:
        if len(home) > 1:  # a home of "/" would turn every slash into ~
            text = re.sub(re.escape(home) + r"(?![\w-])", "~", text)
    return text


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def check_python() -> Check:
    have = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info >= MIN_PYTHON:
        return Check("Python", True, have)
    return Check("Python", False, have, "install Python 3.11 and build the environment with it")


def check_machine() -> Check:
    """Platform, processor, cores and memory that this process may use."""
    processor = platform.processor() or platform.machine()
    memory = None
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()  # a container's share
        memory = min(memory, int(limit) / 1e9) if limit.isdigit() else memory
    except (AttributeError, OSError, ValueError):
        pass  # not Linux: what was found so far stands
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = "memory unknown" if memory is None else f"{memory:.1f} GB memory"
    detail = f"{platform.platform()}, {processor}, {cores} cores, {known}"
    if memory is not None and memory < MIN_MEMORY_GB:
        return Check("machine", False, detail, "close other programs, and use PROFILE=quick")
    return Check("machine", True, detail)


def required() -> dict[str, tuple[int, ...]]:
    """Package -> its lower bound: from pyproject.toml beside the module, else what is installed
    under the name vidlib."""
    try:
        project = tomllib.loads((settings.REPO / "pyproject.toml").read_text(encoding="utf-8"))
        lines = project["project"]["dependencies"]
    except (OSError, KeyError, ValueError):
        lines = importlib.metadata.requires("vidlib") or []
    bounds = {}
    for line in lines:
        name, _, bound = line.partition(">=")
        if "extra ==" not in line:
            bounds[re.split(r"[<>=!~;\[ ]", name, maxsplit=1)[0]] = _version(bound)
    return bounds


def _version(text: str) -> tuple[int, ...]:
    """'2.11.1+cpu' -> (2, 11, 1); what follows the numbers (rc1, a0, other bounds) is dropped."""
    match = re.match(r"\d+(\.\d+)*", text.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def check_package(name: str, bound: tuple[int, ...]) -> Check:
    """Whether a package is installed and new enough; says nothing of whether it loads."""
    found = []
    for candidate in OPENCV if name == "opencv-python" else (name,):
        try:
            found.append((candidate, importlib.metadata.version(candidate)))
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found:
        return Check(name, False, "not installed", REINSTALL)
    detail = ", ".join(v if c == name else f"{v} ({c})" for c, v in found)
    if any(_version(v) < bound for _, v in found):
        at_least = ".".join(map(str, bound))
        return Check(name, False, f"{detail}, older than {at_least}", REINSTALL)
    return Check(name, True, detail)


def check_install() -> Check:
    """Whether `import vidlib` from any folder, as a notebook does it, finds this very module."""
    detail = f"{__version__} in {Path(__file__).parent}"
    ask = [sys.executable, "-c", "import vidlib; print(vidlib.__file__)"]
    with tempfile.TemporaryDirectory() as elsewhere:
        answer = subprocess.run(ask, cwd=elsewhere, capture_output=True, text=True)
    if answer.returncode:
        return Check("vidlib", False, f"{detail}, but not installed for use elsewhere", REINSTALL)
    if not Path(answer.stdout.strip()).samefile(Path(__file__).with_name("__init__.py")):
        found = Path(answer.stdout.strip()).parent
        return Check("vidlib", False, f"{detail}, but notebooks get the one in {found}", REINSTALL)
    return Check("vidlib", True, detail)


def check_torch() -> Check:
    """Whether torch and torchvision load, and torchvision's compiled operators fit torch."""
    try:
        torch = importlib.import_module("torch")
        ops = importlib.import_module("torchvision.ops")
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        ops.nms(boxes, torch.ones(1), 0.5)
    except Exception as error:  # a broken installation raises whatever it likes
        same = "torch and torchvision must come from one index"
        return Check("torch operators", False, _first_line(error), (
            f"{same}: python -m pip install --force-reinstall torch torchvision "
            f"(for a CPU-only torch add --index-url {CPU_INDEX})"))  # fmt: skip
    return Check("torch operators", True, f"load, {torch.get_num_threads()} threads")


def check_opencv() -> Check:
    """Whether cv2 loads; its ordinary wheel needs a system library that servers lack."""
    try:
        cv2 = importlib.import_module("cv2")
        return Check("cv2", True, f"loads, {cv2.__version__}")
    except Exception as error:
        remedy = "python -m pip install --force-reinstall opencv-python"
        if re.search(r"lib(GL|gthread|glib|SM|Xext|Xrender|EGL)\b", str(error)):
            remedy = (
                "apt-get install libgl1 libglib2.0-0 (Debian, Ubuntu), or without a screen: python "
                "-m pip uninstall -y opencv-python; python -m pip install opencv-python-headless"
            )
        return Check("cv2", False, _first_line(error), remedy)


def check_kernel() -> Check:
    """Whether notebooks, which ask for the kernel `python3`, run in this interpreter."""
    manager = importlib.import_module("jupyter_client.kernelspec").KernelSpecManager()
    remedy = "python -m ipykernel install --sys-prefix"
    try:
        first = manager.get_kernel_spec("python3").argv[0]
    except Exception as error:
        return Check("notebook kernel", False, _first_line(error), remedy)
    ours = {Path(sys.executable), *Path(sys.executable).parent.glob("python*")}
    if first in ("python", "python3") or Path(first) in ours:  # Jupyter reads these as its own
        return Check("notebook kernel", True, "python3 is this interpreter")
    return Check("notebook kernel", False, f"python3 is {first}, another interpreter", remedy)


def check_device() -> Check:
    """What will be computed on, and whether bfloat16 is in its hardware."""
    torch = importlib.import_module("torch")
    device = settings.device()
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    fast = (
        "bfloat16"
        if settings.has_fast_bfloat16(device)
        else "float32 (bfloat16 is slow here, or switched off)"
    )
    detail = f"{device.type}{name}, {fast}"
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        detail += (
            f"; an NVIDIA driver is here, but this torch (CUDA {torch.version.cuda}) "
            "does not use it: a newer driver, or a torch for an older CUDA, would"
        )
    return Check("device", True, detail)


def check_video() -> Check:
    """Write a VP8 film and read it back: codec, frame count and RGB order."""
    numpy = importlib.import_module("numpy")
    video = importlib.import_module("vidlib.video")
    frames = numpy.zeros((8, 64, 64, 3), numpy.uint8)
    frames[..., 0] = 200  # red
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "round_trip.webm"
        video.write_video(path, frames, 8.0)
        back, _ = video.read_frames(path)
    red, green, blue = back.reshape(-1, 3).mean(0)
    detail = f"VP8 written and read, {len(back)} of 8 frames, red comes back as " + (
        f"({red:.0f}, {green:.0f}, {blue:.0f})"
    )
    if len(back) == 8 and red > 150 and max(green, blue) < 60:
        return Check("video", True, detail)
    return Check(
        "video", False, detail, "python -m pip install --force-reinstall --upgrade opencv-python"
    )


def check_data() -> Check:
    """Whether the data folder can be written, and how much room its disk has."""
    folder = settings.data_dir().absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free / 1e9
    detail = f"{folder}, {free:.1f} GB free" + (" (not made yet)" if there != folder else "")
    elsewhere = "set VIDLIB_DATA to a folder "
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return Check("data folder", False, f"{detail}, cannot be written ({reason})",
                     elsewhere + "that you may write to")  # fmt: skip
    if free < MIN_DISK_GB:
        return Check("data folder", False, detail, "free some disk space, or " + elsewhere
                     + "on a larger disk")  # fmt: skip
    return Check("data folder", True, detail)


def check_clips() -> Check:
    catalog = importlib.import_module("vidlib.catalog")
    try:
        clips = catalog.find_clips(source="all")
    except UserError:
        if (settings.raw_dir() / catalog.CSV_NAME).exists():  # a table that cannot be read, say
            raise
        return Check("clips", True, "none yet; make course, or python -m vidlib studio, draws some")
    drawn = sum(clip.source == "studio" for clip in clips)
    gone = sum(not clip.path.is_file() for clip in clips)
    detail = f"{len(clips) - drawn} own, {drawn} drawn, {len(catalog.actions(clips))} actions"
    if gone:
        return Check("clips", False, f"{detail}; {gone} that clips.csv lists are gone",
                     "python -m vidlib inspect names them: delete their rows, or draw them again "
                     "with python -m vidlib studio")  # fmt: skip
    return Check("clips", True, detail)


def check_weights(name: str, folder: Path) -> Check:
    """Whether a folder's pair of weight files loads and belongs together (UserError if not)."""
    checkpoints = importlib.import_module("vidlib.checkpoints")
    encoder, classifier = (
        folder / p.name for p in (settings.encoder_path(), settings.classifier_path())
    )
    if folder == settings.shipped_dir() and not (encoder.is_file() and classifier.is_file()):
        return Check(name, False, "missing", "git checkout data/weights/shipped")
    detail = "a classifier without its encoder" if classifier.is_file() else "none"
    if encoder.is_file():
        _, meta = checkpoints.load_encoder(encoder)
        detail = f"encoder {meta['id'][:8]}"
        if classifier.is_file():
            _, fitted = checkpoints.load_classifier(classifier, meta["id"])
            detail += f" and the classifier of {len(fitted['classes'])} actions that fits it"
    return Check(name, True, detail)


def _checks() -> Iterator[tuple[str, Callable[[], Check]]]:
    yield "Python", check_python
    yield "machine", check_machine
    yield "vidlib", check_install
    for name, bound in required().items():
        yield name, lambda name=name, bound=bound: check_package(name, bound)
    yield "torch operators", check_torch
    yield "cv2", check_opencv
    yield "notebook kernel", check_kernel
    yield "device", check_device
    yield "video", check_video
    yield "profile", lambda: Check("profile", True, settings.profile().name)
    yield "data folder", check_data
    yield "clips", check_clips
    yield "own weights", lambda: check_weights("own weights", settings.weights_dir())
    yield "shipped weights", lambda: check_weights("shipped weights", settings.shipped_dir())


def _run() -> Iterator[Check]:
    """The checks, each as soon as it is done: a crash of the interpreter leaves those before it."""
    for name, check in _checks():
        try:
            found = check()
        except UserError as error:  # says what is wrong and what to do
            found = Check(name, False, str(error), "mend that, then ask again")
        except Exception as error:  # a check that breaks is itself a finding
            found = Check(name, False, _first_line(error), REINSTALL)
        yield replace(found, detail=tidy(found.detail), remedy=tidy(found.remedy))


def report() -> list[Check]:
    """All checks, in the order printed."""
    return list(_run())


def main() -> int:
    """Print the report; 1 when something is to be mended, else 0."""
    to_mend = 0
    for found in _run():
        print(found, flush=True)
        to_mend += not found.ok
    print(f"{to_mend} to fix" if to_mend else "all well")
    return int(bool(to_mend))


if __name__ == "__main__":
    sys.exit(main())
