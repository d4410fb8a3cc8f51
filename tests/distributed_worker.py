"""What test_distributed.py starts in several processes: distributed_worker.py JOB FOLDER."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from vidlib import catalog, checkpoints, cli, distributed, features, pretraining, settings
from vidlib.loop import Interrupted
from vidlib.settings import PretrainConfig

# Small pictures: what is tested here does not depend on their size. A low rate: the first steps of
# SimSiam magnify any difference, and at the course's rate rounding shows after three of them.
TINY = PretrainConfig.of(settings.profile("quick"), size=32, steps=6, batch_clips=16, lr=0.002)
CPU = torch.device("cpu")


def curves(folder: Path) -> None:
    """A run from its start, one that goes on to its fourth step, and features."""
    with distributed.processes("cpu"):
        clips = [c for c in catalog.find_clips(source="studio") if c.split == "train"]
        run = partial(pretraining.pretrain, clips, TINY, device=CPU, progress=False)
        encoder, whole = run()
        done: list[float] = []
        try:
            run(out=folder / "resumed.pth", on_step=lambda r: done.append(r["step"]), stop_at=4)
        except Interrupted as stop:
            said = str(stop)
        asked = clips[:9]
        mine = len(distributed.share(asked))
        fixed, _ = checkpoints.load_encoder(folder / "fixed.pth")
        features.fill_store(fixed, asked, TINY.sampling, CPU, progress=False)
        # batch norm's running statistics are each process's own
        weights = {k: v.double().sum().item() for k, v in encoder.named_parameters()}
        print("number 0 alone is heard")
        told = {"whole": whole, "done": done, "said": said, "share": mine, "weights": weights}
        (folder / f"{distributed.rank()}.json").write_text(json.dumps(told))


def one_gpu(folder: Path) -> None:
    """The same run of two processes on one GPU."""
    torch.backends.cudnn.allow_tf32 = False
    clips = [c for c in catalog.find_clips(source="studio") if c.split == "train"]
    with distributed.processes("cpu"):
        _, history = pretraining.pretrain(clips, TINY, device=torch.device("cuda"), progress=False)
        told = json.dumps([r["loss"] for r in history])
        (folder / f"{distributed.rank()}.json").write_text(told)


def killed(folder: Path) -> int:
    """`vidlib pretrain`, saved after every step, in which process 1 dies in the fourth."""

    def die(record: pretraining.Record) -> None:
        if distributed.rank() == 1 and record["step"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    pretraining.pretrain = partial(pretraining.pretrain, on_step=die, save_every=0.0)
    return cli.main(json.loads((folder / "command.json").read_text()))


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](Path(sys.argv[2])))
