"""The recipes: their learning rates at every breakpoint, what scaling keeps, and that each of them trains."""

import dataclasses
from pathlib import Path

import click
import pytest

from res3d_video.pipeline.index import ShardIndex
from res3d_video.train.config import TrainConfig, lr_at, scaled_lr, scaled_to_steps
from res3d_video.train.presets import NEEDS_WEIGHTS, PRESETS
from res3d_video.train.resolve import configure
from tests.train.conftest import Trainer, read_metrics

# preset -> step -> learning rate there, as the paper and the authors' files have it
CURVES = {
    "ucf101-search": {0: 1e-2, 19_999: 1e-2, 20_000: 1e-3, 40_000: 1e-4, 60_000: 1e-5, 80_000: 1e-6, 89_999: 1e-6},
    "sports1m": {0: 1e-2, 249_999: 1e-2, 250_000: 5e-3, 500_000: 2.5e-3, 2_999_999: 1e-2 / 2**11},
    "finetune-ucf101": {0: 1e-3, 4_999: 1e-3, 5_000: 1e-4, 10_000: 1e-5, 15_000: 1e-6, 19_999: 1e-6},
}
CURVES |= {"ucf101-search-2d": CURVES["ucf101-search"], "sports1m-2d": CURVES["sports1m"]}
CURVES |= {"sports1m-c3d": {0: 3e-3, 149_999: 3e-3, 150_000: 1.5e-3, 300_000: 7.5e-4, 1_899_999: 3e-3 / 2**12}}
CURVES |= {"finetune-hmdb51": CURVES["finetune-ucf101"]}


def rate(config: TrainConfig, step: int) -> float:
    return lr_at(step, config.schedule, lr=config.optim.lr, num_steps=config.steps)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_learning_rate_has_the_paper_s_breakpoints(name: str) -> None:
    config = PRESETS[name]
    assert max(CURVES[name]) == config.steps - 1
    for step, expected in CURVES[name].items():
        assert rate(config, step) == pytest.approx(expected), step


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("part", [0.1, 0.01, 2])
def test_a_scaled_schedule_has_the_same_rate_at_the_same_part_of_the_run(name: str, part: float) -> None:
    config = PRESETS[name]
    scaled = scaled_to_steps(config, round(config.steps * part))
    assert scaled.steps == round(config.steps * part)
    for tenth in range(10):
        step = config.steps * (2 * tenth + 1) // 20  # between breakpoints, which rounding may move by a step
        near = {"rel": 1e-9} if config.schedule.kind == "step" else {"abs": 0.1 * config.optim.lr}
        assert rate(scaled, round(step * part)) == pytest.approx(rate(config, step), **near), step
    assert scaled_to_steps(scaled, config.steps).steps == config.steps


def test_the_rate_grows_with_the_global_batch_only_when_asked(squares: ShardIndex) -> None:
    plain = configure("ucf101-search", squares, world_size=1, split=None, global_batch_size=80)
    assert plain.optim.lr == 0.01
    asked = configure("ucf101-search", squares, world_size=1, split=None, global_batch_size=80, scale_lr=True)
    assert asked.optim.lr == pytest.approx(0.04)
    assert scaled_lr(PRESETS["sports1m"], PRESETS["sports1m"]).optim.lr == 0.01


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"steps": 5, "scale_to_steps": 5}, "--scale-to-steps"), ({"lr": 0.1, "scale_lr": True}, "--scale-lr")],
)
def test_what_is_decided_twice_is_refused(squares: ShardIndex, options: dict, flag: str) -> None:
    with pytest.raises(click.UsageError, match=f"{flag} both decide the same; leave one of them out"):
        configure("ucf101-search", squares, world_size=1, split=None, **options)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_protocol_runs_twenty_steps_with_its_own_schedule(
    run_main: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On squares of 32 pixels, with narrow nets and small batches; clips, schedule and optimiser are the preset's."""
    config = PRESETS[name]
    small = "res2d18" if config.clip.num_frames == 1 else "res3d10"
    for preset in (name, "tiny"):
        narrow = dataclasses.replace(PRESETS[preset].model, width=8)  # torch 2.13 corrupts memory with fewer, in 2D
        monkeypatch.setitem(PRESETS, preset, dataclasses.replace(PRESETS[preset], model=narrow))
    weights = []
    if name in NEEDS_WEIGHTS:
        run_main(tmp_path / "first", "--steps", "1")
        weights = ["--init-from", str(tmp_path / "first" / "latest.pt")]
    frames = ["--num-frames", str(config.clip.num_frames), "--frame-stride", str(config.clip.frame_stride)]
    options = ["--preset", name, "--model", small, *frames, "--scale-to-steps", "20", "--batch-size", "2"]
    result = run_main(tmp_path / "run", *options, "--log-every", "1", *weights)
    assert result.exit_code == 0, result.output
    lines = read_metrics(tmp_path / "run", "train")
    scaled = scaled_to_steps(config, 20)
    assert [line["lr"] for line in lines] == pytest.approx([rate(scaled, step) for step in range(20)])
