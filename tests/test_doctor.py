"""The environment report: each thing that breaks a course gives one FIX line with its remedy."""

import importlib
import importlib.metadata
import platform
import re
import sys
import types
from pathlib import Path

import pytest

from vidlib import doctor, settings
from vidlib.doctor import Check


def named(name: str) -> Check:
    """The check of that name, run with the others, as the report shows it."""
    (found,) = (check for check in doctor.report() if check.name == name)
    return found


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Make the import of a module raise an error; the rest imports as ever."""
    real = importlib.import_module

    def broken(module: str, error: Exception) -> None:
        def load(name: str, package: str | None = None) -> types.ModuleType:
            if name == module:
                raise error
            return real(name, package)

        monkeypatch.setattr(importlib, "import_module", load)

    return broken


@pytest.fixture(scope="module")
def report() -> list[Check]:
    return doctor.report()


def test_what_is_installed_here_is_well(report: list[Check]) -> None:
    # the weights are not made by the tests, and an installation is not theirs to judge
    found = {check.name: check for check in report if check.name not in ("shipped weights",)}
    assert [str(check) for check in found.values() if not check.ok] == []
    assert found["Python"].detail.startswith(platform.python_version())
    assert found["profile"].detail == "quick"
    assert "8 of 8 frames" in found["video"].detail
    assert set(doctor.required()) <= set(found)


def test_every_line_is_ok_or_has_a_remedy(report: list[Check]) -> None:
    for check in [*report, Check("a", False, "is broken", "mend it")]:
        line = str(check)
        assert "\n" not in line
        assert re.match(r"ok   [^:]+: .|FIX  [^:]+: .+ -> .", line), line


def test_main_prints_the_report_and_tells_by_its_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    well = ("a", lambda: Check("a", True, "fine"))
    ill = ("b", lambda: Check("b", False, "ill", "mend it"))
    monkeypatch.setattr(doctor, "_checks", lambda: iter([well]))
    assert doctor.main() == 0
    assert capsys.readouterr().out == "ok   a: fine\nall well\n"
    monkeypatch.setattr(doctor, "_checks", lambda: iter([well, ill]))
    assert doctor.main() == 1
    assert capsys.readouterr().out == "ok   a: fine\nFIX  b: ill -> mend it\n1 to fix\n"


def test_no_user_name_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "anna"
    (home / "course").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setenv("VIDLIB_DATA", str(home / "course"))
    assert named("data folder").detail.startswith("~/course,")
    assert doctor.tidy(f"{home}/a and {home}bel\nend") == f"~/a and {home}bel end"
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert doctor.tidy("/a/b") == "/a/b"


def test_old_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"torch": "2.9.1+cpu", "tqdm": "4.66.0rc1", "opencv-python-headless": "4.12.0.88"}

    def version(name: str) -> str:
        if name not in have:
            raise importlib.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    old = doctor.check_package("torch", (2, 11))
    assert not old.ok and old.detail == "2.9.1+cpu, older than 2.11" and "pip" in old.remedy
    assert doctor.check_package("torch", (2, 9)).ok
    assert doctor.check_package("tqdm", (4, 66)).ok
    assert not doctor.check_package("nbval", (0, 11)).ok
    other = doctor.check_package("opencv-python", (4, 10))
    assert other.ok and other.detail == "4.12.0.88 (opencv-python-headless)"


def test_bounds_come_from_the_project_or_the_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = doctor.required()
    assert here["torch"] >= (2, 6)
    assert "ruff" not in here
    monkeypatch.setattr(settings, "REPO", tmp_path)  # installed without its repository
    lines = ["torch>=2.11", "a-b <3,>=1.2", 'pytest>=8; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert doctor.required() == {"torch": (2, 11), "a-b": (1, 2)}


def test_a_torchvision_that_does_not_fit_torch(without) -> None:
    without("torchvision.ops", RuntimeError("operator torchvision::nms does not exist\nmore"))
    check = named("torch operators")
    assert not check.ok
    assert check.detail == "RuntimeError: operator torchvision::nms does not exist"
    assert "torch torchvision" in check.remedy and "--index-url" in check.remedy


def test_opencv_without_libgl(without) -> None:
    said = "libGL.so.1: cannot open shared object file: No such file or directory"
    without("cv2", ImportError(said))
    check = named("cv2")
    assert not check.ok and said in check.detail
    assert "libgl1" in check.remedy and "opencv-python-headless" in check.remedy
    without("cv2", ImportError("numpy.core.multiarray failed to import"))
    assert "libgl1" not in named("cv2").remedy


def test_a_missing_codec_and_wrong_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    from vidlib import video

    def no_codec(*_: object) -> None:
        raise video.VideoError("a.webm: no VP8 here")

    real = video.write_video
    monkeypatch.setattr(video, "write_video", no_codec)
    assert "no VP8 here" in named("video").detail
    monkeypatch.setattr(video, "write_video", lambda p, f, fps: real(p, f[..., ::-1].copy(), fps))
    assert not named("video").ok, "blue where red was written"
    monkeypatch.setattr(video, "write_video", lambda p, f, fps: real(p, f[:5], fps))
    assert "5 of 8" in named("video").detail and not named("video").ok


def test_notebooks_that_would_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    spec = types.SimpleNamespace(argv=["/usr/bin/another/python"])
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)
    check = doctor.check_kernel()
    assert not check.ok and "ipykernel install" in check.remedy
    spec.argv[0] = sys.executable
    assert doctor.check_kernel().ok
    (tmp_path / "vidlib").mkdir()  # another vidlib that comes first
    (tmp_path / "vidlib" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.check_install()
    assert not check.ok and str(tmp_path) in check.detail


def test_a_data_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path / "new" / "data"))
    check = named("data folder")
    assert check.ok and "not made yet" in check.detail
    assert not (tmp_path / "new").exists(), "a report changes nothing"

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(doctor.tempfile, "TemporaryFile", refuse)
        check = doctor.check_data()
    assert not check.ok and "Permission denied" in check.detail and "VIDLIB_DATA" in check.remedy
    usage = types.SimpleNamespace(free=2e8)
    with monkeypatch.context() as patch:
        patch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
        check = doctor.check_data()
    assert not check.ok and "0.2 GB free" in check.detail
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path / "file"))
    assert not doctor.check_data().ok


def test_clips_and_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_video: Path
) -> None:
    monkeypatch.setenv("VIDLIB_DATA", str(tmp_path))
    assert "make course" in named("clips").detail and named("clips").ok
    assert named("own weights") == Check("own weights", True, "none")
    folder = settings.raw_dir() / "train" / "waving"
    folder.mkdir(parents=True)
    (folder / "1.webm").write_bytes(small_video.read_bytes())
    assert named("clips").detail == "1 own, 0 drawn, 1 actions"
    table = settings.raw_dir() / "clips.csv"
    table.write_text("path,action,source\ntrain/waving/studio_1_1_1.webm,waving,studio\n")
    check = named("clips")
    assert not check.ok and check.detail.startswith("1 own, 1 drawn")
    table.write_text("nonsense\n")
    assert not named("clips").ok and "column" in named("clips").detail
    settings.weights_dir().mkdir()
    settings.encoder_path().write_bytes(b"half a file")
    check = named("own weights")
    assert not check.ok and "damaged" in check.detail


def test_a_wrong_profile_and_a_check_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDLIB_PROFILE", "fast")
    check = named("profile")
    assert not check.ok and "quick, standard, full" in check.detail

    def breaks() -> Check:
        raise OSError("no\nluck")

    monkeypatch.setattr(doctor, "_checks", lambda: iter([("a", breaks)]))
    assert doctor.report() == [Check("a", False, "OSError: no", doctor.REINSTALL)]


def test_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": 2 * 10**5, "SC_PAGE_SIZE": 10**4}
    monkeypatch.setattr(doctor.os, "sysconf", sizes.__getitem__, raising=False)
    check = doctor.check_machine()
    assert not check.ok and "2.0 GB" in check.detail and "quick" in check.remedy

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(doctor.os, "sysconf", unknown, raising=False)
    assert doctor.check_machine().ok, "a platform that does not say is no fault"
