"""Which pre-training helps? Named recipes x seeds, each kept in a file, so that a run goes on.

    python benchmarks/pretraining_recipes.py --recipes course plain --seeds 0 1 2

Choices are made on people of a studio of their own (`--people dev`: 24 of another seed, in no data
set of the course). The people of `val` are looked at once a recipe is committed (`--people test`).
Every recipe goes through the very same steps; `untrained` is the course's encoder before its first.
"""

import argparse
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidlib import catalog, checkpoints, evaluation, settings, studio
from vidlib.catalog import Clip
from vidlib.pretraining import pretrain
from vidlib.settings import PretrainConfig, TrainConfig

ROWS = Path(__file__).with_name("pretraining_recipes.jsonl")
OLD = {"recipe": "body", "clip_loss": 0.0}
# what differs from the course's settings; None: no step at all
RECIPES: dict[str, dict[str, Any] | None] = {
    "untrained": None,
    "course": {},
    # from the paper's SimSiam on, one change after the other
    "plain": {"background": "none", "center": False, **OLD},
    "features centred": {"background": "none", **OLD},
    "pixel median": {"background": "median", "center": False, **OLD},
    "both": {"background": "median", **OLD},
    "both, followed": OLD,
    # one change from the course's
    "no clips' loss": {"clip_loss": 0.0},
    "no signs": {"recipe": "body"},
    "no colour": {"recipe": "no-colour"},
    "not centred": {"center": False},
    "own view a frame": {"shared_view": False},
    "gap 0.1 s": {"gap": 0.1},
    "gap 0.3 s": {"gap": 0.3},
    "gap 1 s": {"gap": 1.0},
    "low rate": {"lr": 0.05},
    "high rate": {"lr": 0.5},
    "eight frames": {"frames_per_clip": 8, "batch_clips": 16},
    "small stem": {"stem": "small"},
    "resnet18": {"backbone": "resnet18"},
    "96 px": {"size": 96},
    "112 px": {"size": 112},
    "2x steps": {"steps": 2400},
    "4x steps": {"steps": 4800},
    "8x steps": {"steps": 9600},
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


def configs(name: str, seed: int) -> tuple[PretrainConfig, TrainConfig]:
    """The recipe's settings in the current profile."""
    profile = settings.profile()
    pre = PretrainConfig.of(profile, **(RECIPES[name] or {}), seed=seed)
    return pre, TrainConfig.of(profile, seed=seed)


def key_of(name: str, seed: int, known: list[Clip], asked: list[Clip]) -> str:
    """What a row depends on; a row of another key is measured again."""
    data = catalog.fingerprint(known), catalog.fingerprint(asked)
    return checkpoints.key(RECIPES[name] is None, *configs(name, seed), *data)


def measure(name: str, seed: int, known: list[Clip], asked: list[Clip]) -> dict[str, Any]:
    """A row's results: accuracies 0..1 on people never learned from, minutes of pre-training."""
    config, train = configs(name, seed)
    collapse, minutes = None, 0.0
    if RECIPES[name] is None:
        encoder = evaluation.untrained(config)
    else:
        kept = checkpoints.key(name, config, catalog.fingerprint(known))
        out = settings.cache_dir() / "recipes" / f"{kept}.pth"
        encoder, history = pretrain(known, config, out)
        collapse = round(float(np.mean([r["collapse"] for r in history[-50:]])), 3)
        minutes = round(history[-1]["seconds"] / 60, 2)
    outcomes = evaluation.test(encoder, config.sampling, known, asked, train, progress=False)
    pair = [i for i, c in enumerate(asked) if c.action in studio.PAIR]
    row = {k: round(o.accuracy, 4) for k, o in outcomes.items()}
    row |= {f"pair {k}": round(float(outcomes[k].correct[pair].mean()), 4)
            for k in ("linear", "transformer")}  # fmt: skip
    return row | {"collapse": collapse, "minutes": minutes}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean +- standard deviation over seeds, best Transformer first."""
    columns = ("knn", "linear", "transformer", "pair linear", "pair transformer")
    head = ["recipe", "seeds", *columns, "collapse", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    score = {r["recipe"]: [] for r in rows}
    for r in rows:
        score[r["recipe"]].append(r["transformer"])
    for name in sorted(score, key=lambda n: -np.mean(score[n])):
        mine = [r for r in rows if r["recipe"] == name]
        cells = [name, str(len(mine))]
        for column in columns:
            values = 100 * np.array([r[column] for r in mine])
            spread = f" +- {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        for column in ("collapse", "minutes"):
            values = [r[column] for r in mine if r[column] is not None]
            cells.append(f"{np.mean(values):.2f}" if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["untrained", "course"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--people", choices=["dev", "test"], default="dev")
    args = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    clips = sides(args.people)
    for seed in args.seeds:
        for name in args.recipes:
            key = key_of(name, seed, *clips)
            if all(row["key"] != key for row in rows):
                what = {"recipe": name, "seed": seed, "people": args.people, "key": key,
                        "profile": settings.profile().name, "cores": os.cpu_count(),
                        "machine": platform.machine(),
                        "bfloat16": settings.has_fast_bfloat16(settings.device())}  # fmt: skip
                rows.append(what | measure(name, seed, *clips))
                text = "".join(f"{json.dumps(row)}\n" for row in rows)
                checkpoints.write(ROWS, lambda file, text=text: file.write(text.encode()))
    print(table([r for r in rows if r["recipe"] in RECIPES
                 and r["key"] == key_of(r["recipe"], r["seed"], *clips)]))  # fmt: skip


if __name__ == "__main__":
    main()
