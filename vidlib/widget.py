"""The prediction panel for a notebook: choose, upload or name a video, watch it, see the answer."""

import base64
import contextlib
import html
import re
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from . import catalog, figures, video
from .catalog import Clip
from .settings import UserError

if TYPE_CHECKING:  # torch takes seconds to import; the panel stands before
    from .predict import Prediction, Predictor

# Jupyter's server takes kernel messages of up to 10 MiB from the browser; a larger one cuts the
# connection before anybody can say why, so the limit is told beside the button.
UPLOAD_LIMIT = 10_000_000  # bytes
PLAY_LIMIT = 20_000_000  # bytes of video that go into the page
PICTURE = 240  # pixels, the longer side of a frame that is shown
UPLOAD_NOTE = (
    f"up to {UPLOAD_LIMIT // 10**6} MB (messages to the kernel end at 10 MiB); "
    "for a larger file give its path"
)


class PredictionPanel(widgets.VBox):
    """Choose a clip, upload a file or give a path; Predict shows what the person does.

    predictor: None loads the weights at the first prediction, so that the panel stands without.
    clips: paths or `catalog.Clip`s to choose from; None takes the val clips of the data folder.
    k: how many actions are shown. `prediction` holds the last answer; mistakes are told in the
    status line, and the panel goes on.
    """

    def __init__(
        self,
        predictor: "Predictor | None" = None,
        clips: Sequence[Path | Clip] | None = None,
        k: int = 5,
    ) -> None:
        self.predictor, self.k = predictor, k
        self.prediction: Prediction | None = None
        self.source: Path | None = None  # what Predict takes: the one chosen last
        self._playing: tuple[Any, ...] | None = None
        self._pictures: dict[int, np.ndarray] = {}  # frames that counted most, by number
        self._folder = Path(tempfile.mkdtemp(prefix="vidlib-"))  # uploads, transcoded films
        weakref.finalize(self, shutil.rmtree, self._folder, True)

        wide = widgets.Layout(width="min(100%, 34em)")
        self.choose = widgets.Dropdown(description="Clip", layout=wide)
        self.upload = widgets.FileUpload(accept="video/*,.mkv", description="Upload a video")
        self.path = widgets.Text(
            description="Path", placeholder="a video file", continuous_update=False, layout=wide
        )
        self.button = widgets.Button(description="Predict", button_style="primary")
        self.status, self.player, self.bars = (widgets.HTML() for _ in range(3))
        self.timeline, self.frames = widgets.HTML(), widgets.HTML()
        note = widgets.HTML(f"<small>{UPLOAD_NOTE}</small>")
        row = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        super().__init__([
            self.choose, widgets.HBox([self.upload, note], layout=row),
            widgets.HBox([self.path, self.button], layout=row), self.status,
            widgets.HBox([self.player, self.bars], layout=row), self.timeline, self.frames,
        ])  # fmt: skip
        self.choose.observe(self._on_choose, "value")
        self.upload.observe(self._on_upload, "value")
        self.path.observe(self._on_path, "value")
        self.button.on_click(lambda _: self.predict(self.source))
        self._list(clips)

    def __repr__(self) -> str:
        return "PredictionPanel()"  # the inherited one spells out the whole content, paths too

    def predict(self, path: Path | str | None) -> "Prediction | None":
        """Play the video at `path`, predict it and show the answer. Returns it; None when there
        is none, and the status line says why."""
        self._forget()
        with self._guarded("predicting …"):
            if path is None:
                raise UserError("no video yet: choose a clip, upload one, or give a path")
            self._play(path := Path(path))
            self._say(f"{path.name}: predicting …")
            if self.predictor is None:
                from .predict import Predictor

                self.predictor = Predictor()
            self._answer(path, self.predictor.predict(path))
        return self.prediction

    def still(self) -> figures.Figured:
        """A picture of the panel with its last answer, for pages without a kernel. UserError
        before the first prediction."""
        p = self.prediction
        if p is None or self.predictor is None:
            raise UserError("nothing predicted yet: panel.predict(path) comes first")
        name = Path(p.path).name
        name = name if len(name) <= 32 else f"{name[:14]}…{name[-14:]}"
        title = f"Prediction panel: {name}, {self.predictor.weights_note}, {p.seconds:.2f} s"
        return figures.panel(self._pictures[int(p.frame_weights.argmax())], p, title, self.k)

    # --- what the controls do --------------------------------------------------------------------

    def _list(self, clips: Sequence[Path | Clip] | None) -> None:
        """Fill the list and show its first clip."""
        found: list[Clip] = []
        with self._guarded():
            if clips is None:
                every = catalog.find_clips()
                clips = [c for c in every if c.split == "val"] or every
            found = [c if isinstance(c, Clip) else Clip(Path(c)) for c in clips]
        options = [(_label(c), c.path) for c in found]
        self.choose.options = [("choose a clip", ""), *options]  # None would show as blank
        if found:
            self.choose.value = found[0].path

    def _on_choose(self, change: Any) -> None:
        if change.new:
            self.path.value = ""
            self._take(change.new)

    def _on_path(self, change: Any) -> None:
        if text := change.new.strip().strip("\"'"):
            self.choose.value = ""
            self._take(Path(text).expanduser())

    def _on_upload(self, change: Any) -> None:
        if not change.new:
            return
        file = change.new[0]
        self.upload.value = ()  # else the same file could not be uploaded again
        self._forget()
        path = self._folder / re.sub(r"[^\w.-]", "_", Path(file["name"]).name)
        with self._guarded():
            if file["size"] > UPLOAD_LIMIT or len(file["content"]) > UPLOAD_LIMIT:
                raise UserError(
                    f"{path.name} is too large, {file['size'] / 1e6:.1f} MB: {UPLOAD_NOTE}"
                )
            path.write_bytes(file["content"])
            self.choose.value = self.path.value = ""
            self._take(path)

    def _take(self, path: Path) -> None:
        """Make `path` what Predict takes, and play it."""
        self._forget()
        self.source = path
        with self._guarded(f"opening {path.name} …"):
            self._play(path)
            self._say(f"{path.name}: press Predict")

    # --- what is shown ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _guarded(self, doing: str = "") -> Iterator[None]:
        """Tell mistakes in the status line, warnings too; whatever happens, the panel goes on."""
        self.button.disabled = True
        self._say(doing)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            except UserError as error:
                self._say(str(error), wrong=True)
            except KeyboardInterrupt:
                self._say("interrupted: press Predict to try again", wrong=True)
            except Exception as error:  # a traceback in a notebook's margin helps nobody
                self._say(f"{type(error).__name__}: {error}", wrong=True)
            finally:
                self.button.disabled = False
        told = {str(w.message) for w in caught if issubclass(w.category, UserWarning)}
        for text in sorted(told):
            self.status.value += f"<div>Note: {html.escape(text)}</div>"

    def _say(self, text: str, wrong: bool = False) -> None:
        line = " ".join(text.replace(f"{self._folder}/", "").split())  # uploads: the name is enough
        line = html.escape(line)
        # a sign and a word, not colour alone; the background suits dark themes too
        look = f"border-left: 4px solid {figures.VERMILION}; padding-left: 8px"
        line = f'<div style="{look}">⚠ Error: {line}</div>' if wrong else line
        self.status.value = f'<div role="status" aria-live="polite">{line}</div>'

    def _forget(self) -> None:
        """Take the last answer off the page: it must not stand beside another video."""
        self.prediction, self._pictures = None, {}
        self.bars.value = self.timeline.value = self.frames.value = ""

    def _play(self, path: Path) -> None:
        """Show the video, transcoded where a browser might not play it. Raises VideoError."""
        stat = path.stat() if path.is_file() else None
        now = (path, stat and (stat.st_size, stat.st_mtime_ns))
        if now == self._playing:
            return  # it would start again
        self.player.value, self._playing, film = "", None, path
        mime = _browser_type(path)
        if mime is None or path.stat().st_size > PLAY_LIMIT:
            film, mime = self._folder / "playing.webm", "video/webm"
            video.transcode(path, film, progress=lambda s: self._prepared(path, s))
        if film.stat().st_size > PLAY_LIMIT:
            self.player.value = "<p>Too long to play in the page; Predict works all the same.</p>"
        else:
            data = base64.b64encode(film.read_bytes()).decode()
            self.player.value = (
                f'<video controls loop muted autoplay playsinline width="320" '
                f'style="max-width: 100%" aria-label="{html.escape(path.name)}" '
                f'src="data:{mime};base64,{data}"></video>'
            )
        self._playing = now

    def _prepared(self, path: Path, seconds: float) -> None:
        if seconds % 1 < 0.03:  # about once a second of film, not at every frame
            self._say(f"{path.name}: preparing to play, {seconds:.0f} s done")

    def _answer(self, path: Path, p: "Prediction") -> None:
        top = p.top(self.k)
        picked = figures.top_frames(p.frame_weights)
        self._pictures = _frames_at(path, {i: float(p.frame_times[i]) for i in picked})
        self.timeline.value = figures.figure_tag(
            *figures.timeline(p.window_times, p.window_probabilities, p.actions)
        )
        self.frames.value = figures.figure_tag(
            *figures.attention(p.frame_weights, self._pictures, p.frame_times)
        )
        self.bars.value = _bars(top)
        self.prediction = p
        note = getattr(self.predictor, "weights_note", "")
        unsure = "unsure; most probable " * (p.answer == "unsure")
        self._say(f"{path.name}: {unsure}{top[0][0]}, {top[0][1]:.1%}; {note}; {p.seconds:.2f} s")


def _label(clip: Clip) -> str:
    parts = [clip.action, clip.person and f"person {clip.person}", clip.path.name]
    return " · ".join(part for part in parts if part)


def _browser_type(path: Path) -> str | None:
    """The MIME type of a file that every browser plays (VP8 or VP9 in WebM, 8-bit H.264 in MP4);
    None for others. Raises VideoError."""
    codec = video.info(path).codec
    if path.suffix.lower() == ".webm" and codec in ("VP8", "VP9"):
        return "video/webm"
    if path.suffix.lower() == ".mp4" and codec in ("H264", "AVC1", "X264"):
        data = path.read_bytes() if path.stat().st_size <= PLAY_LIMIT else b""
        box = data.find(b"avcC")
        # ISO/IEC 14496-15: version, then the profile; 66 to 100 are baseline to high, 8 bits
        if box >= 0 and data[box + 5] in (66, 77, 88, 100):
            return "video/mp4"
    return None


def _frames_at(path: Path, times: dict[int, float]) -> dict[int, np.ndarray]:
    """The frames (h, w, 3) shown at these seconds, by their keys, shrunk; in one pass."""
    wanted, found, held = sorted(times, key=times.__getitem__), {}, None
    with contextlib.closing(video.iter_frames(path)) as stream:
        for seconds, frame in stream:
            while held is not None and wanted and times[wanted[0]] + video.TICK < seconds:
                found[wanted.pop(0)] = _small(held)
            if not wanted:
                break
            held = frame
    return found | {key: _small(held) for key in wanted}


def _small(frame: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(frame)
    picture.thumbnail((PICTURE, PICTURE))
    return np.asarray(picture)


def _bars(top: list[tuple[str, float]]) -> str:
    """The most probable actions as a table: a name, a bar, a number a screen reader can tell."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align: right">{html.escape(action)}</th>'
        f'<td aria-hidden="true"><div style="width: 12em; background: rgba(128,128,128,.25)">'
        f'<div style="width: {p:.1%}; height: 1em; background: {figures.BLUE}"></div></div></td>'
        f'<td style="text-align: right">{p:.1%}</td></tr>'
        for action, p in top
    )
    return (
        '<table style="border-spacing: 8px 4px; border-collapse: separate">'
        f'<caption style="text-align: left">Most probable actions</caption>{rows}</table>'
    )
