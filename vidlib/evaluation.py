"""How good is it? On people who were never trained on, with honest intervals.

N test clips, K actions.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import catalog, checkpoints, encoders, probes, settings
from .catalog import Clip
from .features import extract_features
from .pretraining import pretrain
from .settings import PretrainConfig, TrainConfig, UserError
from .training import classify, train_classifier


@dataclass(frozen=True)
class Outcome:
    """Test clips, what was predicted for them, and the people in them."""

    actions: list[str]
    true: list[str]
    predicted: list[str]
    people: list[str]  # a clip of unknown person counts as a person of its own

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.array([p == t for p, t in zip(self.predicted, self.true, strict=True)])

    @property
    def accuracy(self) -> float:
        """Share of clips named rightly, 0..1."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the accuracy, drawn by person."""
        return probes.bootstrap_by_person(self.correct, self.people)

    def confusion(self) -> NDArray[np.int64]:
        """Counts (K, K): rows the true action, columns the predicted one."""
        at = {a: i for i, a in enumerate(self.actions)}
        matrix = np.zeros((len(at), len(at)), np.int64)
        for t, p in zip(self.true, self.predicted, strict=True):
            matrix[at[t], at[p]] += 1
        return matrix

    def to_json(self) -> dict[str, Any]:
        """Plain values, for json.dumps."""
        return {
            "accuracy": round(self.accuracy, 4),
            "interval95": [round(v, 4) for v in self.interval],
            "clips": len(self.true),
            "people": len(set(self.people)),
            "actions": self.actions,
            "confusion": self.confusion().tolist(),
        }

    def report(self) -> str:
        """Accuracy, the per-action table and the confusion matrix, to print."""
        (low, high), people, matrix = self.interval, len(set(self.people)), self.confusion()
        sure = f"95 % interval by person {low:.1%} to {high:.1%}" if people > 1 else "no interval"
        wide = max(len(a) for a in self.actions)
        lines = [
            f"accuracy {self.accuracy:.1%} ({self.correct.sum()} of {len(self.true)} clips)",
            f"people: {people}; {sure}",
            "",
            f"{'action':{wide}}  recall  precision  clips",
        ]
        for i, action in enumerate(self.actions):
            recall = matrix[i, i] / max(1, matrix[i].sum())
            precision = matrix[i, i] / max(1, matrix[:, i].sum())
            lines.append(f"{action:{wide}}  {recall:6.0%}  {precision:9.0%}  {matrix[i].sum():5}")
        lines += ["", "confusion (rows: true, columns: predicted, in the same order)"]
        lines += [f"{a:{wide}} " + "".join(f"{n:4}" for n in row) for a, row in
                  zip(self.actions, matrix, strict=True)]  # fmt: skip
        return "\n".join(lines)


def outcome(clips: Sequence[Clip], predicted: Sequence[str], actions: Sequence[str]) -> Outcome:
    """An Outcome for labelled test clips; UserError when there is none."""
    if not clips:
        raise UserError("no clip to test on: put some with an action into val")
    true = [str(c.action) for c in clips]
    people = [c.person or str(c.path) for c in clips]
    return Outcome(sorted({*actions, *true}), true, list(predicted), people)


def to_test(train: Iterable[Clip], val: Iterable[Clip]) -> tuple[list[Clip], list[Clip]]:
    """The labelled clips of both sides, looked at before hours are spent on them.

    UserError when there are not two actions to train on, or no clip to test on. Warns of actions
    that occur in test clips alone: those are answered wrongly whatever is learned.
    """
    train, val = catalog.labelled(train), catalog.labelled(val)
    known = catalog.classes(train)
    if not val:
        raise UserError("no clip to test on has an action: put some into val/<action>/, or name "
                        f"their actions in {catalog.CSV_NAME}")  # fmt: skip
    if strange := sorted(set(catalog.actions(val)) - set(known)):
        warnings.warn(f"only test clips show {', '.join(strange)}: add some to train, or their "
                      "answers are all wrong", stacklevel=2)  # fmt: skip
    return train, val


def test(
    encoder: encoders.FrameEncoder,
    sample: dict[str, Any],
    train: Sequence[Clip],
    val: Sequence[Clip],
    config: TrainConfig,
    device: torch.device | None = None,
    progress: bool = True,
) -> dict[str, Outcome]:
    """kNN, linear probe and Transformer, each from the training clips' features to the test
    clips'; the encoder is frozen. Keys: knn, linear, transformer."""
    train, val = to_test(train, val)
    labels = [str(c.action) for c in train]
    known = extract_features(encoder, train, sample, device, progress)
    asked = extract_features(encoder, val, sample, device, progress)
    model, actions, _ = train_classifier(known, labels, config, device=device, progress=progress)
    x, y = probes.pool(known), probes.pool(asked)
    predicted = {
        "knn": probes.knn(x, labels, y),
        "linear": probes.linear_probe(x, labels, y),
        "transformer": [actions[i] for i in classify(model, asked).argmax(1)],
    }
    return {name: outcome(val, p, actions) for name, p in predicted.items()}


def untrained(config: PretrainConfig) -> encoders.FrameEncoder:
    """The encoder as pre-training finds it: same architecture, same seed, no step."""
    settings.seed_everything(config.seed)
    return encoders.build(config.backbone, config.stem, config.init, config.size).eval()


def over_folds(
    folds: Iterable[tuple[str, list[Clip], list[Clip]]],
    pre: PretrainConfig,
    train: TrainConfig,
    seeds: Sequence[int] = (0,),
    device: torch.device | None = None,
    say: Callable[[str], None] = print,
    folder: Path | None = None,
    encoder: encoders.FrameEncoder | None = None,
) -> dict[str, list[dict[str, Outcome]]]:
    """The whole pipeline once a fold (name, train, test) and seed: pre-train on the training clips
    (their frames alone), train on them, test on the others. The folds are a protocol's:
    `leave_one_person_out`'s here, or those of `datasets.protocol`.

    With `encoder`, pre-trained elsewhere by the settings `pre`, that one serves every fold and no
    frame of these clips is pre-trained on.

    Returns for `pretrained` and `untrained`, for each seed, the outcomes (knn, linear,
    transformer) over all folds' test clips together. Encoders are kept in `folder` (default: in
    the cache) by what they were made from, so a run that was stopped goes on.
    """
    folds = [(name, known, to_test(known, asked)[1]) for name, known, asked in folds]
    folder = folder or settings.cache_dir() / "folds"
    everything: dict[str, list[dict[str, Outcome]]] = {
        "pretrained": [],
        "untrained": [],
    }
    for seed in seeds:
        parts: dict[str, list[dict[str, Outcome]]] = {"pretrained": [], "untrained": []}
        p = pre if encoder else replace(pre, seed=seed)
        t = replace(train, seed=seed)
        bare = untrained(p)
        for name, known, asked in folds:
            key = checkpoints.key("fold", p, catalog.fingerprint(known))
            ours = encoder or pretrain(known, p, folder / f"{key}.pth", device)[0]
            for which, e in (("pretrained", ours), ("untrained", bare)):
                parts[which].append(test(e, p.sampling, known, asked, t, device, progress=False))
            got = {w: parts[w][-1]["transformer"].accuracy for w in parts}
            say(f"seed {seed}, {name}: {got['pretrained']:.0%} ({got['untrained']:.0%} "
                f"untrained) of {len(asked)} clips")  # fmt: skip
        for which, tested in parts.items():
            everything[which].append({m: _join([f[m] for f in tested]) for m in tested[0]})
    return everything


def leave_one_person_out(
    clips: Sequence[Clip], *args: Any, **options: Any
) -> dict[str, list[dict[str, Outcome]]]:
    """`over_folds` once a person, who is tested and whose clips are in no training."""
    clips = catalog.labelled(clips)
    if len({c.person for c in clips}) < 2 or any(c.person is None for c in clips):
        raise UserError("leave-one-person-out needs a known person for every clip: see clips.csv")
    folds = catalog.leave_one_person_out(clips)
    return over_folds(((f"without {who}", *sides) for who, *sides in folds), *args, **options)


def _join(outcomes: Sequence[Outcome]) -> Outcome:
    fields = {
        name: [v for o in outcomes for v in getattr(o, name)]
        for name in ("true", "predicted", "people")
    }
    return Outcome(sorted({a for o in outcomes for a in o.actions}), **fields)


def protocol_report(outcomes: dict[str, list[dict[str, Outcome]]]) -> str:
    """Mean and spread over seeds of each measure, then the pre-trained Transformer's tables."""
    lines = []
    for which, seeds in outcomes.items():
        for measure in seeds[0]:
            values = np.array([s[measure].accuracy for s in seeds])
            spread = ""
            if len(values) > 1:
                spread = f" +- {values.std(ddof=1):.1%} over {len(values)} seeds"
            lines.append(f"{which:10}  {measure:11}  {values.mean():.1%}{spread}")
    for which, seeds in outcomes.items():
        lines += ["", f"Transformer on the {which} encoder, first seed:",
                  seeds[0]["transformer"].report()]  # fmt: skip
    return "\n".join(lines)
