"""The learning rate at its breakpoints, and which parameter gets which rate and decay."""

import math
from itertools import pairwise

import pytest

from res3d_video.train.config import OptimConfig, ScheduleConfig, TrainConfig, lr_at
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.step import build_optimizer, set_lr


def test_a_step_schedule_changes_at_its_breakpoints_and_nowhere_else() -> None:
    schedule = ScheduleConfig("step", decay_every=20_000, decay_factor=0.1)
    rates = {step: lr_at(step, schedule, lr=0.01, num_steps=90_000) for step in (0, 19_999, 20_000, 39_999, 40_000)}
    assert rates == pytest.approx({0: 0.01, 19_999: 0.01, 20_000: 0.001, 39_999: 0.001, 40_000: 0.0001})


def test_a_step_schedule_does_not_depend_on_the_number_of_steps() -> None:
    schedule = ScheduleConfig("step", decay_every=10)
    short, long = ([lr_at(s, schedule, lr=1.0, num_steps=n) for s in range(50)] for n in (50, 5000))
    assert short == long


def test_warm_up_rises_evenly_and_reaches_the_rate_with_its_last_step() -> None:
    schedule = ScheduleConfig("cosine", warmup_steps=4)
    assert [lr_at(step, schedule, lr=0.8, num_steps=104) for step in range(5)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8]
    )


def test_a_cosine_is_half_way_in_the_middle_and_ends_at_zero() -> None:
    schedule = ScheduleConfig("cosine", warmup_steps=10)
    assert lr_at(60, schedule, lr=1.0, num_steps=110) == pytest.approx(0.5)
    assert lr_at(85, schedule, lr=1.0, num_steps=110) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.75)))
    assert lr_at(110, schedule, lr=1.0, num_steps=110) == pytest.approx(0.0, abs=1e-12)


def test_a_cosine_never_rises_after_warm_up() -> None:
    rates = [lr_at(s, ScheduleConfig("cosine", warmup_steps=3), lr=1.0, num_steps=40) for s in range(3, 45)]
    assert all(later <= earlier for earlier, later in pairwise(rates))


def test_only_weights_decay_and_the_fc_bias_learns_twice_as_fast() -> None:
    model = build_model(ModelConfig("res3d10", width=4), num_classes=3)
    optimizer = build_optimizer(model, OptimConfig(lr=0.01, weight_decay=5e-5), fused=False)
    set_lr(optimizer, 0.5)
    rule = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(rule) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        decay = 5e-5 if parameter.dim() > 1 else 0.0
        assert rule[id(parameter)] == (1.0 if name == "head.bias" else 0.5, decay), name


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan])
def test_a_rate_that_is_not_above_zero_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="optim.lr: .* is not possible; choose 1e-12 to 1000"):
        TrainConfig(optim=OptimConfig(lr=lr))
