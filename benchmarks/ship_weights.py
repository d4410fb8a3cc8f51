"""Turn the learner's own pair of weight files into the shipped pair: half precision, with a card.

    vidlib pretrain --steps 12000 && vidlib train && python benchmarks/ship_weights.py

Half precision halves the download. What it costs is measured here, on the val clips, and written on
the card with the command, seed, machine and checksums.
"""

import hashlib
import json
import subprocess

from vidlib import catalog, checkpoints, encoders, evaluation, settings
from vidlib.predict import Predictor


def accuracy(predictor: Predictor, clips: list[catalog.Clip]) -> evaluation.Outcome:
    predicted = [predictor.predict(c.path).top(1)[0][0] for c in clips]
    return evaluation.outcome(clips, predicted, predictor.actions)


def main() -> None:
    own, shipped = (
        [folder / p.name for p in (settings.encoder_path(), settings.classifier_path())]
        for folder in (settings.weights_dir(), settings.shipped_dir())
    )
    val = [c for c in catalog.find_clips(source="studio") if c.split == "val"]
    encoder, meta = checkpoints.load_encoder(own[0])
    model, belongs = checkpoints.load_classifier(own[1], meta.pop("id"))
    before = accuracy(Predictor(*own), val)
    meta["history"] = meta["history"][::-10][::-1]  # a megabyte less
    # buffers such as batch norm's counters stay what they are; load_state_dict widens again
    encoder.half()
    checkpoints.save_encoder(shipped[0], encoder, meta)
    belongs["encoder_id"] = encoders.identity(encoder.float())
    checkpoints.save_classifier(shipped[1], model.half(), belongs)
    after = accuracy(Predictor(*shipped), val)
    config, steps = meta["config"], meta["config"]["steps"]
    machine = meta.get("machine", "an unknown machine")  # files of before do not say
    minutes = meta["history"][-1]["seconds"] / 60
    git = ["git", "-C", str(settings.REPO), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    card = [
        "# Shipped weights",
        "",
        f"Made by `vidlib pretrain --steps {steps}`, `vidlib train` (standard profile) and"
        " `python benchmarks/ship_weights.py`; MIT licence. Pre-trained and trained on drawn clips"
        " alone.",
        "",
        f"- commit: {commit}",
        f"- encoder: {config['backbone']}, {config['size']} px, SimSiam for {steps} steps, seed"
        f" {config['seed']}, {minutes:.1f} minutes on {machine}, torch {meta['torch']}",
        f"- actions: {', '.join(belongs['classes'])}",
        f"- people never trained on: {after.accuracy:.1%} of {len(val)} drawn clips in half"
        f" precision, {before.accuracy:.1%} in full",
        f"- encoder's settings: `{json.dumps(config)}`",
        "",
        "| file | bytes | sha256 |",
        "|---|---|---|",
    ]
    for path in shipped:
        content = path.read_bytes()
        card.append(f"| {path.name} | {len(content)} | {hashlib.sha256(content).hexdigest()} |")
    (settings.shipped_dir() / "README.md").write_text("\n".join(card) + "\n")
    print("\n".join(card))


if __name__ == "__main__":
    main()
