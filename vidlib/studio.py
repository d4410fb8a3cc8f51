"""The studio: draws short clips of people in rooms, the default data set of the course.

A jointed 3-D figure moves (two-bone inverse kinematics for arms and legs), is seen by a camera and
drawn as rounded cones with a depth buffer, at three times the final resolution. Three numbers
decide a clip: `person` (build, clothes, habits), `scene` (room, light, camera), `take` (the rest).

Coordinates are metres: world x right, y up, z towards the viewer, floor at y = 0. A body's own
frame is (left, up, ahead). Arrays over time lead with T frames.
"""

import colorsys
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from . import settings, video

PAIR = ("sitting_down", "standing_up")  # told apart by the order of frames alone
ACTIONS = ("waving", "clapping", "walking", "running", "boxing", "jumping_jacks", *PAIR)
STUDIO_VERSION = 3  # raise it when a change alters any frame: learners' clips are drawn anew
CLIP = re.compile(r"(train|val)/\w+/studio_[\w.]+\.webm")  # what the studio may delete
VAL_OFFSET = 1000  # people and scenes of `val` are numbered from here: never seen in `train`


def _rng(*key: int) -> Generator:
    """A generator that depends on these integers alone (not on hash(), processes or order)."""
    return Generator(PCG64(SeedSequence(key)))


def _hsv(rng: Generator, hue: tuple, saturation: tuple, value: tuple) -> np.ndarray:
    h, s, v = (rng.uniform(*span) for span in (hue, saturation, value))
    return 255 * np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)


def _pick(rng: Generator, **chances: float) -> str:
    return str(
        rng.choice(list(chances), p=np.array(list(chances.values())) / sum(chances.values()))
    )


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _smooth(x: np.ndarray) -> np.ndarray:
    """0..1 eased, at rest at both ends (minimum-jerk polynomial, Flash and Hogan 1985)."""
    x = np.clip(x, 0, 1)
    return x * x * x * (x * (6 * x - 15) + 10)


def _vec(left, up, ahead) -> np.ndarray:
    """(T, 3) from arrays (T,) or numbers."""
    return np.atleast_2d(np.stack(np.broadcast_arrays(left, up, ahead), -1).astype(float))


def _spot(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold all of a uint8 mask's non-zero pixels."""
    x, y, w, h = cv2.boundingRect(mask)
    return slice(y, y + h), slice(x, x + w)


def _yaw(angle: float) -> np.ndarray:
    """(3, 3); row vectors times it are turned about the vertical, z towards x."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


# ---- people: build, clothes and habits

PAINTS = (
    "nothing",
    "skin",
    "hair",
    "shirt",
    "print",
    "legs",
    "shoes",
    "eye",
    "cap",
    "sock",
    "lips",
)
HAIR = [(38, 28, 24), (70, 46, 30), (120, 78, 42), (196, 156, 92), (150, 66, 36), (165, 162, 158)]


@dataclass(frozen=True)
class Person:
    """Lengths are fractions of `height` (metres)."""

    height: float
    girth: float  # thickness of limbs and trunk, 1 is average
    shoulder: float  # half the distance between the shoulder joints
    tempo: float
    amplitude: float
    side: int  # +1: the left hand leads, -1: the right one
    legs: str
    sleeves: str
    pattern: str
    hair: str
    palette: np.ndarray  # (len(PAINTS), 3) float32 RGB


def person_of(number: int, seed: int = 0) -> Person:
    """The person called `number`."""
    rng = _rng(seed, 1, number)
    any_hue, tone, p = (0, 1), rng.uniform(0, 1), {}
    p["skin"] = (1 - tone) * np.array([244, 205, 178]) + tone * np.array([128, 84, 60])
    p["hair"] = np.array(HAIR[rng.choice(6, p=[0.3, 0.25, 0.15, 0.14, 0.08, 0.08])])
    p["shirt"] = _hsv(rng, any_hue, (0.35, 0.85), (0.5, 0.98))
    if rng.random() < 0.25:  # grey, from black to white
        p["shirt"] = np.full(3, rng.uniform(50, 240))
    p["print"] = _hsv(rng, any_hue, (0.05, 0.7), (0.3, 1.0))
    if abs(p["print"] - p["shirt"]).max() < 70:  # a print must be seen
        p["print"] = np.full(3, 240.0 if p["shirt"].mean() < 140 else 45.0)
    denim = [(0.58, 0.66), (0.05, 0.12), any_hue][rng.choice(3, p=[0.5, 0.2, 0.3])]
    p["legs"] = _hsv(rng, denim, (0.15, 0.65), (0.22, 0.72))
    p["shoes"] = _hsv(rng, any_hue, (0.1, 0.6), (0.15, 0.9))
    p["cap"] = _hsv(rng, any_hue, (0.4, 0.9), (0.4, 0.9))
    p["sock"], p["eye"] = np.full(3, rng.uniform(150, 245)), np.array([34, 26, 26])
    p["lips"], p["nothing"] = p["skin"] * [0.8, 0.55, 0.55], np.zeros(3)
    return Person(
        height=rng.uniform(1.52, 1.92),
        girth=rng.uniform(0.88, 1.22),
        shoulder=rng.uniform(0.106, 0.126),
        tempo=rng.uniform(0.85, 1.18),
        amplitude=rng.uniform(0.8, 1.2),
        side=1 if rng.random() < 0.3 else -1,
        legs=_pick(rng, trousers=6, shorts=2, skirt=2),
        sleeves=_pick(rng, long=9, short=9, none=2),
        pattern=_pick(rng, plain=4, stripes=2, pinstripes=1, dots=1.5, logo=1.5),
        hair=_pick(rng, short=8, long=4, bun=2, cap=3, hat=1.5, bald=1.5),
        palette=np.array([p[name] for name in PAINTS], np.float32),
    )


# ---- motion

# segment lengths as fractions of height, after Winter (2009); head a little large
THIGH, SHIN, ANKLE, TRUNK, UPPER, FORE, HIP = 0.243, 0.243, 0.045, 0.295, 0.168, 0.148, 0.056
LEG = THIGH + SHIN
SEAT_BACK = 0.235  # the seat's middle is this far behind the feet


def _bend(root, target, first: float, second: float, pole) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics: middle and end joint; the middle bends towards `pole`."""
    d = np.linalg.norm(target - root, axis=-1, keepdims=True)
    along = (target - root) / np.maximum(d, 1e-6)
    d = np.clip(d, abs(first - second) * 1.05 + 1e-4, (first + second) * 0.998)
    a = (first**2 - second**2 + d * d) / (2 * d)
    side = _unit(pole - (pole * along).sum(-1, keepdims=True) * along)
    return root + a * along + np.sqrt(np.maximum(first**2 - a * a, 0)) * side, root + d * along


class _Body:
    """Collects joints and directions, both (T, 3), in the body's frame; unit: its height."""

    def __init__(self, person: Person, pelvis, lean=0.0, twist=0.0, roll=0.0, nod=0.0, turn=0.0):
        self.person, self.joints, self.directions = person, {}, {}
        lean, twist, roll, nod, turn = (
            v + 0 * pelvis[:, 0] for v in (lean, twist, roll, nod, turn)
        )
        self._frame("hips_", lean * 0.3, -twist * 0.3, roll * 0.3)
        self.chest = self._frame("", lean, twist, roll)
        head = self._frame("h_", lean * 0.35 + nod, twist * 0.4 + turn, roll * 0.4)
        self.joints |= {"pelvis": pelvis, "waist": pelvis + 0.05 * self.chest[1]}
        self.joints["neck"] = neck = pelvis + TRUNK * self.chest[1]
        self.joints["head"] = neck + 0.085 * head[1] + 0.012 * head[2]

    def _frame(self, name: str, lean, twist, roll) -> list[np.ndarray]:
        ahead = _vec(np.sin(twist), 0, np.cos(twist))
        up = np.sin(lean)[:, None] * ahead + _vec(0, np.cos(lean), 0)
        ahead = np.cos(lean)[:, None] * ahead - _vec(0, np.sin(lean), 0)
        left, c, s = np.cross(up, ahead), np.cos(roll)[:, None], np.sin(roll)[:, None]
        axes = [c * left + s * up, c * up - s * left, ahead]
        self.directions |= {name + k: v for k, v in zip(("left", "up", "ahead"), axes, strict=True)}
        return axes

    def _put(self, side: int, **joints: np.ndarray) -> None:
        self.joints |= {name + "LR"[side < 0]: v for name, v in joints.items()}

    def turned(self, side: int, v: np.ndarray) -> np.ndarray:
        """(outwards, up, ahead) of the chest -> the body's frame."""
        left, up, ahead = self.chest
        return side * v[:, :1] * left + v[:, 1:2] * up + v[:, 2:] * ahead

    def at(self, side: int, out, up, ahead) -> np.ndarray:
        """A point given from the shoulder: outwards, up, ahead."""
        left, above, _ = self.chest
        shoulder = self.joints["neck"] - 0.045 * above + side * self.person.shoulder * left
        return shoulder + self.turned(side, _vec(out, up, ahead))

    def arm(self, side: int, target, pole=(0.35, -0.2, -1.0), hand=None) -> None:
        """Reach for `target`; `pole` and `hand` (where fingers point): outwards, up, ahead."""
        shoulder = self.at(side, 0, 0, 0)
        pole = self.turned(side, np.atleast_2d(pole))
        elbow, wrist = _bend(shoulder, target, UPPER, FORE, pole)
        point = _unit(wrist - elbow) if hand is None else self.turned(side, _unit(_vec(*hand)))
        self._put(side, shoulder=shoulder, elbow=elbow, wrist=wrist, fingers=wrist + 0.042 * point)

    def swing(self, side: int, upper, fore) -> None:
        """An arm by the directions of its upper and its lower half: outwards, up, ahead."""
        upper, fore = _unit(_vec(*upper)), _unit(_vec(*fore))
        self.arm(side, self.at(side, *(UPPER * upper + FORE * fore).T), upper - 0.3 * fore)

    def hang(self, side: int, angle=0.0, bend=0.25) -> None:
        """An arm that hangs, swung ahead by `angle` radians."""
        b = angle + bend
        self.swing(side, (0.14, -np.cos(angle), np.sin(angle)), (0.02, -np.cos(b), np.sin(b)))

    def leg(self, side: int, ankle, pitch=0.0, out=0.12) -> None:
        """Put the ankle there; `pitch` > 0 points the toes down, `out` turns the foot."""
        floor = (
            ANKLE - 0.026 + 0.026 * np.cos(pitch) + 0.095 * np.sin(pitch)
        )  # keeps the toes on it
        ankle = np.column_stack([ankle[:, 0], np.maximum(ankle[:, 1], floor), ankle[:, 2]])
        hip = self.joints["pelvis"] + side * HIP * self.directions["hips_left"]
        knee, ankle = _bend(hip, ankle, THIGH, SHIN, _vec(side * (out + 0.02), 0, 1))
        along = _vec(side * out, -np.sin(pitch), np.cos(pitch))
        down = _vec(0, -np.cos(pitch), -np.sin(pitch))
        heel, toe = ankle + 0.02 * down - 0.022 * along, ankle + 0.026 * down + 0.095 * along
        self._put(side, hip=hip, knee=knee, ankle=ankle, heel=heel, toe=toe)

    def stand(self, width: float, depth: float = 0.0) -> None:
        """Both feet on the floor, the left one `depth` ahead of the right one."""
        for side in (1, -1):
            self.leg(side, _vec(side * width, ANKLE, side * depth / 2))


@dataclass(frozen=True)
class Motion:
    """Joints and unit directions: name -> (T, 3), body's frame, unit: its height."""

    joints: dict[str, np.ndarray]
    directions: dict[str, np.ndarray]
    heading: np.ndarray  # (T,) radians, 0 towards the camera
    root: np.ndarray  # (T, 3) metres, where the body's frame stands


def pose(
    action: str, person: Person, rng: Generator, times: np.ndarray, seat: float = 0.43
) -> Motion:
    """How `person` does `action` at `times` (T,) seconds; `seat`: height of the seat in metres.

    Standing up is sitting down at the mirrored times: with the same draws, one is the other
    reversed.
    """
    if action == PAIR[1]:
        return pose(PAIR[0], person, rng, times.max() + times.min() - times, seat)
    t, u, amp, side = times - times.min(), rng.uniform, person.amplitude, person.side
    phase, tempo, rest = u(), person.tempo * u(0.92, 1.08), ANKLE + LEG * 0.985

    def wave(hertz, phase):
        return np.sin(2 * np.pi * (hertz * t + phase))

    sway = 0.006 * wave(0.4, u())
    turn, nod = u(-0.25, 0.25) + 0.08 * wave(0.35, u()), u(-0.08, 0.1) + 0.03 * wave(0.5, u())
    root, heading = np.zeros((len(t), 3)), np.full(len(t), u(-0.85, 0.85))
    if action == "waving":
        beat = wave(1.5 * tempo, phase)
        a, out, up = 0.25 + 0.55 * amp * beat, u(0.6, 1.0), u(0.15, 0.75)
        body = _Body(person, _vec(sway, rest, 0), 0.0, 0.05 * side, -0.05 * side, nod, turn)
        body.swing(side, (out + 0.08 * beat, up, u(0.1, 0.35)), (np.sin(a), np.cos(a), 0.15))
        rest_bend, feet = u(0.1, 0.4), u(0.06, 0.1)
        if u() < 0.35:  # with both arms, outwards together, or nearly
            beat = wave(1.5 * tempo, phase + u(-0.05, 0.05))
            a = u(0.15, 0.35) + 0.55 * amp * beat
            body.swing(-side, (out + 0.08 * beat, up, u(0.1, 0.35)), (np.sin(a), np.cos(a), 0.15))
        else:
            body.hang(-side, 0.03 * beat, rest_bend)
        body.stand(feet)
    elif action == "clapping":
        apart = (0.5 + 0.5 * wave(1.6 * tempo, phase)) ** 0.8
        gap = 0.02 + 0.17 * amp * apart
        body = _Body(person, _vec(sway, rest, 0), 0.03, 0.0, 0.0, nod, turn)
        up, ahead = u(-0.13, 0.0), u(0.18, 0.23)
        for s in (1, -1):
            wrist = body.at(s, gap - person.shoulder, up, ahead - 0.3 * gap)
            body.arm(s, wrist, (1.0, -0.8, -0.1), hand=(0.7 * apart - 0.1, 0.7, 0.8))
        body.stand(u(0.06, 0.1))
    elif action in ("walking", "running"):
        run = action == "running"
        rate = (1.42 if run else 0.9) * tempo  # cycles of two steps a second
        duty = 0.33 if run else 0.62  # part of the cycle that a foot is on the floor
        stride = (0.13 if run else 0.36) * (0.6 + 0.4 * amp)  # what the body travels meanwhile
        lift, beyond = (0.17, 0.16) if run else (0.06, 0.0)
        cycle = rate * t + phase
        swing = np.cos(2 * np.pi * cycle)  # 1: left foot ahead, so the left arm is behind
        low = np.cos(4 * np.pi * (cycle - (duty / 2 if run else 0)))
        drop = 0.024 + 0.02 * low if run else 0.022 + 0.01 * low
        lean, twist = ((0.2, 0.2) if run else (0.04, 0.12)) * np.array([u(0.8, 1.3), 1.0])
        body = _Body(person, _vec(sway, rest - drop, 0), lean, twist * swing, 0, nod, 0.3 * turn)
        for s in (1, -1):
            p = (cycle + (0 if s > 0 else 0.5)) % 1.0
            q = np.clip((p - duty) / (1 - duty), 0, 1)  # progress of the swing
            ahead = stride * np.where(p < duty, 0.5 - p / duty, _smooth(q) - 0.5)
            ahead -= beyond * np.sin(2 * np.pi * q)
            push = np.where(p < duty, np.clip(p / duty - 0.7, 0, 1) / 0.3, 1 - _smooth(1.6 * q))
            height = ANKLE + lift * np.sin(np.pi * q) * (1.5 - q)
            pitch = (0.9 if run else 0.6) * push - 0.25 * np.sin(np.pi * q) * (q > 0.5)
            body.leg(s, _vec(s * 0.05, height, ahead), pitch, 0.06)
            a = -s * swing * amp * (0.75 if run else 0.5) - 0.25 * run
            b = a + 1.75
            if run:
                upper = (0.2, -np.cos(a), np.sin(a))
                body.swing(s, upper, (-0.15, -np.cos(b), np.sin(b)))
            else:
                body.hang(s, a, 0.25 + 0.24 * a)
        far = stride * person.height * rate / duty * (t - t.mean())  # so that feet do not slide
        middle = u(0.75, 1.85) * (1 if u() < 0.5 else -1)  # mostly sideways or diagonal
        bend = u(-0.3, 0.3) if u() < 0.6 else u(0.5, 1.0) * (1 if u() < 0.5 else -1)
        heading = middle + bend * far
        root = _vec(np.cos(middle) - np.cos(heading), 0, np.sin(heading) - np.sin(middle)) / bend
        root -= (root.max(0) + root.min(0)) / 2
    elif action == "boxing":
        heading[:] = u(0.55, 1.5) * (1 if u() < 0.5 else -1)
        beat = 1.75 * tempo * t + phase  # punches a second, left and right in turn
        hits = {}
        for s in (1, -1):
            p = (beat / 2 + (0 if s == side else 0.5)) % 1.0
            hits[s] = np.sin(np.pi * np.clip(2 * p, 0, 1)) ** 1.6 * min(1.0, 0.85 + 0.15 * amp)
        pelvis = _vec(sway, rest - 0.03 + 0.012 * np.cos(2 * np.pi * beat), 0)
        body = _Body(person, pelvis, 0.12, 0.35 * (hits[-1] - hits[1]), 0.0, nod)
        height = u(-0.03, 0.03)
        for s in (1, -1):
            guard = body.at(s, -0.055, 0.015, 0.125)
            punch = body.at(s, -0.6 * person.shoulder, height, 0.31)
            body.arm(s, guard + hits[s][:, None] * (punch - guard), (0.7, -1.0, -0.2))
        body.stand(0.085, -side * 0.17)
    elif action == "jumping_jacks":
        heading[:] = u(-0.75, 0.75)
        wide = _smooth(0.5 + 0.62 * wave(0.95 * tempo, phase - 0.25))
        hop = 0.045 * wave(0.95 * tempo, phase) ** 2
        spread = 0.05 + 0.15 * min(amp, 1.1) * wide
        height = ANKLE + np.sqrt((0.98 * LEG) ** 2 - np.maximum(spread - HIP, 0) ** 2)
        body = _Body(person, _vec(0, height + hop - 0.01, 0), 0.02, 0.0, 0.0, nod, 0.3 * turn)
        a = 0.2 + (min(2.95, 2.55 + 0.3 * amp) - 0.2) * wide
        for s in (1, -1):
            body.leg(s, _vec(s * spread, ANKLE + hop, 0), 6 * hop)
            inwards = (np.sin(a + 0.2), -np.cos(a + 0.2), 0.2)
            body.swing(s, (np.sin(a), -np.cos(a), 0.12), inwards)
    elif action == PAIR[0]:
        heading[:] = u(0.1, 1.7) * (1 if u() < 0.5 else -1)
        length = min(u(1.0, 1.45) / tempo, 0.92 * t.max())
        s = np.clip((t - u(0.05, 0.95) * (t.max() - length)) / max(length, 1e-6), 0, 1)
        seat = seat / person.height + 0.065  # the pelvis when seated
        back, low = _smooth(1.25 * s), _smooth(1.12 * s - 0.06)
        lean = 0.72 * amp**0.5 * np.sin(np.pi * _smooth(s)) ** 1.2 + u(-0.1, 0.06) * low
        pelvis = _vec(sway * (1 - low), rest + (seat - rest) * low, -SEAT_BACK * back)
        body = _Body(person, pelvis, lean, 0.0, 0.0, nod + 0.2 * lean, turn)
        for sd in (1, -1):
            hang = body.at(sd, 0.035, -0.29, 0.06)
            lap = _vec(sd * 0.085, seat + 0.055, SEAT_BACK * (1 - back) - 0.05)
            lift = _vec(0, 0, 0.1 * np.sin(np.pi * _smooth(s)))
            body.arm(sd, hang + (lap - hang) * low[:, None] + lift, (0.6, -0.3, -1.0))
        body.stand(u(0.075, 0.105))
        root = root + 0.12 * person.height * _vec(np.sin(heading), 0, np.cos(heading))
    else:
        raise settings.UserError(f"no action '{action}': choose one of {', '.join(ACTIONS)}")
    return Motion(body.joints, body.directions, heading, root)


# ---- the figure: rounded cones between joints

# for whom | from | to | radii at both ends and bulge between | paint. Thousandths of the height;
# "head+22h_up" is the joint moved along a direction; * is L and R, ~ is + and -.
FIGURE = """
all    | neck-35up | waist-30up | 94 88 -30 | shirt
all    | waist-20up | pelvis-30up | 80 83 0 | legs
all    | neck-30up | head-20h_up | 34 30 0 | skin
all    | head+22h_up | head-36h_up+14h_ahead | 58 42 0 | skin
all    | head-2h_up+56h_ahead | head-12h_up+60h_ahead | 8 11 0 | skin
all    | head-43h_up+52h_ahead | head-43h_up+53h_ahead | 10 10 0 | lips
all    | head+9h_up+53h_ahead~22h_left | head+7h_up+53h_ahead~22h_left | 8 8 0 | eye
all    | head~56h_left+4h_up | head~56h_left-4h_up | 13 11 0 | skin
short  | head+30h_up-8h_ahead | head+4h_up-24h_ahead | 60 54 0 | hair
long   | head+30h_up-8h_ahead | head+4h_up-24h_ahead | 60 54 0 | hair
long   | head-32h_ahead | head-45h_ahead-105h_up | 52 40 0 | hair
bun    | head+30h_up-8h_ahead | head+4h_up-24h_ahead | 60 54 0 | hair
bun    | head+75h_up-45h_ahead | head+75h_up-55h_ahead | 30 28 0 | hair
cap    | head+32h_up-6h_ahead | head+16h_up-18h_ahead | 61 56 0 | cap
cap    | head+36h_up+40h_ahead | head+28h_up+88h_ahead | 30 20 0 | cap
hat    | head+24h_up-10h_ahead | head+4h_up-22h_ahead | 58 54 0 | hair
hat    | head+52h_up | head+96h_up | 58 46 0 | cap
hat    | head+44h_up+82h_ahead | head+44h_up-82h_ahead | 16 16 50 | cap
hat    | head+44h_up+80h_left | head+44h_up-80h_left | 16 16 50 | cap
skirt  | pelvis+10up | hem | 94 100 50 | legs
skirt  | hip* | high* | 48 62 0 | legs
skirt  | high* | knee* | 56 42 0 | skin
shorts | hip* | lower* | 62 52 0 | legs
shorts | sock* | ankle* | 31 30 0 | sock
all    | shoulder* | elbow* | 37 28 10 | upper
all    | elbow* | wrist* | 28 20 14 | fore
all    | wrist* | fingers* | 21 18 14 | skin
trousers | hip* | knee* | 60 42 0 | legs
shorts | hip* | knee* | 60 42 0 | legs
all    | knee* | ankle* | 41 28 14 | shin
all    | heel* | toe* | 26 21 8 | shoes
"""
BROAD = {"neck-35up": 0.66, "waist-20up": 0.8, "pelvis+10up": 0.9}  # elliptic: depth to width


@dataclass(frozen=True)
class _Part:
    a: str
    b: str
    radii: tuple[float, float, float]  # at a, at b, bulge; body heights
    paint: str
    pattern: str


def _parts(person: Person) -> list[_Part]:
    """What this person is made of and wears."""
    paints = {"upper": "skin" if person.sleeves == "none" else "shirt"}
    paints["fore"] = "shirt" if person.sleeves == "long" else "skin"
    paints["shin"] = "legs" if person.legs == "trousers" else "skin"
    parts = []
    for line in FIGURE.strip().splitlines():
        wearer, a, b, radii, paint = (cell.strip() for cell in line.split("|"))
        if wearer not in ("all", person.hair, person.legs):
            continue
        girth = 1.0 if "head" in a + b else person.girth
        if a in BROAD:
            girth **= 0.6
        r0, r1, bulge = (float(r) * girth / 1000 for r in radii.split())
        pattern = person.pattern if a == "neck-35up" else "plain"
        for k, sign in ("L+", "R-") if "*" in a or "~" in a else (" +",):
            ends = (end.replace("*", k).replace("~", sign) for end in (a, b))
            parts.append(_Part(*ends, (r0, r1, bulge), paints.get(paint, paint), pattern))
    return parts


class _World:
    """A motion in world metres: `point("head+22h_up")` is (T, 3)."""

    def __init__(self, person: Person, motion: Motion, place: np.ndarray):
        self.height = person.height
        turns = np.stack([_yaw(h) for h in motion.heading])
        self.directions = {
            k: np.einsum("ti,tij->tj", v, turns) for k, v in motion.directions.items()
        }
        self.joints = {
            k: np.einsum("ti,tij->tj", v, turns) * person.height + motion.root + place
            for k, v in motion.joints.items()
        }
        j = self.joints
        j["hem"] = 0.12 * j["pelvis"] + 0.44 * (j["kneeL"] + j["kneeR"])
        for k in "LR":
            j["high" + k] = 0.75 * j["hip" + k] + 0.25 * j["knee" + k]
            j["lower" + k] = 0.25 * j["hip" + k] + 0.75 * j["knee" + k]
            j["sock" + k] = 0.45 * j["knee" + k] + 0.55 * j["ankle" + k]

    def point(self, name: str) -> np.ndarray:
        joint, *moves = re.split(r"(?=[+-])", name)
        at = self.joints[joint]
        for amount, direction in (re.fullmatch(r"(.\d+)(\w+)", move).groups() for move in moves):
            at = at + float(amount) / 1000 * self.height * self.directions[direction]
        return at


# ---- camera and canvas


class _Camera:
    """A pinhole that looks at `aim`; pictures of n x n pixels, focal length in picture heights."""

    def __init__(self, aim, azimuth: float, height: float, distance: float, focal: float, n: int):
        self.position = np.array([0, height, 0]) + [0, 0, distance] @ _yaw(azimuth)
        ahead = _unit(aim - self.position)
        right = _unit(np.cross(ahead, [0, 1, 0]))
        self.axes = np.stack([right, np.cross(ahead, right), ahead])  # x right, y down, z ahead
        self.focal, self.n = focal * n, n

    def project(self, points: np.ndarray) -> np.ndarray:
        """World (..., 3) -> x, y in pixels and depth in metres (..., 3)."""
        q = (points - self.position) @ self.axes.T
        z = np.maximum(q[..., 2:], 0.2)
        return np.concatenate([self.focal * q[..., :2] / z + self.n / 2, z], -1)

    def rays(self, x: slice, y: slice) -> list[np.ndarray]:
        """World directions, three (h, w) arrays, through these pixels; one metre deep."""
        at = ((np.arange(self.n) + 0.5 - self.n / 2) / self.focal).astype(np.float32)
        right, down, ahead = self.axes.tolist()
        return [at[x][None] * right[i] + (at[y][:, None] * down[i] + ahead[i]) for i in range(3)]


class _Canvas:
    """Number of the paint, light and depth (metres) of the nearest surface at every pixel."""

    def __init__(self, n: int):
        self.grid = np.arange(n, dtype=np.float32) + np.float32(0.5)
        self.paint = np.zeros((n, n), np.uint8)
        self.light = np.zeros((n, n), np.float32)
        self.depth = np.full((n, n), 1e9, np.float32)

    def cone(self, numbers: list[float], light: list[float], paint: int, pattern: str) -> None:
        """A rounded cone from a to b, seen in parallel projection.

        numbers: x, y (pixels) and depth (metres) of a and of b; radii at a, at b and bulge
        (pixels); pixels per metre. An elliptic trunk appends its outline's width, shear and
        thickness, and the part of its left and ahead directions (across, towards the viewer).
        """
        ax, ay, az, bx, by, bz, ra, rb, bulge, scale, *section = numbers
        width, shear, thick = section[:3] or (1.0, 0.0, 1.0)
        n, reach = len(self.grid), (max(ra, rb) + max(bulge, 0) / 4) * width + 1
        x0, x1 = max(int(min(ax, bx) - reach), 0), min(int(max(ax, bx) + reach) + 1, n)
        y0, y1 = max(int(min(ay, by) - reach), 0), min(int(max(ay, by) + reach) + 1, n)
        if x1 <= x0 or y1 <= y0:
            return
        place = slice(y0, y1), slice(x0, x1)
        length = math.sqrt((bx - ax) ** 2 + (by - ay) ** 2)
        ex, ey = ((bx - ax) / length, (by - ay) / length) if length > 0.5 else (0.0, 1.0)
        length = max(length, 0.5)
        x, y = self.grid[x0:x1] - ax, self.grid[y0:y1, None] - ay
        u, v = x * ex + y * ey, y * ex - x * ey  # along the axis, across it
        v2 = v * v
        if section:
            v2 *= 1 / (width * width)
            h = u * (1 / length)
        else:  # the axis' point below which the line of sight touches the surface
            slope = (bz - az) * scale / length
            mean = (ra + rb) / 2 + bulge / 6
            h = np.sqrt(np.maximum(mean * mean - v2, 0))
            h = (u - slope / math.sqrt(1 + slope * slope) * h) * (1 / length)
        h = np.minimum(np.maximum(h, 0), 1)
        r = ra + h * ((rb - ra + bulge) - bulge * h)
        du = u - h * length
        q = r * r - v2 - du * du * (6.0 if section else 1.0)  # trunks end flat
        hit = q > 0
        nz = np.sqrt(np.maximum(q, 0))
        z = shear * v + thick * nz if section else nz  # towards the viewer
        depth = (az + h * (bz - az)) - z * (1 / scale)
        hit &= depth < self.depth[place]
        if not hit.any():
            return
        lu, lv, lz = ex * light[0] + ey * light[1], ex * light[1] - ey * light[0], light[2]
        if section:  # the gradient of the ellipse
            det = (width * thick) ** 2
            gv = (thick**2 + (shear * width) ** 2) * v - shear * width**2 * z
            gz, gu = width**2 * (z - shear * v), 2 * det * du
            size = 1 / np.sqrt(gv * gv + gz * gz + gu * gu + 1e-3)
            lam = (gv * lv + gz * (lz + 0.35) + gu * lu) * size
        else:  # rims are darker than the light says, which tells limbs apart
            lam = (v * lv + du * lu + nz * (lz + 0.35)) / r
        colour = np.uint8(paint)
        if pattern != "plain":
            left_v, left_z, ahead_v, ahead_z = section[3:]
            lateral, front = (v * left_v + z * left_z) / ra, v * ahead_v + z * ahead_z > 0
            on = _printed(pattern, h, lateral, front)
            colour = np.where(on, np.uint8(PAINTS.index("print")), colour)
        np.copyto(self.depth[place], depth, where=hit)
        np.copyto(self.light[place], lam, where=hit)
        np.copyto(self.paint[place], colour, where=hit)


def _printed(pattern: str, h: np.ndarray, lateral: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Where a shirt is printed; h: 0..1 down the trunk, lateral: -1..1 to the left."""
    if pattern == "stripes":
        return (h * 6) % 2 > 1
    if pattern == "pinstripes":
        return (lateral * 2.5 + 9.2) % 1 > 0.6
    if pattern == "dots":
        row = np.floor(h * 5)
        a, b = h * 5 - row - 0.5, (lateral * 2.2 + 0.5 * (row % 2) + 9) % 1 - 0.5
        return a * a + b * b < 0.12
    return front & ((h - 0.4) ** 2 * 3 + lateral**2 < 0.2)  # a logo on the chest


def _prepared(parts: list[_Part], world: _World, camera: _Camera) -> list[list[list[float]]]:
    """The `numbers` of `_Canvas.cone`, by part and frame.

    Rounded, so that the last bits of sines and cosines, in which processors differ, decide
    nothing: what follows is +, -, *, / and square roots, the same everywhere.
    """
    rows = []
    for part in parts:
        a, b = camera.project(world.point(part.a)), camera.project(world.point(part.b))
        scale = 2 * camera.focal / (a[:, 2] + b[:, 2])
        ra, rb, bulge = (r * world.height for r in part.radii)
        if part.b == "hem":  # a skirt gives way to the knees
            rb = 0.65 * rb + 0.55 * np.linalg.norm(
                world.point("kneeL") - world.point("kneeR"), axis=1
            )
        radii = (ra * camera.focal / a[:, 2], rb * camera.focal / b[:, 2], bulge * scale, scale)
        numbers = np.round(np.column_stack([a, b, *radii]) * 256) / 256
        if part.a in BROAD:
            name, flat = ("" if "neck" in part.a else "hips_"), BROAD[part.a]
            along = _unit((b - a)[:, :2] + [0, 1e-6])
            across = np.column_stack([-along[:, 1], along[:, 0]])
            seen = [world.directions[name + k] @ camera.axes.T for k in ("left", "ahead")]
            (lv, lz), (fv, fz) = (((d[:, :2] * across).sum(1), -d[:, 2]) for d in seen)
            vv, zz = lv**2 + (flat * fv) ** 2, lz**2 + (flat * fz) ** 2
            vz = lv * lz + flat**2 * fv * fz
            thick = np.sqrt(np.maximum(zz - vz**2 / vv, 1e-4))
            section = np.column_stack([np.sqrt(vv), vz / vv, thick, lv, lz, fv, fz])
            numbers = np.hstack([numbers, np.round(section * 1024) / 1024])
        rows.append(numbers.tolist())
    return rows


def _shadows(ends: np.ndarray, radii: np.ndarray, camera: _Camera, light, fine: int):
    """Soft shadows on the floor, by frame: uint8 (n, n), 255 in the dark.

    ends: (T, P, 2, 3) of the P parts that cast them; radii (P,) metres; light: towards it.
    """
    spots = camera.project(ends - light * (ends[..., 1:2] / light[1]))
    widths = 1.5 * radii[:, None] * camera.focal / spots[..., 2] / fine
    widths = np.maximum(1, np.round(widths)).astype(int)
    spots = np.round(np.clip(spots[..., :2] / fine, -999, 999) * 16).astype(int)
    for lines, wide in zip(spots.tolist(), widths[..., 0].tolist(), strict=True):
        mask = np.zeros((camera.n // fine, camera.n // fine), np.uint8)
        for (p, q), w in zip(lines, wide, strict=True):
            cv2.line(mask, p, q, 255, w, cv2.LINE_AA, 4)
        mask = cv2.GaussianBlur(mask, (0, 0), len(mask) / 50)
        yield cv2.resize(mask, (camera.n, camera.n))


# ---- rooms


@dataclass(frozen=True)
class Scene:
    """A room, its light and its camera; its colours and things are drawn from `rng`."""

    rng: Generator
    azimuth: float  # of the camera, radians from the back wall's normal
    height: float  # of the camera, metres
    focal: float  # picture heights
    wall: float  # metres from the action to the back wall
    side: float  # to the side wall, signed
    light: np.ndarray  # (3,) towards it
    seat: str
    seat_height: float  # metres


def scene_of(number: int, seed: int = 0) -> Scene:
    """The room called `number`."""
    rng = _rng(seed, 2, number)
    hand = 1 if rng.random() < 0.5 else -1
    return Scene(
        azimuth=rng.uniform(-0.4, 0.4),
        height=rng.uniform(0.8, 1.75),
        focal=rng.uniform(1.25, 1.8),
        wall=rng.uniform(1.7, 2.6),
        side=hand * rng.uniform(2.2, 3.4),
        light=_unit(np.array([rng.uniform(-0.9, -0.25) * hand, 1.0, rng.uniform(0.35, 0.8)])),
        seat=_pick(rng, chair=5, stool=2, box=1.5, bench=1.5),
        seat_height=rng.uniform(0.41, 0.46),
        rng=rng,
    )


class _Room:
    """The still picture of a scene: `image` float32 RGB, `depth` metres, `floor` where it is."""

    def __init__(self, scene: Scene, camera: _Camera):
        self.scene, self.camera, self.rng = scene, camera, scene.rng
        self.noise = self.rng.random(1024).astype(np.float32)
        whole, (px, py, pz) = slice(0, camera.n), camera.position.tolist()
        dx, dy, dz = (
            np.where(np.abs(d) < 1e-6, np.float32(1e-6), d) for d in camera.rays(whole, whole)
        )
        depth = np.stack([(-scene.wall - pz) / dz, -py / dy, (scene.side - px) / dx])
        depth[depth <= 0] = 1e6
        plane = depth.argmin(0)
        self.depth, self.floor, aside = depth.min(0), plane == 1, plane == 2
        x, y, z = px + self.depth * dx, py + self.depth * dy, pz + self.depth * dz
        wall = self._wall(np.where(aside, z + 7.3, x), y)
        wall *= np.where(aside, np.float32(self.rng.uniform(0.82, 0.94)), np.float32(1))[..., None]
        self.image = np.where(self.floor[..., None], self._floor(x, z), wall)
        for slot in self.rng.permutation(3)[: self.rng.integers(1, 4)]:
            self._hang(x - 1.25 * (float(slot) - 1) - self.rng.uniform(-0.1, 0.1), y, plane == 0)
        nook = np.minimum(np.abs(z + scene.wall), np.abs(x - scene.side))
        nook = np.minimum(nook, np.where(self.floor, np.float32(9), np.abs(y)))
        glow = 1.1 - 0.03 * ((x - 3 * float(scene.light[0])) ** 2 + (y - 1.6) ** 2 * ~self.floor)
        dim = np.clip(glow, 0.76, 1.1) * (0.82 + 0.18 * np.clip(nook / 0.45, 0, 1))
        self.image *= dim[..., None]

    def _hash(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return self.noise[(i.astype(np.int32) * 73 + j.astype(np.int32) * 151) & 1023]

    def _wall(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        rng = self.rng
        hue = [(0.05, 0.15), (0.22, 0.45), (0.52, 0.65), (0, 1)][
            rng.choice(4, p=[0.4, 0.2, 0.25, 0.15])
        ]
        base, other = _hsv(rng, hue, (0.04, 0.34), (0.62, 0.96)), rng.uniform(0.8, 0.93)
        kind = _pick(rng, plain=3, stripes=2, brick=2, panel=2, diamonds=1)
        period, shade = rng.uniform(0.14, 0.36), 1 + 0 * u
        row = np.floor(y / period)
        if kind == "stripes":
            shade = np.where((u / period) % 1 < 0.5, 1, np.float32(other))
        elif kind == "diamonds":
            a, b = (u / period + 0.5 * (row % 2)) % 1 - 0.5, y / period - row - 0.5
            shade = np.where(np.abs(a) * 1.3 + np.abs(b) < 0.3, np.float32(other), shade)
        elif kind == "brick":
            row = np.floor(y / 0.11)
            a, b = u / 0.3 + 0.5 * (row % 2), y / 0.11 - row
            joint = np.float32(1.15 if base.mean() < 160 else 0.76)
            shade = 0.82 + 0.22 * self._hash(np.floor(a), row)
            shade = np.where((a % 1 < 0.05) | (b < 0.12), joint, shade)
            base = _hsv(rng, (0.01, 0.07), (0.05, 0.5), (0.5, 0.85))
        out = base * (shade * (0.93 + 0.045 * np.clip(y, 0, 2.4)))[..., None]
        if kind == "panel":
            low, rail = _hsv(rng, (0, 1), (0.05, 0.35), (0.4, 0.85)), rng.uniform(0.75, 1.0)
            groove = np.where((u / 0.32) % 1 < 0.05, np.float32(0.82), np.float32(1))
            out = np.where((y < rail)[..., None], low * groove[..., None], out)
            out[np.abs(y - rail) < 0.025] = 232
        out[y < 0.1] = float(rng.choice([235.0, 120.0, 70.0])) * np.array([1, 0.98, 0.94])
        out[np.abs(y - 0.1) < 0.008] *= 0.7
        return out

    def _floor(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        rng, kind = self.rng, _pick(self.rng, boards=5, tiles=3, carpet=2)
        x, z = (x, z) if rng.random() < 0.5 else (z, x)
        if kind == "boards":
            base, width = _hsv(rng, (0.05, 0.1), (0.25, 0.55), (0.45, 0.8)), rng.uniform(0.11, 0.19)
            row = np.floor(z / width)
            a = x / 1.3 + self._hash(row, 0 * row)
            shade = 0.84 + 0.24 * self._hash(np.floor(a), row)
            shade[(z / width - row < 0.07) | (a % 1 < 0.008)] = 0.62
        elif kind == "tiles":
            base, width = _hsv(rng, (0, 1), (0.02, 0.25), (0.5, 0.85)), rng.uniform(0.3, 0.5)
            a, b = np.floor(x / width), np.floor(z / width)
            shade = 1 + 0.05 * self._hash(a, b) - 0.22 * int(rng.integers(2)) * ((a + b) % 2)
            shade[(x / width - a < 0.03) | (z / width - b < 0.03)] = 0.72
        else:
            base = _hsv(rng, (0, 1), (0.1, 0.45), (0.35, 0.7))
            shade = 0.95 + 0.09 * self._hash(np.floor(x * 40), np.floor(z * 40))
        out = base * shade[..., None]
        if rng.random() < 0.3:  # a rug
            d = np.maximum(np.abs(x) / rng.uniform(0.9, 1.5), np.abs(z) / rng.uniform(0.7, 1.1))
            rug = _hsv(rng, (0, 1), (0.2, 0.6), (0.35, 0.8))
            out[d < 1] = rug
            out[(d < 0.9) & (d > 0.82)] = np.clip(rug * rng.uniform(0.6, 1.3) + 10, 0, 255)
        return out

    def _hang(self, x: np.ndarray, y: np.ndarray, on: np.ndarray) -> None:
        """A window, picture, shelf, clock or door on the back wall; x from its middle."""
        rng, kind = self.rng, _pick(self.rng, window=3, picture=3, shelf=2, clock=1, door=1)
        spans = {"window": (0.35, 0.5, 0.8, 1.1, 1.95, 2.2), "door": (0.42, 0.43, 0, 0, 2, 2.04)}
        w0, w1, l0, l1, h0, h1 = spans.get(kind, (0.18, 0.42, 1.2, 1.45, 1.65, 2.0))
        near = _spot((on & (np.abs(x) < 0.65)).astype(np.uint8))
        x, y, on, image = x[near], y[near], on[near], self.image[near]

        def mark(where, colour):
            image[where] = colour[where] if np.ndim(colour) == 3 else colour

        w, low, high = rng.uniform(w0, w1), rng.uniform(l0, l1), rng.uniform(h0, h1)
        a, b = x / w, (y - low) / (high - low)
        inside = on & (np.abs(a) < 1) & (b > 0) & (b < 1)
        colours = [_hsv(rng, (0, 1), (0.2, 0.8), (0.3, 0.95)) for _ in range(3)]
        if kind == "clock":
            d = np.sqrt(x**2 + (y - 1.76) ** 2)
            hands = (np.abs(x) < 0.012) & (y > 1.76) | (np.abs(y - 1.76) < 0.012) & (x > 0)
            for where, colour in (
                (d < 0.16, colours[0]),
                (d < 0.135, 240),
                (hands & (d < 0.1), 40),
            ):
                mark(on & where, colour)
            return
        if kind == "shelf":
            book, high = np.floor(x / 0.045), 1.4
            tall = 0.14 + 0.12 * self._hash(book, 0 * book)
            books = on & (np.abs(x) < 0.36) & (y > high) & (y < high + tall)
            tint = np.stack([self._hash(book, 0 * book + k) for k in (3, 11, 29)], -1)
            mark(books & (self._hash(book, book + 5) > 0.2), 60 + 150 * tint)
            mark(on & (np.abs(x) < 0.45) & (np.abs(y - high) < 0.018), [108, 76, 50])
            return
        image[on & (np.abs(x - 0.03) < w + 0.05) & (y > low - 0.09) & (y < high + 0.02)] *= 0.85
        frame = _hsv(rng, (0.05, 0.12), (0.0, 0.6), (0.2, 0.97))
        if kind == "window":
            frame = np.array([238, 236, 230], np.float32) * rng.uniform(0.85, 1)
            sky, green = (
                _hsv(rng, *s)
                for s in (
                    ((0.52, 0.6), (0.1, 0.45), (0.85, 1)),
                    ((0.2, 0.4), (0.2, 0.5), (0.4, 0.7)),
                )
            )
            view = sky + (255 - sky) * np.clip(0.9 - b, 0, 1)[..., None]
            view = np.where(
                (b < rng.uniform(0.15, 0.4) + 0.12 * (1 - a * a))[..., None], green, view
            )
            bars = (np.abs(a) < 0.04) | (np.abs(b - 0.55) < 0.02)
            view = np.where(bars[..., None], frame, view)
        elif kind == "picture":
            skyline = b < rng.uniform(0.3, 0.6) + rng.uniform(-0.4, 0.4) * a
            view = np.where(skyline[..., None], colours[0], colours[1])
            sun = (a - 0.3) ** 2 + ((b - 0.65) * 1.3) ** 2 < 0.09
            view = np.where(sun[..., None], colours[2], view)
            view[(np.abs(a) > 0.78) | (np.abs(b - 0.5) > 0.4)] = 236
        else:
            panel = (np.abs(np.abs(a) - 0.45) < 0.3) & (np.abs(b - 0.5) % 0.5 > 0.05)
            view = np.where(panel[..., None], frame * 0.86, frame)
        mark(on & (np.abs(x) < w + 0.05) & (y > low - 0.05) & (y < high + 0.05), frame)
        mark(inside, view)

    def box(self, centre: np.ndarray, half: tuple, yaw: float, colour: np.ndarray) -> None:
        """A box turned about the vertical, by ray casting."""
        camera, turn = self.camera, _yaw(yaw)  # rows: the box's own axes
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
        p = camera.project(signs * half @ turn + centre)
        lo = np.clip(np.floor(p[:, :2].min(0)), 0, camera.n).astype(int)
        hi = np.clip(np.ceil(p[:, :2].max(0)), 0, camera.n).astype(int)
        if (hi <= lo).any() or p[:, 2].min() < 0.3:
            return
        place = slice(lo[1], hi[1]), slice(lo[0], hi[0])
        d, o = camera.rays(place[1], place[0]), turn @ (camera.position - centre)
        near, far, shade = np.full_like(d[0], -1e9), np.full_like(d[0], 1e9), 0 * d[0]
        for axis, h, at in zip(turn.tolist(), half, o.tolist(), strict=True):
            di = axis[0] * d[0] + axis[1] * d[1] + axis[2] * d[2]
            di = np.where(np.abs(di) < 1e-6, np.float32(1e-6), di)
            a, b = (-h - at) / di, (h - at) / di
            lit = np.where(di < 0, 1, -1) * float(axis @ self.scene.light)
            shade = np.where(np.minimum(a, b) > near, lit, shade)
            near, far = np.maximum(near, np.minimum(a, b)), np.minimum(far, np.maximum(a, b))
        hit = (near < far) & (near < self.depth[place]) & (near > 0)
        self.depth[place][hit] = near[hit]
        self.image[place][hit] = (colour * (0.5 + 0.5 * np.clip(shade, -0.2, 1))[..., None])[hit]
        self.floor[place][hit] = False

    def put_seat(self, place: np.ndarray, yaw: float) -> tuple[np.ndarray, np.ndarray]:
        """Stand the scene's seat there, facing `yaw`; returns its shadow's casters."""
        rng, kind, top = self.rng, self.scene.seat, self.scene.seat_height
        wood, paint = _hsv(rng, (0.04, 0.12), (0.2, 0.7), (0.4, 0.9)), rng.random() < 0.4
        colour = _hsv(rng, (0, 1), (0.1, 0.7), (0.3, 0.95)) if paint else wood
        pad = _hsv(rng, (0, 1), (0.2, 0.7), (0.35, 0.9)) if rng.random() < 0.4 else colour
        sizes = {"chair": (0.22, 0.21), "stool": (0.17, 0.17), "box": (0.22, 0.22)}
        w, d = sizes.get(kind, (0.5, 0.18))

        def beam(x, y, z, *half, tint=colour):
            self.box(place + [x, y, z] @ _yaw(yaw), half, yaw, tint)

        legs = [(x, z) for x in (0.025 - w, w - 0.025) for z in (0.025 - d, d - 0.025)]
        if kind == "box":
            beam(0, top / 2, 0, w, top / 2, d, tint=pad)
        else:
            beam(0, top - 0.025, 0, w, 0.025, d, tint=pad)
            for x, z in legs:
                beam(x, top / 2, z, 0.022, top / 2, 0.022, tint=colour * 0.9)
        if kind == "chair":
            for x, z in legs[::2]:
                beam(x, top + 0.22, z, 0.02, 0.24, 0.02, tint=colour * 0.9)
            for y in (0.2, 0.38):
                beam(0, top + y, 0.025 - d, w, 0.065, 0.015)
        ends = [((x, 0, z), (x, top, z)) for x, z in legs] + [
            ((-w * 0.7, top, 0), (w * 0.7, top, 0))
        ]
        return np.array(ends) @ _yaw(yaw) + place, np.array([0.03] * 4 + [d])


# ---- clips


def draw_clip(
    action: str,
    person: int,
    scene: int,
    take: int,
    size: int = 96,
    fps: float = 16.0,
    seconds: float = 2.0,
    seed: int = 0,
    shake: float = 1.0,
) -> np.ndarray:
    """Draw one clip: uint8 (T, size, size, 3), RGB, T = round(seconds * fps).

    Same arguments, same bytes. `shake` scales the camera's tremor, which is under a pixel.
    Raises UserError for an action that the studio does not know.
    """
    if action not in ACTIONS:
        raise settings.UserError(f"no action '{action}': choose one of {', '.join(ACTIONS)}")
    rng = _rng(seed, 3, ACTIONS.index(action), person, scene, take)
    who, where = person_of(person, seed), scene_of(scene, seed)
    times = np.arange(max(2, round(seconds * fps))) / fps
    fine = 3 if size <= 160 else 2  # supersampling
    margin = 2 * fine  # for the tremor
    n = size * fine + 2 * margin
    fill = rng.uniform(0.44, 0.76)  # of the picture's height, by the person
    azimuth = where.azimuth + rng.uniform(-0.08, 0.08)
    aim = np.array([0, who.height * rng.uniform(0.52, 0.58), 0])
    distance = where.focal * who.height / fill
    camera = _Camera(aim, azimuth, where.height, distance, where.focal * size * fine / n, n)
    # the side wall gives way to a camera that stands far off: from behind it nobody would be seen
    hand = math.copysign(1, where.side)
    where = replace(where, side=hand * max(hand * where.side, hand * camera.position[0] + 0.6))
    motion = pose(action, who, rng, times, where.seat_height)
    motion = replace(motion, heading=motion.heading + azimuth, root=motion.root @ _yaw(azimuth))
    # not always in the middle: where in the picture something moves must not tell the action
    aside = rng.uniform(-0.17, 0.17) * (0.5 if action in ("walking", "running") else 1.0)
    aside *= who.height / fill  # parts of the picture's width -> metres
    place = np.array([aside, 0, rng.uniform(-0.1, 0.1)]) @ _yaw(azimuth)
    world, path = _World(who, motion, place), motion.root + place
    # the seat stands in every clip, so that it tells nothing; who sits down, does so there
    if action in PAIR:
        facing = float(motion.heading[0])
        seat = path[0] - [0, 0, SEAT_BACK * who.height] @ _yaw(facing)
    else:
        facing, seats = azimuth + rng.uniform(-1.7, 1.7), []
        for _ in range(12):
            seats.append([rng.uniform(-1.25, 1.25), 0, rng.uniform(-1.0, -0.2)] @ _yaw(azimuth))
        away = [np.linalg.norm(path - spot, axis=1).min() for spot in seats]
        seat = next(
            (s for s, d in zip(seats, away, strict=True) if d > 0.75), seats[np.argmax(away)]
        )
    room = _Room(where, camera)
    ends, thick = room.put_seat(seat, facing)
    dark = next(_shadows(ends[None], thick, camera, where.light, fine))
    room.image *= (1 - dark * room.floor * np.float32(0.5 / 255))[..., None]
    backdrop = np.clip(room.image, 0, 255).astype(np.uint8)

    parts = _parts(who)
    rows = _prepared(parts, world, camera)
    light = np.round(camera.axes @ where.light * [1, 1, -1], 6).tolist()  # right, down, to viewer
    limbs = [p for p in parts if not re.search("[+-]", p.a + p.b)] + parts[:1]
    ends = np.array([[world.point(p.a), world.point(p.b)] for p in limbs]).transpose(2, 0, 1, 3)
    thick = np.array([sum(p.radii[:2]) / 2 * who.height for p in limbs])
    shadows = _shadows(ends, thick, camera, where.light, fine)
    tremor = np.zeros((len(times), 2))
    for axis in (0, 1):
        for hertz in rng.uniform(0.6, 2.2, 2):
            wave = np.sin(2 * np.pi * (hertz * times + rng.random()))
            tremor[:, axis] += shake * rng.uniform(0, 0.3) * size * fine / 96 * wave
    tremor = tremor[::-1] if action == PAIR[1] else tremor
    tremor = margin + np.clip(np.round(tremor), -margin, margin).astype(int)
    # every paint in 128 brightnesses, four bytes each: one look-up a pixel
    shades = np.linspace(0.25, 1.1, 128)[:, None] * np.pad(who.palette, ((0, 0), (0, 1)))[:, None]
    shades = np.minimum(shades, 255).astype(np.uint8).view(np.uint32)
    canvas, frames = _Canvas(n), np.zeros((len(times), size, size, 3), np.uint8)
    for k, dark in enumerate(shadows):
        picture = backdrop.copy()
        spot = _spot(dark)
        dim = 255 - (dark[spot] >> 1) * room.floor[spot]
        if dim.size:  # who has walked out of the picture throws no shadow into it
            picture[spot] = cv2.multiply(picture[spot], cv2.merge([dim] * 3), scale=1 / 255)
        canvas.paint[:], canvas.depth[:] = 0, room.depth
        for part, row in zip(parts, rows, strict=True):
            canvas.cone(row[k], light, PAINTS.index(part.paint), part.pattern)
        seen = np.flatnonzero(canvas.paint)
        level = np.clip(32 + 69 * canvas.light.ravel()[seen], 0, 127).astype(np.uint8)
        shown = shades.take(canvas.paint.ravel()[seen] * np.int32(128) + level)
        picture.reshape(-1, 3)[seen] = shown.view(np.uint8).reshape(-1, 4)[:, :3]
        x, y = tremor[k]
        picture = picture[y : y + size * fine, x : x + size * fine]
        frames[k] = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    return frames


# ---- the data set


@dataclass(frozen=True)
class _Job:
    path: str  # relative to the data's root
    action: str
    person: int
    scene: int
    take: int
    split: str


def _plan(profile: settings.Profile, seed: int) -> list[_Job]:
    """Every clip of the data set; people and scenes of the two splits are disjoint."""
    jobs = []
    for split, people, takes in (
        ("train", profile.people_train, profile.takes_train),
        ("val", profile.people_val, profile.takes_val),
    ):
        offset, scenes = VAL_OFFSET * (split == "val"), max(8, people)
        for person in range(offset, offset + people):
            for number, action in enumerate(ACTIONS):
                for take in range(takes):
                    scene = offset + int(_rng(seed, 4, number, person, take).integers(scenes))
                    path = f"{split}/{action}/studio_{person:04d}_{scene:04d}_{take}.webm"
                    jobs.append(_Job(path, action, person, scene, take, split))
    return jobs


def _draw_job(root: Path, job: _Job, size: int, fps: float, seconds: float, seed: int) -> None:
    frames = draw_clip(job.action, job.person, job.scene, job.take, size, fps, seconds, seed)
    video.write_video(root / job.path, frames, fps)  # all or nothing, so that runs can resume


def _remembered(memory: Path) -> dict[str, Any]:
    """What studio.json says, {key, clips}; nothing when it is absent or damaged: then the clips are
    drawn again."""
    try:
        state = json.loads(memory.read_text(encoding="utf-8"))
        if isinstance(state["key"], str) and all(isinstance(name, str) for name in state["clips"]):
            return state
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    return {}


def _listed(table: Path) -> tuple[str, list[dict[str, str]]]:
    """The text and the rows of a clips.csv, also as spreadsheets save it. UserError when it is not
    such a table: it may hold rows that the studio did not make."""
    try:
        text = table.read_text(encoding="utf-8") if table.exists() else ""
        lines = io.StringIO(text.removeprefix("\ufeff"))
        header = lines.getvalue().partition("\n")[0]
        rows = csv.DictReader(lines, delimiter=";" if ";" in header else ",")
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        if text and "path" not in rows.fieldnames:
            raise ValueError("no column 'path'")
        return text, list(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise settings.UserError(
            f"{table} cannot be read ({error}): save it as CSV in UTF-8, or delete it"
        ) from error


def make_dataset(
    root: Path | None = None,
    profile: settings.Profile | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw the default data set into `root` (`settings.raw_dir()`); return its clips.csv.

    Clips are `<root>/<split>/<action>/studio_<person>_<scene>_<take>.webm`. `<root>/studio.json`
    keeps a key of version and settings and the clips' names: with the same key only missing clips
    are drawn; with another one the studio's own old clips go first. Files and csv rows that the
    studio did not make stay. Raises UserError when such a file lies where a clip belongs, or when
    `root` cannot be made.
    Draws in `workers` processes (default: one a core); a script of your own that calls this needs
    the usual `if __name__ == "__main__":`, or workers=1.
    """
    root, profile = Path(root or settings.raw_dir()), profile or settings.profile()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise settings.UserError(
            f"{root} cannot be made ({error.strerror}): let VIDLIB_DATA name another folder"
        ) from error
    memory, table, jobs = root / "studio.json", root / "clips.csv", _plan(profile, seed)
    look = (profile.draw_size, profile.draw_fps, profile.draw_seconds, seed)
    key = hashlib.blake2b(repr((STUDIO_VERSION, look, jobs)).encode(), digest_size=16).hexdigest()
    state, (text, rows) = _remembered(memory), _listed(table)
    if state.get("key") != key:
        drawn = {row["path"] or "" for row in rows if row.get("source") == "studio"}
        for name in drawn.union(state.get("clips", ())):
            if CLIP.fullmatch(name):  # whoever wrote these files, nothing else is deleted
                (root / name).unlink(missing_ok=True)
        for path in (root / job.path for job in jobs):
            # another process that draws the same has written `memory` before its first clip
            if path.exists() and _remembered(memory).get("key") != key:
                raise settings.UserError(f"{path} is not the studio's but in its way: rename it")
        state = {"key": key, "clips": [job.path for job in jobs]}
        settings.write(memory, lambda file: file.write(json.dumps(state).encode()))
    missing = [job for job in jobs if not (root / job.path).exists()]
    workers = min(workers or os.cpu_count() or 1, max(1, len(missing) // 4))
    with contextlib.ExitStack() as stack:
        if workers > 1:  # spawned: the same on every system; one thread each
            context = get_context("spawn")
            pool = ProcessPoolExecutor(
                workers, context, initializer=cv2.setNumThreads, initargs=(1,)
            )
            stack.callback(pool.shutdown, cancel_futures=True)  # Ctrl-C drops what is queued
            futures = [pool.submit(_draw_job, root, job, *look) for job in missing]
            done = (future.result() for future in as_completed(futures))
        else:
            done = (_draw_job(root, job, *look) for job in missing)
        hide = not (progress and missing)
        for _ in settings.bar(done, desc="studio", total=len(missing), unit="clip", disable=hide):
            pass
    columns = ("path", "action", "person", "scene", "split", "source")
    rows = [[row.get(c) or "" for c in columns] for row in rows if row.get("source") != "studio"]
    rows += [
        [j.path, j.action, f"{j.person:04d}", f"{j.scene:04d}", j.split, "studio"] for j in jobs
    ]
    new = io.StringIO()
    csv.writer(new, lineterminator="\n").writerows([columns, *rows])
    if new.getvalue() != text:
        settings.write(table, lambda file: file.write(new.getvalue().encode()))
    return table
