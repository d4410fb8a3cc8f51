"""The main job end to end, as `make course` runs it: draw, pre-train, look, train, predict.

Every stage is keyed by what went into it, so a second run takes seconds and a change of settings
or data redoes just what depends on it.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import catalog, checkpoints, evaluation, figures, motion, probes, settings, studio
from .features import extract_features
from .predict import Predictor
from .pretraining import pretrain
from .sampling import FrameCache
from .settings import PretrainConfig, TrainConfig
from .training import classify, train_classifier

# each notebook's minutes in the standard profile once `make course` has run, as the README's path
MINUTES = {
    "01": 0.1, "02": 1.0, "03": 0.5, "04": 2.3, "05": 0.3, "06": 0.9, "07": 1.7, "08": 8.1,
}  # fmt: skip


def here(notebook: str) -> None:
    """Print where this runs, the profile, the device, and about how many minutes notebook `"01"`
    to `"08"` takes."""
    place = "your machine"
    if "google.colab" in sys.modules:
        place = "Colab"
    elif "BINDER_LAUNCH_HOST" in os.environ:
        place = "Binder"
    profile, device = settings.profile().name, settings.device()
    minutes = f"about {max(1, math.ceil(MINUTES[notebook]))} min on two cores after `make course`"
    if profile == "quick":
        minutes = "under a minute; the figures of this profile mean little"
    elif profile == "full":
        minutes = "hours without a GPU"
    print(f"{place}, profile {profile}, device {device}: {minutes}")


class Stages:
    """Runs stages, prints their minutes, and keeps small results in a file, by key."""

    def __init__(self, file: Path) -> None:
        self.file, self.minutes = file, 0.0
        try:
            kept = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError):
            kept = None
        self.kept: dict[str, Any] = kept if isinstance(kept, dict) else {}  # else damaged

    def run(self, title: str, work: Callable[[], Any], key: str | None = None) -> Any:
        """Do `work`, or return what it gave before for the same key (plain values only)."""
        print(f"\n== {title}", flush=True)
        began = time.perf_counter()
        reused = key is not None and key in self.kept
        result = self.kept[key] if reused else work()
        if key and not reused:
            self.kept[key] = result
            settings.write(self.file, lambda file: file.write(json.dumps(self.kept).encode()))
        minutes = (time.perf_counter() - began) / 60
        self.minutes += minutes
        print(f"   {minutes:.1f} min" + " (reused)" * reused, flush=True)
        return result


def main() -> None:
    """Run the course's main job with the current profile on the studio's clips."""
    profile, device = settings.profile(), settings.device()
    pre, train = PretrainConfig.of(profile), TrainConfig.of(profile)
    results = settings.data_dir() / "results"
    stages = Stages(results / "course.json")
    precision = "bfloat16" if settings.has_fast_bfloat16(device) else "float32"
    print(f"profile {profile.name}, device {device}, {precision}, data in {settings.data_dir()}")

    stages.run("1 draw the default data", lambda: studio.make_dataset(profile=profile))
    clips = catalog.find_clips(source="studio")
    known, asked, note = catalog.split_train_val(clips)
    print(note)

    cache = FrameCache(**pre.sampling)
    stages.run("2 decode the clips once", lambda: cache.build([c.path for c in clips]))
    out = settings.encoder_path()
    encoder, history = stages.run(
        f"3 pre-train the frame encoder by SimSiam ({len(known)} clips, no labels)",
        lambda: pretrain(known, pre, out, device, monitor_every=max(1, pre.steps // 5)),
    )
    last = history[-1]
    print(f"   loss {last['loss']:.3f}, collapse measure {last['collapse']:.2f}")

    data = catalog.fingerprint(clips)
    meta = checkpoints.load_encoder(out)[1]

    def look() -> dict[str, Any]:
        x = probes.pool(extract_features(encoder, asked, pre.sampling, device))
        labels = [str(c.action) for c in asked]
        figure, alt = figures.embedding(probes.tsne(x), labels, "t-SNE of unseen people's clips")
        picture = figures.to_png(figure)
        settings.write(results / "tsne.png", lambda file: file.write(picture))
        return {"alt": alt}

    stages.run("4 look at the features (t-SNE)", look, checkpoints.key("look", meta["id"], data))
    print(f"   {results / 'tsne.png'}")

    def fit() -> list[Any]:
        x = extract_features(encoder, known, pre.sampling, device)
        y = extract_features(encoder, asked, pre.sampling, device)
        labels = [str(c.action) for c in known]
        belongs = {"encoder_id": meta["id"], "sampling": pre.sampling}
        model, actions, _ = train_classifier(
            x, labels, train, settings.classifier_path(), belongs, device,
            people=[c.person for c in known],
        )  # fmt: skip
        predicted = [actions[i] for i in classify(model, y).argmax(1)]
        px, py = probes.pool(x), probes.pool(y)
        return [
            evaluation.outcome(asked, p, actions)
            for p in (probes.knn(px, labels, py), probes.linear_probe(px, labels, py), predicted)
        ]

    def rows(outcomes: list[Any]) -> list[Any]:
        return [(o.accuracy, *o.interval) for o in outcomes]

    key = checkpoints.key("fit", meta["id"], train, data)
    path = settings.classifier_path()
    if (checkpoints.stored_key(path) or "none") not in stages.kept.get(key, []):
        stages.kept.pop(key, None)  # the weight file has gone, or is another run's
    *trained, _ = stages.run(
        "5 train the Transformer, test it on unseen people",
        lambda: [*rows(fit()), checkpoints.stored_key(path)],
        key,
    )
    base = stages.run(
        "6 the same with an untrained encoder, to compare",
        lambda: rows(list(evaluation.test(
            evaluation.untrained(pre), pre.sampling, known, asked, train, device).values())),
        checkpoints.key("untrained", pre, train, data, motion.FORMAT),
    )  # fmt: skip
    predictor = Predictor(settings.encoder_path(), settings.classifier_path())
    clip = asked[0]
    answer = stages.run("7 predict a held-out clip", lambda: predictor.predict(clip.path))
    print(f"   {clip.path.name} ({clip.action}): "
          + ", ".join(f"{a} {p:.0%}" for a, p in answer.top(3)))  # fmt: skip

    chance = 1 / len(catalog.actions(known))
    people = len({c.person for c in asked})
    print(f"\n{len(asked)} clips of {people} people never trained on; chance {chance:.1%}; in "
          "brackets the 95 % interval by person\n"
          f"{'':24}{'untrained encoder':28}pre-trained encoder")  # fmt: skip
    for name, b, t in zip(("kNN", "linear probe", "Transformer"), base, trained, strict=True):
        cells = [f"{v:6.1%}  ({low:.0%} to {high:.0%})" for v, low, high in (b, t)]
        print(f"{name:24}{cells[0]:28}{cells[1]}")
    beside = Path(sys.executable).parent
    beside = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else Path()
    lab = f"{beside / 'jupyter'} lab --ServerApp.root_dir=. notebooks/01_look_at_the_data.ipynb"
    print(f"\n{stages.minutes:.1f} minutes in all. Open the first notebook with:\n\n  {lab}\n")
