"""Damaged and hostile files, by the thousand: each gives what it held, or one clear error."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import fuzzing
from conftest import moving_square, rounds
from vidlib import catalog, checkpoints, course, encoders, features, settings, studio, video
from vidlib.loop import Interrupted
from vidlib.settings import UserError
from vidlib.temporal import TemporalTransformer
from vidlib.tubelets import Config
from vidlib.videomae import Classifier

SEED = 0  # of the damage; a failure names the case's number
SPARE = 1024**3  # bytes that opening damaged files may take, beyond what the process starts with

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/statm").is_file(), reason="limits memory as Linux does"
)


def outcomes(folder: Path, count: int) -> dict[int, str]:
    """What becomes of the cases: opened, refused (one line that names the file), or how it failed.
    They run in a process of its own, with a limit of memory and of time; where it ends, the next
    goes on behind the case that ended it."""
    told: dict[int, str] = {}
    begin = 0
    while begin < count and sum("process ended" in text for text in told.values()) < 5:
        run = subprocess.run(
            [sys.executable, fuzzing.__file__, folder, *map(str, (SEED, begin, count, SPARE))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in map(json.loads, run.stdout.splitlines()):
            told[line.get("began", line.get("number"))] = line["outcome"]
        assert len(told) > begin, run.stderr
        if run.returncode:
            last = max(told)
            told[last] += f"; process ended, {run.returncode}: {run.stderr[-300:]}"
        begin = max(told) + 1
    return told


def check(told: dict[int, str]) -> None:
    assert not {n: text for n, text in told.items() if text not in ("opened", "refused")}
    kinds = Counter(told.values())  # the damage is neither too little nor too much
    assert min(kinds["opened"], kinds["refused"]) > len(told) / 20, kinds


# -- the reader --

# every container and codec that OpenCV's wheel writes
CONTAINERS = [
    (".webm", "VP80"), (".webm", "VP90"), (".mkv", "VP80"), (".mkv", "mp4v"), (".mkv", "MJPG"),
    (".mp4", "mp4v"), (".mov", "mp4v"), (".mov", "MJPG"), (".avi", "MJPG"), (".avi", "XVID"),
    (".avi", "FFV1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small film in each container."""
    folder = tmp_path_factory.mktemp("fuzz") / "films"
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
@needs_linux
def test_damaged_films_give_frames_or_a_clear_error(films: Path) -> None:
    check(outcomes(films, rounds(6000)))


# -- weights --


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every kind of weight file, small."""
    folder = tmp_path_factory.mktemp("fuzz") / "weights"
    torch.manual_seed(0)
    encoder = encoders.build()
    meta = {"key": "k", "sampling": fuzzing.SAMPLE, "config": {}, "history": [{"loss": 1.0}]}
    checkpoints.save_encoder(folder / "encoder.pth", encoder, meta)
    model = TemporalTransformer(encoder.dim, 3, width=8, depth=1, heads=2, window=4)
    meta |= {"classes": fuzzing.CLASSES, "encoder_id": encoders.identity(encoder)}
    checkpoints.save_classifier(folder / "classifier.pth", model, meta)
    with pytest.raises(Interrupted):
        fuzzing.train(folder / "run.pth", stop_at=2)
    config = Config(16, 4, 8, 2, 8, 1, 2, 16, 8, 1, 2, 16, mean_pool=True, classes=("a", "b"))
    tiny = Classifier(config).eval()
    tiny.save_pretrained(folder / "folder")
    state = tiny.state_dict()
    checkpoints.save(folder / "videomae.pth", {
        "kind": "VideoMAE", "config": {**vars(config)}, "state": state, "key": "k", "history": [],
    })  # fmt: skip
    for name in fuzzing.OPEN:
        if (folder / name).exists():
            fuzzing.OPEN[name](folder / name, 0)
    (folder / "run.pth").unlink()
    with pytest.raises(Interrupted):
        fuzzing.train(folder / "run.pth", stop_at=2)
    return folder


@pytest.mark.soak
@needs_linux
def test_damaged_weights_are_refused_or_do_no_harm(weights: Path) -> None:
    check(outcomes(weights, rounds(4000)))


class Touch:
    """Unpickled, it runs code: a file appears."""

    def __init__(self, way: str, file: Path) -> None:
        code = f"open({str(file)!r}, 'w')"
        self.call: tuple[Any, tuple[Any, ...]] = {
            "system": (os.system, (f"touch {file}",)),
            "exec": (exec, (code,)),
            "eval": (eval, (code,)),
            "process": (subprocess.Popen, (["touch", str(file)],)),
            "open": (open, (str(file), "w")),
        }[way]

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["system", "exec", "eval", "process", "open"])
def test_hostile_files_run_no_code(weights: Path, tmp_path: Path, way: str) -> None:
    """In the place of every file that vidlib reads, and of parts of them."""
    work, owned = tmp_path / "work", tmp_path / "owned"
    shutil.copytree(weights, work)
    hostile = Touch(way, owned)
    files = [n for n in fuzzing.OPEN if n.endswith((".pth", ".part"))]
    for name in files:
        whole = torch.load(work / name, weights_only=True)
        beside = [{**whole, part: hostile} for part in (*whole, "tuned", "more")]
        for number, content in enumerate([hostile, [hostile], {"state_dict": hostile}, *beside]):
            torch.save(content, work / name, _use_new_zipfile_serialization=number % 4 > 0)
            if number % 4 == 1:
                (work / name).write_bytes(pickle.dumps(content, protocol=number % 5))
            _open_hostile(work / name)
        shutil.copy(weights / name, work / name)
    array = np.empty(2, object)
    array[:] = hostile
    raw = io.BytesIO()
    np.save(raw, array, allow_pickle=True)
    for content in (raw.getvalue(), pickle.dumps(hostile)):
        for name in ("model.safetensors", "config.json"):
            (work / "folder" / name).write_bytes(content)
            _open_hostile(work / "folder" / name)
        shutil.copytree(weights / "folder", work / "folder", dirs_exist_ok=True)
        (work / "folder" / "pytorch_model.bin").write_bytes(content)
        (work / "folder" / "model.safetensors").unlink()
        _open_hostile(work / "folder" / "pytorch_model.bin")
        for name in ("clips.csv", "studio.json", "course.json"):
            (work / name).write_bytes(content)
        with pytest.raises(UserError, match="clips.csv"):
            catalog.read_csv(work / "clips.csv")
        assert course.Stages(work / "course.json").kept == {}
        assert studio._remembered(work / "studio.json") == {}
        with pytest.raises(UserError, match="clips.csv"):
            studio.make_dataset(work, settings.profile("quick"), workers=1, progress=False)
    assert not owned.exists()
    pickle.loads(pickle.dumps(Touch("exec", owned)))  # the trap does work on who takes no care
    assert owned.exists()


def _open_hostile(path: Path) -> None:
    name = path.name if path.parent.name != "folder" else "folder/config.json"
    if path.suffix == ".part":  # what cannot be gone on with is begun again
        return fuzzing.OPEN[name](path, 0)
    with pytest.raises(UserError, match=f"{path.name}|folder") as caught:
        fuzzing.OPEN[name](path, 0)
    assert "\n" not in str(caught.value)


# -- caches and tables --


@pytest.mark.soak
def test_a_damaged_cache_answers_as_an_empty_one(
    small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    encoder, clip = encoders.build().eval(), catalog.Clip(small_video)

    def found(keep: bool = True) -> np.ndarray:
        return features.extract_features(
            encoder, [clip], fuzzing.SAMPLE, torch.device("cpu"), progress=False, keep=keep
        )[0]

    right = found()
    for folder in ("frames", "features"):
        file = next((tmp_path / "cache" / folder).rglob("*.npy"))
        healthy = file.read_bytes()
        whole = np.load(io.BytesIO(healthy))
        arrays = [whole[:0], whole[0], whole[..., :1], whole.astype(float), whole.T, np.array("x")]
        for array in (*arrays, np.full_like(whole, 1), np.zeros(3, "datetime64[s]")):
            odd = io.BytesIO()
            np.save(odd, array)
            file.write_bytes(odd.getvalue() + healthy[-4:])
            np.testing.assert_array_equal(found(folder == "features"), right)
        for number in range(rounds(1000)):
            file.write_bytes(fuzzing.damaged([healthy], 0, SEED, number))
            np.testing.assert_array_equal(found(folder == "features"), right, str(number))


TABLE = b"""path,action,person,scene,split,source
a.webm,waving,ann,,train,own
sub/b.webm,"clap, ping",bob,2,val,
train/waving/studio_0000_0001_0.webm,waving,0000,0001,train,studio
"""


@pytest.mark.soak
def test_damaged_tables_are_read_or_refused_and_nothing_else_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the studio and the catalogue read them; nothing is drawn."""

    def draw(root: Path, job: studio._Job, *look: Any) -> None:
        (root / job.path).parent.mkdir(parents=True, exist_ok=True)
        (root / job.path).write_bytes(b"drawn")

    monkeypatch.setattr(studio, "_draw_job", draw)
    root = tmp_path / "raw"
    one = replace(settings.profile("quick"), people_train=1, people_val=1, takes_train=1)

    def make() -> None:
        studio.make_dataset(root, one, workers=1, progress=False)

    make()
    own = [root / "a.webm", root / "train" / "waving" / "me.webm", tmp_path / "studio_1_2_3.webm"]
    for path in own:
        path.write_bytes(b"mine")
    memory, table = root / "studio.json", root / "clips.csv"
    kept = memory.read_bytes()
    outside = ["../studio_1_2_3.webm", str(own[2]), "train/waving/me.webm", "train/../a.webm", 3]
    for state in (outside, {"key": "x", "clips": outside}, {"key": 1}, {"clips": {}}, None, "x"):
        memory.write_text(json.dumps(state))
        make()
        assert all(path.exists() for path in own) and memory.read_bytes() == kept
    table.write_bytes(TABLE)
    make()
    assert catalog.read_csv(table)[1].action == "clap, ping"
    # as spreadsheets save it: the rows stay
    table.write_bytes("\ufeffPath;Action;Source\nsub/b.webm;clapping\n;;studio\n".encode())
    make()
    first, *rest = catalog.read_csv(table)
    assert (first.path.name, first.action) == ("b.webm", "clapping") and len(rest) == 16
    healthy, outcomes = table.read_bytes(), Counter()
    for number in range(rounds(2000)):
        table.write_bytes(fuzzing.damaged([healthy, TABLE], number % 2, SEED, number))
        if number % 3 == 0:
            memory.write_bytes(fuzzing.damaged([kept], 0, SEED, number))
        for read in (lambda: catalog.find_clips(root), make):
            try:
                read()
                outcomes["read"] += 1
            except UserError as error:
                outcomes["refused"] += 1
                assert "\n" not in str(error), number
                assert any(p in str(error) for p in ("clips.csv", "in its way")), str(error)
        assert all(path.exists() for path in own), number
        for path in root.rglob("studio_*.webm"):
            path.unlink()
    assert min(outcomes.values()) > sum(outcomes.values()) / 20, outcomes
