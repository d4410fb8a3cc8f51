"""Encoder and Transformer trained together: it learns, it repeats, it starts where it is told."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from vidlib import encoders, settings
from vidlib.catalog import Clip
from vidlib.endtoend import train_together
from vidlib.features import extract_features
from vidlib.loop import Interrupted
from vidlib.settings import PretrainConfig, TrainConfig, UserError, profile
from vidlib.training import classify

PRE = PretrainConfig.of(profile("quick"), size=32)
TRAIN = TrainConfig.of(profile("quick"), dropout=0.0)
CPU = torch.device("cpu")


def weights(*models: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def test_it_learns_its_own_clips_and_repeats(quick_clips: Sequence[Clip]) -> None:
    pair = ("jumping_jacks", "clapping")
    two = [c for a in pair for c in [c for c in quick_clips if c.action == a][:4]]
    runs = [train_together(two, PRE, TRAIN, 40, device=CPU, progress=False) for _ in range(2)]
    assert torch.equal(weights(*runs[0][:2]), weights(*runs[1][:2]))
    encoder, model, actions, history = runs[0]
    assert actions == ["clapping", "jumping_jacks"] and not encoder.training
    assert [r["step"] for r in history] == [*range(1, 41)]
    features = extract_features(encoder, two, PRE.sampling, CPU, progress=False, keep=False)
    named = [actions[i] for i in classify(model, features).argmax(1)]
    # 40 steps on 8 clips; half right would be luck
    assert sum(n == c.action for n, c in zip(named, two, strict=True)) >= 7


@pytest.mark.parametrize("rate", [1e-6, 1e-3])
def test_fine_tuning_starts_from_the_given_encoder_at_its_own_rate(
    quick_clips: Sequence[Clip], rate: float
) -> None:
    settings.seed_everything(1)
    given = encoders.build()
    before = weights(given)
    after, *_ = train_together(
        quick_clips, PRE, TRAIN, 3, given, encoder_lr=rate, device=CPU, progress=False
    )
    moved = (weights(after) - before).abs().max().item()
    # AdamW moves a weight by about its rate a step; three steps, of which the first is a warm-up
    assert 0 < moved < 5 * rate


def test_a_stopped_run_goes_on_to_the_same_and_its_file_holds_both(
    quick_clips: Sequence[Clip], tmp_path: Path
) -> None:
    given, out = encoders.build(), tmp_path / "tuned.pth"
    before = weights(given)
    meta = {"encoder_id": encoders.identity(given), "sampling": PRE.sampling}
    people = [c.person for c in quick_clips]

    def fit(where: Path | None, **how: int) -> tuple[torch.nn.Module, ...]:
        return train_together(
            quick_clips, PRE, TRAIN, 4, given, 1e-3, where, meta, CPU, progress=False,
            people=people, **how,
        )[:2]  # fmt: skip

    whole = fit(None)
    with pytest.raises(Interrupted, match=r"after step 2 of 4: saved to .*tuned\.pth\.part"):
        fit(out, stop_at=2)
    gone_on, again = fit(out), fit(out)
    for encoder, model in (gone_on, again):
        assert torch.equal(weights(encoder, model), weights(*whole))
        assert model.temperature == whole[1].temperature != 1
        assert not encoder.training and not model.training
    assert torch.equal(weights(given), before)  # it goes on serving the other classifiers
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.pth"]


def test_one_action_is_no_choice(quick_clips: Sequence[Clip]) -> None:
    one = [c for c in quick_clips if c.action == "waving"]
    with pytest.raises(UserError, match="two actions or more"):
        train_together(one, PRE, TRAIN, 1, device=CPU, progress=False)
