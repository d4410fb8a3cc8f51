"""Which frames a model sees: windows of a clip, padding masks, the cache of decoded frames."""

import hashlib
import multiprocessing
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from vidlib import distributed, motion, settings
from vidlib.settings import UserError
from vidlib.video import VideoError, letterbox, read_frames

__all__ = [
    "FrameCache",
    "clip_frames",
    "crops",
    "file_key",
    "join_views",
    "letterbox",
    "take_window",
    "views",
    "window_starts",
]

# raised by hand when decoding or resizing gives other pixels than before
FORMAT = 3
# fewer missing clips than this are decoded here: starting a process costs about as much
FEW = 16


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows of `window` frames begin so that they cover `length` frames, `stride` apart.

    The last one ends flush with the clip; [0] when the clip is no longer than a window.
    """
    if window < 1 or stride < 1:
        raise ValueError(f"window and stride must be at least 1, not {window} and {stride}")
    last = max(0, length - window)
    return [*range(0, last, min(stride, window)), last]


def take_window(x: np.ndarray, start: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """x (T,...) -> (x[start:start+window] (window,...), zeros after the end; valid bool (window,),
    False where it was padded)."""
    piece = x[start : start + window]
    valid = np.arange(window) < len(piece)
    padding = np.zeros((window - len(piece), *x.shape[1:]), x.dtype)
    return np.concatenate([piece, padding]), valid


def clip_frames(count: int, length: int, stride: int, clips: int) -> np.ndarray:
    """Which of `count` frames make up `clips` clips of every `stride`-th frame, spread evenly from
    the start to the end (one: in the middle): int (clips, length). As VideoMAE's authors test;
    fewer rows where clips would be alike, the last frame repeated where a film is too short."""
    kept = -(-count // stride)
    spare = max(0, kept - length)
    starts = [spare // 2] if clips == 1 else np.arange(clips) * spare // (clips - 1)
    at = np.unique(starts)[:, None] + np.arange(length)
    return np.minimum(at, kept - 1) * stride


def crops(frame: np.ndarray, size: int, count: int) -> np.ndarray:
    """Resize the short side of uint8 (H,W,3) to `size`, then cut `count` squares spread evenly
    along the long one (one: from the middle): (count,size,size,3)."""
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    inner = max(size, round(height * scale)), max(size, round(width * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(frame, inner[::-1], interpolation=how)
    spare = max(inner) - size
    starts = [spare // 2] if count == 1 else np.arange(count) * spare // (count - 1)
    tall = inner[0] > inner[1]
    return np.stack([small[s : s + size] if tall else small[:, s : s + size] for s in starts])


def views(
    frames: np.ndarray, length: int, stride: int, size: int, clips: int, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """A film uint8 (T,H,W,3) as a model is tested on it: `clips` clips x `count` crops, uint8
    (clips x count,length,3,size,size), clip by clip, and which frames the clips hold
    (clips,length)."""
    at = clip_frames(len(frames), length, stride, clips)
    cut = {i: crops(frames[i], size, count) for i in np.unique(at)}
    return join_views(cut, at), at


def join_views(cut: dict[int, np.ndarray], at: np.ndarray) -> np.ndarray:
    """Frames' `crops` by the frame's index -> `views`' clips."""
    x = np.stack([[cut[i] for i in row] for row in at])  # clips, length, crops, size, size, 3
    x = x.transpose(0, 2, 1, 5, 3, 4)
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


_keys: dict[tuple[str, int, int], str] = {}


def file_key(path: Path | str) -> str:
    """A file's content as 32 hexadecimal digits (BLAKE2b): equal content, equal key, whatever the
    name. Read again only when size or modification time change. VideoError when it is not there."""
    path = Path(path)
    try:
        stat = path.stat()
        known = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
        if known not in _keys:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            _keys[known] = digest.hexdigest()
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}): check the path") from error
    return _keys[known]


def learn_keys(paths: Sequence[Path | str]) -> None:
    """Read each file once for its key; in several processes each reads its share, and all know."""
    for path in distributed.share(paths):
        file_key(path)
    _keys.update(distributed.gather(_keys))


class FrameCache:
    """Decoded clips on disk, one memory-mapped .npy each: uint8 (T,size,size,3) RGB at k/fps
    (np.load(..., mmap_mode="r") reads them; four bytes of checksum follow the frames). With
    background "follow" they are what `motion.person` makes of the frames.

    A file's name is a hash of the clip's content and of the parameters, so a changed source or
    parameter is another file, and copies of a clip share one. Deleting the folder costs only time.
    """

    def __init__(
        self,
        root: Path | None = None,
        size: int = 64,
        fps: float = 12.0,
        max_seconds: float = 20.0,
        background: str = "none",
    ) -> None:
        self.root = Path(root) if root is not None else settings.cache_dir() / "frames"
        self.size, self.fps, self.max_seconds = int(size), float(fps), float(max_seconds)
        self.background = background
        self._checked: set[str] = set()  # keys whose checksum was right

    def key(self, path: Path | str) -> str:
        """The name under which the clip's frames are kept."""
        parts = (file_key(path), self.size, self.fps, self.max_seconds, FORMAT)
        # "median" is subtracted later, from the same frames
        parts += (motion.FORMAT,) if self.background == "follow" else ()
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def _load(self, key: str) -> np.memmap | None:
        """The cached frames; None when there are none or the file is damaged."""
        path = self.root / f"{key}.npy"
        try:
            frames = np.lib.format.open_memmap(path, mode="r")
            with path.open("rb") as file:
                file.seek(frames.offset + frames.nbytes)
                checksum = file.read()
        except Exception:  # whatever is wrong with it, it is decoded again
            return None
        right = frames.ndim == 4 and frames.shape[1:] == (self.size, self.size, 3)
        right = right and len(frames) and frames.dtype == np.uint8
        if not right or not frames.flags.c_contiguous or len(checksum) != 4:
            return None
        if key not in self._checked:  # once: it reads the whole file
            if checksum != zlib.crc32(frames).to_bytes(4, "big"):
                return None
            self._checked.add(key)
        return frames

    def _decode(self, path: Path | str) -> np.ndarray:
        """Frames of the first max_seconds, with a warning when there are more."""
        most = max(1, round(self.max_seconds * self.fps))
        # one frame more than is kept shows whether the film goes on
        size = motion.source_size(self.size, self.background)
        frames, _ = read_frames(path, fps=self.fps, size=size, max_frames=most + 1)
        if len(frames) > most:
            warnings.warn(
                f"{path}: longer than {self.max_seconds:g} s, only its beginning is used: "
                "cut it into clips, or raise max_seconds",
                stacklevel=3,  # whoever asked frames() for it
            )
        return motion.prepare(frames[:most], self.size, self.background)

    def frames(self, path: Path | str) -> np.memmap:
        """The clip's frames, uint8 (T,size,size,3) RGB, read only; decoded when not cached yet.

        Raises VideoError when the clip cannot be read, UserError when the cache cannot be written.
        """
        key = self.key(path)
        for _ in range(5):  # another process may delete what was just written
            cached = self._load(key)
            if cached is not None:
                return cached
            self._store(key, self._decode(path))
            self._checked.add(key)
        raise UserError(f"the cache {self.root} does not keep what is written: use another folder")

    def _store(self, key: str, frames: np.ndarray) -> None:
        """No process ever sees a part of a file."""

        def fill(file: IO[bytes]) -> None:
            np.save(file, frames)
            file.write(zlib.crc32(frames).to_bytes(4, "big"))

        try:
            settings.write(self.root / f"{key}.npy", fill)
        except UserError:  # Windows: another process has just written and mapped it
            if self._load(key) is None:
                raise

    def build(
        self, paths: Iterable[Path | str], workers: int | None = None, progress: bool = True
    ) -> dict[Path, str]:
        """Decode all clips that are not cached, in up to `workers` processes (None: one per core).

        Returns {path: reason} of those that cannot be read. Raises UserError when the cache cannot
        be written or a process dies.
        """
        bad: dict[Path, str] = {}
        missing: dict[str, list[Path]] = {}
        for path in map(Path, paths):
            try:
                if self._load(key := self.key(path)) is None:
                    missing.setdefault(key, []).append(path)
            except VideoError as error:
                bad[path] = str(error)
        if not missing:
            return bad
        workers = min(workers or os.cpu_count() or 1, 1 + len(missing) // FEW)
        jobs = [copies[0] for copies in missing.values()]
        with settings.bar(total=len(jobs), desc="decode", disable=not progress) as bar:
            if workers == 1:
                reasons = _collect(map(_build_one, repeat(self), jobs), bar)
            else:
                # spawn: a forked child inherits locks of OpenCV's and torch's threads
                context = multiprocessing.get_context("spawn")
                try:
                    with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
                        results = pool.map(_build_one, repeat(self), jobs, chunksize=4)
                        reasons = _collect(results, bar)
                except BrokenProcessPool as error:
                    raise UserError(
                        "a process that decodes clips died: in a script, call this below "
                        "`if __name__ == '__main__':`, or use workers=1"
                    ) from error
        for copies, reason in zip(missing.values(), reasons, strict=True):
            if reason is not None:
                bad |= dict.fromkeys(copies, reason)
        return bad


def _build_one(cache: FrameCache, path: Path) -> tuple[str | None, list[str]]:
    """Cache one clip: (why it cannot be read or None, the warnings it gave)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cache.frames(path)
            reason = None
        except VideoError as error:
            reason = str(error)
    return reason, [str(each.message) for each in caught]


def _collect(results: Iterable[tuple[str | None, list[str]]], bar: Any) -> list[str | None]:
    """The reasons, as they come; advances the bar and repeats the warnings in this process."""
    reasons = []
    for reason, messages in results:
        for message in messages:
            warnings.warn(message, stacklevel=4)
        reasons.append(reason)
        bar.update()
    return reasons
