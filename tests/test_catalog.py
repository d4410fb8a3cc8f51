"""Folders of clips to rows, and splits in which nobody is on both sides."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vidlib import catalog
from vidlib.catalog import Clip, find_clips
from vidlib.settings import UserError


@pytest.fixture
def tree(tmp_path: Path):
    """A function that makes (empty) files below a root and returns the root."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def rows(root: Path, source: str = "auto") -> dict[str, Clip]:
    return {c.path.relative_to(root).as_posix(): c for c in find_clips(root, source)}


def found_actions(root: Path, source: str = "auto") -> dict[str, str | None]:
    return {name: clip.action for name, clip in rows(root, source).items()}


# -- layouts --


def test_folders_of_train_and_val(tree):
    root = tree(
        "train/waving/a.mp4", "train/high five/b.AVI", "val/waving/monday/c.MOV", "Val/waving/d.mkv"
    )
    clips = rows(root)
    assert [(n, c.action, c.split) for n, c in clips.items()] == [
        ("Val/waving/d.mkv", "waving", "val"),
        ("train/high five/b.AVI", "high five", "train"),
        ("train/waving/a.mp4", "waving", "train"),
        ("val/waving/monday/c.MOV", "waving", "val"),
    ]
    assert all(c.source == "own" and c.person is None and c.scene is None for c in clips.values())


def test_the_longest_known_action_wins_in_flat_names(tree):
    root = tree(
        "train/sitting_down_03.mp4",
        "train/Sitting-Down 04.mp4",
        "train/sitting/x.mp4",
        "train/sitting_05.mp4",
        "train/jumping_jacks_in_the_park.webm",
        "val/waving2.mp4",
        "val/walkingfast_1.mp4",
    )
    found = found_actions(root)
    assert found["train/sitting_down_03.mp4"] == "sitting_down"
    assert found["train/Sitting-Down 04.mp4"] == "sitting_down"
    assert found["train/sitting_05.mp4"] == "sitting"
    assert found["train/jumping_jacks_in_the_park.webm"] == "jumping_jacks"
    assert found["val/waving2.mp4"] == "waving"
    assert found["val/walkingfast_1.mp4"] == "walkingfast"


def test_a_guess_never_extends_a_known_action(tree):
    root = tree("train/waving_kitchen_01.mp4", "train/waving_kitchen.mp4", "train/squat_01.mp4")
    assert {clip.action for clip in find_clips(root)} == {"waving", "squat"}


def test_unknown_actions_in_flat_names(tree):
    root = tree(
        "train/high_five_01.mp4", "train/juggling_garden.mp4", "val/high_five.mp4", "skating12.mp4"
    )
    assert found_actions(root) == {
        "skating12.mp4": "skating",
        "train/high_five_01.mp4": "high_five",
        "train/juggling_garden.mp4": "juggling",
        "val/high_five.mp4": "high_five",
    }


def test_what_a_camera_calls_its_files_is_no_action(tree):
    names = [
        *("IMG_0042.MOV", "VID_20240101_120000.mp4", "20240101_120000.mp4", "garden.mp4"),
        *("PXL_20240101.mp4", "WhatsApp Video 2024-01-01 at 12.00.mp4", "GH010023.MP4", "7.mp4"),
        *("Screen Recording 2024-01-01.mov", "clip_01.mp4", "unlabelled/waving_1.mp4"),
    ]
    root = tree(*names, *(f"train/{name}" for name in names))
    assert set(found_actions(root).values()) == {None}
    assert {c.split for c in find_clips(root)} == {None, "train"}


def test_actions_without_a_split_and_weizmanns_persons(tree):
    root = tree(
        "wave1/lena_wave1.avi",
        "run/lena_run.avi",
        "run/ido_run_02.avi",
        "run/run_03.avi",
        "run/in_the_park_run.avi",
        "run/video_run_1.avi",
        "run/01_run.avi",
        "walk/ido_walking.avi",
    )
    clips = rows(root)
    persons = {name: clip.person for name, clip in clips.items() if clip.person}
    assert persons == {
        "wave1/lena_wave1.avi": "lena",
        "run/lena_run.avi": "lena",
        "run/ido_run_02.avi": "ido",
    }
    assert {c.split for c in clips.values()} == {None}


def test_weizmann(weizmann):
    clips = find_clips(weizmann)
    assert len(clips) == 90
    assert set(Counter(c.action for c in clips).values()) == {9}
    assert set(Counter(c.person for c in clips).values()) == {10}
    folds = list(catalog.leave_one_person_out(clips))
    assert [(len(train), len(test)) for _, train, test in folds] == [(80, 10)] * 9
    assert sorted(c.path for _, _, test in folds for c in test) == [c.path for c in clips]
    assert len(catalog.check_clips(clips[:5])[0]) == 5


def test_hidden_and_foreign_files_are_ignored(tree):
    root = tree(
        "train/waving/a.mp4",
        "train/waving/.a.mp4",
        "train/.hidden/b.mp4",
        "train/waving/notes.txt",
        "train/waving/mp4",
        "README.md",
    )
    assert list(rows(root)) == ["train/waving/a.mp4"]


def test_links_are_followed_and_loops_do_not_hang(tree, tmp_path_factory):
    root = tree("train/waving/a.mp4")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "b.mp4").touch()
    (root / "train" / "boxing").symlink_to(elsewhere)
    (root / "train" / "waving" / "up").symlink_to(root)
    (elsewhere / "self").symlink_to(elsewhere)
    (root / "train" / "loop.mp4").symlink_to(root / "train" / "loop.mp4")
    assert found_actions(root) == {
        "train/boxing/b.mp4": "boxing",
        "train/loop.mp4": None,
        "train/waving/a.mp4": "waving",
    }


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_does_not_depend_on_the_file_system(tree, monkeypatch, reverse):
    root = tree(*(f"train/{a}/{k}.mp4" for a in "cab" for k in range(3)))
    expected = find_clips(root)
    real = os.walk

    def shuffled(*args, **options):
        for folder, subfolders, names in real(*args, **options):
            subfolders.sort(reverse=reverse)
            names.sort(reverse=reverse)
            yield folder, subfolders, names

    monkeypatch.setattr(catalog.os, "walk", shuffled)
    assert find_clips(root) == expected == sorted(expected, key=lambda c: str(c.path))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="no such folder.*vidlib studio"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no clips.*train/<action>.*vidlib studio"):
        find_clips(tmp_path)
    (tmp_path / "file.mp4").touch()
    with pytest.raises(UserError, match="is a file"):
        find_clips(tmp_path / "file.mp4")
    with pytest.raises(UserError, match="no studio clips"):
        find_clips(tmp_path, "studio")
    with pytest.raises(UserError, match="choose auto, own"):
        find_clips(tmp_path, "mine")


# -- the studio's clips and one's own --


def test_studio_and_own_never_mix_unasked(tree):
    root = tree("train/waving/studio_003_012_1.webm", "val/waving/studio_101_200_0.webm")
    clips = find_clips(root)
    assert [(c.source, c.person, c.scene) for c in clips] == [
        ("studio", "003", "012"),
        ("studio", "101", "200"),
    ]
    tree("train/waving/mine.mp4", "train/waving/studio_yoga_class.mp4")
    assert {c.path.name for c in find_clips(root)} == {"mine.mp4", "studio_yoga_class.mp4"}
    assert len(find_clips(root, "studio")) == 2 and len(find_clips(root, "own")) == 2
    assert len(find_clips(root, "all")) == 4


def test_the_table_has_precedence(tree):
    root = tree("train/waving/a.mp4", "train/waving/b.mp4", "flat_fox_trot_1.mp4")
    table = [
        Clip(root / "train/waving/a.mp4", "boxing", "ann", "hall", "val"),
        Clip(root / "train/waving/b.mp4", person="bob"),
        Clip(root / "gone.mp4", "fox_trot", split="train"),
    ]
    catalog.write_csv(root / "clips.csv", table)
    clips = rows(root)
    assert clips["train/waving/a.mp4"] == table[0]
    assert clips["train/waving/b.mp4"] == Clip(
        root / "train/waving/b.mp4", "waving", "bob", None, "train"
    )
    assert clips["gone.mp4"] == table[2]  # kept, so that it is reported
    tree("fox_trot_in_town.mp4")
    assert found_actions(root)["fox_trot_in_town.mp4"] == "fox_trot"


def test_the_table_names_studio_clips(tree):
    root = tree("train/waving/studio_1_1_0.webm", "train/waving/x.webm")
    catalog.write_csv(
        root / "clips.csv", [Clip(root / "train/waving/x.webm", source="studio", person="9")]
    )
    assert {(c.path.name, c.source, c.person) for c in find_clips(root)} == {
        ("studio_1_1_0.webm", "studio", "1"),
        ("x.webm", "studio", "9"),
    }


names = st.text("abcdefgh _-üé,;\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


@hypothesis_settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            Clip,
            names.map(lambda n: Path("/clips/train") / f"{n}.mp4"),
            st.none() | names,
            st.none() | names,
            st.none() | names,
            st.sampled_from([None, "train", "val"]),
            st.sampled_from(["own", "studio"]),
        ),
        max_size=5,
    )
)
def test_a_table_reads_as_it_was_written(tmp_path_factory, clips):
    path = tmp_path_factory.getbasetemp() / "round" / "clips.csv"
    catalog.write_csv(path, clips)
    back = catalog.read_csv(path)
    assert [replace(c, path=Path(os.path.normpath(c.path))) for c in back] == clips
    assert os.listdir(path.parent) == ["clips.csv"]


def test_tables_from_spreadsheets_and_broken_ones(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_bytes("\ufeffPath; Action;mood\r\na.mp4;waving;good\r\n\r\n".encode())
    assert catalog.read_csv(path) == [Clip(tmp_path / "a.mp4", "waving")]
    for text, match in [
        ("", "no column 'path'"),
        ("file,action\na.mp4,x\n", "no column 'path'"),
        ("path,action\n,waving\n", "line 2: no path"),
        ("path,split\na.mp4,train\nb.mp4,tset\n", "line 3: split is 'tset': write train or val"),
        ("path,source\na.mp4,mine\n", "line 2: source is 'mine'"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=match) as caught:
            catalog.read_csv(path)
        assert "clips.csv" in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(UserError, match="UTF-8"):
        catalog.read_csv(path)


# -- splits --

clip_lists = st.lists(
    st.builds(
        Clip,
        st.builds(
            lambda folder, film, k: Path(f"/v/{folder}/{film}_{k:02}.mp4"),
            st.sampled_from(["m", "n"]),
            st.sampled_from(["alps", "beach", "city", "dune", "farm", "clip", "waving"]),
            st.integers(0, 30),
        ),
        st.sampled_from(["waving", "boxing", "walking", None]),
        st.sampled_from([None, "ann", "bob", "cy", "di", "ed"]),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda clip: clip.path,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(clip_lists, st.integers(0, 5), st.floats(0.05, 0.6))
def test_no_person_and_no_film_is_on_both_sides(clips, seed, fraction):
    try:
        train, val, note = catalog.split_train_val(clips, seed, fraction)
    except UserError as error:
        assert "cannot be split" in str(error)
        # then indeed no action can be spared by train
        assert max(Counter(c.action for c in clips if c.action).values(), default=1) < 2
        return
    assert sorted(train + val, key=lambda c: c.path) == sorted(clips, key=lambda c: c.path)
    assert train and val and note.endswith(".") and "\n" not in note
    assert (train, val, note) == catalog.split_train_val(clips, seed, fraction)
    assert set(catalog.actions(val)) <= set(catalog.actions(train))
    persons = {c.person for c in train} & {c.person for c in val} - {None}
    films = {catalog._film(c) for c in train} & {catalog._film(c) for c in val}
    if "single clips" not in note:
        assert not films
    # a leak only where nothing else could be done, and then it is said
    assert all(person in note for person in persons)
    if "by person" in note:
        assert not persons and not films


@hypothesis_settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 4), st.integers(0, 9))
def test_complete_people_are_always_split_by_person(people, kinds, takes, seed):
    clips = [
        Clip(Path(f"/v/a{a}/p{p}_a{a}_{k}.avi"), f"a{a}", f"p{p}")
        for p in range(people)
        for a in range(kinds)
        for k in range(takes)
    ]
    train, val, note = catalog.split_train_val(clips, seed)
    assert "split by person (" in note and "too good" not in note
    assert not {c.person for c in train} & {c.person for c in val}
    assert catalog.actions(train) == catalog.actions(val) == catalog.actions(clips)
    assert len(val) <= len(clips) / 2
    if people >= 8:
        assert 0.1 <= len(val) / len(clips) <= 0.4


def test_a_given_split_is_kept(tree):
    root = tree("train/waving/a.mp4", "val/waving/b.mp4", "train/boxing/c.mp4", "waving_9.mp4")
    train, val, note = catalog.split_train_val(find_clips(root))
    assert sorted(c.path.name for c in train) == ["a.mp4", "c.mp4", "waving_9.mp4"]
    assert [c.path.name for c in val] == ["b.mp4"]
    assert note == (
        "3 clips in train and 1 in val, as the folders or the table give them; val has no boxing."
    )


def test_a_leak_in_a_given_split_is_said():
    clips = [
        Clip(Path(f"/v/{k}.mp4"), "waving", "ann", split=s) for k, s in enumerate(["train", "val"])
    ]
    assert "on both sides, so scores will be too good: ann" in catalog.split_train_val(clips)[2]


def test_six_clips_of_three_actions(tree):
    root = tree(*(f"train/{a}/IMG_00{a}{k}.mov" for a in ("wave", "hop", "bow") for k in (1, 2)))
    train, val, note = catalog.split_train_val(find_clips(root))
    assert catalog.actions(train) == catalog.actions(val) == ["bow", "hop", "wave"]
    assert note == "3 clips in train and 3 in val, split by source file (no val was given)."


def test_clips_of_one_film_stay_together(tree):
    root = tree(*(f"{a}/{film}_{k:02}.mp4" for a in "ab" for film in "xyz" for k in range(4)))
    train, val, _ = catalog.split_train_val(find_clips(root))
    assert len({c.path.stem[0] for c in val}) == 1 and len(val) == 8
    assert not {c.path.stem[0] for c in val} & {c.path.stem[0] for c in train}


def test_one_film_alone_is_split_with_a_warning(tree):
    root = tree(*(f"{a}/me_{k:02}.mp4" for a in "ab" for k in range(4)))
    _, val, note = catalog.split_train_val(find_clips(root))
    assert catalog.actions(val) == ["a", "b"] and "scores may be too good" in note
    with pytest.raises(UserError, match="2 clips cannot be split"):
        catalog.split_train_val(find_clips(root)[::4])


def test_unlabelled_clips_follow_their_person(tree):
    clips = [
        Clip(Path(f"/v/{person}{k}.mp4"), action, person)
        for person in "pqrs"
        for k, action in enumerate(["waving", "boxing", None])
    ]
    train, val, _ = catalog.split_train_val(clips)
    assert {c.person for c in val} & {c.person for c in train} == set()
    assert len(val) == 3 and len(catalog.labelled(val)) == 2
    nameless = [Clip(Path(f"/v/{p}.mp4")) for p in "abcdefgh"]
    train, val, _ = catalog.split_train_val(nameless)
    assert (len(train), len(val)) == (6, 2)


def test_leaving_one_person_out_needs_persons():
    known = [Clip(Path(f"/v/{p}.mp4"), "waving", p) for p in ("bob", "ann", "cy")]
    folds = list(catalog.leave_one_person_out(known))
    assert [person for person, _, _ in folds] == ["ann", "bob", "cy"]
    for person, train, test in folds:
        assert {c.person for c in test} == {person} and person not in {c.person for c in train}
        assert len(train) + len(test) == 3
    with pytest.raises(UserError, match="two or more"):
        list(catalog.leave_one_person_out(known[:1]))
    with pytest.raises(UserError, match=r"x\.mp4.*person unknown.*<person>_<action>"):
        list(catalog.leave_one_person_out([*known, Clip(Path("/v/x.mp4"), "waving")]))


# -- content --


def test_bad_clips_are_reported_by_name_and_reason(tree, small_video):
    root = tree("train/waving/empty.mp4")
    shutil.copy(small_video, root / "train/waving/good.webm")
    (root / "train/waving/text.avi").write_text("not a video")
    catalog.write_csv(root / "clips.csv", [Clip(root / "train/waving/gone.mp4")])
    good, bad = catalog.check_clips(find_clips(root))
    assert [c.path.name for c in good] == ["good.webm"]
    reasons = {clip.path.name: reason for clip, reason in bad}
    assert set(reasons) == {"empty.mp4", "text.avi", "gone.mp4"}
    assert "empty" in reasons["empty.mp4"] and "no such file" in reasons["gone.mp4"]
    assert all(name in reason and "\n" not in reason for name, reason in reasons.items())
    with pytest.raises(UserError, match=r"none of 3 clips can be read; the first: .*empty\.mp4"):
        catalog.check_clips([clip for clip, _ in bad])
    assert catalog.check_clips([]) == ([], [])


def test_a_fingerprint_is_of_content_and_labels(tmp_path, tree):
    root = tree("a/train/waving/1.mp4", "a/train/boxing/2.mp4") / "a"
    (root / "train/waving/1.mp4").write_text("one")
    (root / "train/boxing/2.mp4").write_text("two")
    clips = find_clips(root)
    first = catalog.fingerprint(clips)
    assert first == catalog.fingerprint(reversed(clips))
    # neither the place, the names, the order nor the times matter
    moved = tmp_path / "b"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    (moved / "train/waving/1.mp4").rename(moved / "train/waving/zzz.mp4")
    os.utime(moved / "train/boxing/2.mp4", (1, 1))
    assert catalog.fingerprint(find_clips(moved)) == first
    # action, split, person and content do
    (moved / "val").mkdir()
    (moved / "train/waving").rename(moved / "val/waving")
    assert catalog.fingerprint(find_clips(moved)) != first
    (moved / "val/waving").rename(moved / "train/waving2")
    assert catalog.fingerprint(find_clips(moved)) != first
    (moved / "train/waving2").rename(moved / "train/waving")
    assert catalog.fingerprint(find_clips(moved)) == first
    catalog.write_csv(moved / "clips.csv", [Clip(moved / "train/waving/zzz.mp4", person="ann")])
    assert catalog.fingerprint(find_clips(moved)) != first
    (moved / "clips.csv").unlink()
    (moved / "train/waving/zzz.mp4").write_text("One")
    assert catalog.fingerprint(find_clips(moved)) != first
    assert catalog.fingerprint(clips[:1]) != first
    assert catalog.fingerprint([*clips, clips[0]]) != first


def test_a_summary_counts_everything(tree):
    root = tree("train/waving/a.mp4", "train/waving/b.mp4", "val/waving/c.mp4", "val/hop/d.mp4")
    tree("train/IMG_1.mp4")
    text = catalog.summary(find_clips(root))
    assert [line.split() for line in text.splitlines()[:5]] == [
        ["action", "train", "val", "all"],
        ["hop", "0", "1", "1"],
        ["waving", "2", "1", "3"],
        ["(no", "action)", "1", "0", "1"],
        ["all", "3", "2", "5"],
    ]
    assert "1 without an action" in text and "5 own clips" in text
