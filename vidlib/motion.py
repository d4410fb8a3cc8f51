"""What moves in a clip: hold the camera still, subtract what stands still, follow the rest.

A clip's frames are uint8 (T, S, S, 3) RGB on the sampling grid. NumPy and OpenCV, no torch.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

CELLS = 6  # corners are sought in a grid of 6 x 6 cells, so that the wall outvotes the person
AGREE = 0.4  # pixels within which two corners' shifts count as one motion
FEWEST = 8  # corners, below which a frame is left where it is
CONTRAST = 100  # grey levels that a strong difference gets in a picture of `follow`
ZERO = 128  # the grey of what stands still there
MARGIN = 1.25  # the crop's side, in sizes of what moves
FORMAT = 2  # raised by hand when `person` gives other pixels than before
QUIET = 25  # in such a picture: below, only the camera's noise is left (drawn clips: 40 or more)
SMALLEST = 0.4  # of the frame: the least side of a crop, or a waving hand would fill the picture


def still(frames: Frames) -> Frames:
    """The median frame, uint8 (T, ...) -> (...): what stands still. The lower of the two middle
    values where T is even, as torch's median in `encoders.to_float`."""
    # bit by bit from the highest: whole rows are counted at once, 20 times as fast as sorting
    median, middle = np.zeros(frames.shape[1:], np.uint8), (len(frames) - 1) // 2
    for bit in 1 << np.arange(7, -1, -1, np.uint8):
        under = np.zeros(median.shape, np.uint32)
        for k in range(0, len(frames), 255):  # as many as a byte can count
            below = (frames[k : k + 255] < (median | bit)).view(np.uint8)
            under += np.add.reduce(below, axis=0, dtype=np.uint8)
        median = np.where(under <= middle, median | bit, median)
    return median


def _corners(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Up to two corners a cell (Shi & Tomasi, CVPR 1994): (N, 1, 2) pixels x, y."""
    quality, found = cv2.cornerMinEigenVal(grey, 3), []
    edges = np.linspace(0, len(grey), CELLS + 1).astype(int)
    for top, bottom in zip(edges[:-1], edges[1:], strict=True):
        for left, right in zip(edges[:-1], edges[1:], strict=True):
            cell = quality[top:bottom, left:right].copy()
            for _ in range(2):
                y, x = np.unravel_index(cell.argmax(), cell.shape)
                if cell[y, x] < 1e-5:  # a bare wall
                    break
                found.append((left + x, top + y))
                cell[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 0
    return np.array(found, np.float32).reshape(-1, 1, 2)


def _moved(image: NDArray[Any], shift: NDArray[np.float64]) -> NDArray[Any]:
    """The image as seen had the camera not moved by `shift` (x, y) pixels."""
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(image, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)


def stabilise(frames: Frames) -> tuple[Frames, NDArray[np.float64]]:
    """Shift every frame onto the middle one: frames, and how far each was off, (T, 2) pixels x, y.

    Corners are tracked from the middle frame (Lucas-Kanade, there and back); the shift on which
    most agree is the camera's. It is used only if it makes the frames' difference smaller than
    no shift does, so that a person who fills the picture is not taken for the wall.
    """
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    middle = greys[len(greys) // 2]
    start = _corners(middle)
    shifts = np.zeros((len(frames), 2))
    if len(start) < FEWEST:  # a bare wall
        return frames, shifts
    smooth = [cv2.GaussianBlur(g, (0, 0), 1).astype(np.float32) for g in greys]
    track = {"winSize": (11, 11), "maxLevel": 2}
    for k, grey in enumerate(greys):
        if k == len(greys) // 2:
            continue
        there, found, _ = cv2.calcOpticalFlowPyrLK(middle, grey, start, None, **track)
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(grey, middle, there, None, **track)
        kept = (found & found_back).ravel() == 1
        kept &= np.linalg.norm((back - start)[:, 0], axis=1) < 0.5
        offsets = (there - start)[kept, 0]
        if len(offsets) < FEWEST:
            continue
        apart = np.linalg.norm(offsets[:, None] - offsets, axis=2)
        shift = offsets[(apart < AGREE).sum(1).argmax()]
        for _ in range(3):  # the mean of those that agree, then of those that agree with it
            shift = offsets[np.linalg.norm(offsets - shift, axis=1) < AGREE].mean(0)
        wall = smooth[len(greys) // 2]
        # differences over 12 levels are people, whatever their size: they count as 12
        rest = [np.minimum(np.abs(_moved(smooth[k], s) - wall), 12).mean()
                for s in (np.zeros(2), shift)]  # fmt: skip
        if rest[1] < rest[0]:
            shifts[k] = shift
    moved = [_moved(f, s) if s.any() else f for f, s in zip(frames, shifts, strict=True)]
    return np.stack(moved), shifts


def _smooth(x: NDArray[np.float64], sigma: float = 4.0) -> NDArray[np.float64]:
    """Gaussian over time, (T,) -> (T,), `sigma` in frames; both ends are held."""
    reach = round(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(x, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def _reach(away: NDArray[np.float64], mass: NDArray[np.float64]) -> float:
    """The distance within which 97 % of the mass lies; both (T, S)."""
    order = np.argsort(away, axis=None)
    total = np.cumsum(mass.ravel()[order])
    return float(away.ravel()[order][np.searchsorted(total, 0.97 * total[-1])])


def follow(moving: NDArray[np.int16], size: int) -> NDArray[np.int16]:
    """Crop (T, S, S, 3) around what moves to (T, size, size, 3).

    The side is the clip's, so that a reach stays longer than a fist; left and right the crop
    follows, smoothly, so that a person who walks through stays in it; up and down it does not, so
    that who sits down sinks in it.
    """
    s, at = moving.shape[1], np.arange(moving.shape[1])
    energy = np.abs(moving).sum(-1).astype(np.float64)
    # what is well above noise, and a bright shirt no more than the arm
    level = max(30.0, 0.15 * float(np.median(energy.max((1, 2)))))
    energy = np.minimum(np.where(energy > level, energy, 0), 3 * level)
    across, along = energy.sum(1), energy.sum(2)  # (T, S) each, by column and by row
    mass = energy.sum((1, 2)) + 1e-3
    weight = mass / mass.max()
    x = _smooth((across * at).sum(1) / mass * weight) / np.maximum(_smooth(weight), 1e-6)
    y = float((along * at).sum() / mass.sum())
    half = max(
        _reach(np.abs(at - x[:, None]), across),
        _reach(np.broadcast_to(np.abs(at - y), along.shape), along),
    )
    half = float(np.clip(MARGIN * half, SMALLEST * s / 2, s / 2))
    scale = size / (2 * half)
    out = np.empty((len(moving), size, size, 3), np.int16)
    for picture, frame, centre in zip(out, moving, x, strict=True):
        matrix = np.array([[scale, 0, size / 2 - centre * scale], [0, scale, size / 2 - y * scale]])
        picture[:] = cv2.warpAffine(frame, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return out


def _strength(moving: NDArray[np.int16]) -> float:
    """Grey levels of a clip's strong differences, hardly one of which is noise alone."""
    return float(np.percentile(np.abs(moving), 99.5))


def person(frames: Frames, size: int) -> Frames:
    """What the encoder sees with background "follow": (T, S, S, 3) -> (T, size, size, 3) uint8.

    `stabilise`, minus `still`, `follow`, and one contrast a clip: grey (ZERO) is what stands still.
    """
    held, shifts = stabilise(frames)
    moving = held.astype(np.int16) - still(held)
    for picture, (x, y) in zip(moving, shifts, strict=True):
        # where the camera did not look nothing is known to move
        picture[:, slice(len(picture) - math.ceil(x), None) if x > 0 else slice(math.ceil(-x))] = 0
        picture[slice(len(picture) - math.ceil(y), None) if y > 0 else slice(math.ceil(-y))] = 0
    moving = follow(moving, size)
    # a clip in which nothing moves must not become a picture of its noise
    strong = max(20.0, _strength(moving))
    return np.clip(np.rint(moving * (CONTRAST / strong)) + ZERO, 0, 255).astype(np.uint8)


def source_size(size: int, background: str) -> int:
    """The side at which frames are decoded for an encoder that sees `size` pixels: a crop needs
    more to cut from."""
    return 2 * size if background == "follow" else size


def prepare(frames: Frames, size: int, background: str) -> Frames:
    """Frames decoded at `source_size` -> what the encoder is given, (T, size, size, 3) uint8."""
    return person(frames, size) if background == "follow" else frames


def moves(pictures: Frames, background: str) -> bool:
    """Whether anything moves in pictures that `prepare` made, or it is noise alone; of pictures
    from which nothing was subtracted this is not known, and they count as moving."""
    return background != "follow" or _strength(pictures.astype(np.int16) - ZERO) >= QUIET
