"""Real data sets: Weizmann, KTH, UCF101, HMDB51. Fetched, unpacked safely, and split as their
authors split them.

A set is known by its files' names, so it is recognised wherever it lies:
    weizmann  <person>_<action>.avi              ten zips, one an action
    kth       personNN_<action>_dN_uncomp.avi    six zips, one an action; d1 to d4 are scenarios
    ucf101    v_<Action>_gNN_cNN.avi             one .rar, and ucfTrainTestlist/trainlist0N.txt
    hmdb51    <action>/<film>_..._np1_ba_goo_0.avi   a .rar of .rars, and <action>_test_splitN.txt
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .catalog import Clip


@dataclass(frozen=True)
class Archive:
    """One file to fetch. None: not published; what comes is then checked by what it holds."""

    url: str
    size: int | None = None  # bytes
    checksum: str | None = None  # as pooch takes it: "sha256:..." or "md5:..."
    folder: str = ""  # where its files go below the set's folder, for archives without folders

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


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


class Fold(NamedTuple):
    """One training and test of a protocol; unpacks as (name, train, test)."""

    name: str
    train: list[Clip]
    test: list[Clip]


class Published(NamedTuple):
    """A figure of the field: accuracy in percent under the set's official protocol."""

    set: str
    method: str
    accuracy: float
    source: str  # with its year


_WEIZMANN = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
_KTH = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
_WEIZMANN_URL = "https://www.wisdom.weizmann.ac.il/~vision/VideoAnalysis/Demos/SpaceTimeActions/DB/"
_HMDB_URL = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/"
_KTH_URL = "https://www.csc.kth.se/cvap/actions/"
_UCF_URL = "https://www.crcv.ucf.edu/data/UCF101/"
# the authors' people (00sequences.txt); settings are chosen on the second eight, then all train
KTH_VALIDATION = tuple(f"person{n:02d}" for n in (19, 20, 21, 23, 24, 25, 1, 4))
KTH_TEST = tuple(f"person{n:02d}" for n in (22, 2, 3, 5, 6, 7, 8, 9, 10))

SETS: dict[str, DataSet] = {
    s.name: s
    for s in (
        DataSet(
            "weizmann", "Weizmann: Actions as Space-Time Shapes",
            "https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html",
            "Free for research; no licence to pass it on is given. Cite: M. Blank, L. Gorelick, "
            "E. Shechtman, M. Irani, R. Basri, Actions as Space-Time Shapes, ICCV 2005.",
            _WEIZMANN, 90,  # the archives hold 93: lena runs, skips and walks twice
            tuple(Archive(f"{_WEIZMANN_URL}{a}.zip", folder=a) for a in _WEIZMANN),
            "leave one person out, nine times", 340_000_000, 340_000_000, 9,
        ),
        DataSet(
            "kth", "KTH: Recognition of human actions", "https://www.csc.kth.se/cvap/actions/",
            "For non-commercial research. Cite: C. Schuldt, I. Laptev, B. Caputo, Recognizing "
            "Human Actions: A Local SVM Approach, ICPR 2004.",
            _KTH, 599,  # of 600: person13_handclapping_d3 never was there
            (*(Archive(f"{_KTH_URL}{a}.zip", folder=a) for a in _KTH),
             Archive(f"{_KTH_URL}00sequences.txt")),
            "16 people train (8 of them to choose settings on), 9 others are tested",
            1_150_000_000, 1_200_000_000, 1,
        ),
        DataSet(
            "ucf101", "UCF101: 101 human actions from videos in the wild",
            "https://www.crcv.ucf.edu/research/data-sets/ucf101/",
            "Clips of YouTube videos whose rights are their makers': research only. Cite: "
            "K. Soomro, A. R. Zamir, M. Shah, UCF101, CRCV-TR-12-01, 2012.",
            (), 13320,
            (Archive(f"{_UCF_URL}UCF101.rar", 6_932_971_618),
             Archive(f"{_UCF_URL}UCF101TrainTestSplits-RecognitionTask.zip", 113_943,
                     "sha256:5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27")),
            "the authors' three splits, accuracy over the three", 6_933_100_000, 7_100_000_000, 3,
        ),
        DataSet(
            "hmdb51", "HMDB51: a large human motion database",
            "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
            "Clips of films and web videos; CC BY 4.0 for what the authors made. Cite: H. Kuehne, "
            "H. Jhuang, E. Garrote, T. Poggio, T. Serre, HMDB, ICCV 2011.",
            (), 6766,
            (Archive(f"{_HMDB_URL}hmdb51_org.rar", None,
                     "sha256:9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e"),
             Archive(f"{_HMDB_URL}test_train_splits.rar", None,
                     "sha256:229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7")),
            "the authors' three splits, accuracy over the three", 2_100_000_000, 2_200_000_000, 3,
        ),
    )
}  # fmt: skip

PUBLISHED: tuple[Published, ...] = ()


def find(name: str, folder: Path | str | None = None) -> list[Clip]:
    """The clips of a set, in the order of their paths.

    `person` is who or what must not be on both sides: the person; in UCF101 the group (clips of
    one source video), in HMDB51 the film. `scene` is KTH's scenario; `split` KTH's, the one set
    that defines a single split. Without `folder`: data/sets/NAME, then $VIDLIB_NAME. Warns when
    clips lack; UserError, which names the download command, when there is none.
    """
    raise NotImplementedError


def recognise(folder: Path | str) -> str | None:
    """The name of the set that lies there, by its files' names; None for anything else."""
    raise NotImplementedError


def protocol(
    name: str,
    clips: Sequence[Clip],
    which: str | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
) -> Iterator[Fold]:
    """The folds of a protocol. which: None or "official"; "1", "2", "3" for one split of UCF101
    or HMDB51; "leave-one-person-out"; "random", by clips, which warns of the leak."""
    raise NotImplementedError


def download(
    name: str,
    to: Path | str | None = None,
    mirror: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch and unpack a set to `to` (default: data/sets/NAME); returns that folder."""
    raise NotImplementedError
