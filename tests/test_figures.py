"""Figures: what the alt text tells, what is drawn, what a notebook stores."""

import base64
import io
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vidlib import figures, video

ACTIONS = ["boxing", "sitting_down", "waving"]
P = np.array([[0.9, 0.06, 0.04], [0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.1, 0.0, 0.9]])
TIMES = np.array([[0, 2], [1, 3], [2, 4], [3, 5.5]])
HISTORY = [{"step": i + 1, "loss": -i / 60, "collapse": 0.9 - i / 100} for i in range(60)]
HISTORY[39]["knn"] = 0.625


def clip(action: str | None, split: str | None) -> SimpleNamespace:
    return SimpleNamespace(action=action, split=split)


@pytest.fixture
def frames(square: Any) -> np.ndarray:
    return square(1.0, 12)


def texts(fig: Figure) -> str:
    """Every text in the figure: titles, axes, ticks, legends, labels."""
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def spot(frames: np.ndarray) -> np.ndarray:
    """A map that is 0 but for 0.5 in the upper left at half the clip's length."""
    heat = np.zeros(frames.shape[:3])
    heat[len(frames) // 2, :8, :8] = 0.5
    return heat


def figured(name: str, frames: np.ndarray) -> figures.Figured:
    rng = np.random.default_rng(0)
    views = rng.random((3, 3, 8, 8))
    weights = np.linspace(1, 2, len(frames)) / np.linspace(1, 2, len(frames)).sum()
    confused = np.array([[8, 1, 0], [0, 5, 4], [0, 0, 9]])
    make = {
        "contact_sheet": lambda: figures.contact_sheet([("waving\nperson 3", frames)], 4),
        "class_balance": lambda: figures.class_balance(
            [clip("waving", "train")] * 3 + [clip("waving", "val")] * 2 + [clip(None, None)]
        ),
        "clip_lengths": lambda: figures.clip_lengths([1.5, 2.5, 4], ["a", "a", "b"]),
        "motion_by_action": lambda: figures.motion_by_action([1.5, 2.5, 4], ["a", "a", "b"]),
        "motion_energy": lambda: figures.motion_energy(frames, np.arange(len(frames)) / 12),
        "views": lambda: figures.views(views, views[:, :, ::-1]),
        "curves": lambda: figures.curves(HISTORY, ("loss", "collapse", "knn"), "Pre-training"),
        "growth": lambda: figures.growth(
            {"pre-trained": [(1, [0.4, 0.6]), (10, [0.8, 0.8])], "untrained": [(1, [0.25])]},
            "labelled clips an action", "Few labels", 0.125,
        ),
        "embedding": lambda: figures.embedding(
            rng.random((30, 2)), [f"person {i % 10 + 1}" for i in range(30)], "t-SNE"
        ),
        "embeddings": lambda: figures.embeddings(
            [([[0, 0], [0, 1], [9, 9], [9, 8]], list("aabb"), "after"),
             ([[0, 0], [9, 8], [9, 9], [0, 1]], list("aabb"), "before")]
        ),
        "neighbours": lambda: figures.neighbours(
            frames[:1], frames[None, 1:3], [["waving", "waving\np 2", "boxing"]]
        ),
        "bars": lambda: figures.bars(
            [("kNN", 0.68, 0.61, 0.74), ("untrained", 0.5, None, None)], "Accuracy", 0.125
        ),
        "ablation": lambda: figures.ablation(
            [("high rate", [0.02, 0.04], 0.01, 0.05, 2.5), ("blur", [-0.01], -0.03, 0.02, 4.0),
             ("no step", [-0.1], -0.2, -0.05, None)],
            "the course's recipe", "One change each", "2 cores",
        ),
        "confusion": lambda: figures.confusion(
            {"before": np.full((3, 3), 3), "after": confused}, ACTIONS, "People never seen"
        ),
        "reliability": lambda: figures.reliability(
            [([0.3, 0.9, 0.9, 0.9], [True, True, True, False], "before"),
             ([0.7], [True], "after")]
        ),
        "attention": lambda: figures.attention(
            weights, frames, np.arange(len(frames)) / 12, before=weights[::-1]
        ),
        "timeline": lambda: figures.timeline(TIMES, P, ACTIONS),
        "topk": lambda: figures.topk(P.mean(0), ACTIONS, 2),
        "panel": lambda: figures.panel(
            frames[0],
            SimpleNamespace(probabilities=P.mean(0), window_probabilities=P,
                            window_times=TIMES, actions=ACTIONS),
            "clip.webm, the shipped weights",
        ),
        "heat_strip": lambda: figures.heat_strip(
            frames, spot(frames), np.arange(len(frames)) / 12, "fall in probability", count=4
        ),
    }  # fmt: skip
    return make[name]()


# what the alt text must tell, and what must be readable in the picture
FACTS = {
    "contact_sheet": (["1 clip", "waving, person 3"], ["waving\nperson 3"]),
    "class_balance": (
        ["6 in all", "waving: 3 train, 2 val", "(no action): 1 no split"],
        ["clips", "train", "val", "waving", "3", "2"],
    ),
    "clip_lengths": (["3 clips", "a 2 (1.5 to 2.5)", "b 4"], ["length in seconds", "median"]),
    "motion_by_action": (["a 2 (1.5 to 2.5)", "grey levels"], ["mean change of a pixel"]),
    "motion_energy": (["12 frames", "0.9 s", "most ("], ["seconds", "0.0 s", "of 255"]),
    "views": (["3 frames", "two random views"], ["view 1", "view 2"]),
    "curves": (
        ["Pre-training", "loss from 0", "0.3 marks collapse", "range 0.31 to 0.9", "knn from 0.62"],
        ["step", "loss", "collapse", "knn", "collapsed below 0.3"],
    ),
    "growth": (
        ["pre-trained 50% +- 14 at 1, 80% at 10", "untrained 25% at 1"],
        ["labelled clips an action", "pre-trained", "untrained", "chance", "10"],
    ),
    "embedding": (["30 points of 10 labels"], ["t-SNE", "person 1", "person 10"]),
    "embeddings": (
        ["after: 4 points of 2 labels, 100%", "before: 4 points of 2 labels, 0%"],
        ["after", "before"],
    ),
    "neighbours": (["1 of 2 share"], ["query", "waving", "✓ waving", "✗ boxing"]),
    "bars": (
        ["kNN 68.0% (61.0% to 74.0%)", "untrained 50.0%", "chance is 12.5%", "95% interval"],
        ["kNN", "68.0%", "chance 12.5%", "accuracy (lines: 95% interval)"],
    ),
    "ablation": (
        [
            "over the course's recipe",
            "high rate +3.0 (+1.0 to +5.0), 2.5 min",
            "minutes on 2 cores",
            "no step -10.0 (-20.0 to -5.0).",
        ],
        ["points over the course's recipe", "blur", "One change each", "2 cores", "4.0"],
    ),
    "confusion": (
        ["27 clips", "81.5% right", "sitting_down 56%", "sitting_down taken for waving 4x"],
        ["predicted", "true", "sitting_down", "9", "share of the row"],
    ),
    "reliability": (
        # (1 x |0.3 - 1| + 3 x |0.9 - 2/3|) / 4
        ["before: on average 35.0% apart", "told 90%, right 67% (3 clips)", "right 100% (1 clip)"],
        ["probability told", "share right", "before\non average 35.0% apart", "after"],
    ),
    "attention": (["12 frames", "0.92 s (11.1%)", "equal share would be 8.3%"], ["pictured above"]),
    "timeline": (
        ["4 windows", "0.0 to 2.5 s boxing (85%)", "2.5 to 5.5 s waving (80%)"],
        ["seconds", "probability", "boxing", "waving", "others"],
    ),
    "topk": (["waving 43.5%", "boxing 50.0%"], ["boxing", "50.0%"]),
    "panel": (
        ["clip.webm, the shipped weights", "boxing 50.0%", "2.5 to 5.5 s waving"],
        ["Most probable actions", "Actions over time", "50.0%", "clip.webm"],
    ),
    "heat_strip": (
        ["fall in probability", "12 frames", "from 0 to 0.5", "at 0.5 s, top left", "0 at 0.9 s"],
        ["Fall in probability", "0.0 s", "0.9 s", "seconds", "highest"],
    ),
}


@pytest.fixture(scope="module")
def drawn(square: Any) -> dict[str, figures.Figured]:
    """Every figure once, laid out."""
    made = {name: figured(name, square(1.0, 12)) for name in FACTS}
    for fig, _ in made.values():
        fig.draw_without_rendering()
    return made


@pytest.mark.parametrize("name", FACTS)
def test_alt_text_and_labels_tell_the_facts(name: str, drawn: dict[str, figures.Figured]) -> None:
    fig, alt = drawn[name]
    told, written = FACTS[name]
    assert [fact for fact in told if fact not in alt] == [], alt
    assert "\n" not in alt
    assert [text for text in written if text not in texts(fig)] == []


@pytest.mark.parametrize("name", FACTS)
def test_no_text_is_small_or_cut_off(name: str, drawn: dict[str, figures.Figured]) -> None:
    fig, _ = drawn[name]
    for ax in fig.axes:
        shown = [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        shown += ax.get_legend().get_texts() if ax.get_legend() else []
        for text in shown:
            if text.get_text() and text.get_visible():
                assert text.get_fontsize() >= 9, text
                box = text.get_window_extent()
                assert -1 <= box.x0 and box.x1 <= fig.bbox.width + 1, text
                assert -1 <= box.y0 and box.y1 <= fig.bbox.height + 1, text


def test_timeline_times_are_centres_or_pairs_and_one_window_is_enough() -> None:
    assert "0.5 to 1.5 s waving" in figures.timeline([0, 1], P[[0, 3]], ACTIONS)[1]
    assert "0.0 to 2.0 s boxing (90%)" in figures.timeline([[0, 2]], P[:1], ACTIONS)[1]


def test_timeline_of_many_actions_never_gives_two_the_same_look() -> None:
    p = np.full((11, 11), 0.05) + 0.45 * np.eye(11)
    fig, _ = figures.timeline(np.arange(11), p, [f"action {i}" for i in range(11)])
    handles = fig.axes[0].collections
    looks = {(tuple(h.get_facecolor()[0]), h.get_hatch()) for h in handles}
    assert len(looks) == len(handles) == 12


def test_every_label_of_an_embedding_has_its_own_look() -> None:
    names = [f"person {i}" for i in range(36)]
    fig, _ = figures.embedding(np.random.default_rng(0).random((36, 2)), names, "t-SNE")
    points = fig.axes[0].collections
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in points}
    assert len(looks) == 36
    legend = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert legend == names  # person 2 before person 10
    box, axes = fig.axes[0].get_legend().get_window_extent(), fig.axes[0].get_window_extent()
    assert box.x0 >= axes.x1 - 1  # outside


def test_top_frames_are_the_heaviest_apart_and_in_order() -> None:
    w = np.zeros(60)
    w[[10, 11, 40, 50, 5]] = [9, 8, 7, 1, 6]
    assert figures.top_frames(w, 3) == [10, 40, 50]  # 11 and 5 are too near to 10
    assert figures.top_frames([0.1], 6) == [0]


def test_attention_needs_only_the_frames_it_pictures(frames: np.ndarray) -> None:
    w = np.full(7200, 1 / 7200)
    held = {i: frames[0] for i in figures.top_frames(w)}
    _, alt = figures.attention(w, held, np.arange(7200) / 12)
    assert "0.014%" in alt


def test_curves_of_two_runs_have_a_legend_and_both_are_told() -> None:
    flat = [{"loss": -1.0, "collapse": 0.05}] * 60
    fig, alt = figures.curves({"with": HISTORY, "without": flat})
    assert "collapse (without) from 0.05 to 0.05" in alt
    assert {t.get_text() for t in fig.legends[0].get_texts()} == {"with", "without"}


def test_curves_pass_over_values_that_are_missing_or_not_finite() -> None:
    _, alt = figures.curves([{"knn": float("nan")}, {"loss": 1.0}, {"knn": 0.5}], ("knn",))
    assert "knn from 0.5 to 0.5" in alt


# --- pixels --------------------------------------------------------------------------------------


def test_red_stays_red_in_the_contact_sheet(frames: np.ndarray) -> None:
    """RGB from the reader to the page; a swap to BGR would make the square blue."""
    fig, _ = figures.contact_sheet([("square", frames)] * 2, 6)
    pixels = np.asarray(Image.open(io.BytesIO(figures.to_png(fig))).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    blue = (pixels[..., 2] > 170) & (pixels[..., 0] < 40)
    share = red.sum() / (red.sum() + blue.sum())
    assert share == pytest.approx(12 * 12 / (48 * 64), abs=0.02)


def test_red_stays_red_in_views_and_in_256_colours() -> None:
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (8, 3, 96, 96), dtype=np.uint8)  # noise, so that PNG is large
    views[:, :, :48] = np.array([230, 10, 10])[:, None, None]
    fig, _ = figures.views(views, views)
    png = figures.to_png(fig)
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "P"
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (np.abs(pixels - [230, 10, 10]) < 12).all(-1)
    white = (pixels == 255).all(-1)
    assert red.mean() > 0.3 and white.mean() > 0.02


# --- what a notebook gets ------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The data of every display_data, as a notebook would get it."""
    out: list[dict[str, str]] = []
    monkeypatch.setattr(figures.InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(figures, "display", lambda data, raw: out.append(data))
    return out


def test_show_emits_png_and_html_once_with_escaped_alt(shown: list[dict[str, str]]) -> None:
    fig, _ = figures.topk([0.6, 0.4], ["a", "b"])
    figures.show(fig, 'p < 0.5 & "quoted"')
    (data,) = shown
    assert set(data) == {"image/png", "text/html", "text/plain"}
    png = base64.b64decode(data["image/png"])
    assert png.startswith(b"\x89PNG") and len(png) < 150_000
    assert 'alt="p &lt; 0.5 &amp; &quot;quoted&quot;"' in data["text/html"]
    assert f'src="data:image/png;base64,{data["image/png"]}"' in data["text/html"]
    assert data["text/html"].count("<img") == 1
    assert not fig.axes  # closed: its memory is free, and nothing can draw it a second time


def test_nothing_is_left_open_in_pyplot(drawn: dict[str, figures.Figured]) -> None:
    import matplotlib.pyplot as plt

    assert drawn and plt.get_fignums() == []


def test_style_ends_with_its_block() -> None:
    before = dict(matplotlib.rcParams)
    figures.topk([0.6, 0.4], ["a", "b"])
    assert dict(matplotlib.rcParams) == before


def test_in_a_script_the_alt_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures.show(*figures.topk([0.6, 0.4], ["a", "b"]))
    assert capsys.readouterr().out == "Most probable actions: a 60.0%, b 40.0%.\n"


def test_play_stores_a_moving_picture_and_a_still(
    shown: list[dict[str, str]], frames: np.ndarray, small_video: Any
) -> None:
    figures.play(frames, "a red square moves <right>", fps=12, side=64)
    figures.play(small_video, "the same from a file", fps=10)
    for data, count in zip(shown, (12, 10), strict=True):
        head, source = data["text/html"].split("base64,")
        moving = Image.open(io.BytesIO(base64.b64decode(source.rstrip('">'))))
        assert "data:image/webp" in head and 'alt="' in head
        assert moving.n_frames == count
        assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).format == "PNG"
    assert 'alt="a red square moves &lt;right&gt;"' in shown[0]["text/html"]


def test_moving_pictures_keep_to_their_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 120, 160, 3), dtype=np.uint8)
    data = figures.to_webp(noise, 12, side=240, limit=60_000)
    assert len(data) <= 60_000
    assert Image.open(io.BytesIO(data)).n_frames == 24


def test_play_names_a_file_it_cannot_read(tmp_path: Any) -> None:
    (tmp_path / "empty.webm").touch()
    with pytest.raises(video.VideoError, match="empty.webm"):
        figures.play(tmp_path / "empty.webm", "nothing")


def test_a_map_moves_with_its_clip_and_colours_what_it_marks(
    shown: list[dict[str, str]], frames: np.ndarray
) -> None:
    times = np.arange(len(frames)) / 12
    both, alt = figures.heat(frames, spot(frames), times, "fall in probability")
    assert "12 frames" in alt and "from 0 to 0.5, farthest from 0 at 0.5 s, top left" in alt
    width = frames.shape[2]
    assert (both[:, :, :width] == frames).all()  # left as it is
    under = both[:, :, -width:].astype(int)
    coloured = np.ptp(under, axis=-1) > 0  # the rest is grey
    assert (coloured == (spot(frames) > 0)).all()
    assert (under[6, 4, 4, 0] > under[6, 4, 4, 2]) and both.dtype == np.uint8
    figures.play(both, alt, side=128)
    source = shown[0]["text/html"].split("base64,")[1]
    moving = Image.open(io.BytesIO(base64.b64decode(source.rstrip('">'))))
    assert moving.n_frames == len(frames) and "top left" in shown[0]["text/html"]


def test_a_map_below_zero_is_blue_and_one_of_nothing_stays_grey(frames: np.ndarray) -> None:
    times, width = np.arange(len(frames)) / 12, frames.shape[2]
    below = figures.heat(frames, 1 - spot(frames), times, "attention", zero=1.0)
    place = below[0][6, 4, 4 - width].astype(int)
    assert place[2] > place[0] and "farthest from 1 at 0.5 s" in below[1]
    flat, alt = figures.heat(frames, np.zeros(frames.shape[:3]), times, "nothing")
    assert (np.ptp(flat[:, :, -width:], axis=-1) == 0).all() and "0 everywhere" in alt
