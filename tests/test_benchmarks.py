"""The benchmarks' own arithmetic; what they measure takes hours and is in their result files."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from vidlib import catalog, sampling, video
from vidlib.catalog import Clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_decode
import bench_growth
import bench_simsiam
import few_labels
import masked_features
import nuisances
import pretraining_recipes as recipes
import timing


def row(recipe: str, seed: int, right: str, steps: int = 10) -> dict[str, object]:
    share = right.count("1") / len(right)
    measures = dict.fromkeys(("knn", "linear", "pair order-free", "pair transformer"), 0.5)
    return {"recipe": recipe, "seed": seed, "steps": steps * (recipe != "untrained"),
            "right": right, "transformer": share, "collapse": None, "minutes": 1.0,
            **measures}  # fmt: skip


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_one_that_a_run_could_use(name: str) -> None:
    pre, train = recipes.configs(name, 7, 400)
    assert (pre.seed, train.seed, pre.steps) == (7, 7, 400)


def test_the_table_has_mean_and_spread_over_seeds_best_first() -> None:
    rows = [row("untrained", 0, "1000"), row("course", 0, "1110"), row("course", 1, "1111"),
            row("course", 0, "1100", 40)]  # fmt: skip
    lines = recipes.table(rows).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == ["course", "course", "untrained"]
    assert "| course | 10 | 2 | 50.0 +- 0.0 | 50.0 +- 0.0 | 87.5 +- 17.7 |" in lines[0]
    assert "| course | 40 | 1 | 50.0 | 50.0 | 50.0 |" in lines[1]


def test_a_gain_is_paired_with_the_other_recipe_of_the_same_seed() -> None:
    rows = [row("untrained", 0, "1000"), row("untrained", 1, "0000"), row("course", 0, "1100"),
            row("course", 1, "1111"), row("course", 2, "1111"),
            row("plain", 2, "1011")]  # fmt: skip
    people = ["a", "a", "b", "b"]
    # seed 0: +1 of 4, seed 1: +4 of 4, seed 2 has no partner
    over = recipes.gains(rows, people, "untrained")
    assert over.startswith("course, 10 steps: +62.5 points over untrained (+50.0 to +75.0 by")
    assert over.endswith("seeds 0, 1)")
    told = recipes.gains(rows, people, "course").splitlines()  # untrained has no step: no partner
    assert len(told) == 1 and told[0].startswith("plain, 10 steps: -25.0 points over course")


def test_a_pause_does_not_count_as_pre_training() -> None:
    assert recipes.minutes_of([]) == 0
    history = [{"seconds": s} for s in (6.0, 12.0, 18.0, 600.0, 606.0)]
    assert recipes.minutes_of(history) == pytest.approx(0.5)


def test_labels_are_drawn_evenly_and_the_same_again() -> None:
    clips = [Clip(Path(f"{a}{i}"), a) for a in ("run", "walk") for i in range(6)]
    drawn = few_labels.draw(clips, 4, seed=1)
    assert Counter(c.action for c in drawn) == {"run": 4, "walk": 4}
    assert drawn == few_labels.draw(clips, 4, seed=1) != few_labels.draw(clips, 4, seed=2)
    assert len(few_labels.draw(clips, 100, seed=0)) == len(clips)


def test_masked_features_are_compared_seed_by_seed_with_both_others() -> None:
    none, masked, longer = masked_features.ARMS
    rows = [{"arm": arm, "count": 5, "seed": seed, "right": right,
             "accuracy": right.count("1") / 4}
            for arm, seed, right in [(none, 0, "1000"), (none, 1, "1100"), (masked, 0, "1110"),
                                     (masked, 1, "1100"), (longer, 1, "1111")]]  # fmt: skip
    lines = few_labels.table(rows, masked_features.ARMS).splitlines()
    assert lines[2:] == ["| none | 37.5 +- 17.7 (2) |", "| masked | 62.5 +- 17.7 (2) |",
                         "| none, as many steps in all | 100.0 (1) |"]  # fmt: skip
    over = masked_features.gains(rows, ["a", "a", "b", "b"]).splitlines()
    # seed 0: +2 of 4, seed 1: none; and seed 1 alone: -2 of 4
    assert over[0].startswith("5 clips an action: +25.0 points over none (")
    assert (
        over[1].startswith("5 clips an action: -50.0 points over none, as many")
        and "[1]" in over[1]
    )


@pytest.mark.parametrize("name", nuisances.NUISANCES)
def test_a_nuisance_spoils_the_frames_and_keeps_their_form(name: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 48, 48, 3)).astype(np.uint8)
    before = frames.copy()
    spoiled = nuisances.NUISANCES[name](frames, rng)
    assert spoiled.shape == frames.shape and spoiled.dtype == np.uint8
    assert (frames == before).all(), "the clip itself must stay as it is"
    assert (spoiled == frames).all() == (name == "none")


def test_a_section_takes_the_place_of_its_like_and_leaves_the_others() -> None:
    page = timing.merged(timing.merged("", "## b\n\nold\n"), "## a\n\nother\n")
    page = timing.merged(page, "## b\n\n| new |\n")
    assert page == timing.HEAD + "\n## a\n\nother\n\n## b\n\n| new |\n"


def test_ways_are_timed_in_turn_and_the_first_rounds_left_out() -> None:
    calls: list[str] = []
    took = timing.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "abbaab" and {len(t) for t in took.values()} == {2}
    assert timing.in_turn({"own": lambda: 2.5}, 3)["own"] == [2.5] * 3
    assert timing.ratio([2.0, 4.0, 3.0], [1.0, 1.0, 2.0]) == "3.00 x (1.50 to 4.00)"


def test_a_section_is_written_unless_it_was_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "RESULTS.md")
    for small in (True, False):
        with timing.section("Something", ("numpy", "no-such-package"), small) as page:
            page.table(("a", "b"), [["1", "2"]])
        assert timing.RESULTS.exists() is not small
    assert "| 1 | 2 |" in timing.RESULTS.read_text()
    assert timing.arguments("", ["a", "b"], ["--only", "b"]).only == ["b"]


def test_every_reader_of_videos_gives_what_ours_gives(
    small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(path: Path, height: int, width: int) -> np.ndarray:
        frames, _ = video.read_frames(path, fps=bench_decode.GRID)
        return bench_decode.boxed(np.stack([f[:height, :width] for f in frames]))

    others = {name: v for name, v in bench_decode.OTHERS.items() if timing.has(v[0])}
    monkeypatch.setattr(bench_decode, "OTHERS", others | {"cropped": ("numpy", again)})
    ways, apart = bench_decode.readers([small_video], tmp_path)
    assert (ways["ours, first epoch"]() == ways["ours, later epochs"]()).all()
    assert all(apart[name] < 6 for name in others) and ways["cropped"]().shape == (12, 64, 64, 3)
    short = {"short": ("numpy", lambda *a: again(*a)[:9])}
    monkeypatch.setattr(bench_decode, "OTHERS", short)
    with pytest.raises(RuntimeError, match="short gives 9 frames"):
        bench_decode.readers([small_video], tmp_path)
    assert bench_decode.decode(small_video) == 25


def test_what_grows_is_made_and_measured(tmp_path: Path) -> None:
    root = bench_growth.make_clips(tmp_path, 24)
    clips = catalog.find_clips(root, "all")
    assert len({sampling.file_key(c.path) for c in clips}) == 24
    assert len({c.person for c in clips}) == 3
    for kind in (*bench_growth.STAGES, *bench_growth.PEOPLE):
        bench_growth.work(kind, str(root), 24)()
    assert len(list(Path(f"{root}-cache").iterdir())) == 24
    film = bench_growth.make_film(tmp_path / "film.webm", 40, 2.0, 48)
    assert len(video.read_frames(film)[0]) == 40


def test_growth_is_told_by_its_exponent_and_drawn(tmp_path: Path) -> None:
    curve = [(10, 9.0, 0.0), (100, 2.0, 1e6), (1000, 20.0, 1e7)]
    assert bench_growth.exponent(curve) == "1.00"
    assert bench_growth.exponent([(1, 3.0, 0.0), (2, 3.0, 0.0)]) == "0.00"
    page = timing.Section("", ())
    bench_growth.table(page, "clips", {"kNN": curve, "other": curve[1:]})
    assert page.lines[0] == "| clips | 10 | 100 | 1,000 | exponent |"
    assert page.lines[3] == "| other |  | 2 s (1 MiB) | 20 s (10 MiB) | 1.00 |"
    bench_growth.draw({"clips": {"kNN": curve}, "frames": {"a": curve}}, tmp_path / "a.png")
    assert 1000 < (tmp_path / "a.png").stat().st_size < 80_000


def test_both_sides_of_the_simsiam_step_take_pairs_of_views_and_learn() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    pairs = bench_simsiam.Pairs(frames, bench_simsiam.Twice())
    first, second = (torch.stack(v) for v in zip(*(pairs[i] for i in range(4)), strict=True))
    assert first.shape == (4, 3, 64, 64) and first.dtype == torch.float32
    assert not torch.equal(first, second) and first.mean().abs() < 1
    model = bench_simsiam.Ours(bench_simsiam.PLAIN)
    before = model.model.encoder.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    bench_simsiam.epoch(model, 2, lambda: iter([(first[:, None], second[:, None])] * 2), False)()
    after = model.model.encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
