"""Does it help the Transformer to have predicted hidden frames' features first, without labels?

    python benchmarks/masked_features.py --counts 5 --share 0.5 --run 1 --pretrain-steps 1000
    python benchmarks/masked_features.py --counts 5 72 --seeds 0 1 2 --people dev test

Three arms on the same labelled clips and the same frozen encoder: the Transformer from random
weights; from weights that were first trained to predict hidden frames' features of all training
clips, for as many labelled steps; and from random weights for as many steps as the second arm took
in all. The encoder is the one that `make course` made. A second call reads the rows that are there.
"""

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from few_labels import FEW, draw, table
from numpy.typing import NDArray
from pretraining_recipes import keep, machine, read, sides

from vidlib import catalog, checkpoints, motion, probes, settings
from vidlib.catalog import Clip
from vidlib.features import extract_features
from vidlib.settings import TrainConfig
from vidlib.training import RUN, SHARE, classify, pretrain_features, train_classifier

ROWS = Path(__file__).with_name("masked_features.jsonl")
STEPS = 500  # of masked pre-training
ARMS = ("none", "masked", "none, as many steps in all")


def mine(rows: list[dict[str, Any]], arm: str, count: int) -> list[dict[str, Any]]:
    """An arm's rows, by seed."""
    picked = [r for r in rows if (r["arm"], r["count"]) == (arm, count)]
    return sorted(picked, key=lambda r: r["seed"])


def gains(rows: list[dict[str, Any]], people: list[str]) -> str:
    """What masked pre-training adds to each of the other arms, of the same seeds, in points, with
    its 95 % interval: a paired bootstrap over people of the clips' mean difference over seeds."""
    lines = []
    for count in sorted({r["count"] for r in rows}):
        right = {(arm, r["seed"]): np.array([*map(int, r["right"])])
                 for arm in ARMS for r in mine(rows, arm, count)}  # fmt: skip
        for other in (ARMS[0], ARMS[2]):
            seeds = [s for arm, s in right if arm == "masked" and (other, s) in right]
            if not seeds:
                continue
            gain = np.mean([right["masked", s] - right[other, s] for s in seeds], axis=0)
            low, high = probes.bootstrap_by_person(gain, people)
            lines.append(
                f"{count} clips an action: {100 * gain.mean():+.1f} points over {other} "
                f"({100 * low:+.1f} to {100 * high:+.1f} by person, seeds {seeds})"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[5, 72])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--people", nargs="+", choices=["dev", "test"], default=["dev"])
    parser.add_argument("--pretrain-steps", type=int, default=STEPS)
    parser.add_argument("--share", type=float, default=SHARE, help="of frames that are hidden")
    parser.add_argument("--run", type=int, default=RUN, help="hidden frames in a row")
    parser.add_argument("--lr", type=float, default=None, help="of pre-training (none: training's)")
    parser.add_argument("--encoder", type=Path, default=settings.encoder_path())
    args = parser.parse_args()
    encoder, meta = checkpoints.load_encoder(args.encoder)

    def features(clips: list[Clip]) -> list[NDArray[np.float32]]:
        return extract_features(encoder, clips, meta["sampling"], progress=False)

    studio = sides(args.people[0])[0]
    asked = {people: sides(people)[1] for people in args.people}
    known, unseen = features(studio), {people: features(clips) for people, clips in asked.items()}
    where = {id(c): i for i, c in enumerate(studio)}
    masking = {"pretrain steps": args.pretrain_steps, "share": args.share, "run": args.run,
               "lr": args.lr}  # fmt: skip
    rows, told = read(ROWS), []
    for seed, count, arm in itertools.product(args.seeds, args.counts, args.arms):
        train = TrainConfig.of(settings.profile(), seed=seed)
        # as in few_labels.py: on dev people 200 steps on 40 clips are as good as 1,000
        train = replace(train, steps=200) if count <= FEW else train
        fit = replace(train, steps=train.steps + args.pretrain_steps * (arm == ARMS[2]))
        how = masking if arm == "masked" else {}  # the others' rows do not depend on it
        keys = {people: checkpoints.key(
            arm, count, fit, how, meta["id"], motion.FORMAT, catalog.fingerprint(studio),
            catalog.fingerprint(clips)) for people, clips in asked.items()}  # fmt: skip
        lacking = [people for people, key in keys.items() if all(r["key"] != key for r in rows)]
        if lacking:
            began, start, result = time.perf_counter(), None, {}
            labelled = draw(studio, count, seed)
            if arm == "masked":
                first = TrainConfig.of(settings.profile(), seed=seed, lr=args.lr or train.lr)
                kept = checkpoints.key(first, how, meta["id"], catalog.fingerprint(studio))
                start, run = pretrain_features(
                    known, first, args.pretrain_steps, args.share, args.run,
                    settings.cache_dir() / "masked" / f"{kept}.pth", progress=False,
                )  # fmt: skip
                loss, plain = (np.mean([r[k] for r in run[-50:]]) for k in ("loss", "plain"))
                result["explained"] = round(float(1 - loss / plain), 3)  # of hidden variance
                began = time.perf_counter() - run[-1]["seconds"]
            model, actions, _ = train_classifier(
                [known[where[id(c)]] for c in labelled], [str(c.action) for c in labelled], fit,
                progress=False, start=start,
            )  # fmt: skip
            result["minutes"] = round((time.perf_counter() - began) / 60, 2)
            for people in lacking:
                named = [actions[i] for i in classify(model, unseen[people]).argmax(1)]
                right = [n == c.action for n, c in zip(named, asked[people], strict=True)]
                row = {"people": people, "arm": arm, "count": count, "seed": seed,
                       "steps": fit.steps, **how, "accuracy": round(float(np.mean(right)), 4),
                       **result, "encoder": meta["id"], "key": keys[people]}  # fmt: skip
                rows.append(row | machine() | {"right": "".join("01"[r] for r in right)})
                keep(ROWS, rows)
                print({k: v for k, v in row.items() if k not in ("key", "encoder")}, flush=True)
        told += [r for r in rows if r["key"] in keys.values()]
    for people in args.people:
        of = [r for r in told if r["people"] == people]
        over = gains(of, [c.person or "" for c in asked[people]])
        print(f"\n{people} people\n{table(of, ARMS)}\n{over}")


if __name__ == "__main__":
    main()
