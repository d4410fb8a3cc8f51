"""A video file to frames, and frames to a video file. BGR exists only in here.

OpenCV decodes and encodes; its frame counts and its seeking are not to be trusted, so frames are
counted by reading them and files are read forward only. Times are the container's own.
"""

import contextlib
import errno
import math
import os
import re
import sys
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vidlib.settings import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
MAX_BYTES = 2 * 1024**3  # the most that read_frames holds; more is a film where a window was meant
TICK = 1e-3  # seconds: containers round times to a millisecond, so nearer than this is equal
# pixels of a frame up to which one thread decodes as fast as many, which take 3 ms to start
SMALL = 400 * 300
LONGEST_GAP = 60.0  # seconds between two frames; a longer one is a broken time stamp
# (index of a frame, its seconds, the file's frames per second) -> whether it is made a picture
Due = Callable[[int, float, float], bool]
CODECS = {"AV01": "AV1", "VP80": "VP8", "VP90": "VP9", "HEV1": "HEVC", "HVC1": "HEVC"}


class VideoError(UserError):
    """A file cannot be read or written as video. The message names the file and the remedy."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file's header says; counts in headers are often wrong (read the frames to know)."""

    path: Path
    width: int  # pixels, upright
    height: int
    fps: float  # frames per second; 25 where the header has nothing usable
    claimed_frames: int | None  # None where the header has nothing usable
    codec: str
    rotation: int  # degrees in the metadata; frames come out upright already


def _convert_hint(path: Path) -> str:
    return f'convert it, for example: ffmpeg -i "{path.name}" -c:v libvpx -an converted.webm'


def _open(path: Path, threads: bool = False) -> cv2.VideoCapture:
    """Open for forward reading, with `threads` where they pay; VideoError when the path is not a
    readable video."""
    try:
        if path.is_dir():
            raise VideoError(f"{path} is a folder, not a video: name a file in it")
        if not path.is_file():  # nor a pipe, which would wait for ever
            raise VideoError(f"{path}: no such file: check the path")
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{path} is empty (0 bytes): copy or download it again")
    except OSError as error:
        raise VideoError(f"{path} cannot be opened ({error.strerror}): check it") from error
    # FFmpeg where it is built in: OpenCV's other readers take "img_01.jpg" for a series of pictures
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends()
    # absolute, since FFmpeg takes the colon of a relative "a:b.mp4" for the end of a protocol
    name = str(path.absolute())
    if has_ffmpeg:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        # a process among several that decode (FrameCache.build) has one thread for OpenCV, too
        if threads and pixels > SMALL and cv2.getNumThreads() > 1:
            capture.release()
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    else:
        capture = cv2.VideoCapture(name)
    if not capture.isOpened():
        raise VideoError(
            f"{path} has no video that can be read (not a video, sound only, or damaged): "
            f"check that it plays elsewhere, then {_convert_hint(path)}"
        )
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _info(path: Path, capture: cv2.VideoCapture) -> VideoInfo:
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    tag = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    codec = tag.to_bytes(4, "little").decode("latin-1").strip("\0 ").upper()
    return VideoInfo(
        path=path,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        fps=fps if 1 / LONGEST_GAP <= fps <= 1000 else 25.0,
        claimed_frames=int(count) if 0 < count < 1e9 else None,
        codec=CODECS.get(codec, codec) if codec.isprintable() and codec else "unknown",
        rotation=int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360,
    )


def info(path: Path | str) -> VideoInfo:
    """What the header says. Raises VideoError when the file cannot be opened as video."""
    capture = _open(Path(path))
    try:
        return _info(Path(path), capture)
    finally:
        capture.release()


def _next_time(last: float, stamp: float, fps: float) -> float:
    """The time of the frame after the one at `last`: its stamp, or one interval on if that is
    nonsense (not a number, not later, or later by more than any real gap). Seconds."""
    if last < stamp <= last + max(LONGEST_GAP, 10 / fps):
        return stamp
    return last + 1 / fps


def iter_frames(path: Path | str) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (seconds, frame uint8 (H,W,3) RGB), upright, in order, one pass, one frame in memory.

    The first frame is at 0 and times increase. Warns when the header claims clearly more frames
    than decode; raises VideoError when the file cannot be opened or yields no frame.
    """
    return _decoded(Path(path))


def _always(index: int, seconds: float, fps: float) -> bool:
    return True


def _decoded(path: Path, rgb: bool = True, due: Due = _always) -> Iterator[tuple[float, Any]]:
    """`iter_frames`, or the same in BGR: small frames are turned faster than large ones. A frame
    that is not `due` comes as None: making a picture of what was decoded is half of the work."""
    capture = _open(path, threads=True)
    try:
        header = _info(path, capture)
        count, first, seconds = 0, 0.0, 0.0
        while True:
            if not capture.grab():
                break
            stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if count == 0:
                first = stamp if math.isfinite(stamp) else 0.0
            else:
                seconds = _next_time(seconds, stamp - first, header.fps)
            ok, frame = True, None
            try:
                if due(count, seconds, header.fps):
                    ok, frame = capture.retrieve()
                    frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if ok and rgb else frame
            except (MemoryError, cv2.error) as error:  # the latter also where memory ends
                raise VideoError(
                    f"{path}: a frame of {header.width} x {header.height} pixels is damaged or "
                    f"does not fit into memory: {_convert_hint(path)}"
                ) from error
            if not ok:
                break
            count += 1
            yield seconds, frame
    finally:
        capture.release()
    if count == 0:
        raise VideoError(
            f"{path}: OpenCV decodes no frame of its {header.codec} video: {_convert_hint(path)}"
        )
    # a frame or two in a hundred are rounding in the header's duration, nothing to worry about
    if header.claimed_frames and header.claimed_frames - count > max(1, count // 50):
        warnings.warn(
            f"{path}: the header claims {header.claimed_frames} frames but {count} decode; "
            f"the file is cut short or damaged, the {count} are used",
            stacklevel=2,
        )


def letterbox(frame: np.ndarray, size: int) -> np.ndarray:
    """Fit uint8 (H,W,3) into (size,size,3): aspect kept, centred, black bars."""
    height, width = frame.shape[:2]
    scale = size / max(height, width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    # the mean over the area that a pixel covers does not alias; enlarging needs interpolation
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    while min(frame.shape[0] / inner[0], frame.shape[1] / inner[1]) >= 4 and not (
        frame.shape[0] % 2 or frame.shape[1] % 2
    ):  # halving is many times as fast as the mean over parts of pixels, and comes near it
        frame = cv2.resize(frame, (frame.shape[1] // 2, frame.shape[0] // 2), interpolation=how)
    small = cv2.resize(frame, (inner[1], inner[0]), interpolation=how)
    if inner == (size, size):
        return small
    boxed = np.zeros((size, size, 3), np.uint8)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    boxed[top : top + inner[0], left : left + inner[1]] = small
    return boxed


def _on_grid(
    stream: Iterable[tuple[float, Any]], fps: float, start: float, interval: Callable[[], float]
) -> Iterator[tuple[float, Any]]:
    """Resample to the times start + k/fps; each takes the frame shown then, so files of one motion
    at 25 and at 30 frames per second agree. The last frame is shown for the mean interval between
    frames (`interval()` seconds if it is the only one)."""
    if not fps > 0:
        raise ValueError(f"fps must be positive, not {fps}")
    k, count, last, held = 0, 0, 0.0, None
    for seconds, frame in stream:
        while count and start + k / fps + TICK < seconds:
            yield start + k / fps, held
            k += 1
        count, last, held = count + 1, seconds, frame
    if not count:
        return
    end = last + (last / (count - 1) if count > 1 else interval())
    while start + k / fps + TICK < end:
        yield start + k / fps, held
        k += 1


def shown(count: int, fps: float, grid: float) -> np.ndarray:
    """Which frame of a film at `fps` frames per second is shown at the times k / grid, never one
    that comes later: indices (count,). For frames in memory what `_on_grid` is for a file's."""
    return np.floor(np.arange(count) * fps / grid + TICK * fps).astype(int)


def _guess(start: float, grid: float) -> Due:
    """Asked for one frame after the other: whether the grid shows it, if the next one comes when
    the file's rate says or, in a file that does not keep to that, as long after it as it came after
    the one before."""
    last = -math.inf

    def due(index: int, seconds: float, fps: float) -> bool:
        nonlocal last
        interval, last = seconds - last, seconds
        # to one side a time is off by half a millisecond where it was rounded, an interval by two
        steady = abs(index / fps - seconds) < 0.55 * TICK
        until = (index + 1) / fps + 0.9 * TICK if steady else seconds + interval + 2 * TICK
        k = max(0, math.ceil((seconds - TICK - start) * grid))
        return start + k / grid + TICK < until

    return due


def _stream(
    path: Path, start: float, fps: float | None, size: int | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Frames from `start` on, resampled and resized while reading."""
    if fps is None:
        yield from _fitted(((t, f) for t, f in _decoded(path, size is None) if t + TICK >= start),
                           size)  # fmt: skip
        return
    done = 0
    for due in (_guess(start, fps), _always):
        stream = _fitted(_decoded(path, size is None, due), size)
        for i, (seconds, frame) in enumerate(
            _on_grid(stream, fps, start, lambda: 1 / info(path).fps)
        ):
            if frame is None:  # wrongly left out, where frames come unevenly: once more, with all
                break
            if i == done:
                yield seconds, frame
                done += 1
        else:
            return


def _fitted(stream: Iterable[tuple[float, Any]], size: int | None) -> Iterator[tuple[float, Any]]:
    """Frames as they come (BGR where there is a size), in RGB and of one size; None stays."""
    if size is not None:

        def fit(frame: np.ndarray) -> np.ndarray:
            return cv2.cvtColor(letterbox(frame, size), cv2.COLOR_BGR2RGB)

        if cv2.getNumThreads() > 1:
            yield from _behind(stream, fit)
        else:
            yield from ((t, None if frame is None else fit(frame)) for t, frame in stream)
        return
    shape = None
    for seconds, frame in stream:
        if frame is not None:
            shape = shape or frame.shape
            if frame.shape != shape:  # some streams change size midway
                frame = cv2.resize(frame, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        yield seconds, frame


def _behind(
    stream: Iterable[tuple[float, Any]], fit: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[float, Any]]:
    """What `fit` makes of the frames, in a thread of its own, while the next three are decoded."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[float, Any]] = deque()
        for seconds, frame in stream:
            waiting.append((seconds, None if frame is None else pool.submit(fit, frame)))
            if len(waiting) > 3:
                seconds, later = waiting.popleft()
                yield seconds, later and later.result()
        for seconds, later in waiting:
            yield seconds, later and later.result()


def read_frames(
    path: Path | str,
    start: float = 0.0,
    end: float | None = None,
    fps: float | None = None,
    size: int | None = None,
    max_frames: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The frames of [start, end) seconds: frames uint8 (T,H,W,3) RGB, times float64 (T,) seconds.

    fps resamples onto start + k/fps (None: every frame, at its own time), size letterboxes to a
    square of so many pixels. Only the frames returned are held; more than MAX_BYTES of them is a
    VideoError, as are an unreadable file and a window with no frame in it.
    """
    path, start = Path(path), max(0.0, start)
    frames: list[np.ndarray] = []
    times: list[float] = []
    held = 0
    with contextlib.closing(_stream(path, start, fps, size)) as stream:
        for seconds, frame in stream:
            if end is not None and seconds > end - TICK / 2:
                break
            if held + frame.nbytes > MAX_BYTES:
                raise VideoError(
                    f"{path}: more than {MAX_BYTES / 1024**3:.2g} GiB of frames up to second "
                    f"{seconds:.0f}: read a window (start, end), at a lower fps, or a smaller size"
                )
            frames.append(frame)
            times.append(seconds)
            held += frame.nbytes
            if len(frames) == max_frames:
                break
    if not frames:
        until = "its end" if end is None else f"{end:g} s"
        raise VideoError(f"{path}: no frame from {start:g} s to {until}: choose an earlier window")
    return np.stack(frames), np.array(times, np.float64)


def iter_segments(
    path: Path | str, seconds: float, fps: float, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Consecutive pieces of at most `seconds`, one pass, one piece in memory.

    Yields frames uint8 (T,size,size,3) RGB and times float64 (T,): k/fps from the file's start.
    """
    length = max(1, round(seconds * fps))
    frames: list[np.ndarray] = []
    times: list[float] = []
    for time, frame in _stream(Path(path), 0.0, fps, size):
        frames.append(frame)
        times.append(time)
        if len(frames) == length:
            yield np.stack(frames), np.array(times, np.float64)
            frames, times = [], []
    if frames:
        yield np.stack(frames), np.array(times, np.float64)


_quiet_lock = threading.Lock()  # two threads at once would restore each other's silence


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what OpenCV prints when it opens a WebM writer: a complaint about the VP80 tag that no
    log level silences and that would end up in every notebook. The file is right all the same."""
    with _quiet_lock:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, AttributeError):  # no standard error here (a windowed Python)
            yield
            return
        try:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def write_video(path: Path | str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write uint8 (H,W,3) RGB frames as VP8 .webm, which every browser plays.

    Odd sides gain a repeated row or column, since the codec stores colour at half size, and sides
    under 16, its block, grow to that: at few frames per second smaller ones cannot be read back.
    Written beside `path`, then moved, so a half-written file is never seen. Raises VideoError
    without frames, for another suffix, under 1 frame per second, or without a VP8 encoder.
    """
    path = Path(path)
    if path.suffix.lower() != ".webm":
        raise VideoError(f"{path}: only .webm is written: give it that suffix")
    if not 1 <= fps < 1000:
        raise VideoError(f"{path}: {fps} frames per second cannot be written: choose 1 to 60")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VideoError(f"{path} cannot be written ({error.strerror}): choose a folder") from error
    part = path.with_name(f".{uuid.uuid4().hex}.webm")
    writer, shape = None, None
    try:
        for frame in frames:
            if writer is None:
                shape = frame.shape
                sides = [max(16, side + side % 2) for side in shape[:2]]
                with _quiet():
                    code = cv2.VideoWriter.fourcc(*"VP80")
                    writer = cv2.VideoWriter(str(part.absolute()), code, fps, sides[::-1])
                if not writer.isOpened():
                    raise VideoError(
                        f"{path} cannot be written (no right or no space to write there, or this "
                        "OpenCV has no VP8 encoder): check the folder, then: pip install "
                        "opencv-python; import vidlib before decord, whose FFmpeg OpenCV would "
                        "find instead of its own"
                    )
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != shape:
                raise VideoError(
                    f"{path}: frames must be uint8 (H,W,3) of one size, not {frame.dtype} "
                    f"{frame.shape}: convert them first"
                )
            grow = [side - now for side, now in zip(sides, frame.shape[:2], strict=True)]
            bgr = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR)
            writer.write(cv2.copyMakeBorder(bgr, 0, grow[0], 0, grow[1], cv2.BORDER_REPLICATE))
        if writer is None:
            raise VideoError(f"{path}: no frames to write: give at least one")
        writer.release()
        try:
            _name_track(part)
            os.replace(part, path)
        except OSError as error:
            raise VideoError(
                f"{path} cannot be written ({error.strerror}): free some space, or choose another "
                "folder"
            ) from error
    finally:
        if writer is not None:
            writer.release()
        with contextlib.suppress(OSError):
            part.unlink()


def _name_track(path: Path) -> None:
    """Give a .webm's one track the number 1 instead of a random one (Matroska's TrackUID, RFC
    9559): the same frames are then the same bytes, and keys made of them hold on every machine.
    OSError when the file is not as long as it says: OpenCV is silent about a full disk."""
    with path.open("r+b") as file:
        head = file.read(1024)
        before, _, after = head.partition(b"\x18\x53\x80\x67\x01")  # all the rest is in there
        if len(before) + 12 + int.from_bytes(after[:7], "big") != path.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if found := re.search(rb"\x73\xc5\x88(.{8})", head, re.DOTALL):
            # once where the track is described, once where its tags name it
            file.seek(0)
            file.write(head.replace(b"\xc5\x88" + found[1], b"\xc5\x88" + (1).to_bytes(8, "big")))


def transcode(
    src: Path | str,
    dst: Path | str,
    max_side: int = 480,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Convert any readable video to a VP8 .webm that a browser plays; nothing but one frame in
    memory. Sides over max_side pixels shrink, rates are kept within 1 and 30 frames per second.
    `progress` is told how many seconds of video are done. Raises VideoError."""
    src = Path(src)
    rate = min(max(info(src).fps, 1.0), 30.0)

    def shrunk() -> Iterator[np.ndarray]:
        for seconds, frame in _stream(src, 0.0, rate, None):
            scale = max_side / max(frame.shape[:2])
            if scale < 1:
                sides = [max(1, round(side * scale)) for side in frame.shape[1::-1]]
                frame = cv2.resize(frame, sides, interpolation=cv2.INTER_AREA)
            if progress is not None:
                progress(seconds)
            yield frame

    write_video(dst, shrunk(), rate)
