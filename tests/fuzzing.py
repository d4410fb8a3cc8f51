"""Damage to files, by number: the same seed and number give the same bytes. Run as a script it is
the process that reads damaged videos; see test_fuzz.py.
"""

import json
import signal
import sys
import warnings
from pathlib import Path

import numpy as np

PATIENCE = 20  # seconds for a case; a healthy one takes some milliseconds
# what fields of headers are most often misread at
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000)


def damaged(files: list[bytes], seed: int, number: int) -> bytes:
    """One of the files, damaged in one to four ways; three of four places lie in the first and the
    last kilobyte, where containers keep their headers and indices."""
    rng = np.random.default_rng([seed, number])
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 5)):
        size = len(content)
        at = int(rng.integers(size)) if size else 0
        if size > 2048 and rng.random() < 0.75:
            at = int(rng.integers(1024))
            at = at if rng.random() < 0.7 else size - 1 - at
        length = int(rng.integers(1, 1 + min(64, max(1, size))))
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
            order = "little" if rng.random() < 0.5 else "big"
            width = int(rng.choice([1, 2, 4, 8]))
            value = int(rng.choice(NUMBERS)) & ((1 << 8 * width) - 1)
            content[at : at + width] = value.to_bytes(width, order)
        elif way == 6:  # a piece twice, or gone
            piece = content[at : at + 8 * length]
            content[at : at + (0 if rng.random() < 0.5 else len(piece))] = piece[::-1][:length]
        else:  # the rest is another file's
            other = files[rng.integers(len(files))]
            content[at:] = other[at:]
        content = content or bytearray(b"\0")
    return bytes(content)


def _read(folder: Path, seed: int, first: int, last: int, spare: int) -> None:
    """Read the cases first..last; each is a line, {number, outcome}, after a line that it began."""
    import resource

    from vidlib import video

    names = sorted(folder.iterdir())
    files = [path.read_bytes() for path in names]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    warnings.simplefilter("ignore")
    # the default of this signal ends the process, even inside of a decoder that never returns
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(first, last):
        rng = np.random.default_rng([seed, number, 1])
        suffix = names[rng.integers(len(names))].suffix
        path = folder.parent / f"case{suffix}"
        path.write_bytes(damaged(files, seed, number))
        print(json.dumps({"began": number}), flush=True)
        signal.alarm(PATIENCE)
        options = ({"size": 16}, {"fps": 12.0, "size": 32}, {"max_frames": 3})[number % 3]
        try:
            frames, times = video.read_frames(path, **options)
            sound = len(frames) == len(times) and times[0] >= 0 and (np.diff(times) > 0).all()
            sound = sound and np.isfinite(times).all() and frames.dtype == np.uint8
            outcome = "frames" if sound else f"unsound: {frames.shape}, {times}"
            video.info(path)
        except video.VideoError as error:
            told = str(error)
            outcome = "refused" if path.name in told and "\n" not in told else f"unclear: {told}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:300]
        signal.alarm(0)
        print(json.dumps({"number": number, "outcome": outcome}), flush=True)


if __name__ == "__main__":
    _read(Path(sys.argv[1]), *map(int, sys.argv[2:]))
