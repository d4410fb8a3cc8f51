"""A folder of videos to rows (path, action, person, scene, split), and splits that do not leak.

Layouts that are understood, below any root (letters' case does not matter):
    {train,val}/<action>/anything.mp4      also <action>/ alone: no split is given then
    {train,val}/<action>_anything.mp4      flat; the longest known action wins
    <action>/<person>_<action>.avi         Weizmann's; the same with anything after it
    clips.csv in the root                  path,action,person,scene,split,source; it has precedence
"""

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePath

import numpy as np

from vidlib import distributed, settings, video
from vidlib.sampling import file_key
from vidlib.settings import UserError

CSV_NAME = "clips.csv"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "val"}
# the studio's, spelt out, since a room imports only from floors below it
STUDIO_ACTIONS = (
    *("waving", "clapping", "walking", "running", "boxing", "jumping_jacks"),
    *("sitting_down", "standing_up"),
)
# what cameras, phones and chat programs call their files: neither an action nor a person
CAMERA = re.compile(
    r"(vid|img|img_e|pxl|mvi|dsc[nf]?|gopr|gh|gx|mov|dji|wa|p|c|clip|video|film|movie|screen|recording|"
    r"screen_recording|whatsapp_video|untitled|unnamed|unlabell?ed|unknown|part|take)",
    re.IGNORECASE,
)
STUDIO = re.compile(r"studio_([^_]*\d)_([^_]*\d)_[^_]*\d\.webm")  # person, scene, take
NO_ACTION = {"unlabelled", "unlabeled", "unknown"}  # folders of clips without an action


@dataclass(frozen=True)
class Clip:
    """One video file and what is known about it; None where it is not known."""

    path: Path
    action: str | None = None
    person: str | None = None
    scene: str | None = None
    split: str | None = None  # "train" or "val"
    source: str = "own"  # or "studio": drawn by the course


def _plain(text: str) -> str:
    """For comparing names: 'Sitting-down 03' -> 'sitting_down_03'."""
    return re.sub(r"[\s\-]+", "_", text.strip()).lower()


def _starts_with(name: str, action: str) -> bool:
    """Whether `name` begins with the words `action`: walk_1 and walk1 do, walking does not."""
    return re.match(re.escape(action) + r"(?![^\W\d_])", name) is not None


def _guess_action(stem: str) -> str | None:
    """The action in an unknown flat name: all before the first number, else before the first
    underscore. None for a camera's names and for names with neither."""
    name = _plain(stem)
    head = re.match(r"(\D*?)_?\d", name) or re.match(r"([^_]*)_", name)
    guess = head.group(1).strip("_") if head else ""
    return guess if guess and not CAMERA.fullmatch(guess) else None


def videos(root: Path) -> Iterator[Path]:
    """Video files below root in name order; hidden ones skipped, linked folders entered once."""
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back, or a second one to the same place
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(video.VIDEO_SUFFIXES):
                yield Path(folder, name)


def _place(path: Path, root: Path) -> tuple[str | None, str | None, bool]:
    """(split, action, whether it lies flat) by the folders between root and file."""
    folders = path.relative_to(root).parts[:-1]
    split = SPLITS.get(folders[0].lower()) if folders else None
    rest = folders[1:] if split else folders
    action = rest[0] if rest and _plain(rest[0]) not in NO_ACTION else None
    return split, action, not rest


def _describe(path: Path, root: Path, known: dict[str, str]) -> Clip:
    """What folders and name say about one file. `known`: plain name -> action as spelt."""
    split, action, flat = _place(path, root)
    if drawn := STUDIO.fullmatch(path.name):
        return Clip(path, action, drawn[1], drawn[2], split, "studio")
    name, person = _plain(path.stem), None
    if flat:
        fits = [each for each in known if _starts_with(name, each)]
        action = known[max(fits, key=len)] if fits else None
    elif action is not None:
        by = re.match(rf"([^\W\d_][^\W_]*)_{re.escape(_plain(action))}(?![^\W\d_])", name)
        person = by[1] if by and not CAMERA.fullmatch(by[1]) else None
    return Clip(path, action, person, split=split)


def find_clips(root: Path | str | None = None, source: str = "auto") -> list[Clip]:
    """Every clip below `root` (None: the course's raw_videos), in the order of their paths.

    source: "own", "studio", "all", or "auto": own clips if there are any, else the studio's; the
    two never mix unasked. An action in a flat file's name is, the longest first, one of: the
    folders' names, those in clips.csv, the studio's eight, and what other flat names begin with
    (see _guess_action). Files listed in clips.csv that are gone are kept, for check_clips to name.
    Raises UserError when the root is missing or holds no such clip.
    """
    if source not in ("auto", "own", "studio", "all"):
        raise UserError(f"no clips of source '{source}': choose auto, own, studio or all")
    root = Path(root) if root is not None else settings.raw_dir()
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise UserError(
            f"{root}: {what}: name a folder of clips, or draw some: python -m vidlib studio"
        )
    paths = list(videos(root))
    listed = read_csv(root / CSV_NAME) if (root / CSV_NAME).exists() else []
    places = {path: _place(path, root) for path in paths}
    names = [*STUDIO_ACTIONS, *(row.action for row in listed), *(p[1] for p in places.values())]
    known = {_plain(name): name for name in names if name}
    told = tuple(f"{name}_" for name in known)  # waving_kitchen_01 is waving, no action of its own
    for path, (_, _, flat) in places.items():
        if flat and not STUDIO.fullmatch(path.name) and (guess := _guess_action(path.stem)):
            if not guess.startswith(told):
                known.setdefault(guess, guess)
    clips = {os.path.abspath(path): _describe(path, root, known) for path in paths}
    for row in listed:  # a cell left empty is taken from the folders
        found = clips.get(os.path.abspath(row.path), row)
        given = {name: getattr(row, name) for name in ("action", "person", "scene", "split")}
        given = {name: value for name, value in given.items() if value is not None}
        whose = "studio" if "studio" in (row.source, found.source) else "own"
        clips[os.path.abspath(row.path)] = replace(found, **given, source=whose)
    every = sorted(clips.values(), key=lambda clip: clip.path.as_posix())
    which = source
    if source == "auto":
        which = "own" if any(clip.source == "own" for clip in every) else "studio"
    chosen = [clip for clip in every if which in ("all", clip.source)]
    if not chosen:
        raise UserError(
            f"{root}: no {source + ' ' if which == source != 'all' else ''}clips "
            f"({', '.join(video.VIDEO_SUFFIXES)}) there: put videos in train/<action>/, "
            "or draw the course's: python -m vidlib studio"
        )
    return chosen


def read_csv(path: Path | str) -> list[Clip]:
    """Rows of a clips.csv; paths are relative to its folder, empty cells unknown. UserError when
    it is not such a table."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): save it as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in header else ",")
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if "path" not in rows.fieldnames:
        raise UserError(f"{path} has no column 'path': its first line must name the columns")
    clips = []
    for row in _readable(rows, path):
        cells = {key: value.strip() for key, value in row.items() if key and value}
        cells = {key: cells[key] for f in fields(Clip) if cells.get(key := f.name)}
        if "path" not in cells:
            raise UserError(f"{path}, line {rows.line_num}: no path: fill it in or delete the line")
        for key, allowed in ("split", ("train", "val")), ("source", ("own", "studio")):
            if cells.get(key, allowed[0]) not in allowed:
                raise UserError(
                    f"{path}, line {rows.line_num}: {key} is '{cells[key]}': "
                    f"write {' or '.join(allowed)}"
                )
        clips.append(Clip(**cells | {"path": path.parent / cells["path"]}))
    return clips


def _readable(rows: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str]]:
    """The rows; UserError for what no table holds, as zero bytes and endless cells."""
    try:
        for row in rows:
            if "\0" in str(row.get("path")):
                raise csv.Error("a zero byte")
            yield row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: {error}: mend it or save it anew"
        ) from error


def write_csv(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write a clips.csv with paths relative to its folder; moved into place when complete."""
    path, text = Path(path), io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(f.name for f in fields(Clip))
    for clip in clips:
        where = PurePath(os.path.relpath(clip.path, path.parent)).as_posix()
        rest = (getattr(clip, f.name) or "" for f in fields(Clip)[1:])
        table.writerow([where, *rest])
    settings.write(path, lambda file: file.write(text.getvalue().encode()))


def labelled(clips: Iterable[Clip]) -> list[Clip]:
    """The clips whose action is known."""
    return [clip for clip in clips if clip.action is not None]


def actions(clips: Iterable[Clip]) -> list[str]:
    """The actions that occur, sorted: a class's number is its place here."""
    return sorted({clip.action for clip in clips if clip.action is not None})


def classes(clips: Iterable[Clip]) -> list[str]:
    """The actions, of which training needs two or more: else UserError."""
    found = actions(clips)
    if len(found) < 2:
        raise UserError(f"training needs two actions or more, found {found}: add labelled clips")
    return found


def _film(clip: Clip) -> str:
    """What clips cut from one film share: the name up to a trailing _NN. If what is left says
    nothing about the film (empty, the action, a camera's word), the clip is a film of its own."""
    name = _plain(clip.path.stem)
    film = re.sub(r"_\d+$", "", name)
    nothing = (
        not film or film.isdigit() or CAMERA.fullmatch(film) or film == _plain(clip.action or "")
    )
    return clip.path.as_posix() if nothing else film


def _groups(clips: list[Clip]) -> list[int]:
    """A number per clip: the same for clips of one person or film, directly or through others."""
    parent = list(range(len(clips)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[tuple[str, str | None], int] = {}
    for i, clip in enumerate(clips):
        for mark in ("person", clip.person), ("film", _film(clip)):
            if mark[1] is not None:
                parent[find(i)] = find(first.setdefault(mark, i))
    return [find(i) for i in range(len(clips))]


def split_train_val(
    clips: Iterable[Clip], seed: int = 0, fraction: float = 0.25
) -> tuple[list[Clip], list[Clip], str]:
    """(train, val, one sentence that says how they were made).

    The clips' own split when both sides are given. Else about `fraction` of each action goes to
    val, by whole persons (by source files, that is films, where no person is known), so that no
    person and no film is on both sides. Where no person can be spared, by films alone; where no
    film can, by single clips; the sentence warns then. Each action stays in train.
    UserError when no clip can be spared.
    """
    clips = list(clips)
    given = {clip.split for clip in clips}
    if {"train", "val"} <= given:
        groups = _groups(clips)
        tested = {g for g, clip in zip(groups, clips, strict=True) if clip.split == "val"}
        # a clip without a split follows its person or film
        sides = [
            clip.split or ("val" if g in tested else "train")
            for g, clip in zip(groups, clips, strict=True)
        ]
        chosen = {i for i, side in enumerate(sides) if side == "val"}
        how = "as the folders or the table give them"
    else:
        chosen, how = _spare(clips, seed, fraction)
        how += f" (no {'train' if given == {'val'} else 'val'} was given)"
    if not 0 < len(chosen) < len(clips):
        raise UserError(
            f"{len(clips)} clip{'s' * (len(clips) > 1)} cannot be split into train and val: "
            "add two or more of each action"
        )
    train = [clip for i, clip in enumerate(clips) if i not in chosen]
    val = [clip for i, clip in enumerate(clips) if i in chosen]
    note = f"{len(train)} clips in train and {len(val)} in val, {how}"
    if lacking := sorted(set(actions(train)) - set(actions(val))):
        note += f"; val has no {', '.join(lacking)}"
    both = {clip.person for clip in train if clip.person} & {clip.person for clip in val}
    if both:
        note += f"; on both sides, so scores will be too good: {', '.join(sorted(both))}"
    return train, val, note + "."


def _spare(clips: list[Clip], seed: int, fraction: float) -> tuple[set[int], str]:
    """(indices of the clips for val, how they were found), by the safest unit that works."""
    persons = {clip.person for clip in clips}
    by = "source file" if persons == {None} else "person"
    if by == "person" and None in persons:
        by = "person, or source file where no person is known"
    number: dict[str, int] = {}
    films = [number.setdefault(_film(clip), i) for i, clip in enumerate(clips)]
    for how, units in (
        (f"split by {by}", _groups(clips)),
        ("split by source file", films),
        (
            "split by single clips, so one source file is on both sides and scores may be too good",
            list(range(len(clips))),
        ),
    ):
        spared = _choose(clips, units, seed, fraction)
        chosen = {i for i, unit in enumerate(units) if unit in spared}
        if chosen:
            return chosen, how
    return set(), ""


def _choose(clips: list[Clip], groups: list[int], seed: int, fraction: float) -> set[int]:
    """The groups for val, in random order; empty when none can be spared."""
    holds: dict[int, Counter[str]] = {group: Counter() for group in groups}
    known = any(clip.action is not None for clip in clips)
    for group, clip in zip(groups, clips, strict=True):
        if clip.action is not None or not known:  # without any label all are one class
            holds[group][clip.action or ""] += 1
    left: Counter[str] = Counter()  # what is still in train
    for mine in holds.values():
        left.update(mine)
    half = left.total() / 2
    want = {action: max(1, round(fraction * n)) for action, n in left.items()}
    need = Counter(want)
    units = list(holds)
    order = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    chosen: set[int] = set()
    # first what fills more of the need than it overshoots; then, up to half of all clips, what
    # brings in an action that val lacks altogether
    for overshoot in (False, True):
        for group in order:
            mine = holds[group]
            if group in chosen or not mine or any(left[a] <= n for a, n in mine.items()):
                continue  # an action must not leave train altogether
            gain = sum(min(max(need[a], 0), n) for a, n in mine.items())
            fits = gain * 2 >= mine.total()
            if overshoot:
                new = any(need[a] == want[a] for a in mine)
                fits = new and left.total() - mine.total() >= half
            if gain and fits:
                chosen.add(group)
                need.subtract(mine)
                left -= mine
    return chosen


def leave_one_person_out(clips: Iterable[Clip]) -> Iterator[tuple[str, list[Clip], list[Clip]]]:
    """Yield (person, train, test) for every person in turn; test is all that person's clips.

    Raises UserError with fewer than two persons, or a clip whose person is unknown: in train it
    might show the one who is tested.
    """
    clips = list(clips)
    if unknown := [clip for clip in clips if clip.person is None]:
        raise UserError(
            f"{unknown[0].path} and {len(unknown) - 1} more: person unknown; name the files "
            f"<person>_<action>, or give persons in {CSV_NAME}"
        )
    persons = sorted({clip.person for clip in clips if clip.person})
    if len(persons) < 2:
        raise UserError(f"clips of {len(persons)} person: leaving one out needs two or more")
    for person in persons:
        train = [clip for clip in clips if clip.person != person]
        yield person, train, [clip for clip in clips if clip.person == person]


def check_clips(clips: Iterable[Clip]) -> tuple[list[Clip], list[tuple[Clip, str]]]:
    """Open every clip and read its first frame: (good, [(bad, reason), ...]). In several
    processes each opens its share.

    Raises UserError when there were clips and none is good.
    """
    clips = list(clips)
    reasons: dict[int, str] = {}
    for i in distributed.share(range(len(clips))):
        try:
            video.read_frames(clips[i].path, max_frames=1)
        except video.VideoError as error:
            reasons[i] = str(error)
    reasons = distributed.gather(reasons)
    good = [clip for i, clip in enumerate(clips) if i not in reasons]
    bad = [(clips[i], reasons[i]) for i in sorted(reasons)]
    if bad and not good:
        raise UserError(f"none of {len(bad)} clips can be read; the first: {bad[0][1]}")
    return good, bad


def fingerprint(clips: Iterable[Clip]) -> str:
    """32 hexadecimal digits of the clips' content, actions, persons and splits, in any order.

    Names, folders and times of change do not matter. VideoError when a file is not there.
    """
    rows = sorted(repr((file_key(c.path), c.action, c.person, c.split)) for c in clips)
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=16).hexdigest()


def summary(clips: Iterable[Clip]) -> str:
    """A printable table: clips per action and split, then persons, scenes, clips without action."""
    clips = list(clips)
    columns = [s for s in ("train", "val", None) if any(clip.split == s for clip in clips)]
    rows = [["action", *(s or "no split" for s in columns), "all"]]
    for action in [*actions(clips), *([None] if len(labelled(clips)) < len(clips) else [])]:
        mine = [clip for clip in clips if clip.action == action]
        counts = [sum(clip.split == s for clip in mine) for s in columns]
        rows.append([action or "(no action)", *map(str, [*counts, len(mine)])])
    counts = [sum(clip.split == s for clip in clips) for s in columns]
    rows.append(["all", *map(str, [*counts, len(clips)])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    persons = len({clip.person for clip in clips} - {None})
    scenes = len({clip.scene for clip in clips} - {None})
    sources = Counter(clip.source for clip in clips)
    lines.append(
        f"{persons or 'unknown'} persons, {scenes or 'unknown'} scenes; "
        + ", ".join(f"{n} {source} clips" for source, n in sorted(sources.items()))
    )
    if missing := len(clips) - len(labelled(clips)):
        lines.append(f"{missing} without an action: they serve pre-training, training passes them")
    return "\n".join(lines)
