"""Mixup, CutMix and averaged weights: as their papers have them, and the same on any number of ranks."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.plan import rank_rows
from res3d_video.train.config import TrainConfig
from res3d_video.train.mixing import Mixing, draw_mixing, mix_clips
from res3d_video.train.step import StepOptions, losses_of
from tests.train.test_step import NUM_CLASSES, batches, new_step

SIDE = 32


def drawn(step: int = 0, *, mixup: float, cutmix: float, size: int = 24, rows: slice | None = None) -> Mixing:
    clip = ClipSpec(4, 1, SIDE)
    config = TrainConfig(clip=clip, seed=7, global_batch_size=size, mixup=mixup, cutmix=cutmix)
    found = draw_mixing(step, config, rows=rows or slice(0, size))
    assert found is not None
    return found


def test_nothing_is_drawn_where_nothing_is_mixed() -> None:
    assert draw_mixing(0, TrainConfig(), rows=slice(0, 4)) is None


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_shares_are_those_of_the_papers(mixup: float, cutmix: float) -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (8a + 4); a box keeps the part of the picture that is its partner's."""
    share, box = drawn(mixup=mixup, cutmix=cutmix, size=40_000)
    assert (share[0::2] == share[1::2]).all()
    assert (box[0::2] == box[1::2]).all()
    is_cut = box[:, 2] > box[:, 0]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    np.testing.assert_allclose(share[is_cut], 1 - area[is_cut] / SIDE**2, rtol=1e-6)
    assert box.min() >= 0
    assert box.max() <= SIDE
    blended = share[~is_cut & (share < 1)]
    assert np.isclose(
        len(blended) / len(share), {(0.8, 0.0): 1, (0.0, 1.0): 0, (0.8, 1.0): 0.5}[mixup, cutmix], atol=0.03
    )
    if mixup:
        assert np.isclose(blended.mean(), 0.5, atol=0.01)
        assert np.isclose(blended.var(), 1 / (8 * mixup + 4), atol=0.005)


def test_every_step_draws_anew_and_ranks_draw_their_part() -> None:
    whole = [drawn(step, mixup=0.8, cutmix=1.0) for step in range(3)]
    assert not any(np.array_equal(a.share, b.share) for a, b in itertools.combinations(whole, 2))
    for world_size in (1, 2, 3, 4):
        parts = [
            drawn(1, mixup=0.8, cutmix=1.0, rows=rank_rows(24, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        for field in range(2):
            assert np.array_equal(np.concatenate([part[field] for part in parts]), whole[1][field])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_clips_are_mixed_pixel_by_pixel(dtype: torch.dtype) -> None:
    clips = next(batches(1, size=6))[0].to(dtype)
    share = torch.tensor([0.25, 0.25, 0.5, 0.5, 1.0, 1.0])
    box = torch.tensor([[0, 0, 0, 0]] * 2 + [[3, 4, 19, 32]] * 2 + [[0, 0, 0, 0]] * 2)
    mixed = mix_clips(clips, share, box)
    assert mixed.stride() == clips.stride()
    assert mixed.dtype == dtype
    for n in range(6):
        own, other = clips[n], clips[n ^ 1]
        expected = own.clone() if box[n].any() else share[n].to(dtype) * own + (1 - share[n]).to(dtype) * other
        top, left, bottom, right = box[n].tolist()
        expected[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        torch.testing.assert_close(mixed[n], expected, rtol=1e-3, atol=0.1 if dtype == torch.float16 else 1e-4)
    assert torch.equal(mixed[4:], clips[4:])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_the_loss_of_a_mixed_step_is_that_of_mixed_labels(loss: str, label_smoothing: float) -> None:
    """Cross-entropy against the mixture of both one-hot labels, as in the papers."""
    step = new_step(StepOptions(), label_smoothing=label_smoothing)
    (batch,) = batches(1)
    clips, labels, weights = batch
    hot = F.one_hot(labels, NUM_CLASSES).float()
    mixing = drawn(mixup=0.8, cutmix=1.0, size=4)
    share = torch.from_numpy(mixing.share)
    step.model.train()
    logits = step.model(mix_clips(clips, share, torch.from_numpy(mixing.box))).detach()
    target = share[:, None] * hot + (1 - share[:, None]) * hot[[1, 0, 3, 2]]
    if loss == "ce":
        expected = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    else:
        expected = losses_of(logits, target, label_smoothing=label_smoothing)
    again = new_step(StepOptions(), label_smoothing=label_smoothing)
    given = (clips, labels if loss == "ce" else hot, weights)
    found = again(*given, num_real_global=3, lr=0.01, mixing=mixing)
    torch.testing.assert_close(found.losses, expected, rtol=1e-4, atol=1e-5)


def test_averaged_weights_follow_with_a_decay_that_rises() -> None:
    """Weights and BN statistics; the average after one step is the weights themselves."""
    step = new_step(StepOptions(), ema=0.3)
    assert step.averaged is not None
    expected: dict[str, torch.Tensor] = {}
    for n, batch in enumerate(batches(6)):
        step(*batch, num_real_global=3, lr=0.01)
        decay = min(0.3, (1 + n) / (10 + n)) if n else 0.0
        for name, value in step.model.state_dict().items():
            if value.is_floating_point():
                expected[name] = value * (1 - decay) + (decay * expected[name] if n else 0)
    found = step.scored.state_dict()
    assert {*found} == {*step.model.state_dict()}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["head.weight"], step.model.state_dict()["head.weight"])
    assert not any(parameter.requires_grad for parameter in step.scored.parameters())
