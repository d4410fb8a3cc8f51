"""`make course`: everything once, nothing twice, and again what depends on a change."""

from dataclasses import replace
from pathlib import Path

import pytest

from vidlib import course, settings


def test_the_course_runs_reuses_and_redoes(
    quick_data: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = replace(settings.PROFILES["quick"], pretrain_steps=4, train_steps=6)
    monkeypatch.setitem(settings.PROFILES, "quick", tiny)
    course.main()
    first = capsys.readouterr()
    for words in ("1 draw", "3 pre-train", "Transformer ", "chance 12.5%", "jupyter lab"):
        assert words in first.out, words
    assert settings.encoder_path().is_file() and settings.classifier_path().is_file()
    table = first.out[first.out.index("kNN") :].split("minutes in all")[0]

    written = settings.encoder_path().stat().st_mtime_ns
    course.main()
    second = capsys.readouterr().out
    assert settings.encoder_path().stat().st_mtime_ns == written
    assert second.count("(reused)") == 3
    assert second[second.index("kNN") :].startswith(table.rsplit("\n", 2)[0])

    monkeypatch.setitem(settings.PROFILES, "quick", replace(tiny, train_steps=5))
    course.main()
    third = capsys.readouterr().out
    assert settings.encoder_path().stat().st_mtime_ns == written  # not what did not change
    assert third.count("(reused)") == 1  # the t-SNE


@pytest.mark.parametrize("text", ["", "[]", '"x"', "null", "{", "[" * 100_000, "\0"])
def test_damaged_results_are_made_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "course.json").write_text(text)
    stages = course.Stages(tmp_path / "course.json")
    assert stages.run("a stage", lambda: 3, "key") == 3
    assert course.Stages(tmp_path / "course.json").run("a stage", lambda: 1 / 0, "key") == 3
