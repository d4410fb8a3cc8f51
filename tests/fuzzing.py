"""Damage to files, by number: the same seed and number give the same bytes. Run as a script it is
the process that opens damaged files; see test_fuzz.py.
"""

import contextlib
import copy
import json
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PATIENCE = 20  # seconds for a case; a healthy one takes some milliseconds
# what fields of headers are most often misread at
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000)


def damaged(files: list[bytes], which: int, seed: int, number: int) -> bytes:
    """The file `which`, damaged in one to four ways; of a longer file three of four places lie in
    the first and the last kilobyte, where headers and indices are."""
    rng = np.random.default_rng([seed, number])
    content = bytearray(files[which])
    for _ in range(rng.integers(1, 5)):
        size = len(content)
        at = int(rng.integers(size))
        if size > 2048 and rng.random() < 0.75:
            at = int(rng.integers(1024))
            at = at if rng.random() < 0.7 else size - 1 - at
        length = int(rng.integers(1, 1 + min(64, size)))
        way = rng.integers(8)
        if way == 0:
            content = content[: max(1, at)]
        elif way == 1:  # bits
            for place in rng.integers(size, size=int(rng.integers(1, 9))):
                content[place] ^= 1 << int(rng.integers(8))
        elif way == 2:
            content[at : at + length] = rng.bytes(length)
        elif way == 3:
            content[at : at + length] = bytes(length)
        elif way in (4, 5):  # a number that is too large, or nothing, in two orders of bytes
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(NUMBERS)) & ((1 << 8 * width) - 1)
            order = "little" if rng.random() < 0.5 else "big"
            content[at : at + width] = value.to_bytes(width, order)
        elif way == 6:  # a piece gone, or written backwards before itself
            piece = content[at : at + 8 * length]
            gone = rng.random() < 0.5
            content[at : at + len(piece) * gone] = b"" if gone else piece[::-1]
        else:  # the rest is another file's
            content[at:] = files[rng.integers(len(files))][at:]
        content = content or bytearray(b"\0")
    return bytes(content)


def strange(content: Any, seed: int, number: int) -> Any:
    """A copy of nested dicts and lists in which one or two values are missing or make no sense."""
    import torch

    values: list[Any] = [
        None, True, -1, 0, 3, 10**6, 10**12, -(10**30), 1e308, float("nan"), float("inf"), "",
        "x", "imagenet", "../../x", "a\nb", "\0", [], {}, (), ["a", "a"], [1], {"x": 1}, b"x",
        torch.zeros(0), torch.zeros(2), torch.full((2, 2), float("nan")), torch.zeros(3).bool(),
        torch.zeros(1).expand(10**6, 10**6), torch.zeros(2, device="meta"),
        torch.eye(2).to_sparse(),
    ]  # fmt: skip
    rng = np.random.default_rng([seed, number])
    # tensors stay shared; containers are the copy's own
    healthy = _tensors(content)
    whole = copy.deepcopy(content, {id(t): t for t in healthy})
    for _ in range(rng.integers(1, 3)):
        node = whole
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = keys[rng.integers(len(keys))]
            inner = node[key]
            if not (isinstance(inner, dict | list) and inner and rng.random() < 0.8):
                break
            node = inner
        how = rng.random()
        if how < 0.2:
            del node[key]
        elif how < 0.3 and any(inner is t for t in healthy if t.is_floating_point()):
            node[key] = torch.full_like(inner, float("nan"))
        elif how < 0.4 and isinstance(node, dict):
            node["more"] = values[rng.integers(len(values))]
        else:
            node[key] = values[rng.integers(len(values))]
        if not whole:
            break
    return whole


def _tensors(content: Any) -> list[Any]:
    import torch

    if isinstance(content, torch.Tensor):
        return [content]
    inner = content.values() if isinstance(content, dict) else content
    return [t for x in inner for t in _tensors(x)] if isinstance(content, dict | list) else []


# -- how a file is opened, by its name: (folder) -> nothing; what is not a UserError is a finding --


def open_film(path: Path, number: int) -> None:
    from vidlib import video

    options = ({"size": 16}, {"fps": 12.0, "size": 32}, {"max_frames": 3})[number % 3]
    frames, times = video.read_frames(path, **options)
    assert len(frames) == len(times) and frames.dtype == np.uint8
    assert np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()
    video.info(path)
    if number % 5 == 0:
        pieces = list(video.iter_segments(path, 0.2, 12.0, 16))
        assert all(len(f) == len(t) and f.shape[1:] == (16, 16, 3) for f, t in pieces)
        video.transcode(path, path.with_name("transcoded.webm"), 32)


FRAMES = np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), np.uint8)
CLASSES = ["clapping", "walking", "waving"]


def features() -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(6, 8)).astype(np.float32) for _ in range(4)], ["a", "b", "a", "b"]


def train(out: Path, **how: Any) -> Any:
    import torch

    from vidlib.settings import TrainConfig
    from vidlib.training import train_classifier

    config = TrainConfig(width=8, depth=1, heads=2, window=4, steps=4, batch=2)
    meta = {"encoder_id": "e", "sampling": {"size": 32, "fps": 12.0, "background": "none"}}
    cpu = torch.device("cpu")
    return train_classifier(*features(), config, out, meta, cpu, progress=False, **how)


def open_encoder(path: Path, number: int) -> None:
    import torch

    from vidlib import checkpoints

    checkpoints.stored_key(path)
    encoder, meta = checkpoints.load_encoder(path)
    assert len(meta["id"]) == 24
    checkpoints.pretrained_by(meta, path)
    encoder(torch.zeros(2, 3, 32, 32))


def open_classifier(path: Path, number: int) -> None:
    from vidlib.predict import Predictor

    answer = Predictor(path.with_name("encoder.pth"), path).predict(FRAMES, fps=12.0)
    assert abs(answer.probabilities.sum() - 1) < 1e-6
    assert all(isinstance(name, str) for name in answer.actions)
    json.dumps(answer.to_json())


def open_run(path: Path, number: int) -> None:
    """An unfinished training: it goes on, or begins again, or is refused."""
    out = path.with_name(path.name.removesuffix(".part"))
    out.unlink(missing_ok=True)
    _, _, history = train(out)
    assert [r["step"] for r in history] == [1, 2, 3, 4]


def open_videomae(path: Path, number: int) -> None:
    import torch

    from vidlib import checkpoints
    from vidlib.videomae import Classifier, VideoMAE

    source = path.parent if path.parent.name == "folder" else path
    checkpoints.stored_key(path)
    model = (Classifier, VideoMAE)[number % 2].from_pretrained(source)
    c = model.config
    assert len(model(torch.zeros(1, c.frames, 3, c.size, c.size))) == 1


SAMPLE = {"size": 32, "fps": 12.0, "background": "none"}
OPEN: dict[str, Callable[[Path, int], None]] = {
    "encoder.pth": open_encoder, "classifier.pth": open_classifier, "run.pth.part": open_run,
    "videomae.pth": open_videomae, "folder/model.safetensors": open_videomae,
    "folder/config.json": open_videomae,
}  # fmt: skip


def _open(folder: Path, seed: int, first: int, last: int, spare: int) -> None:
    """Open the cases first..last; each is a line, {number, outcome}, after a line that it began."""
    import resource

    from vidlib import video  # noqa: F401, so that it is not counted as spare
    from vidlib.settings import UserError

    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = [(folder / name).read_bytes() for name in names]
    weights = "encoder.pth" in names
    work = folder.with_name("work")  # what is damaged is a copy
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work)
    loaded: dict[str, Any] = {}
    if weights:
        import torch

        from vidlib import predict, videomae  # noqa: F401, so that they are not counted as spare

        torch.set_num_threads(1)
        with contextlib.suppress(Exception):
            open_encoder(work / "encoder.pth", 0)  # what torch sets up once
        for name in names:
            if name.endswith((".pth", ".part")):
                loaded[name] = torch.load(folder / name, weights_only=True)
            elif name.endswith(".json"):
                loaded[name] = json.loads((folder / name).read_text())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    warnings.simplefilter("ignore")
    # the default of this signal ends the process, even inside of a decoder that never returns
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(first, last):
        which = int(np.random.default_rng([seed, number, 1]).integers(len(names)))
        name = names[which]
        print(json.dumps({"began": number, "outcome": f"{name} did not return"}), flush=True)
        if weights:
            path, use = work / name, OPEN[name]
            if name in loaded and number % 4:
                content = strange(loaded[name], seed, number)
                if name.endswith(".json"):
                    path.write_text(json.dumps(content, default=str))
                else:
                    torch.save(content, path)
            else:
                path.write_bytes(damaged(files, which, seed, number))
        else:
            path, use = work / f"case{Path(name).suffix}", open_film
            path.write_bytes(damaged(files, which, seed, number))
        signal.alarm(PATIENCE)
        try:
            use(path, number)
            outcome = "opened"
        except UserError as error:
            told = str(error)
            # numbers as large as numbers get are told as rates that are too large
            named = any(p in told for p in (path.name, path.parent.name, "try a smaller"))
            outcome = "refused" if named and "\n" not in told else f"{name}, unclear: {told}"
        except BaseException as error:
            outcome = f"{name}, {type(error).__name__}: {error}"[:300]
            if "-v" in sys.argv:
                import traceback

                traceback.print_exc()
        signal.alarm(0)
        if weights:
            path.write_bytes(files[which])
        print(json.dumps({"number": number, "outcome": outcome}), flush=True)


if __name__ == "__main__":
    _open(Path(sys.argv[1]), *map(int, sys.argv[2:6]))
