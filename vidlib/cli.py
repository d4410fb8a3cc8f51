"""The command line: `vidlib` or `python -m vidlib`. Parses, calls, prints; no mathematics.

A user's mistake ends with one line and exit code 2, Ctrl-C with 130; heavy imports wait until a
command needs them.
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import distributed, settings
from .settings import PretrainConfig, TrainConfig, UserError

if TYPE_CHECKING:
    from .catalog import Clip
    from .datasets import Fold


# what torchrun may start in several processes
TOGETHER = ("pretrain", "embed", "train")


class _Parser(argparse.ArgumentParser):
    """Mistakes in one line; argparse would print the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        first = distributed.environment()[0] == 0
        self.exit(2, f"{self.prog}: {message}: see {self.prog} --help\n" if first else None)


def _add_config(parser: argparse.ArgumentParser, defaults: Any, prefix: str = "") -> None:
    """One option a field of a config dataclass, with its help and default."""
    what = "pre-training" if isinstance(defaults, PretrainConfig) else "the Transformer"
    group = parser.add_argument_group(f"parameters of {what} (defaults: the profile's)")
    for f in fields(defaults):
        value, flag = getattr(defaults, f.name), f"--{prefix}{f.name}".replace("_", "-")
        how: dict[str, Any] = {"default": value, "help": f.metadata["help"]}
        if isinstance(value, bool):
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {"type": type(value), "metavar": type(value).__name__.upper()}
        group.add_argument(flag, **how)


def _at_least(low: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {low} or more")
        return int(text)

    return whole


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _config(kind: type, args: argparse.Namespace, prefix: str = "") -> Any:
    try:
        return kind(**{f.name: getattr(args, prefix + f.name) for f in fields(kind)})
    except UserError as error:  # it names the option without its prefix
        flag = f"--{prefix}".replace("_", "-")
        raise UserError(str(error).replace("--", flag)) from error


def _parser() -> argparse.ArgumentParser:
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = _Parser("vidlib", description="Human action recognition in video.")
    parser.add_argument("--profile", help="quick, standard or full (else $VIDLIB_PROFILE)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, data: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=show_defaults)
        if data:
            sub.add_argument(
                "--data", type=Path, default=settings.raw_dir(),
                help="video folder, or a set of vidlib download: weizmann, kth, ucf101, hmdb51",
            )  # fmt: skip
            sub.add_argument(
                "--source", default="auto", choices=["auto", "own", "studio", "all"],
                help="which clips; auto: your own if there are any, else the studio's",
            )  # fmt: skip
        return sub

    pre, train = PretrainConfig.of(settings.profile()), TrainConfig.of(settings.profile())
    sub = command("studio", "draw the default data set")
    sub.add_argument(
        "--seed", type=_at_least(0), default=0, help="random seed of people and scenes"
    )
    sub.add_argument(
        "--workers", type=_at_least(1), default=None, help="processes (none: one a core)"
    )
    sub = command("download", "fetch a real data set from its authors; stopped, it goes on")
    sub.add_argument("name", metavar="NAME", help="weizmann, kth, ucf101 or hmdb51")
    sub.add_argument("--to", type=Path, default=None, metavar="FOLDER",
                     help="where it goes (none: data/sets/NAME)")  # fmt: skip
    sub.add_argument("--mirror", default=None, metavar="URL",
                     help="base address of the archives, or a folder with them (none: "
                     "$VIDLIB_MIRROR, else the authors')")  # fmt: skip
    command("inspect", "count clips, actions and people; open every file; name the bad ones", True)

    sub = command("pretrain", "pre-train the frame encoder by SimSiam, without labels", True)
    sub.add_argument("--out", type=Path, default=settings.encoder_path(), help="weight file")
    sub.add_argument("--device", default=None, help="cuda, mps or cpu (none: the best there is)")
    _add_config(sub, pre)

    sub = command("embed", "save the clips' features, probe them, and draw their t-SNE", True)
    sub.add_argument("--encoder", type=Path, default=None, help="(none: your own, else shipped)")
    sub.add_argument("--out", type=Path, default=settings.data_dir() / "results" / "features.npz",
                     help="NumPy file; the t-SNE goes beside it as .png")  # fmt: skip
    sub.add_argument("--device", default=None, help="cuda, mps or cpu")

    sub = command("train", "extract the features that lack, train the Transformer, test it", True)
    sub.add_argument("--encoder", type=Path, default=settings.encoder_path(), help="weight file")
    sub.add_argument("--out", type=Path, default=settings.classifier_path(), help="weight file")
    sub.add_argument("--device", default=None, help="cuda, mps or cpu")
    sub.add_argument(
        "--finetune", type=_at_least(0), default=0, metavar="STEPS",
        help="train a copy of the encoder, too, for so many steps, instead of freezing it (900 are "
        "about 7 minutes on two cores); the copy is kept in the classifier's file",
    )  # fmt: skip
    sub.add_argument("--finetune-lr", type=_rate, default=3e-4, metavar="FLOAT",
                     help="the encoder's peak learning rate in fine-tuning")  # fmt: skip
    sub.add_argument(
        "--masked", type=_at_least(0), default=0, metavar="STEPS",
        help="first pre-train the Transformer for so many steps on all training clips' features, "
        "with or without an action: frames are hidden, and predicted (on the drawn clips no gain "
        "was measured)",
    )  # fmt: skip
    _add_config(sub, train)

    sub = command("evaluate", "accuracy, per-action table and confusion matrix", True)
    sub.add_argument(
        "--protocol", default="val",
        choices=["val", "leave-one-person-out", "official", "1", "2", "3", "random"],
        help="val: your weights on the val clips; the others: the whole pipeline once a fold, "
        "pre-trained and untrained; official: as a data set's authors split it; 1 to 3: one of the "
        "splits of ucf101 or hmdb51; random: by clips, which leaks",
    )  # fmt: skip
    sub.add_argument("--seeds", type=_at_least(1), default=1,
                     help="all protocols but val: runs, from --seed on")  # fmt: skip
    sub.add_argument("--encoder", type=Path, default=None,
                     help="(none: your own, else shipped); all protocols but val: this one in "
                     "every fold (none: each fold pre-trains its own)")  # fmt: skip
    sub.add_argument("--classifier", type=Path, default=None, help="(none: your own, else shipped)")
    sub.add_argument("--device", default=None, help="cuda, mps or cpu")
    sub.add_argument("--json", action="store_true", help="print JSON")
    _add_config(sub, pre)
    _add_config(sub, train, prefix="train_")  # both have a learning rate

    sub = command("predict", "name the action in video files, or in folders of them")
    sub.add_argument("paths", nargs="+", type=Path, metavar="VIDEO", help="file or folder")
    sub.add_argument("--top", type=_at_least(1), default=3, help="how many actions to print")
    sub.add_argument("--json", action="store_true", help="print JSON, with the timeline")
    sub.add_argument("--encoder", type=Path, default=None, help="(none: your own, else shipped)")
    sub.add_argument("--classifier", type=Path, default=None, help="(none: your own, else shipped)")
    sub.add_argument("--videomae", default=None, metavar="ID_OR_FOLDER",
                     help="answer by this VideoMAE classifier instead: a folder, or an id of the "
                     "Hugging Face Hub: MCG-NJU/videomae-base-finetuned-kinetics")  # fmt: skip
    sub.add_argument("--clips", type=_at_least(1), default=5, help="VideoMAE: clips of a film")
    sub.add_argument("--crops", type=_at_least(1), default=3, help="VideoMAE: crops of a clip")
    sub.add_argument("--device", default=None, help="cuda, mps or cpu")
    command("doctor", "report on the environment, fit for a bug report")
    command("course", "draw, pre-train, look, train and predict: all that the notebooks build on")
    return parser


def _clips(args: argparse.Namespace) -> "list[Clip]":
    """The readable clips; bad ones are named and passed over."""
    from . import catalog, datasets

    name = _set_name(args)
    folder = args.data if args.data.is_dir() else None
    found = distributed.from_first(
        lambda: datasets.find(name, folder) if name else catalog.find_clips(args.data, args.source)
    )
    clips, bad = catalog.check_clips(found)
    for clip, reason in bad:
        print(f"skipped: {reason if str(clip.path) in reason else f'{clip.path}: {reason}'}")
    studio = sum(c.source == "studio" for c in clips)
    whose = f"{studio} of the studio, {len(clips) - studio} of your own"
    print(f"{len(clips)} clips: {datasets.SETS[name].title if name else whose}")
    return clips


def _set_name(args: argparse.Namespace) -> str | None:
    """The data set that --data names, or that lies in that folder."""
    from . import datasets

    if not args.data.exists() and str(args.data) in datasets.SETS:
        return str(args.data)
    return datasets.recognise(args.data)


def _split(clips: "list[Clip]") -> "tuple[list[Clip], list[Clip]]":
    """-> train, val, unlabelled clips among them; says how they were split."""
    from . import catalog

    train, val, note = catalog.split_train_val(clips)
    print(note)
    known = len(catalog.labelled(clips))
    if known < len(clips):
        print(f"{len(clips) - known} clips without an action: they serve pre-training alone")
    return train, val


def _fill_store(encoder: Any, clips: "list[Clip]", sample: dict[str, Any], args: Any) -> bool:
    """In several processes each computes its share of the features that lack; then number 0 goes
    on alone. -> whether this process goes on."""
    from . import features

    if distributed.world() > 1:
        features.fill_store(encoder, clips, sample, settings.device(args.device))
    return distributed.leave()


def run_studio(args: argparse.Namespace) -> None:
    from . import studio

    print(f"drawn: {studio.make_dataset(seed=args.seed, workers=args.workers)}")


def run_download(args: argparse.Namespace) -> None:
    from . import datasets

    datasets.download(args.name, args.to, args.mirror)


def run_inspect(args: argparse.Namespace) -> None:
    from . import catalog

    print(catalog.summary(_clips(args)))


def run_pretrain(args: argparse.Namespace) -> None:
    from .pretraining import pretrain

    config = _config(PretrainConfig, args)
    clips, _ = _split(_clips(args))  # val is for testing: not even its frames are seen
    _, history = pretrain(
        clips, config, args.out, settings.device(args.device),
        monitor_every=max(1, config.steps // 5),
    )  # fmt: skip
    if not history:
        print(f"{config.backbone} as it starts (weights: {config.init}): saved {args.out}")
        return
    last = history[-1]
    print(
        f"{len(clips)} clips, {last['step']} steps, {last['seconds'] / 60:.1f} min: loss "
        f"{last['loss']:.3f}, collapse measure {last['collapse']:.2f} (1 healthy, 0 collapsed)"
    )
    if not math.isnan(last.get("knn", math.nan)):
        print(f"kNN accuracy among training people {last['knn']:.0%}")
    print(f"saved {args.out}")


def run_embed(args: argparse.Namespace) -> None:
    import numpy as np

    from . import checkpoints, features, figures, predict, probes

    encoder, meta = distributed.from_first(
        lambda: checkpoints.load_encoder(args.encoder or predict.find_weights()[0])
    )
    clips = _clips(args)
    if not _fill_store(encoder, clips, meta["sampling"], args):
        return
    arrays = features.extract_features(
        encoder, clips, meta["sampling"], settings.device(args.device)
    )
    pooled = probes.pool(arrays)
    columns = {
        "pooled": pooled, "path": [str(c.path) for c in clips],
        "action": [c.action or "" for c in clips], "person": [c.person or "" for c in clips],
    }  # fmt: skip
    settings.write(args.out, lambda file: np.savez_compressed(file, **columns))
    labels = [c.action or "unlabelled" for c in clips]
    figure, alt = figures.embedding(probes.tsne(pooled), labels, "t-SNE of the clips' features")
    picture = args.out.with_suffix(".png")
    settings.write(picture, lambda file: file.write(figures.to_png(figure)))
    print(f"saved {args.out} {pooled.shape} and {picture}: {alt}")


def run_train(args: argparse.Namespace) -> None:
    from . import checkpoints, endtoend, evaluation, features, training

    config = _config(TrainConfig, args)
    if args.masked and args.finetune:
        raise UserError("--masked is for a frozen encoder: leave out either it or --finetune")
    if args.finetune and distributed.world() > 1:
        raise UserError("--finetune trains in one process: start it without torchrun")
    encoder, meta = distributed.from_first(lambda: checkpoints.load_encoder(args.encoder))
    known, val = _split(_clips(args))
    train, val = evaluation.to_test(known, val)
    seen = known if args.masked else train
    if not _fill_store(encoder, [*seen, *val], meta["sampling"], args):
        return
    dev = settings.device(args.device)
    people = [c.person for c in train]
    belongs = {"encoder_id": meta["id"], "sampling": meta["sampling"]}
    if args.finetune:
        encoder, model, actions, history = endtoend.train_together(
            train, checkpoints.pretrained_by(meta, args.encoder), config, args.finetune, encoder,
            args.finetune_lr, args.out, belongs, dev, people=people,
        )  # fmt: skip
    else:
        start = None
        if args.masked:
            x = features.extract_features(encoder, known, meta["sampling"], dev)
            kept = settings.cache_dir() / "masked_features.pth"
            start, _ = training.pretrain_features(x, config, args.masked, out=kept, device=dev)
        x = features.extract_features(encoder, train, meta["sampling"], dev)
        model, actions, history = training.train_classifier(
            x, [str(c.action) for c in train], config, args.out, belongs, dev, people=people,
            start=start,
        )  # fmt: skip
    y = features.extract_features(encoder, val, meta["sampling"], dev)
    predicted = [actions[i] for i in training.classify(model, y).argmax(1)]
    result = evaluation.outcome(val, predicted, actions)
    print(f"{len(train)} clips, {history[-1]['step']} steps, {history[-1]['seconds']:.0f} s\n"
          f"{result.report()}\nsaved {args.out}")  # fmt: skip


def run_evaluate(args: argparse.Namespace) -> None:
    from . import catalog, checkpoints, evaluation, predict

    if args.protocol != "val":
        configs = [_config(PretrainConfig, args), _config(TrainConfig, args, "train_")]
        encoder = None
        if args.encoder:  # pre-trained elsewhere: its own settings, not the options
            encoder, meta = checkpoints.load_encoder(args.encoder)
            configs[0] = checkpoints.pretrained_by(meta, args.encoder)
        seeds = range(args.seed, args.seed + args.seeds)
        shared = (*configs, seeds, settings.device(args.device))
        if args.protocol == "leave-one-person-out":
            outcomes = evaluation.leave_one_person_out(_clips(args), *shared, encoder=encoder)
        else:
            outcomes = evaluation.over_folds(_folds(args), *shared, encoder=encoder)
        if args.json:
            print(json.dumps({w: [{m: o.to_json() for m, o in seed.items()} for seed in seeds]
                              for w, seeds in outcomes.items()}))  # fmt: skip
            return
        print(evaluation.protocol_report(outcomes))
        return
    predictor = predict.Predictor(args.encoder, args.classifier, settings.device(args.device))
    val = catalog.labelled(_split(_clips(args))[1])
    if not val:
        raise UserError(f"{args.data}: no val clip has an action: put some into val/<action>/")
    predicted = [predictor.predict(c.path).top(1)[0][0] for c in val]
    result = evaluation.outcome(val, predicted, predictor.actions)
    print(json.dumps(result.to_json()) if args.json else
          f"{predictor.weights_note}\n{result.report()}")  # fmt: skip


def _folds(args: argparse.Namespace) -> "list[Fold]":
    """Of the protocols official, 1, 2, 3 and random."""
    from . import datasets

    name = _set_name(args)
    if args.protocol == "random":
        return [datasets.random_fold(_clips(args), args.seed)]
    if not name:
        raise UserError(f"{args.data} is none of the sets {', '.join(datasets.SETS)}, so it has no "
                        "official protocol: try leave-one-person-out")  # fmt: skip
    folder = args.data if args.data.is_dir() else None
    return list(datasets.protocol(name, _clips(args), args.protocol, args.seed, folder))


def run_predict(args: argparse.Namespace) -> int:
    from . import catalog, video
    from .predict import Predictor, VideoMAEPredictor

    files: list[Path] = []
    for path in args.paths:
        inside = list(catalog.videos(path))
        if path.is_dir() and not inside:
            raise UserError(f"{path} holds no video ({', '.join(video.VIDEO_SUFFIXES)})")
        if not path.exists():
            raise UserError(f"{path}: no such file or folder: check the path")
        files += inside if path.is_dir() else [path]
    dev = settings.device(args.device)
    predictor: Predictor | VideoMAEPredictor
    if args.videomae:
        predictor = VideoMAEPredictor(args.videomae, args.clips, args.crops, dev)
    else:
        predictor = Predictor(args.encoder, args.classifier, dev)
    answers, failed = [], 0
    for file in files:
        try:
            answer = predictor.predict(file)
        except UserError as error:
            if len(files) == 1:
                raise
            failed += 1
            print(f"vidlib: {error}", file=sys.stderr)
            continue
        answers.append(answer.to_json())
        if not args.json:
            top = ", ".join(f"{action} {p:.1%}" for action, p in answer.top(args.top))
            print(f"{file}: {'unsure: ' if answer.answer == 'unsure' else ''}{top}")
    if args.json:
        print(json.dumps(answers[0] if len(files) == 1 else answers, indent=1))
    else:
        print(f"({predictor.weights_note})")
    return 2 if failed else 0


def run_doctor(args: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main()


def run_course(args: argparse.Namespace) -> None:
    from . import course

    course.main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        first = _Parser("vidlib", add_help=False, allow_abbrev=False)
        first.add_argument("--profile")
        profile = first.parse_known_args(argv)[0].profile
        if profile:  # before the parser is built: its defaults are the profile's
            os.environ["VIDLIB_PROFILE"] = settings.profile(profile).name
        args = _parser().parse_args(argv)
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        with distributed.processes(getattr(args, "device", None)):
            if distributed.world() > 1 and args.command not in TOGETHER:
                raise UserError(
                    f"{args.command} runs in one process: start it without torchrun (several "
                    f"serve {', '.join(TOGETHER)})"
                )
            return globals()[f"run_{args.command}"](args) or 0
    except UserError as error:
        distributed.tell(f"vidlib: {error}")
        return 130 if type(error).__name__ == "Interrupted" else 2
    except KeyboardInterrupt:
        distributed.tell("vidlib: stopped; the same command goes on from what is saved")
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `vidlib ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder without rights
        reason = error.strerror or str(error)
        distributed.tell(f"vidlib: {error.filename or 'a file'}: {reason}: check it and free space")
        return 2
