"""Archives from the network to files on disk: fetched with resume, unpacked without trust.

Nothing here knows which data set it serves.
"""

import contextlib
import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from . import settings
from .settings import UserError

TRIES, WAIT = 4, 1.0  # without a byte gained; seconds before the next, doubled each time
BLOCK = 1 << 16  # bytes; a connection that breaks loses the last block at most
RAR_TOOLS = (
    "the program unar or unrar (Linux: apt install unar; macOS: brew install unar) or by 7-Zip "
    "(Windows: its folder on the PATH)"
)


@dataclass(frozen=True)
class Archive:
    """One file to fetch. None: not published; what comes is then checked by what it holds."""

    url: str
    size: int | None = None  # bytes
    checksum: str | None = None  # as pooch takes it: "sha256:..." or "md5:..."
    folder: str = ""  # where its files go, for archives that have no folders themselves

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def libraries() -> tuple[Any, Any]:
    """(pooch, rarfile). UserError with the remedy when they are not installed."""
    try:
        import pooch
        import rarfile
    except ImportError as error:
        raise UserError(
            f"data sets are fetched with {error.name}: pip install 'vidlib[data]'"
        ) from error
    return pooch, rarfile


def need_rar_tool() -> None:
    """UserError, which names the remedies, when no program here unpacks .rar."""
    rarfile = libraries()[1]
    try:
        # rarfile 4.5 calls bsdtar as `-f -- name`, which it does not understand
        rarfile.tool_setup(bsdtar=False, force=True)
    except rarfile.RarCannotExec as error:
        raise UserError(f"a .rar is unpacked by {RAR_TOOLS}; then run this again") from error


class Damaged(UserError):
    """What came is not the authors' archive, or not all of it: fetch it anew."""


class _Lost(Exception):
    """The connection or the server failed; worth another try."""


class _Resuming:
    """A downloader for pooch that goes on where the last one stopped, within a call (retries) and
    between calls: what has come lies in <archive>.part, and HTTP's Range asks for the rest. A
    server that ignores Range is read from the start."""

    def __init__(self, archive: Archive, part: Path) -> None:
        self.archive, self.part = archive, part

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        failed, most = 0, self._have()
        while True:
            try:
                self._receive(url)
                break
            except _Lost as error:
                failed = failed + 1 if self._have() <= most else 1
                most = max(most, self._have())
                if failed >= TRIES:
                    raise UserError(f"{url}: {error}") from error
                time.sleep(WAIT * 2 ** (failed - 1))
        os.replace(self.part, output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, url: str) -> None:
        import requests

        have = self._have()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
                said = answer.headers.get("Content-Range", "")
                if have and answer.status_code == 416 and said.endswith(f"/{have}"):
                    return self._check(url, have)  # the part is whole
                on = answer.status_code == 206 and said.startswith(f"bytes {have}-")
                if have and answer.status_code in (206, 416) and not on:
                    self.part.unlink()  # the server has another file than the one it began with
                    raise _Lost("the server does not go on from what has come")
                if answer.status_code >= 500 or answer.status_code == 429:
                    raise _Lost(f"the server answers {answer.status_code} {answer.reason}")
                if not answer.ok:
                    raise UserError(f"{url}: the server answers {answer.status_code}")
                have = have if on else 0
                length = answer.headers.get("Content-Length")
                total = have + int(length) if length else self.archive.size
                self._check(url, total)
                with (
                    self.part.open("ab" if have else "wb") as file,
                    settings.bar(total=total, initial=have, unit="B", unit_scale=True,
                                 desc=self.archive.name) as bar,
                ):  # fmt: skip
                    for block in answer.iter_content(BLOCK):
                        file.write(block)
                        bar.update(len(block))
        except requests.exceptions.SSLError as error:
            raise UserError(f"{url}: its certificate is not accepted here") from error
        except requests.exceptions.InvalidURL as error:
            raise UserError(f"{url} is no address") from error
        except requests.RequestException as error:
            raise _Lost(f"the connection failed ({type(error).__name__})") from error
        if total is not None and self._have() != total:
            raise _Lost(f"{self._have()} of {total} bytes came")

    def _check(self, url: str, size: int | None) -> None:
        if size is not None and self.archive.size not in (None, size):
            raise UserError(f"{url} has {size} bytes, not the {self.archive.size} published")


def fetch(archive: Archive, folder: Path, mirror: str | None = None) -> Path:
    """The archive as a file: in `folder`, fetched from its address or from a mirror (a base
    address); or in the mirror itself where that is a folder on disk.

    Checked by its checksum and size where they are known. UserError says what failed; what has
    come stays, and the next call goes on.
    """
    pooch, _ = libraries()
    pooch.get_logger().setLevel("WARNING")  # it logs checksums as advice to programmers
    if mirror and Path(mirror).is_dir():
        path = Path(mirror) / archive.name
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        kind, _, digest = (archive.checksum or "").partition(":")
        if digest and pooch.file_hash(path, kind) != digest:
            raise UserError(f"{path} does not have the published checksum")
        if archive.size not in (None, path.stat().st_size):
            raise UserError(
                f"{path} has {path.stat().st_size} bytes, not the {archive.size} published"
            )
        return path
    url = f"{mirror.rstrip('/')}/{archive.name}" if mirror else archive.url
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{mirror} is neither a folder here nor an http address")
    there = _Resuming(archive, folder / f"{archive.name}.part")
    try:
        return Path(pooch.retrieve(url, archive.checksum, archive.name, folder, downloader=there))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{url} does not have the published checksum (damaged, or another file): "
                        "it is deleted") from error  # fmt: skip


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process is in here for the same folder: UserError while one is."""
    import filelock

    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"{folder}: another process is downloading there: wait for it") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A ZipFile or RarFile: they share infolist() and open(). Damaged when it is not whole, but a
    UserError where the program that unpacks .rar may be to blame."""
    rarfile = libraries()[1]
    broken = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
    try:
        archive = (rarfile.RarFile if path.suffix.lower() == ".rar" else zipfile.ZipFile)(path)
    except (*broken, rarfile.Error) as error:
        raise Damaged(f"{path} is damaged ({error})") from error
    try:
        with archive:
            yield archive
    except broken as error:
        raise Damaged(f"{path} is damaged ({error})") from error
    except rarfile.Error as error:  # such as unrar-free, and a 7z that was built without RAR
        raise UserError(
            f"{path} is damaged, or the program here cannot unpack it ({error}): it is unpacked by "
            f"{RAR_TOOLS}; if it was, delete that file"
        ) from error


def _is_link(member: Any) -> bool:
    if hasattr(member, "is_symlink"):
        return member.is_symlink() or getattr(member, "file_redir", None) is not None
    return stat.S_ISLNK(member.external_attr >> 16)


def _target(path: Path, name: str, root: Path) -> Path:
    """Where a member goes; UserError for a name that leads out of `root`."""
    name = name.replace("\\", "/")
    target = root / PurePosixPath(name)
    outside = PureWindowsPath(name).anchor or ".." in PurePosixPath(name).parts or "\0" in name
    if outside or not target.resolve().is_relative_to(root.resolve()):
        raise Damaged(f"{path} holds the name {name!r}, which leads out of the folder: nothing of "
                      "it is unpacked, since it is not the authors' archive")  # fmt: skip
    return target


def unpack(path: Path, root: Path, suffixes: Collection[str], limit: int) -> int:
    """Unpack the members with one of the suffixes below `root`; returns their bytes.

    All members are looked at before the first is written: no name may lead out of `root`, none
    may be a link, and together they have `limit` bytes at most, which must fit on the disk.
    A file that is there in its full size stays, so a stopped unpacking goes on. A .rar inside is
    unpacked, too (one level), into a folder of its name if it has none of its own. Damaged when the
    archive breaks a rule or is not whole.
    """
    with _open(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        targets = [_target(path, m.filename, root) for m in members]
        if links := [m.filename for m in members if _is_link(m)]:
            raise Damaged(f"{path} holds a link, {links[0]!r}: it is not the authors' archive")
        size = sum(m.file_size for m in members)
        if size > limit:
            raise Damaged(f"{path} would unpack to {size} bytes, far more than the set has: it is "
                          "not the authors' archive")  # fmt: skip
        wanted = [(m, t) for m, t in zip(members, targets, strict=True)
                  if t.suffix.lower() in suffixes]  # fmt: skip
        todo = [(m, t) for m, t in wanted if not _is_whole(t, m.file_size)]
        need_space(root, sum(m.file_size for m, _ in todo))
        if len(todo) > 100 and getattr(archive, "is_solid", bool)():  # each would read all before
            raise UserError(f"{path} is packed as one block: unpack it to {root} with unar or "
                            "unrar, then run this again")  # fmt: skip
        for member, target in settings.bar(todo, desc=path.name, unit="file", disable=not todo):
            _write(path, archive, member, target)
    for member, target in wanted:
        if target.suffix.lower() == ".rar":
            with _open(target) as inner:
                foldered = all("/" in m.filename for m in inner.infolist() if not m.is_dir())
            into = target.parent if foldered else target.with_suffix("")
            size += unpack(target, into, set(suffixes) - {".rar"}, limit - size) - member.file_size
            target.unlink()
    return size


def _is_whole(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _write(path: Path, archive: Any, member: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with archive.open(member) as source, part.open("wb") as file:
            left = member.file_size
            while block := source.read(min(BLOCK, left + 1)):  # never more than it said
                left -= len(block)
                if left < 0:
                    break
                file.write(block)
        if left:
            raise Damaged(f"{path} is damaged ({member.filename} is not as long as it says)")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def need_space(folder: Path, size: int) -> None:
    """UserError when the disk of `folder`, which need not exist yet, has less than `size` free."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < size:
        raise UserError(f"{there} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} are needed: "
                        "free some, or choose another disk with --to")  # fmt: skip
