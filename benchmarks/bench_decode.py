"""Video files to training clips, in clips per second, against PyAV, decord and torchcodec.

    pip install av decord torchcodec        # those that are missing are left out
    python benchmarks/bench_decode.py [--small]

Each reader gives the frame cache's pictures: the frames shown at 12 times a second, RGB, the whole
picture in a square of 64 pixels. Each does it its quickest way with the threads it takes by itself:
the others convert only the frames that are asked for, and straight to the small size. How far the
pictures are apart is told, in grey levels: resizing differs. An epoch reads every file of a row
once, in one process. Ours in the first epoch decodes and fills the cache, in later ones reads it
(from the system's memory, as a set that fits there is); the others decode every time.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timing
from bench_processes import film

from vidlib import sampling, settings, studio, video

GRID, SIZE = 12.0, 64
Read = Callable[[Path, int, int], np.ndarray]  # path, inner height and width -> (T, SIZE, SIZE, 3)


def boxed(frames: np.ndarray) -> np.ndarray:
    """(T, height, width, 3), already small, in a black square."""
    spare = np.subtract(SIZE, frames.shape[1:3]) // 2
    out = np.zeros((len(frames), SIZE, SIZE, 3), np.uint8)
    out[:, spare[0] : spare[0] + frames.shape[1], spare[1] : spare[1] + frames.shape[2]] = frames
    return out


def on_grid(stream: Iterable[tuple[float, Any]]) -> Iterator[Any]:
    """What is shown at the grid's times."""
    return (frame for _, frame in video._on_grid(stream, GRID, 0.0, lambda: 1 / 25))


def by_pyav(path: Path, height: int, width: int) -> np.ndarray:
    import av

    out: list[np.ndarray] = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        last = None
        for frame in on_grid((f.time, f) for f in container.decode(video=0)):
            if frame is not last:
                small = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
                last = frame
            out.append(small)
    return boxed(np.stack(out))


def by_decord(path: Path, height: int, width: int) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path), width=width, height=height)
    times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    wanted = list(on_grid(zip(times - times[0], range(len(times)), strict=True)))
    return boxed(reader.get_batch(wanted).asnumpy())


def by_torchcodec(path: Path, height: int, width: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder
    from torchvision.transforms import v2

    decoder = VideoDecoder(
        path, dimension_order="NHWC", num_ffmpeg_threads=0, seek_mode="approximate",
        transforms=[v2.Resize((height, width))],
    )  # fmt: skip
    start, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    times = np.arange(start, end - video.TICK, 1 / GRID) + video.TICK
    return boxed(decoder.get_frames_played_at(times.clip(max=end - 1e-4).tolist()).data.numpy())


OTHERS: dict[str, tuple[str, Read]] = {
    "PyAV": ("av", by_pyav),
    "decord": ("decord", by_decord),
    "torchcodec": ("torchcodec", by_torchcodec),
}


def write_mp4(path: Path, frames: Sequence[np.ndarray], fps: int) -> None:
    """H.264, which OpenCV's wheel cannot write."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def make(folder: Path, small: bool) -> dict[str, list[Path]]:
    """The files of each row. Drawn ones come first: where PyAV or decord is loaded, OpenCV finds
    their FFmpeg, which has no encoder."""
    drawn = [folder / f"drawn{i}.webm" for i in range(2 if small else 16)]
    for i, path in enumerate(drawn):
        action = studio.ACTIONS[i % len(studio.ACTIONS)]
        video.write_video(path, studio.draw_clip(action, i, i, 0), 16.0)
    rows = {"drawn, 96 x 96, 2 s, VP8": drawn}
    moving = film()[: 25 if small else None]
    video.write_video(folder / "film.webm", moving, 25.0)
    rows["340 x 256, 10 s, VP8"] = [folder / "film.webm"]
    if timing.has("av"):
        write_mp4(folder / "film.mp4", moving, 25)
        rows["340 x 256, 10 s, H.264"] = [folder / "film.mp4"]
        if not small:
            large = [cv2.resize(frame, (1280, 720)) for frame in moving[:120]]
            write_mp4(folder / "large.mp4", large, 30)
            rows["1280 x 720, 4 s, H.264"] = [folder / "large.mp4"]
    real = sorted((settings.REPO.parent / "shared" / "weizmann").glob("walk/*.avi"))
    if real and not small:
        rows["Weizmann's walks, 180 x 144, 2 to 5 s, MPEG-4"] = real
    return rows


def ours(files: Sequence[Path], root: Path) -> np.ndarray:
    """A first epoch: an empty cache is filled. The last clip."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        sampling._keys.clear()  # a process that starts has read no file yet
        cache = sampling.FrameCache(Path(folder), SIZE, GRID)
        for path in files:
            clip = np.array(cache.frames(path))
    return clip


def readers(
    files: Sequence[Path], root: Path
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, float]]:
    """An epoch of each way, and how far each reader's clips are from ours, in grey levels."""
    info = video.info(files[0])
    scale = SIZE / max(info.width, info.height)
    inner = round(info.height * scale), round(info.width * scale)
    cache = sampling.FrameCache(root / "kept", SIZE, GRID)
    clips = {path: np.array(cache.frames(path)) for path in files}

    def epoch(read: Read) -> Callable[[], np.ndarray]:
        return lambda: [read(path, *inner) for path in files][-1]

    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours, first epoch": lambda: ours(files, root),
        "ours, later epochs": lambda: [np.array(cache.frames(path)) for path in files][-1],
    }
    apart = {}
    for name, (module, read) in OTHERS.items():
        if timing.has(module):
            ways[name] = epoch(read)
            off = []
            for path, clip in clips.items():
                theirs = read(path, *inner)
                if abs(len(theirs) - len(clip)) > 1:
                    raise RuntimeError(f"{name} gives {len(theirs)} frames of {path}, not "
                                       f"{len(clip)}")  # fmt: skip
                both = min(len(theirs), len(clip))
                off.append(np.abs(theirs[:both].astype(int) - clip[:both]).mean())
            apart[name] = float(np.mean(off))
    return ways, apart


def decode(path: Path) -> int:
    """Ours without making pictures of what was decoded."""
    return sum(1 for _ in video._decoded(path, due=lambda *frame: False))


def main() -> None:
    small = timing.arguments(__doc__).small
    rounds = 1 if small else 9
    packages = ("opencv-python", "av", "decord", "torchcodec", "numpy")
    with (
        tempfile.TemporaryDirectory() as folder,
        timing.section("Video files to training clips", packages, small) as page,
    ):
        rows, bounds = [], []
        names = [name for name, (module, _) in OTHERS.items() if timing.has(module)]
        for what, files in make(Path(folder), small).items():
            ways, apart = readers(files, Path(folder))
            took = timing.in_turn(ways, rounds)
            rates = [f"{len(files) / timing.median(took[name]):,.1f}" for name in ways]
            best = min(names, key=lambda name: timing.median(took[name]), default=None)
            told = [timing.ratio(took[best], took[ours]) for ours in list(ways)[:2]] if best else []
            far = [f"{apart[name]:.1f}" for name in names]
            rows.append([what, *rates, *(told or ["-", "-"]), best or "-", ", ".join(far)])
            spent = timing.in_turn(
                {
                    "decode": lambda path=files[0]: decode(path),
                    "read": lambda path=files[0]: video.read_frames(path, fps=GRID, size=SIZE),
                },
                rounds,
            )
            alone, whole = timing.median(spent["decode"]), timing.median(spent["read"])
            bounds.append([what, timing.brief([whole]), timing.brief([alone]),
                           f"{alone / whole:.0%}"])  # fmt: skip
        page.say("Clips per second, and over the best of the others:")
        page.say()
        page.table(("files", "ours, first epoch", "ours, later epochs", *names,
                    "first over best (range)", "later over best (range)", "best",
                    "grey levels apart"), rows)  # fmt: skip
        page.say("What bounds ours, for the first file of each row (the rest makes pictures of "
                 "the frames that are shown, and resizes them):")  # fmt: skip
        page.say()
        page.table(("files", "frames of the grid", "decoding alone", "its share"), bounds)


if __name__ == "__main__":
    main()
