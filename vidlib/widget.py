"""The prediction panel for a notebook: choose, upload or name a video, watch it, see the answer.

What needs a script in the page is `panel.js`; the rest is ipywidgets. Work is done in a thread, so
that the kernel hears the Cancel button meanwhile.
"""

import base64
import contextlib
import html
import io
import re
import shutil
import signal
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from PIL import Image

from . import catalog, figures, video
from .catalog import Clip
from .settings import UserError

if TYPE_CHECKING:  # torch takes seconds to import; the panel stands before
    from .predict import Prediction, Predictor

UPLOAD_LIMIT = 500_000_000  # bytes; the file is sent in slices and kept in a temporary folder
PLAY_LIMIT = 20_000_000  # bytes of video that go into the page
PATIENCE = 60  # seconds without a slice of an upload
LISTED = 24  # clips that are shown to choose from
PICTURE = 240  # pixels, the longer side of a frame that is shown
THUMBNAIL = 88


class Cancelled(Exception):
    """The user pressed Cancel, or interrupted the kernel; the text is what is told."""


class Chooser(anywidget.AnyWidget):
    """Clips as a list of pictures, and the upload. `chosen`: the number of a clip, -1: none."""

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")
    part = traitlets.Unicode("choose").tag(sync=True)
    clips = traitlets.List().tag(sync=True)  # {label, picture}
    chosen = traitlets.Int(-1).tag(sync=True)
    limit = traitlets.Int(UPLOAD_LIMIT).tag(sync=True)


class Film(anywidget.AnyWidget):
    """The video that plays, the timeline that follows it, and the frames that counted most."""

    _esm, _css = Chooser._esm, Chooser._css
    part = traitlets.Unicode("film").tag(sync=True)
    mime = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    film = traitlets.Bytes(b"").tag(sync=True)
    timeline = traitlets.Dict().tag(sync=True)  # windows, shares, names, colours, end, alt
    frames = traitlets.List().tag(sync=True)  # {seconds, weight, picture}


class PredictionPanel(widgets.VBox):
    """Choose a clip, upload a file or give a path; Predict shows what the person does.

    predictor: None loads the weights at the first prediction, so that the panel stands without.
    clips: paths or `catalog.Clip`s to choose from; None takes some of the data folder's, val
    before train.
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
        self._clips: list[Clip] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None  # what is under way
        self._next: Callable[[], None] | None = None  # what comes after it
        self._stop = ""  # why the work under way shall end; empty: it shall not
        self._receiving: tuple[Path, int] | None = None  # an upload: the file, its size
        self._playing: tuple[Any, ...] | None = None
        self._pictures: dict[int, np.ndarray] = {}  # frames that counted most, by number
        self._folder = Path(tempfile.mkdtemp(prefix="vidlib-"))  # uploads, transcoded films
        weakref.finalize(self, shutil.rmtree, self._folder, True)

        self.choose, self.film = Chooser(), Film()
        self.path = widgets.Text(
            description="or a path", placeholder="a video file on the kernel's machine",
            continuous_update=False, layout=widgets.Layout(width="min(100%, 34em)"),
        )  # fmt: skip
        self.button = widgets.Button(description="Predict", button_style="primary")
        self.cancel = widgets.Button(description="Cancel", disabled=True)
        self.progress = widgets.FloatProgress(
            max=1, layout=widgets.Layout(width="min(100%, 34em)", visibility="hidden")
        )
        self.status, self.bars = widgets.HTML(), widgets.HTML()
        super().__init__([
            self.choose, self.path, widgets.HBox([self.button, self.cancel]), self.progress,
            self.status, self.bars, self.film,
        ])  # fmt: skip
        self.choose.observe(self._on_choose, "chosen")
        self.choose.on_msg(self._on_message)
        self.film.on_msg(self._on_message)
        self.path.observe(self._on_path, "value")
        self.button.on_click(self._on_predict)
        self.cancel.on_click(lambda _: self._end("cancelled"))
        self._list(clips)

    def __repr__(self) -> str:
        return "PredictionPanel()"  # the inherited one spells out the whole content, paths too

    def predict(self, path: Path | str | None) -> "Prediction | None":
        """Play the video at `path`, predict it and show the answer. Returns it; None when there
        is none, and the status line says why. Waits for work that is under way."""
        self.wait()
        self._stop = ""
        if path is not None:
            self._mark(Path(path))
        self._guarded(lambda: self._predict(path))
        return self.prediction

    def wait(self) -> None:
        """Return when nothing is under way."""
        if thread := self._thread:
            thread.join()

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

    def _mark(self, path: Path) -> None:
        """Have list and Predict mean `path`, as if it had been chosen there."""
        paths = [clip.path for clip in self._clips]
        self.choose.unobserve(self._on_choose, "chosen")
        self.choose.chosen = paths.index(path) if path in paths else -1
        self.choose.observe(self._on_choose, "chosen")
        self.source = path

    # --- what the controls do --------------------------------------------------------------------

    def _list(self, clips: Sequence[Path | Clip] | None) -> None:
        """Fill the list of pictures and show its first clip."""

        def fill() -> None:
            nonlocal clips
            if clips is None:
                every = catalog.find_clips()
                clips = [c for c in every if c.split == "val"] or every
                clips = clips[:: max(1, -(-len(clips) // LISTED))]
            found = [c if isinstance(c, Clip) else Clip(Path(c)) for c in clips]
            told = [{"label": _label(c), "picture": _thumbnail(c.path)} for c in found]
            self._clips, self.choose.clips = found, told

        self._guarded(fill)
        if self._clips:
            self.choose.chosen = 0
            self.wait()

    def _on_choose(self, change: Any) -> None:
        if change.new >= 0:
            self.path.value = ""
            self._start(lambda: self._take(self._clips[change.new].path))

    def _on_predict(self, _: Any) -> None:
        if not self.button.disabled:  # a second click, before the page knew of the first
            self.button.disabled = True
            self._start(lambda: self._predict(self.source))

    def _on_path(self, change: Any) -> None:
        if text := change.new.strip().strip("\"'"):
            self.choose.chosen = -1
            self._start(lambda: self._take(Path(text).expanduser()))

    def _on_message(self, _: Any, message: dict[str, Any], buffers: Sequence[Any]) -> None:
        """From the page: an upload begins, a slice of it has come, a film cannot be played."""
        kind = message.get("kind")
        if kind == "upload":
            name, size = str(message["name"]), int(message["size"])
            self._start(lambda: self._receive(name, size))
        elif kind == "slice" and self._receiving:
            file, size = self._receiving
            at = file.stat().st_size
            if message["at"] == at and not self._stop:  # else it is of an upload before
                try:
                    with file.open("ab") as out:
                        out.write(buffers[0])
                except OSError as error:
                    return self._end(f"{file.name} cannot be kept ({error.strerror}): free some "
                                     "space, or give its path")  # fmt: skip
                if at + len(buffers[0]) < size:
                    self.choose.send({"kind": "send", "at": at + len(buffers[0])})
        elif kind == "unreadable" and self._receiving:
            self._end(f"the browser could not read the file ({message['why']}): choose it again")
        elif kind == "unplayable" and self.source and self.film.mime != "video/webm":
            self._start(lambda: self._play(self.source, convert=True))

    def _end(self, why: str) -> None:
        """Ask the work under way to end; it says `why`."""
        self._stop = why
        self.cancel.disabled = True

    # --- work: one thing at a time, in a thread --------------------------------------------------

    def _start(self, job: Callable[[], None]) -> None:
        """Do `job` in a thread; it ends what is under way and comes next."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
                self._thread.start()
            else:
                self._next, self._stop = job, "cancelled"

    def _run(self, job: Callable[[], None] | None) -> None:
        while job:
            self._stop, self.cancel.disabled = "", False
            self._guarded(job)
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self.button.disabled, self.cancel.disabled = False, True
                    self._thread = None

    def _guarded(self, job: Callable[[], None]) -> None:
        """Tell mistakes in the status line, warnings too; whatever happens, the panel goes on."""
        with warnings.catch_warnings(record=True) as caught, _interrupts(self._end):
            warnings.simplefilter("always", UserWarning)
            try:
                job()
            except UserError as error:
                self._say(str(error), wrong=True)
            except (Cancelled, KeyboardInterrupt) as error:
                why = str(error) or "interrupted"
                self._say(f"{why}: press Predict to try again", wrong=not str(error))
            except Exception as error:  # a traceback in a notebook's margin helps nobody
                self._say(f"{type(error).__name__}: {error}", wrong=True)
            finally:
                self._receiving = None
                self.progress.layout.visibility, self.progress.value = "hidden", 0
        told = {str(w.message) for w in caught if issubclass(w.category, UserWarning)}
        for text in sorted(told):
            self.status.value += f"<div>Note: {html.escape(text)}</div>"

    def _told(self, done: float, whole: float | None, doing: str = "") -> None:
        """Show progress, and end here if that was asked for. `whole` is None where unknown."""
        if self._stop:
            raise Cancelled(self._stop)
        now = time.monotonic()
        if now - getattr(self, "_shown", 0.0) > 0.2:  # the page need not know every frame
            self._shown = now
            self.progress.layout.visibility = "visible" if whole else "hidden"
            self.progress.value = min(1.0, done / whole) if whole else 0.0
            if doing:
                self._say(f"{doing} {done:.0f}{f' of {whole:.0f}' if whole else ''} s")

    def _receive(self, name: str, size: int) -> None:
        """Have the page send a file, and take it."""
        self._forget()
        # its end: letters of up to four bytes, and a name may have 255
        path = self._folder / re.sub(r"[^\w.-]", "_", Path(name.replace("\\", "/")).name)[-60:]
        if size > UPLOAD_LIMIT:
            raise UserError(
                f"{path.name} is too large, {size / 1e6:.1f} MB: up to {UPLOAD_LIMIT // 10**6} MB "
                "can be uploaded; give its path instead"
            )
        path.write_bytes(b"")
        self._receiving = path, size
        self.choose.send({"kind": "send", "at": 0})
        self._say(f"{path.name}: uploading, {size / 1e6:.1f} MB …")
        done, last = 0, time.monotonic()
        while done < size:  # `_on_message` writes the file, in the kernel's own thread
            time.sleep(0.02)
            self._told(done, size)
            before, done = done, path.stat().st_size
            last = time.monotonic() if done > before else last
            if time.monotonic() - last > PATIENCE:
                raise UserError(f"{path.name}: the upload came to a halt: choose the file again")
        self._receiving = None
        self.choose.chosen, self.path.value = -1, ""
        self._take(path)

    def _take(self, path: Path) -> None:
        """Make `path` what Predict takes, and play it."""
        self._forget()
        self.button.disabled = False  # also when this ended a prediction
        self.source = path
        self._say(f"opening {path.name} …")
        self._play(path)
        self._say(f"{path.name}: press Predict")

    def _predict(self, path: Path | str | None) -> None:
        self._forget()
        if path is None:
            raise UserError("no video yet: choose a clip, upload one, or give a path")
        self._play(path := Path(path))
        self._say(f"{path.name}: predicting …")
        if self.predictor is None:
            from .predict import Predictor

            self.predictor = Predictor()
        length = _length(path)
        doing = f"{path.name}: predicting …"
        found = self.predictor.predict(path, progress=lambda s: self._told(s, length, doing))
        self._answer(path, found)

    # --- what is shown ---------------------------------------------------------------------------

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
        self.bars.value, self.film.timeline, self.film.frames = "", {}, []

    def _play(self, path: Path, convert: bool = False) -> None:
        """Show the video, transcoded where a browser might not play it. Raises VideoError."""
        stat = path.stat() if path.is_file() else None
        now = (path, stat and (stat.st_size, stat.st_mtime_ns))
        if now == self._playing and not convert:
            return  # it would start again
        self.film.film, self._playing, shown = b"", None, path
        mime = _browser_type(path)
        if convert or mime is None or path.stat().st_size > PLAY_LIMIT:
            shown, mime, length = self._folder / "playing.webm", "video/webm", _length(path)
            doing = f"{path.name}: preparing to play …"
            video.transcode(path, shown, progress=lambda s: self._told(s, length, doing))
        if shown.stat().st_size > PLAY_LIMIT:
            self.film.title = f"{path.name} (too long to play in the page)"
        else:
            self.film.mime, self.film.title = mime, path.name
            self.film.film = shown.read_bytes()
        self._playing = now

    def _answer(self, path: Path, p: "Prediction") -> None:
        top = p.top(self.k)
        picked = {i: float(p.frame_times[i]) for i in figures.top_frames(p.frame_weights)}
        self._pictures = _frames_at(path, picked, lambda s: self._told(s, None))
        self.film.timeline = _timeline(p, [action for action, _ in top])
        self.film.frames = [
            {"seconds": t, "weight": float(p.frame_weights[i]), "picture": _jpeg(self._pictures[i])}
            for i, t in picked.items()
        ]
        self.bars.value = _bars(top)
        self.prediction = p
        note = getattr(self.predictor, "weights_note", "")
        unsure = "unsure; most probable " * (p.answer == "unsure")
        self._say(f"{path.name}: {unsure}{top[0][0]}, {top[0][1]:.1%}; {note}; {p.seconds:.2f} s")


@contextlib.contextmanager
def _interrupts(end: Callable[[str], None]) -> Iterator[None]:
    """Make the kernel's interrupt (Ctrl-C's signal) end work that is done in a thread: between
    cells ipykernel ignores it. In the main thread it is a KeyboardInterrupt anyway."""
    loop = None
    if threading.current_thread() is not threading.main_thread():
        with contextlib.suppress(ImportError, AttributeError):  # no kernel: a plain Python
            from IPython import get_ipython

            loop = get_ipython().kernel.io_loop
    if loop is None:
        yield
        return
    before: list[Any] = []
    loop.add_callback(
        lambda: before.append(signal.signal(signal.SIGINT, lambda *_: end("interrupted")))
    )
    try:
        yield
    finally:
        loop.add_callback(lambda: before and signal.signal(signal.SIGINT, before[0]))


def _label(clip: Clip) -> str:
    person = clip.person and f"person {clip.person}"
    return ", ".join(part for part in (clip.action, person) if part) or clip.path.name


def _length(path: Path) -> float | None:
    """Seconds, as the file's header says; None where it does not."""
    told = video.info(path)
    return told.claimed_frames / told.fps if told.claimed_frames else None


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


def _frames_at(
    path: Path, times: dict[int, float], progress: Callable[[float], None] = lambda seconds: None
) -> dict[int, np.ndarray]:
    """The frames (h, w, 3) shown at these seconds, by their keys, shrunk; in one pass."""
    wanted, found, held = sorted(times, key=times.__getitem__), {}, None
    with contextlib.closing(video.iter_frames(path)) as stream:
        for seconds, frame in stream:
            progress(seconds)
            while held is not None and wanted and times[wanted[0]] + video.TICK < seconds:
                found[wanted.pop(0)] = _small(held)
            if not wanted:
                break
            held = frame
    return found | {key: _small(held) for key in wanted}


def _small(frame: np.ndarray, side: int = PICTURE) -> np.ndarray:
    picture = Image.fromarray(frame)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def _jpeg(frame: np.ndarray) -> str:
    """(h, w, 3) -> a data URL."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _thumbnail(path: Path) -> str:
    """The frame in the middle of the first two seconds; empty for a file that cannot be read: it
    is told when it is chosen."""
    frame = None
    with contextlib.suppress(video.VideoError), contextlib.closing(video.iter_frames(path)) as all_:
        for seconds, frame in all_:  # noqa: B007
            if seconds >= 1:
                break
    return _jpeg(_small(frame, THUMBNAIL)) if frame is not None else ""


def _timeline(p: "Prediction", names: list[str]) -> dict[str, Any]:
    """What `panel.js` draws: the named actions' probabilities by window, and all others' sum."""
    columns = [p.actions.index(name) for name in names]
    shares = p.window_probabilities[:, columns]
    colours = [figures.COLOURS[i % len(figures.COLOURS)] for i in range(len(names))]
    if len(names) < len(p.actions):
        shares = np.column_stack([shares, 1 - shares.sum(1)])
        names, colours = [*names, "others"], [*colours, figures.GREY]
    told = [
        f"{start:.1f} to {end:.1f} s {p.actions[int(row.argmax())]}"
        for (start, end), row in zip(p.window_times, p.window_probabilities, strict=True)
    ]
    return {
        "windows": p.window_times.tolist(), "shares": shares.round(4).tolist(), "names": names,
        "colours": colours, "end": float(p.window_times[-1, 1]),
        "alt": "Stacked probabilities over time. " + "; ".join(told[:40]),
    }  # fmt: skip


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
