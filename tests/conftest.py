"""Shared by all tests: a data folder of their own, small written videos, real files if present."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vidlib import catalog, settings, studio, video


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A learner's data and weights are never read or written by a test."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDLIB_DATA", str(root))
        patch.setenv("VIDLIB_PROFILE", "quick")
        yield root


def rounds(long: int) -> int:
    """How often a test marked `soak` does its work: `long` in `make soak`, else a twentieth."""
    return long if os.environ.get("VIDLIB_SOAK") else max(1, long // 20)


def held() -> tuple[int, float]:
    """What this process holds: open files, and megabytes of memory. Linux alone tells."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts open files through /proc")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(list(Path("/proc/self/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def moving_square(
    seconds: float = 1.0, fps: float = 25.0, height: int = 48, width: int = 64
) -> np.ndarray:
    """frames uint8 (T,H,W,3) RGB: a red square that crosses a blue wall in two seconds."""
    frames = np.zeros((round(seconds * fps), height, width, 3), np.uint8)
    frames[..., 2] = 200
    side = max(2, height // 4)
    for k, frame in enumerate(frames):
        left = round(k / fps / 2 * (width - side))
        frame[height // 2 : height // 2 + side, left : left + side] = 220, 20, 20
    return frames


@pytest.fixture(scope="session")
def square() -> Callable[..., np.ndarray]:
    """The function that draws a moving square."""
    return moving_square


@pytest.fixture(scope="session")
def small_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written video: 25 frames of 64x48 in one second. Not to be changed: copy it first."""
    path = tmp_path_factory.mktemp("videos") / "small.webm"
    video.write_video(path, moving_square(), 25)
    return path


def _real(name: str) -> Path:
    folder = settings.REPO.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"real files for measuring are not here: {folder.name}/ beside the repository")
    return folder


@pytest.fixture(scope="session")
def odd_videos() -> Path:
    """Real files that break readers; see the README among them."""
    return _real("odd_videos")


@pytest.fixture(scope="session")
def weizmann() -> Path:
    """90 real clips: 10 folders of actions, files named <person>_<action>.avi."""
    return _real("weizmann")


@pytest.fixture(scope="session")
def quick_data(own_data_folder: Path) -> list[catalog.Clip]:
    """The studio's clips of the quick profile, drawn once for all tests."""
    studio.make_dataset(profile=settings.profile("quick"), progress=False)
    return catalog.find_clips(source="studio")


@pytest.fixture(scope="session")
def quick_clips(quick_data: list[catalog.Clip]) -> list[catalog.Clip]:
    """Its training clips."""
    return [clip for clip in quick_data if clip.split == "train"]
