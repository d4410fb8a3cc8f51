"""Data sets in their real layouts, small and made here, from a server on 127.0.0.1: fetched with
resume, unpacked without trust, recognised, split as their authors split them."""

import hashlib
import io
import json
import re
import shutil
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest
import rarfile
from hypothesis import given
from hypothesis import strategies as st

from vidlib import catalog, datasets, fetching
from vidlib.catalog import Clip
from vidlib.cli import main
from vidlib.datasets import SETS
from vidlib.fetching import Archive
from vidlib.settings import UserError

Files = dict[str, bytes]
PEOPLE = ("person11", "person19", "person22")  # KTH's: training, validation, test
BROKEN = "person01_boxing_d4_uncomp.avi"  # the real set's damaged file


@dataclass
class Served:
    """What the server has, how it behaves, and what it was asked."""

    url: str = ""
    files: Files = field(default_factory=dict)
    ranges: bool = True  # whether it knows Range
    length: bool = True  # whether it says Content-Length
    skips: int = 0  # bytes that it leaves out when it goes on, once
    cuts: list[int] = field(default_factory=list)  # bytes after which it hangs up, request by one
    errors: list[int] = field(default_factory=list)  # statuses it answers first
    asked: list[tuple[str, str]] = field(default_factory=list)  # (name, Range)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            name, asked = self.path.rpartition("/")[2], self.headers.get("Range", "")
            served.asked.append((name, asked))
            if self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", f"{served.url}/{name}")
                self.end_headers()
                return
            if served.errors or name not in served.files:
                self.send_error(served.errors.pop(0) if served.errors else 404)
                return
            body = served.files[name]
            start = int(re.findall(r"\d+", asked)[0]) if asked and served.ranges else 0
            if start >= len(body) > 0 and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            if start and served.skips:
                start, served.skips = start + served.skips, 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if served.length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = served.cuts.pop(0) if served.cuts else len(body)
            self.wfile.write(body[start : start + cut])

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    served.url = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr(fetching, "WAIT", 0.0)
    monkeypatch.setattr(fetching, "BLOCK", 10)  # a connection that breaks loses the last block
    yield served
    httpd.shutdown()
    httpd.server_close()


# -- archives in the sets' layouts --


def zipped(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: ZipInfo would mend backslashes and NULs
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()


def rarred(files: Files, mode: int = 0o100644) -> bytes:
    """RAR 3 with members stored as they are (the format's method 0x30), which needs no packer."""

    def header(kind: int, flags: int, rest: bytes) -> bytes:
        body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body

    out = b"Rar!\x1a\x07\x00" + header(0x73, 0, bytes(6))
    for name, content in files.items():
        raw, size = name.encode(), len(content)
        about = struct.pack("<IIBIIBBHI", size, size, 3, zlib.crc32(content), 0x21 << 16, 20, 0x30,
                            len(raw), mode)  # fmt: skip
        out += header(0x74, 0x8000, about + raw) + content
    return out + header(0x7B, 0x4000, b"")


PACKERS = {".zip": zipped, ".rar": rarred}


def weizmann_files(video: bytes) -> Files:
    archives = {}
    for action in SETS["weizmann"].actions:
        takes = ["lena1", "lena2"] if action in ("run", "skip", "walk") else ["lena"]
        names = [f"daria_{action}.avi", *(f"lena_{action}{t[4:]}.avi" for t in takes)]
        archives[f"{action}.zip"] = zipped(dict.fromkeys(names, video))
    return archives


def kth_files(video: bytes) -> Files:
    archives = {}
    for action in SETS["kth"].actions:
        files = {f"{p}_{action}_d{d}_uncomp.avi": video for p in PEOPLE for d in (1, 2)}
        if action == "boxing":
            files[BROKEN] = video[: len(video) // 3]
        archives[f"{action}.zip"] = zipped(files)
    return archives


UCF_CLIPS = [
    f"{action}/v_{action.replace('Handstand', 'HandStand')}_g{group:02d}_c{clip:02d}.avi"
    for action in ("Archery", "HandstandPushups") for group in (1, 2, 3) for clip in (1, 2)
]  # fmt: skip


def ucf_files(video: bytes) -> Files:
    lists = {"ucfTrainTestlist/classInd.txt": b"1 Archery\r\n2 HandstandPushups\r\n"}
    for n in (1, 2, 3):
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for name in UCF_CLIPS:
            number = "" if f"_g{n:02d}_" in name else f" {1 + name.startswith('H')}"
            sides["train" if number else "test"].append(f"{name}{number}\r\n")
        for side, lines in sides.items():
            lists[f"ucfTrainTestlist/{side}list{n:02d}.txt"] = "".join(lines).encode()
    videos = {f"UCF-101/{name}": video for name in UCF_CLIPS}
    return {"UCF101TrainTestSplits-RecognitionTask.zip": zipped(lists),
            "UCF101.rar": rarred(videos)}  # fmt: skip


def hmdb_name(action: str, film: str, take: int) -> str:
    return f"{film}_{action}_u_nm_np1_ba_goo_{take}.avi"


def hmdb_files(video: bytes) -> Files:
    inner, lists = {}, {}
    for action in ("kick", "kick_ball"):
        names = [hmdb_name(action, film, t) for film in ("A#(1)_x", "B", "C") for t in (0, 1)]
        inner[f"{action}.rar"] = rarred({f"{action}/{name}": video for name in names})
        for n in (1, 2, 3):
            tags = [0 if i == n else 2 if i // 2 == n - 1 else 1 for i in range(6)]
            lines = "".join(f"{name} {tag} \n" for name, tag in zip(names, tags, strict=True))
            lists[f"testTrainMulti_7030_splits/{action}_test_split{n}.txt"] = lines.encode()
    return {"test_train_splits.rar": rarred(lists), "hmdb51_org.rar": rarred(inner)}


MAKE: dict[str, tuple[Callable[[bytes], Files], int]] = {
    "weizmann": (weizmann_files, 23), "kth": (kth_files, 37),
    "ucf101": (ucf_files, 12), "hmdb51": (hmdb_files, 12),
}  # fmt: skip


@pytest.fixture
def small(
    server: Served, small_video: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], Served]:
    """A function that puts a small set on the server, with the real one's names, and returns it."""
    monkeypatch.setattr(rarfile, "tool_setup", lambda **_: None)  # stored members need no program
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path / "data"))
    for variable in ("MIRROR", "MIRROR_KTH", "KTH", "WEIZMANN"):
        monkeypatch.delenv(f"VIDLIB_{variable}", raising=False)

    def put(name: str) -> Served:
        make, clips = MAKE[name]
        server.files = make(small_video.read_bytes())
        known = SETS[name]
        assert server.files.keys() == {a.name for a in known.archives}  # as the authors name them
        archives = tuple(
            Archive(f"{server.url}/{a.name}", len(server.files[a.name]),
                    "sha256:" + hashlib.sha256(server.files[a.name]).hexdigest(), a.folder)
            for a in known.archives
        )  # fmt: skip
        size = sum(map(len, server.files.values()))
        changed = replace(known, clips=clips, archives=archives, download_bytes=size,
                          unpacked_bytes=10 * size)  # fmt: skip
        monkeypatch.setitem(SETS, name, changed)
        return server

    return put


# -- from the server to folds --


@pytest.mark.parametrize("name", SETS)
def test_a_set_comes_whole_and_is_not_fetched_twice(
    name: str, small: Callable[[str], Served], capsys: pytest.CaptureFixture[str]
) -> None:
    server = small(name)
    assert main(["download", name]) == 0
    out = capsys.readouterr().out
    terms, count = out.index("Terms of use"), out.index(f"{MAKE[name][1]} clips in")
    assert terms < count and SETS[name].page in out and "Cite" in out
    folder = datasets.places(name)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whole: nothing to warn of
        clips = datasets.find(name)
    assert len(clips) == MAKE[name][1] and all(c.person and c.action for c in clips)
    assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == set()
    assert not list(folder.rglob("*.rar")) and not list(folder.rglob("*.zip"))
    asked = len(server.asked)
    assert asked == len(server.files)
    assert main(["download", name]) == 0
    assert "whole in" in capsys.readouterr().out and len(server.asked) == asked
    assert datasets.recognise(folder) == name
    for fold in datasets.protocol(name, clips):
        assert not {c.person for c in fold.train} & {c.person for c in fold.test}


def test_weizmann_leaves_one_person_out(small: Callable[[str], Served]) -> None:
    small("weizmann")
    datasets.download("weizmann", say=lambda text: None)
    clips = datasets.find("weizmann")
    assert Counter(c.person for c in clips) == {"daria": 10, "lena": 13}
    assert {c.action for c in clips} == set(SETS["weizmann"].actions)
    folds = list(datasets.protocol("weizmann", clips))
    assert [(f.name, len(f.train), len(f.test)) for f in folds] == [
        ("without daria", 13, 10), ("without lena", 10, 13)
    ]  # fmt: skip


def test_kth_is_split_by_its_authors_people(small: Callable[[str], Served]) -> None:
    small("kth")
    clips = datasets.find("kth", datasets.download("kth", say=lambda text: None))
    (fold,) = datasets.protocol("kth", clips)
    assert {c.person for c in fold.test} == {"person22"}
    assert {c.person for c in fold.train} == {"person01", "person11", "person19"}
    assert {c.scene for c in clips} == {"d1", "d2", "d4"}
    assert all(c.split == ("val" if c.person == "person22" else "train") for c in clips)
    assert len(list(datasets.protocol("kth", clips, "leave-one-person-out"))) == 4


def test_the_authors_people_of_kth() -> None:
    """00sequences.txt: 8 + 8 + 9 people, 25 in all, none twice."""
    training = {f"person{n}" for n in range(11, 19)}
    groups = [training, set(datasets.KTH_VALIDATION), set(datasets.KTH_TEST)]
    assert [len(g) for g in groups] == [8, 8, 9]
    assert set.union(*groups) == {f"person{n:02d}" for n in range(1, 26)}


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_three_splits_from_their_files(name: str, small: Callable[[str], Served]) -> None:
    small(name)
    clips = datasets.find(name, datasets.download(name, say=lambda text: None))
    folds = list(datasets.protocol(name, clips))
    assert [f.name for f in folds] == ["split 1", "split 2", "split 3"]
    if name == "ucf101":
        assert all(len(f.train) == 8 and len(f.test) == 4 for f in folds)
        assert {c.person for c in folds[1].test} == {"Archery_g02", "HandstandPushups_g02"}
    else:  # one clip of each action is in neither side, and kick_ball's clips are not kick's
        assert sum(len(f.train) + len(f.test) for f in folds) == 3 * (12 - 2)
        assert {c.person for c in folds[0].test} == {"A#(1)_x"}
        assert Counter(c.action for c in clips) == {"kick": 6, "kick_ball": 6}
    assert list(datasets.protocol(name, clips, "2")) == [folds[1]]
    archery = [c for c in clips if c.action == clips[0].action]  # lists are found from a part, too
    assert len(list(datasets.protocol(name, archery, "1"))) == 1


def test_lists_that_are_not_there_are_named(small: Callable[[str], Served]) -> None:
    small("ucf101")
    folder = datasets.download("ucf101", say=lambda text: None)
    shutil.rmtree(folder / "ucfTrainTestlist")
    with pytest.raises(UserError, match="testlist01.txt.*python -m vidlib download ucf101"):
        datasets.protocol("ucf101", datasets.find("ucf101"))


@pytest.mark.parametrize(("name", "which"), [("kth", "2"), ("ucf101", "leave-one-person-out"),
                                             ("weizmann", "mine")])  # fmt: skip
def test_other_protocols_are_refused(name: str, which: str) -> None:
    with pytest.raises(UserError, match="choose one of official"):
        datasets.protocol(name, [Clip(Path("a.avi"), "a", "p")], which)


def test_a_random_split_is_made_on_request_and_warns() -> None:
    clips = [Clip(Path(f"/v/person{p:02d}_{a}_d{d}.avi"), a, f"person{p:02d}")
             for a in SETS["kth"].actions for p in range(1, 6) for d in (1, 2)]  # fmt: skip
    folds = []
    for seed in (0, 0, 1):
        with pytest.warns(UserWarning, match="both sides"):
            (fold,) = datasets.protocol("kth", clips, "random", seed)
        folds.append(fold)
        assert len(fold.train) + len(fold.test) == 60 and len(fold.test) == 18
        assert Counter(c.action for c in fold.test) == dict.fromkeys(SETS["kth"].actions, 3)
        assert {c.person for c in fold.train} & {c.person for c in fold.test}  # the leak
    assert folds[0] == folds[1] != folds[2]


# -- what goes wrong on the way --


def test_stopped_and_gone_on_with(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = small("kth")
    server.cuts = [1000]
    monkeypatch.setattr(fetching, "TRIES", 1)
    with pytest.raises(UserError, match="goes on from what has come.*--mirror"):
        datasets.download("kth", say=lambda text: None)
    part = datasets.places("kth")[0] / ".download" / "boxing.zip.part"
    assert part.read_bytes() == server.files["boxing.zip"][:1000]
    datasets.download("kth", say=lambda text: None)
    assert server.asked[:2] == [("boxing.zip", ""), ("boxing.zip", "bytes=1000-")]
    assert len(server.asked) == 7 and len(datasets.find("kth")) == 37


def test_what_is_unpacked_is_not_fetched_again(small: Callable[[str], Served]) -> None:
    server = small("kth")
    jogging = server.files.pop("jogging.zip")
    with pytest.raises(UserError, match="404.*--mirror"):
        datasets.download("kth", say=lambda text: None)
    server.files["jogging.zip"] = jogging
    datasets.download("kth", say=lambda text: None)
    assert Counter(name for name, _ in server.asked) == {
        **dict.fromkeys(server.files, 1), "jogging.zip": 2
    }  # fmt: skip


def fetched(server: Served, folder: Path, body: bytes, **known: object) -> bytes:
    server.files["a.zip"] = body
    archive = Archive(f"{server.url}/a.zip", **known)  # type: ignore[arg-type]
    return fetching.fetch(archive, folder).read_bytes()


def test_a_bad_line_is_tried_again(server: Served, tmp_path: Path) -> None:
    body = bytes(range(256)) * 40
    server.errors, server.cuts = [503, 429], [3000, 10, 0, 5000]
    assert fetched(server, tmp_path, body) == body
    assert [r for _, r in server.asked[2:]] == ["", *(f"bytes={n}-" for n in (3000, 3010, 3010,
                                                                              8010))]  # fmt: skip


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_servers_that_know_less(server: Served, tmp_path: Path, ranges: bool, length: bool) -> None:
    body = bytes(range(256)) * 40
    server.ranges, server.length = ranges, length
    (tmp_path / "a.zip.part").write_bytes(body[:700])
    checksum = "md5:" + hashlib.md5(body).hexdigest()
    assert fetched(server, tmp_path, body, checksum=checksum) == body
    assert server.asked == [("a.zip", "bytes=700-")]


@pytest.mark.parametrize("extra", [b"", b"more than the file has"])
def test_a_part_that_is_whole_or_too_long(server: Served, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"all of it" + extra)
    assert fetched(server, tmp_path, b"all of it") == b"all of it"


def test_a_server_that_goes_on_elsewhere_is_asked_from_the_start(
    server: Served, tmp_path: Path
) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"all")
    server.skips = 2
    assert fetched(server, tmp_path, b"all of it") == b"all of it"
    assert [asked for _, asked in server.asked] == ["bytes=3-", ""]


def test_a_server_that_never_gets_there(server: Served, tmp_path: Path) -> None:
    server.cuts = [0] * 100
    with pytest.raises(UserError, match="connection failed|bytes came"):
        fetched(server, tmp_path, b"all of it")
    assert len(server.asked) == fetching.TRIES


def test_a_corrupt_archive_is_deleted_and_fetched_anew(small: Callable[[str], Served]) -> None:
    server = small("weizmann")
    right = server.files["jack.zip"]
    server.files["jack.zip"] = right[:-1] + b"!"
    with pytest.raises(UserError, match="jack.zip does not have the published checksum"):
        datasets.download("weizmann", say=lambda text: None)
    server.files["jack.zip"] = right
    datasets.download("weizmann", say=lambda text: None)


def test_without_a_checksum_damage_is_seen_in_unpacking(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, known = small("weizmann"), SETS["weizmann"]
    bare = tuple(replace(a, checksum=None, size=None) for a in known.archives)
    monkeypatch.setitem(SETS, "weizmann", replace(known, archives=bare))
    right = server.files["jack.zip"]
    for wrong in (right[:-200], b"<html>sign in</html>", right[:60] + b"?" + right[61:]):
        server.files["jack.zip"] = wrong
        with pytest.raises(UserError, match="jack.zip is damaged.*fetches it anew"):
            datasets.download("weizmann", say=lambda text: None)
    server.files["jack.zip"] = right
    datasets.download("weizmann", say=lambda text: None)


def test_another_size_is_refused_before_it_comes(server: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 5 bytes, not the 6 published"):
        fetched(server, tmp_path, b"12345", size=6)
    assert not list(tmp_path.glob("a.zip*"))
    server.length = False
    with pytest.raises(UserError, match="5 of 6 bytes came|has 5 bytes, not the 6 published"):
        fetched(server, tmp_path, b"12345", size=6)


def test_a_set_that_lacks_clips_says_which(small: Callable[[str], Served]) -> None:
    server = small("kth")
    SETS["kth"] = replace(SETS["kth"], clips=40)  # restored by the fixture's monkeypatch
    with pytest.raises(UserError, match=r"37 of 40 clips \(boxing 7, handclapping 6.*--mirror"):
        datasets.download("kth", say=lambda text: None)
    with pytest.warns(UserWarning, match="has 37 of the 40 clips"):
        datasets.find("kth")
    with pytest.raises(UserError, match="37 of 40"):
        datasets.download("kth", say=lambda text: None)
    assert len(server.asked) == 12  # the next call fetched again


def test_one_broken_video_is_named_and_passed_over(
    small: Callable[[str], Served], capsys: pytest.CaptureFixture[str]
) -> None:
    small("kth")
    folder = datasets.download("kth", say=lambda text: None)
    (folder / "boxing" / "person11_boxing_d1_uncomp.avi").write_bytes(b"no video")
    assert main(["inspect", "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "skipped:" in out and "person11_boxing_d1" in out and "36 clips: KTH" in out
    with pytest.warns(UserWarning, match=f"{BROKEN}.*frames"):  # cut short: the rest is used
        assert len(list(catalog.video.iter_frames(folder / "boxing" / BROKEN))) > 0


def test_a_full_disk_is_seen_before_anything_is_fetched(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = small("kth")
    monkeypatch.setattr(
        fetching.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1)
    )
    with pytest.raises(UserError, match="free.*needed.*--to"):
        datasets.download("kth", say=lambda text: None)
    assert not server.asked


def test_a_disk_that_fills_up_is_one_line(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    small("kth")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device.*same command goes on"):
        datasets.download("kth", say=lambda text: None)


def test_two_at_once_do_not_meet(small: Callable[[str], Served]) -> None:
    server = small("kth")
    work = datasets.places("kth")[0] / ".download"
    work.mkdir(parents=True)
    with filelock.FileLock(work / "lock"):
        with pytest.raises(UserError, match="another process"):
            datasets.download("kth", say=lambda text: None)
    assert not server.asked
    datasets.download("kth", say=lambda text: None)


# -- other places --


def test_mirrors(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, known = small("kth"), SETS["kth"]
    elsewhere = tuple(replace(a, url=f"{server.url}/none/{a.name}x") for a in known.archives)
    gone = [replace(a, url=a.url.replace(".zipx", ".zip").replace(str(server.url), "http://127.0.0.1:9"))
            for a in elsewhere]  # fmt: skip
    monkeypatch.setitem(SETS, "kth", replace(known, archives=tuple(gone)))
    with pytest.raises(UserError, match="connection failed.*--mirror"):
        datasets.download("kth", tmp_path / "a", say=lambda text: None)
    datasets.download("kth", tmp_path / "b", f"{server.url}/moved/", say=lambda text: None)
    monkeypatch.setenv("VIDLIB_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("VIDLIB_MIRROR_KTH", server.url)
    datasets.download("kth", tmp_path / "c", say=lambda text: None)
    asked = len(server.asked)
    kept = tmp_path / "archives"
    kept.mkdir()
    for name, content in server.files.items():
        (kept / name).write_bytes(content)
    datasets.download("kth", tmp_path / "d", str(kept), say=lambda text: None)
    assert len(server.asked) == asked and len(list(kept.iterdir())) == 6  # read, not moved
    (kept / "boxing.zip").write_bytes(b"other")
    with pytest.raises(UserError, match="boxing.zip does not have the published checksum"):
        datasets.download("kth", tmp_path / "e", str(kept), say=lambda text: None)
    with pytest.raises(UserError, match="neither a folder here nor an http address"):
        datasets.download("kth", tmp_path / "e", "ftp://nowhere", say=lambda text: None)


def test_hmdb51_says_that_its_old_server_is_gone(small: Callable[[str], Served]) -> None:
    small("hmdb51").files.clear()
    with pytest.raises(UserError, match="404.*--mirror.*serre-lab.clps.brown.edu, is gone"):
        datasets.download("hmdb51", say=lambda text: None)


@pytest.mark.parametrize("missing", ["pooch", "rarfile"])
def test_without_the_libraries_the_remedy_is_named(
    missing: str, small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    small("kth")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing}.*pip install 'vidlib\[data\]'"):
        datasets.download("kth", say=lambda text: None)


def test_without_a_program_for_rar_nothing_is_fetched(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = small("ucf101")

    def none(**_: object) -> None:
        raise rarfile.RarCannotExec("Cannot find working tool")

    monkeypatch.setattr(rarfile, "tool_setup", none)
    with pytest.raises(UserError, match="unar or unrar .*apt install.*7-Zip"):
        datasets.download("ucf101", say=lambda text: None)
    assert not server.asked


def test_a_program_that_cannot_unpack_costs_no_download(
    small: Callable[[str], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, read = small("hmdb51"), rarfile.RarFile.open

    def fails(self: rarfile.RarFile, member: object) -> object:
        raise rarfile.BadRarFile("Failed the read enough data")

    monkeypatch.setattr(rarfile.RarFile, "open", fails)
    with pytest.raises(UserError, match="the program here cannot unpack it.*unar"):
        datasets.download("hmdb51", say=lambda text: None)
    monkeypatch.setattr(rarfile.RarFile, "open", read)
    datasets.download("hmdb51", say=lambda text: None)
    assert len(server.asked) == 2


def test_a_solid_archive_is_left_to_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.rar").write_bytes(rarred({f"{n}.avi": b"x" for n in range(101)}))
    monkeypatch.setattr(rarfile.RarFile, "is_solid", lambda self: True)
    with pytest.raises(UserError, match="one block: unpack it"):
        fetching.unpack(tmp_path / "a.rar", tmp_path / "root", {".avi"}, 1000)


# -- archives that are not trusted --

HOSTILE = ["../out.avi", "a/../../out.avi", "/out.avi", "C:/out.avi", "C:out.avi", "..\\out.avi",
           "\\\\server\\share\\out.avi", "a/..\\..\\out.avi"]  # fmt: skip


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_out_stops_all(name: str, suffix: str, tmp_path: Path) -> None:
    path, root = tmp_path / f"a{suffix}", tmp_path / "inside" / "root"
    path.write_bytes(PACKERS[suffix]({"good.avi": b"good", name: b"bad"}))
    with pytest.raises(UserError, match="leads out of the folder: nothing of it is unpacked"):
        fetching.unpack(path, root, {".avi"}, 1000)
    assert list(tmp_path.rglob("*.avi")) == []


@given(st.lists(st.sampled_from(["..", ".", "a", "b c", "", "C:", "~", "con"]), max_size=5),
       st.sampled_from(["/", "\\"]), st.sampled_from(sorted(PACKERS)))  # fmt: skip
def test_whatever_the_name_nothing_lands_outside(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], slash: str, suffix: str
) -> None:
    top = tmp_path_factory.mktemp("any")
    path, root = top / f"a{suffix}", top / "root"
    path.write_bytes(PACKERS[suffix]({slash.join([*parts, "x.avi"]): b"x"}))
    try:
        fetching.unpack(path, root, {".avi"}, 1000)
    except UserError:
        assert not list(top.rglob("*.avi"))
    else:
        (there,) = top.rglob("*.avi")
        assert there.is_relative_to(root) and there.read_bytes() == b"x"


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(rarred({"x.avi": b"/etc/passwd"}, mode=0o120777))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("x.avi")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    for suffix in PACKERS:
        with pytest.raises(UserError, match="holds a link"):
            fetching.unpack(tmp_path / f"a{suffix}", tmp_path / "root", {".avi"}, 1000)


def test_a_link_that_was_there_leads_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a.zip").write_bytes(zipped({"a/x.avi": b"x"}))
    with pytest.raises(UserError, match="leads out"):
        fetching.unpack(tmp_path / "a.zip", tmp_path / "root", {".avi"}, 1000)


def test_bombs_do_not_go_off(tmp_path: Path) -> None:
    path, root = tmp_path / "a.zip", tmp_path / "root"
    path.write_bytes(zipped({"x.avi": bytes(10**6)}))
    with pytest.raises(UserError, match="would unpack to 1000000 bytes"):
        fetching.unpack(path, root, {".avi"}, 10**5)
    lying = path.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 10))
    path.write_bytes(lying)  # it says 10 bytes, and would write a million
    with pytest.raises(UserError, match="damaged"):
        fetching.unpack(path, root, {".avi"}, 10**5)
    inner = rarred({"x.avi": bytes(10**5)})
    (tmp_path / "b.rar").write_bytes(rarred({"one.rar": inner, "two.rar": inner}))
    with pytest.raises(UserError, match="would unpack"):
        fetching.unpack(tmp_path / "b.rar", root, {".avi", ".rar"}, 250_000)
    assert sum(p.stat().st_size for p in root.rglob("*.avi")) <= 250_000


def test_only_what_is_wanted_is_unpacked_and_a_stop_is_gone_on_from(tmp_path: Path) -> None:
    path, root = tmp_path / "a.zip", tmp_path / "root"
    path.write_bytes(zipped({"a/x.avi": b"new", "a/y.avi": b"whole", "setup.exe": b"no"}))
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.avi").write_bytes(b"ne")  # cut short by a stop
    (root / "a" / "y.avi").write_bytes(b"WHOLE")
    assert fetching.unpack(path, root, {".avi"}, 1000) == 10
    assert {p.name: p.read_bytes() for p in root.rglob("*.*")} == {"x.avi": b"new",
                                                                   "y.avi": b"WHOLE"}  # fmt: skip


def test_a_rar_without_folders_gets_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "o.rar").write_bytes(rarred({"in/kick.rar": rarred({"x.avi": b"x"})}))
    fetching.unpack(tmp_path / "o.rar", tmp_path / "root", {".avi", ".rar"}, 1000)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.avi")] == [
        "root/in/kick/x.avi"
    ]


# -- known by their names --


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "is_"),
    [
        (["x/daria_walk.avi", "x/lena_run2.avi", "y/ido_wave1.avi"], "weizmann"),
        (["daria_walk.avi", "ido_wave2.avi"], "weizmann"),  # flat
        (["a/person01_boxing_d1_uncomp.avi", "a/person02_walking_d4_uncomp.avi"], "kth"),
        (["person01_boxing_d1.mp4", "person02_walking_d4.mp4"], "kth"),  # converted
        (["v/v_Archery_g01_c01.avi", "v/v_Biking_g02_c01.avi"], "ucf101"),
        ([f"x/{a}/{hmdb_name(a, 'film', 0)}" for a in ("kick", "run")], "hmdb51"),
        (["train/walk/daria_walk.avi", "val/run/ido_run.avi"], None),  # a split of one's own
        (["walk/daria_walk.avi", "run/ido_run.avi", "clips.csv"], None),
        (["walk/daria_walk.avi", "walk/ido_walk.avi"], None),  # one action is no set
        (["waving/anna.mp4", "clapping/ben.mp4", "walk/daria_walk.avi"], None),
        ([], None),
    ],
)
def test_recognised_by_names_not_by_the_folder(
    names: list[str], is_: str | None, tmp_path: Path
) -> None:
    assert datasets.recognise(touch(tmp_path / "ucf101", *names)) == is_


def test_found_by_name_by_variable_and_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("VIDLIB_KTH", raising=False)
    with pytest.raises(UserError, match="python -m vidlib download kth.*--data.*VIDLIB_KTH"):
        datasets.find("kth")
    with pytest.raises(UserError, match="choose one of weizmann, kth, ucf101, hmdb51"):
        datasets.find("imagenet")
    mine = touch(tmp_path / "mine", "person01_boxing_d1_uncomp.avi", "b/person01_boxing_d1.avi",
                 "notes.avi")  # fmt: skip
    monkeypatch.setenv("VIDLIB_KTH", str(mine))
    with pytest.warns(UserWarning, match="has 2 of the 599"):
        assert [c.person for c in datasets.find("kth")] == ["person01", "person01"]
    touch(tmp_path / "data" / "sets" / "kth", "person02_boxing_d1_uncomp.avi")
    with pytest.warns(UserWarning, match="1 of the 599"):
        assert [c.person for c in datasets.find("kth")] == ["person02"]
    with pytest.warns(UserWarning, match="2 of the 599"):
        assert len(datasets.find("kth", mine)) == 2


def test_a_set_that_lies_there_twice_is_taken_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/person01_boxing_d1_uncomp.avi", "b/person01_boxing_d1_uncomp.avi")
    with pytest.warns(UserWarning, match="1 of the 599"):
        (clip,) = datasets.find("kth", tmp_path)
    assert clip.path.parent.name == "a"


def test_weizmann_for_real(weizmann: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert datasets.recognise(weizmann) == "weizmann"
    monkeypatch.setenv("VIDLIB_WEIZMANN", str(weizmann))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clips = datasets.find("weizmann")
    assert clips == catalog.find_clips(weizmann)  # so what was computed before still counts
    folds = list(datasets.protocol("weizmann", clips))
    assert len(folds) == 9 and all((len(f.train), len(f.test)) == (80, 10) for f in folds)
    said: list[str] = []
    assert datasets.download("weizmann", say=said.append) == weizmann and "whole" in said[0]


# -- the tables --


def test_the_table_of_sets() -> None:
    assert list(SETS) == ["weizmann", "kth", "ucf101", "hmdb51"]
    for name, known in SETS.items():
        assert known.name == name and "Cite" in known.terms or "cite" in known.terms
        assert len({a.name for a in known.archives}) == len(known.archives)
        for archive in known.archives:
            assert archive.url.startswith("https://")
            kind, _, digest = (archive.checksum or "sha1:" + "0" * 40).partition(":")
            assert len(digest) == 2 * hashlib.new(kind).digest_size


def test_published_figures_name_their_source() -> None:
    for row in datasets.PUBLISHED:
        assert row.set in SETS and 0 < row.accuracy <= 100 and row.note
        assert re.search(r"\b(19|20)\d\d$", row.source), row


# -- the command line --


@pytest.fixture
def right_always(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Nothing is trained, each test clip is named rightly; collects (train, test) sizes."""
    from vidlib import evaluation

    seen: list[tuple[int, int]] = []

    def fake_test(encoder: str, sample: dict, train: list[Clip], val: list[Clip],
                  *_: object, **__: object) -> dict[str, evaluation.Outcome]:  # fmt: skip
        seen.append((len(train), len(val)))
        return {"transformer": evaluation.outcome(val, [str(c.action) for c in val], [])}

    monkeypatch.setattr(evaluation, "pretrain", lambda *_: ("encoder", []))
    monkeypatch.setattr(evaluation, "untrained", lambda config: "untrained")
    monkeypatch.setattr(evaluation, "test", fake_test)
    return seen


@pytest.mark.parametrize(
    ("name", "protocol", "sizes"),
    [
        ("weizmann", "official", [(13, 10), (10, 13)]),
        ("weizmann", "leave-one-person-out", [(13, 10), (10, 13)]),
        ("kth", "official", [(25, 12)]),
        ("ucf101", "official", [(8, 4)] * 3),
        ("ucf101", "3", [(8, 4)]),
        ("hmdb51", "2", [(8, 2)]),
        ("kth", "random", [(25, 12)]),
    ],
)
def test_each_protocol_runs_from_the_command_line(
    name: str, protocol: str, sizes: list[tuple[int, int]], small: Callable[[str], Served],
    right_always: list[tuple[int, int]], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    small(name)
    folder = datasets.download(name, say=lambda text: None)
    data = name if protocol == "official" else str(folder)
    assert main(["evaluate", f"--data={data}", f"--protocol={protocol}", "--json"]) == 0
    told = capsys.readouterr()
    assert right_always == [size for size in sizes for _ in ("pretrained", "untrained")]
    result = json.loads(told.out.splitlines()[-1])
    assert result["pretrained"][0]["transformer"]["clips"] == sum(test for _, test in sizes)
    assert result["untrained"][0]["transformer"]["accuracy"] == 1
    assert ("both sides" in told.err) == (protocol == "random")


def test_a_folder_of_ones_own_has_no_official_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, "waving/a.mp4", "clapping/b.mp4")
    assert main(["evaluate", "--data", str(tmp_path), "--protocol=official"]) == 2
    assert "no official protocol" in capsys.readouterr().err
