"""Which pre-training helps? Named recipes x seeds, each kept in a file, so that a run goes on.

    python benchmarks/pretraining_recipes.py --recipes course plain --seeds 0 1 2
    python benchmarks/pretraining_recipes.py --recipes all --steps 400
    python benchmarks/pretraining_recipes.py --recipes course --steps 1500 3000 6000 12000

Choices are made on people of a studio of their own (`--people dev`: 24 of another seed, in no data
set of the course). The people of `val` are looked at once a recipe is committed (`--people test`).
Every recipe goes through the very same steps; `untrained` is the course's encoder before its first.
"""

import argparse
import itertools
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidlib import catalog, checkpoints, evaluation, motion, probes, settings, studio, video
from vidlib.catalog import Clip
from vidlib.encoders import FrameEncoder
from vidlib.features import extract_features
from vidlib.loop import Record
from vidlib.pretraining import pretrain
from vidlib.settings import PretrainConfig, TrainConfig
from vidlib.training import classify, train_classifier

ROWS = Path(__file__).with_name("pretraining_recipes.jsonl")
MEASURES = 3  # raised by hand when `measure` asks more; rows of before are kept, and not shown
OLD = {"recipe": "body", "clip_loss": 0.0}
PLAIN = {"background": "none", "center": False, **OLD}
# what differs from the course's settings; None: no step at all
RECIPES: dict[str, dict[str, Any] | None] = {
    "untrained": None,
    "course": {},
    # from the paper's SimSiam on, one change after the other
    "plain": PLAIN,
    "features centred": {"background": "none", **OLD},
    "pixel median": {"background": "median", "center": False, **OLD},
    "both": {"background": "median", **OLD},
    "both, followed": OLD,
    # plain SimSiam, one change each
    "plain, the paper's views": {**PLAIN, "recipe": "paper"},
    "plain, walls mixed": {**PLAIN, "recipe": "walls"},
    "plain, gap 0.3 s": {**PLAIN, "gap": 0.3},
    "plain, own view a frame": {**PLAIN, "shared_view": False},
    "features centred, walls mixed": {**PLAIN, "center": True, "recipe": "walls"},
    # one change from the course's
    "no clips' loss": {"clip_loss": 0.0},
    "no signs": {"recipe": "body"},
    "no colour": {"recipe": "no-colour"},
    "the paper's views": {"recipe": "paper"},
    "blur": {"recipe": "blur"},
    "solarise": {"recipe": "solarise"},
    "not centred": {"center": False},
    "own view a frame": {"shared_view": False},
    "gap 0.1 s": {"gap": 0.1},
    "gap 0.3 s": {"gap": 0.3},
    "gap 1 s": {"gap": 1.0},
    "low rate": {"lr": 0.05},
    "high rate": {"lr": 0.5},
    "eight frames": {"frames_per_clip": 8, "batch_clips": 16},
    "small stem": {"stem": "small"},
    "resnet10": {"backbone": "resnet10"},
    "resnet18": {"backbone": "resnet18"},
    "resnet50": {"backbone": "resnet50"},
    "efficientnet_b0": {"backbone": "efficientnet_b0"},
    "96 px": {"size": 96},
    "112 px": {"size": 112},
}


def sides(people: str) -> tuple[list[Clip], list[Clip]]:
    """(clips to learn from, clips to measure on), no person on both."""
    studio.make_dataset()
    clips = catalog.find_clips(source="studio")
    train = [c for c in clips if c.split == "train"]
    if people == "test":
        return train, [c for c in clips if c.split == "val"]
    others = replace(settings.profile(), people_train=24, takes_train=2, people_val=0)
    root = settings.cache_dir() / "dev"
    studio.make_dataset(root, others, seed=1)
    return train, catalog.find_clips(root, source="studio")


def configs(name: str, seed: int, steps: int | None = None) -> tuple[PretrainConfig, TrainConfig]:
    """The recipe's settings in the current profile, for `steps` (None: the profile's)."""
    profile = settings.profile()
    pre = PretrainConfig.of(profile, **(RECIPES[name] or {}), seed=seed)
    return replace(pre, steps=steps or pre.steps), TrainConfig.of(profile, seed=seed)


def key_of(name: str, seed: int, steps: int | None, known: list[Clip], asked: list[Clip]) -> str:
    """What a row depends on; a row of another key is measured again."""
    pre, train = configs(name, seed, steps)
    if RECIPES[name] is None:
        pre = replace(pre, steps=1)  # the same encoder, whatever the others' steps
    data = catalog.fingerprint(known), catalog.fingerprint(asked), motion.FORMAT
    kind = settings.device().type  # a GPU's rows are compared with one another: a point differs
    where = () if kind == "cpu" else (kind,)
    return checkpoints.key(MEASURES, RECIPES[name] is None, pre, train, *data, *where)


def encoder_file(name: str, seed: int, steps: int | None, known: list[Clip]) -> Path:
    """Where the recipe's encoder is kept."""
    config, _ = configs(name, seed, steps)
    kept = checkpoints.key(name, config, catalog.fingerprint(known), motion.FORMAT)
    return settings.cache_dir() / "recipes" / f"{kept}.pth"


def encoder_of(
    name: str, seed: int, steps: int | None, known: list[Clip]
) -> tuple[FrameEncoder, list[Record]]:
    """The recipe's encoder and its records, from the cache where it was made before."""
    config, _ = configs(name, seed, steps)
    if RECIPES[name] is None:
        return evaluation.untrained(config), []
    return pretrain(known, config, encoder_file(name, seed, steps, known))


def trained_on(name: str, seed: int, steps: int | None, known: list[Clip]) -> str | None:
    """The machine that the encoder's minutes are of, where its file says: a GPU's are no cores'."""
    return checkpoints.load_encoder(encoder_file(name, seed, steps, known))[1].get("machine")


def minutes_of(history: list[Record]) -> float:
    """Minutes of a training at its median step: a run that was stopped, or for a while had
    the machine not for itself, counts as one that had."""
    steps = np.diff([0.0, *(r["seconds"] for r in history)])
    return float(np.median(steps)) * len(steps) / 60 if history else 0.0


def machine() -> dict[str, Any]:
    """What minutes depend on."""
    return {"cores": os.cpu_count(), "machine": platform.machine(),
            "bfloat16": settings.has_fast_bfloat16(settings.device())}  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file, none if there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a results file, whole or not at all."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    settings.write(path, lambda file: file.write(text.encode()))


def pair_clips(asked: list[Clip], takes: int) -> list[Clip]:
    """Clips of their own to test the order of frames on: sitting down and standing up, `takes` of
    each by every asked person, in takes that no data set has."""
    of_dev = settings.cache_dir() in asked[0].path.parents
    root, clips = settings.cache_dir() / "pair", []
    for person in sorted({int(c.person or 0) for c in asked}):
        scene = min(int(c.scene or 0) for c in asked if int(c.person or 0) == person)
        for action in studio.PAIR:
            for take in range(100, 100 + takes):
                path = root / ("dev" if of_dev else "test") / f"{action}_{person}_{take}.webm"
                if not path.exists():
                    frames = studio.draw_clip(action, person, scene, take, seed=int(of_dev))
                    video.write_video(path, frames, 16.0)
                clips.append(Clip(path, action, str(person)))
    return clips


def order_pair(encoder: FrameEncoder, sample: dict[str, Any], known: list[Clip],
               asked: list[Clip], train: TrainConfig) -> dict[str, float]:  # fmt: skip
    """The pair alone, on 200 clips or more of its own: a Transformer, and a linear probe on mean
    and spread, each trained on the training people's clips of the pair."""
    learn = [c for c in known if c.action in studio.PAIR]
    clips = pair_clips(asked, -(-100 // len({c.person for c in asked})))
    x, y = (extract_features(encoder, side, sample, progress=False) for side in (learn, clips))
    labels, truth = ([str(c.action) for c in side] for side in (learn, clips))
    model, actions, _ = train_classifier(x, labels, train, progress=False)
    named = {
        "pair transformer": [actions[i] for i in classify(model, y).argmax(1)],
        "pair order-free": probes.linear_probe(probes.pool(x), labels, probes.pool(y)),
    }
    return {k: round(probes.accuracy(v, truth), 4) for k, v in named.items()}


def measure(
    name: str, seed: int, steps: int | None, known: list[Clip], asked: list[Clip]
) -> dict[str, Any]:
    """A row's results: accuracies 0..1 on people never learned from, minutes of pre-training."""
    config, train = configs(name, seed, steps)
    encoder, history = encoder_of(name, seed, steps, known)
    last = [r["collapse"] for r in history[-50:]]
    collapse = round(float(np.mean(last)), 3) if last else None
    minutes = round(minutes_of(history), 2)
    outcomes = evaluation.test(encoder, config.sampling, known, asked, train, progress=False)
    row = {k: round(o.accuracy, 4) for k, o in outcomes.items()}
    row |= order_pair(encoder, config.sampling, known, asked, train)
    if history:
        row["pre-trained on"] = trained_on(name, seed, steps, known)
    # clip by clip, so that two rows can be compared by person
    row["right"] = "".join("01"[int(c)] for c in outcomes["transformer"].correct)
    return row | {"steps": len(history), "collapse": collapse, "minutes": minutes}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean +- standard deviation over seeds, best Transformer first."""
    columns = ("knn", "linear", "transformer", "pair order-free", "pair transformer")
    head = ["recipe", "steps", "seeds", *columns, "collapse", "minutes"]
    here = settings.machine(settings.device())
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    score: dict[tuple[str, int], list[float]] = {}
    for r in rows:
        score.setdefault((r["recipe"], r["steps"]), []).append(r["transformer"])
    for what in sorted(score, key=lambda w: -np.mean(score[w])):
        mine = [r for r in rows if (r["recipe"], r["steps"]) == what]
        cells = [what[0], str(what[1]), str(len(mine))]
        for column in columns:
            values = 100 * np.array([r[column] for r in mine])
            spread = f" +- {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        for column in ("collapse", "minutes"):
            values = [r[column] for r in mine if r[column] is not None]
            cells.append(f"{np.mean(values):.2f}" if values else "-")
        if elsewhere := {r.get("pre-trained on") for r in mine} - {None, here}:
            cells[-1] += f" ({', '.join(sorted(elsewhere))})"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(rows: list[dict[str, Any]], people: list[str], over: str) -> str:
    """The Transformer's gain over the recipe `over`, of as many steps and the same seeds, with its
    95 % interval: a paired bootstrap over people of the clips' mean difference over seeds."""
    right = {(r["recipe"], r["steps"], r["seed"]): np.array([*map(int, r["right"])]) for r in rows}
    lines = []
    for name, steps in dict.fromkeys((r["recipe"], r["steps"]) for r in rows):
        base = over, 0 if RECIPES[over] is None else steps
        seeds = [s for *w, s in right if w == [name, steps] and (*base, s) in right]
        if name == over or not seeds:
            continue
        difference = np.mean([right[name, steps, s] - right[*base, s] for s in seeds], axis=0)
        low, high = probes.bootstrap_by_person(difference, people)
        lines.append(
            f"{name}, {steps} steps: {100 * difference.mean():+.1f} points over {over} "
            f"({100 * low:+.1f} to {100 * high:+.1f} by person, seeds {', '.join(map(str, seeds))})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, "all"],
                        default=["untrained", "course"])  # fmt: skip
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[None], help="(none: the profile's)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--people", choices=["dev", "test"], default="dev")
    args = parser.parse_args()
    rows, clips = read(ROWS), sides(args.people)
    names = RECIPES if "all" in args.recipes else args.recipes
    for what in itertools.product(args.seeds, args.steps, names):
        seed, steps, name = what
        key = key_of(name, seed, steps, *clips)
        if all(row["key"] != key for row in rows):
            about = {"recipe": name, "seed": seed, "people": args.people, "key": key,
                     "profile": settings.profile().name}  # fmt: skip
            rows.append(about | machine() | measure(name, seed, steps, *clips))
            keep(ROWS, rows)
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    rows = [r for r in rows if r["recipe"] in RECIPES
            and r["key"] == key_of(r["recipe"], r["seed"], r.get("steps"), *clips)]  # fmt: skip
    print(table(rows))
    for over in ("untrained", "course"):
        print(gains(rows, [c.person or "" for c in clips[1]], over))


if __name__ == "__main__":
    main()
