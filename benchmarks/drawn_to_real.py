"""From drawn people to filmed ones: a classifier that has seen drawings alone, on Weizmann's clips.

    python benchmarks/drawn_to_real.py ../shared/weizmann
    python benchmarks/drawn_to_real.py ../shared/weizmann --weights data/weights

Five of Weizmann's actions have a name in the studio; the share of their clips named rightly is the
result, with the 95 % interval by person. The others have none, so that every action told for them
is wrong: what counts there is how often the answer is 'unsure'.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vidlib import catalog, evaluation, settings
from vidlib.predict import Predictor

NAMES = {"walk": "walking", "run": "running", "jack": "jumping_jacks",
         "wave1": "waving", "wave2": "waving"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="Weizmann's clips")
    parser.add_argument("--weights", type=Path, default=settings.shipped_dir(), help="folder")
    args = parser.parse_args()
    own = settings.encoder_path().name, settings.classifier_path().name
    predictor = Predictor(*(args.weights / name for name in own))
    clips = catalog.labelled(catalog.find_clips(args.folder))
    answers = [predictor.predict(c.path) for c in clips]
    for action in catalog.actions(clips):
        mine = [a for c, a in zip(clips, answers, strict=True) if c.action == action]
        top = Counter(a.top(1)[0][0] for a in mine)
        unsure = sum(a.answer == "unsure" for a in mine)
        told = ", ".join(f"{name} {n}" for name, n in top.most_common())
        print(f"{action:8} {NAMES.get(action, '-'):14} {told}; unsure {unsure} of {len(mine)}")
    pairs = list(zip(clips, answers, strict=True))
    known = [(replace(c, action=NAMES[c.action]), a) for c, a in pairs if c.action in NAMES]
    named = [a.top(1)[0][0] for _, a in known]
    outcome = evaluation.outcome([c for c, _ in known], named, predictor.actions)
    low, high = outcome.interval
    sure = outcome.correct[[a.answer != "unsure" for _, a in known]]
    print(f"{outcome.correct.sum()} of {len(known)} right, {outcome.accuracy:.1%} ({low:.0%} to "
          f"{high:.0%} by person); {sure.sum()} of {len(sure)} not unsure")  # fmt: skip
    rest = [a for c, a in pairs if c.action not in NAMES]
    unsure = sum(a.answer == "unsure" for a in rest)
    print(f"other actions: unsure about {unsure} of {len(rest)} clips")


if __name__ == "__main__":
    main()
