"""Real data sets: Weizmann, KTH, UCF101, HMDB51. Fetched from their authors, and split as they
split them.

A set is known by its files' names, so it is recognised wherever it lies:
    weizmann  <person>_<action>.avi              ten zips, one an action
    kth       personNN_<action>_dN_uncomp.avi    six zips, one an action; d1 to d4 are scenarios
    ucf101    v_<Action>_gNN_cNN.avi             one .rar, and ucfTrainTestlist/trainlist0N.txt
    hmdb51    <action>/<film>_<action>_f_cm_np1_ba_goo_0.avi   a .rar of .rars, and
              testTrainMulti_7030_splits/<action>_test_splitN.txt
"""

import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import catalog, fetching, settings, video
from .catalog import Clip
from .fetching import Archive
from .settings import UserError


@dataclass(frozen=True)
class DataSet:
    """What is known about a set before it is there."""

    name: str
    title: str
    page: str  # the authors' page
    terms: str  # what the authors ask for
    actions: tuple[str, ...]  # empty: its folders name them
    clips: int  # as many must be there
    archives: tuple[Archive, ...]
    protocol: str  # the official one, in words
    download_bytes: int  # about
    unpacked_bytes: int  # about
    folds: int  # of the official protocol
    stem: str  # a regular expression of its files' names, without suffix; see _describe
    note: str = ""  # what goes wrong with its server, and what to do then


class Fold(NamedTuple):
    """One training and test of a protocol; unpacks as (name, train, test)."""

    name: str
    train: list[Clip]
    test: list[Clip]


class Published(NamedTuple):
    """A figure of the field."""

    set: str
    method: str
    accuracy: float  # percent
    source: str  # with its year
    note: str  # what was counted, and what else was learned from


_WEIZMANN = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
_WEIZMANN_PEOPLE = "daria denis eli ido ira lena lyova moshe shahar"
_WEIZMANN_URL = "https://www.wisdom.weizmann.ac.il/~vision/VideoAnalysis/Demos/SpaceTimeActions/DB/"
_KTH_URL = "https://www.csc.kth.se/cvap/actions/"
# not from the authors: as vipy.data.kthactions has them; the server does not say how long files are
_KTH_SHA1 = {
    "boxing": "adb36ed9c29c846d44d2ba15f348bd115c951bbd",
    "handclapping": "d3b81261aa822ef63d0d1523f945bfaff27814d2",
    "handwaving": "0792f7cd69f7f895a205c08ac212ddaa7177e370",
    "jogging": "21943bdbcef9dad106db0d74661e49eaeaa15a25",
    "running": "da83bb313edfd4455fffdda6263696fa10d43c6f",
    "walking": "a3e81537271a0ab4576591774baa38c2d97b7e3a",
}
# the authors' 8 + 8 + 9 people (00sequences.txt on their page): settings are chosen on the second
# eight, then all sixteen train, as in Laptev et al., CVPR 2008
KTH_VALIDATION = tuple(f"person{n:02d}" for n in (19, 20, 21, 23, 24, 25, 1, 4))
KTH_TEST = tuple(f"person{n:02d}" for n in (22, 2, 3, 5, 6, 7, 8, 9, 10))
_UCF_URL = "https://www.crcv.ucf.edu/data/UCF101/"
_HMDB_URL = "https://huggingface.co/datasets/Serrelab/hmdb51/resolve/main/"  # the authors' lab

SETS: dict[str, DataSet] = {
    s.name: s
    for s in (
        DataSet(
            "weizmann", "Weizmann: Actions as Space-Time Shapes",
            "https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
            "For research; the authors name no licence, so pass it on to nobody. Cite: M. Blank, "
            "L. Gorelick, E. Shechtman, M. Irani, R. Basri. Actions as Space-Time Shapes. "
            "ICCV 2005.",
            _WEIZMANN, 90,  # the archives hold 93: lena runs, skips and walks twice
            tuple(Archive(f"{_WEIZMANN_URL}{a}.zip", folder=a) for a in _WEIZMANN),
            "leave one person out, nine times", 400_000_000, 700_000_000, 9,
            rf"(?P<person>{_WEIZMANN_PEOPLE.replace(' ', '|')})_(?P<action>{'|'.join(_WEIZMANN)})"
            r"[12]?",
        ),
        DataSet(
            "kth", "KTH: Recognition of human actions", _KTH_URL,
            "For non-commercial use. Cite: C. Schuldt, I. Laptev, B. Caputo. "
            "Recognizing Human Actions: A Local SVM Approach. ICPR 2004.",
            tuple(_KTH_SHA1), 599,  # person13_handclapping_d3 never was there
            tuple(Archive(f"{_KTH_URL}{a}.zip", checksum=f"sha1:{sha1}", folder=a)
                  for a, sha1 in _KTH_SHA1.items()),
            "by person: sixteen train (eight of them to choose settings on), nine are tested",
            1_150_000_000, 1_250_000_000, 1,
            rf"(?P<person>person\d\d)_(?P<action>{'|'.join(_KTH_SHA1)})_(?P<scene>d[1-4])"
            r"(_uncomp)?",
        ),
        DataSet(
            "ucf101", "UCF101: 101 human actions from videos in the wild",
            "https://www.crcv.ucf.edu/research/data-sets/ucf101/",
            "Clips of YouTube videos, which stay their makers': for research. Cite: K. Soomro, "
            "A. R. Zamir, M. Shah. UCF101: A Dataset of 101 Human Actions Classes From Videos in "
            "The Wild. CRCV-TR-12-01, 2012.",
            (), 13320,
            # size: what the server says; splits: as TensorFlow Datasets has them
            (Archive(f"{_UCF_URL}UCF101TrainTestSplits-RecognitionTask.zip", 113_943,
                     "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27"),
             Archive(f"{_UCF_URL}UCF101.rar", 6_932_971_618)),
            "the authors' three splits, all tested clips counted alike", 6_933_100_000,
            7_100_000_000, 3, r"v_(?P<action>[a-z]+)_(?P<group>g\d\d)_c\d\d",
            "; if it is the certificate: fetch both files with a browser, and --mirror FOLDER",
        ),
        DataSet(
            "hmdb51", "HMDB51: a large human motion database",
            "https://huggingface.co/datasets/Serrelab/hmdb51",
            "CC BY 4.0 by the authors; the films and web videos stay their makers'. Cite: "
            "H. Kuehne, H. Jhuang, E. Garrote, T. Poggio, T. Serre. HMDB: A Large Video Database "
            "for Human Motion Recognition. ICCV 2011.",
            (), 6766,
            # as torchvision's prototypes have them, for the files of the lab's old server
            (Archive(f"{_HMDB_URL}test_train_splits.rar", None,
                     "sha256:229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7"),
             Archive(f"{_HMDB_URL}hmdb51_org.rar", None,
                     "sha256:9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e")),
            "the authors' three splits, all tested clips counted alike", 2_130_000_000,
            2_200_000_000, 3,
            r"(?P<film>.+)_[fhlu]_[cn]m_np\d_(ba|fr|le|ri)_(bad|goo|med)_\d+",
            "; the lab's old server, serre-lab.clps.brown.edu, is gone for good",
        ),
    )
}  # fmt: skip

_THREE, _KINETICS = "mean of the three splits", "pre-trained on ImageNet and Kinetics-400"
_VIDEOMAE = "Tong, Song, Wang, Wang, NeurIPS 2022"
_ALONE = "learned from this set alone; the abstract does not say which splits"
PUBLISHED: tuple[Published, ...] = (
    Published("kth", "HOG/HOF in channels, SVM", 91.8, "Laptev et al., CVPR 2008",
              "counts the 2,391 sequences inside the files, not files"),
    Published("ucf101", "Harris3D, HOG/HOF, bag of words, SVM", 43.9,
              "Soomro, Zamir, Shah, CRCV-TR-12-01, 2012", _THREE),
    Published("ucf101", "two-stream network", 88.0, "Simonyan, Zisserman, NeurIPS 2014",
              f"{_THREE}; pre-trained on ImageNet"),
    Published("ucf101", "two-stream I3D", 98.0, "Carreira, Zisserman, CVPR 2017",
              f"{_THREE}; {_KINETICS}"),
    Published("ucf101", "VideoMAE ViT-B", 91.3, _VIDEOMAE, _ALONE),
    Published("hmdb51", "two-stream network", 59.4, "Simonyan, Zisserman, NeurIPS 2014",
              f"{_THREE}; pre-trained on ImageNet"),
    Published("hmdb51", "two-stream I3D", 80.9, "Carreira, Zisserman, CVPR 2017",
              f"{_THREE}; {_KINETICS}"),
    Published("hmdb51", "VideoMAE ViT-B", 62.6, _VIDEOMAE, _ALONE),
)  # fmt: skip


def _known(name: str) -> DataSet:
    if name not in SETS:
        raise UserError(f"no data set '{name}': choose one of {', '.join(SETS)}")
    return SETS[name]


def places(name: str) -> list[Path]:
    """Where a set is looked for by its name: data/sets/NAME, then $VIDLIB_NAME."""
    own = os.environ.get(f"VIDLIB_{_known(name).name.upper()}")
    return [settings.data_dir() / "sets" / name, *([Path(own).expanduser()] if own else [])]


def _describe(name: str, path: Path) -> Clip | None:
    """What a file's name says; None when it is not of this set."""
    found = re.fullmatch(SETS[name].stem, path.stem, re.IGNORECASE)
    if not found:
        return None
    said = found.groupdict()
    if name == "hmdb51":  # the folder names the action: kick_ball_... is not kick
        action = path.parent.name
        return Clip(path, action, said["film"].removesuffix(f"_{action}"))
    if name == "ucf101":  # the one action that files and lists spell in two ways
        action = said["action"].replace("HandStandPushups", "HandstandPushups")
        return Clip(path, action, f"{action}_{said['group']}")
    person, action = said["person"].lower(), said["action"].lower()
    if name == "kth":
        split = "val" if person in KTH_TEST else "train"
        return Clip(path, action, person, said["scene"].lower(), split)
    return Clip(path, action, person)


def _clips(name: str, folder: Path) -> list[Clip]:
    """A file that lies there twice is taken once."""
    paths = catalog.videos(folder) if folder.is_dir() else ()
    found = [clip for path in paths if (clip := _describe(name, path))]
    once = {(clip.action, clip.path.stem.lower()): clip for clip in reversed(found)}
    return sorted(once.values(), key=lambda clip: clip.path.as_posix())


def find(name: str, folder: Path | str | None = None) -> list[Clip]:
    """The clips of a set, in the order of their paths.

    `person` is who must not be on both sides: the person; in UCF101 the group (clips of one source
    video), in HMDB51 the film. `scene` is KTH's scenario d1 to d4; `split` is KTH's, the one set
    that defines a single split. Without `folder`, see `places`. Warns when clips lack; UserError,
    which names the download command, when there is none.
    """
    known = _known(name)
    where = [Path(folder).expanduser()] if folder is not None else places(name)
    for place in where:
        if clips := _clips(name, place):
            if len(clips) < known.clips:
                warnings.warn(f"{place} has {len(clips)} of the {known.clips} clips of {name}: "
                              "figures are not those of the whole set", stacklevel=2)  # fmt: skip
            return clips
    raise UserError(
        f"{' and '.join(map(str, where))}: no clips of {name} there: python -m vidlib download "
        f"{name}, or name its folder (--data FOLDER, or $VIDLIB_{name.upper()})"
    )


def recognise(folder: Path | str) -> str | None:
    """The name of the set that lies there, by its files' names: most of the videos are of it.

    None for anything else, and for folders that say themselves what they hold: train and val
    folders, or a clips.csv.
    """
    folder = Path(folder)
    if not folder.is_dir() or (folder / catalog.CSV_NAME).exists():
        return None
    if any(child.name.lower() in catalog.SPLITS for child in folder.iterdir()):
        return None
    paths = list(catalog.videos(folder))
    for name in SETS:
        clips = [clip for path in paths if (clip := _describe(name, path))]
        if len(clips) * 2 > len(paths) and len(catalog.actions(clips)) > 1:
            return name
    return None


def _official_sides(name: str, number: str, around: Sequence[Path]) -> dict[tuple[str, str], str]:
    """(action, stem), both in small letters -> train or test, by the authors' lists, which lie in
    one of the folders `around`, or one or two folders below."""
    patterns = {"ucf101": (f"trainlist0{number}.txt", f"testlist0{number}.txt"),
                "hmdb51": (f"*_test_split{number}.txt",)}[name]  # fmt: skip
    files: list[Path] = []
    for folder in around:
        files = [f for p in patterns for deep in ("", "*/", "*/*/") for f in folder.glob(deep + p)]
        if files:
            break
    sides: dict[tuple[str, str], str] = {}
    for file in sorted(files):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if name == "ucf101":  # Archery/v_Archery_g01_c01.avi 3
                action, _, video_name = line.partition(".")[0].partition("/")
                side = "train" if file.name.startswith("train") else "test"
            else:  # ..._goo_0.avi 1; 1: train, 2: test, 0: neither
                action = file.name.rpartition("_test_split")[0]
                video_name, _, tag = line.strip().rpartition(" ")
                video_name = video_name.strip().rpartition(".")[0]
                side = {"1": "train", "2": "test"}.get(tag, "")
            if video_name and side:
                sides[action.lower(), video_name.lower()] = side
    if not sides:
        raise UserError(f"the lists of {name}'s split {number} ({', '.join(patterns)}) are not in "
                        f"{around[0]} nor beside it: python -m vidlib download {name} fetches "
                        "them")  # fmt: skip
    return sides


def random_fold(clips: Iterable[Clip], seed: int = 0, fraction: float = 0.3) -> Fold:
    """About `fraction` of each action's clips for testing, at random; warns of the leak."""
    warnings.warn(
        "a random split puts clips of one person, or cut from one film, on both sides: accuracy "
        "is not what it is on new people, mostly too high; a set's official protocol does not leak",
        stacklevel=2,
    )
    clips, rng, chosen = catalog.labelled(clips), np.random.default_rng(seed), set[int]()
    for action in catalog.actions(clips):
        mine = [i for i, clip in enumerate(clips) if clip.action == action]
        count = min(max(1, round(fraction * len(mine))), len(mine) - 1)
        chosen |= {mine[j] for j in rng.permutation(len(mine))[:count]}
    return _fold("random", clips, lambda i: "test" if i in chosen else "train")


def _fold(name: str, clips: Sequence[Clip], side: Callable[[int], str | None]) -> Fold:
    train = [clip for i, clip in enumerate(clips) if side(i) == "train"]
    test = [clip for i, clip in enumerate(clips) if side(i) == "test"]
    if not train or not test:
        raise UserError(f"{name}: {len(train)} of these {len(clips)} clips to train on and "
                        f"{len(test)} to test: both sides need some")  # fmt: skip
    return Fold(name, train, test)


def protocol(
    name: str,
    clips: Iterable[Clip],
    which: str | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
) -> Iterator[Fold]:
    """The folds of a protocol for a set's clips (of `find`).

    which: None or "official", the authors'; "1", "2" or "3", one split of UCF101 or HMDB51;
    "leave-one-person-out" for Weizmann and KTH; "random", by clips, which warns of the leak. The
    lists of UCF101 and HMDB51 are looked for in `folder`, or around the clips. UserError for
    another word, missing lists, or a fold without clips.
    """
    known, clips = _known(name), catalog.labelled(clips)
    split = name in ("ucf101", "hmdb51")
    choices = ["official", *(("1", "2", "3") if split else ("leave-one-person-out",)), "random"]
    which = which or "official"
    if which not in choices:
        raise UserError(f"no protocol '{which}' for {name}: choose one of {', '.join(choices)}")
    if not clips:
        raise UserError(f"no clips of {name} to split: python -m vidlib download {name}")
    if which == "random":
        return iter([random_fold(clips, seed)])
    if split:
        near = Path(os.path.commonpath([clip.path.absolute().parent for clip in clips]))
        around = [Path(folder)] if folder is not None else [near, *near.parents[:2]]
        numbers = [str(n + 1) for n in range(known.folds)] if which == "official" else [which]
        keys = [(str(clip.action).lower(), clip.path.stem.lower()) for clip in clips]
        folds = []
        for n in numbers:
            sides = _official_sides(name, n, around)
            folds.append(_fold(f"split {n}", clips, lambda i, s=sides: s.get(keys[i])))
        return iter(folds)
    if name == "kth" and which == "official":
        side = ["test" if clip.person in KTH_TEST else "train" for clip in clips]
        return iter([_fold("the authors' people", clips, side.__getitem__)])
    return (Fold(f"without {p}", *sides) for p, *sides in catalog.leave_one_person_out(clips))


def _lacking(name: str, folder: Path) -> str:
    """What a folder lacks of a set, in words; empty when it is whole."""
    known, clips = SETS[name], _clips(name, folder)
    if len(clips) < known.clips:
        counts = Counter(str(clip.action) for clip in clips)
        each = ", ".join(f"{action} {counts[action]}" for action in known.actions)
        return f"{len(clips)} of {known.clips} clips" + (f" ({each})" if each else "")
    if name in ("ucf101", "hmdb51"):
        try:
            for number in "123":
                _official_sides(name, number, [folder])
        except UserError as error:
            return str(error).partition(":")[0]
    return ""


def download(
    name: str,
    to: Path | str | None = None,
    mirror: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch and unpack a set to `to` (default: data/sets/NAME); returns where it lies.

    Says what the authors ask for first. A set that is whole already, there or in $VIDLIB_NAME, is
    taken as it is. `mirror` (else $VIDLIB_MIRROR_NAME, else $VIDLIB_MIRROR) is another base address
    of the archives, or a folder that they lie in. Stopped, it goes on when called again; archives
    are deleted once unpacked. UserError says what failed and what to do.
    """
    known = _known(name)
    for place in [Path(to).expanduser()] if to is not None else places(name):
        if not _lacking(name, place):
            say(f"{known.title}: whole in {place}")
            return place
    folder = Path(to).expanduser() if to is not None else places(name)[0]
    mirror = mirror or os.environ.get(f"VIDLIB_MIRROR_{name.upper()}")
    mirror = mirror or os.environ.get("VIDLIB_MIRROR")
    fetching.libraries()
    if any(archive.name.endswith(".rar") for archive in known.archives):
        fetching.need_rar_tool()
    say(f"{known.title}\n{known.page}\nTerms of use: {known.terms}")
    work = folder / ".download"  # hidden, so no part of it is taken for a clip
    fetched = 0 if mirror and Path(mirror).is_dir() else known.download_bytes
    there = [*(clip.path for clip in _clips(name, folder)), *work.glob("*")]
    here = sum(path.stat().st_size for path in there)
    fetching.need_space(folder, max(0, fetched + known.unpacked_bytes - here))
    try:
        work.mkdir(parents=True, exist_ok=True)
        with fetching.alone(work):
            for archive in known.archives:
                _fetch_and_unpack(known, archive, folder, work, mirror)
            if lacks := _lacking(name, folder):
                for done in work.glob("*.done"):  # so that the next call fetches again
                    done.unlink()
                raise UserError(f"{folder} has {lacks} after unpacking: the same command fetches "
                                "it again; another place may have it whole: --mirror")  # fmt: skip
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}: mend it (free "
                        "space, rights), and the same command goes on") from error  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    say(f"{len(_clips(name, folder))} clips in {folder}")
    return folder


def _fetch_and_unpack(
    known: DataSet, archive: Archive, folder: Path, work: Path, mirror: str | None
) -> None:
    done = work / f"{archive.name}.done"
    if done.exists():
        return
    try:
        path = fetching.fetch(archive, work, mirror)
    except UserError as error:
        raise UserError(f"{error}: the same command goes on from what has come; --mirror (or "
                        "$VIDLIB_MIRROR) names another address or a folder with the archives"
                        f"{known.note}") from error  # fmt: skip
    suffixes = {*video.VIDEO_SUFFIXES, ".txt", ".rar"}
    try:
        fetching.unpack(path, folder / archive.folder, suffixes, 4 * known.unpacked_bytes)
    except fetching.Damaged as error:
        if path.parent == work:
            path.unlink()
        raise UserError(f"{error}: the same command fetches it anew; another place may have it "
                        "whole: --mirror") from error  # fmt: skip
    done.touch()
    if path.parent == work:
        path.unlink()
