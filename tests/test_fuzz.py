"""Damaged and hostile files, by the thousand: each gives what it held, or one clear error."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import fuzzing
from conftest import moving_square, rounds
from vidlib import video

SEED = 0  # of the damage; a failure names the case's number
SPARE = 1024**3  # bytes a process that reads damaged videos may take, beyond what it starts with

# -- the reader --

# every container and codec that OpenCV's wheel writes
CONTAINERS = [
    (".webm", "VP80"), (".webm", "VP90"), (".mkv", "VP80"), (".mkv", "mp4v"), (".mkv", "MJPG"),
    (".mp4", "mp4v"), (".mov", "mp4v"), (".mov", "MJPG"), (".avi", "MJPG"), (".avi", "XVID"),
    (".avi", "FFV1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small film in each container."""
    folder = tmp_path_factory.mktemp("fuzz") / "healthy"
    folder.mkdir()
    frames = moving_square(seconds=0.6, fps=20)
    video.write_video(folder / "own.webm", frames, 20)
    for suffix, code in CONTAINERS:
        path = folder / f"{code}{suffix}"
        with video._quiet():
            how = cv2.VideoWriter.fourcc(*code)
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, how, 20, (64, 48))
        for frame in frames:
            writer.write(frame[..., ::-1])
        writer.release()
        try:
            assert len(video.read_frames(path)[0]) == len(frames), path
        except video.VideoError:  # a wheel that writes fewer
            path.unlink(missing_ok=True)
    assert {p.suffix for p in folder.iterdir()} == set(video.VIDEO_SUFFIXES)
    return folder


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits memory as Linux does")
def test_any_damage_gives_frames_or_a_clear_error(healthy: Path) -> None:
    """In a process of its own, with a limit of memory and of time: no crash, no hang."""
    count, outcomes, begin = rounds(6000), {}, 0
    while begin < count:
        run = subprocess.run(
            [sys.executable, fuzzing.__file__, healthy, *map(str, (SEED, begin, count, SPARE))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in map(json.loads, run.stdout.splitlines()):
            outcomes[line.get("began", line.get("number"))] = line.get("outcome", "did not return")
        assert len(outcomes) > begin, run.stderr
        if run.returncode:
            outcomes[max(outcomes)] = f"process ended, {run.returncode}: {run.stderr[-300:]}"
        begin = max(outcomes) + 1
    found = {n: told for n, told in outcomes.items() if told not in ("frames", "refused")}
    assert not found
    kinds = Counter(outcomes.values())
    assert kinds["frames"] > count / 5 and kinds["refused"] > count / 20  # the damage is no matter
