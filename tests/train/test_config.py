"""TrainConfig: what the command line may change, what survives a checkpoint, what presets say."""

import json

import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.train.config import TrainConfig, differences, from_dict, override, to_dict
from res3d_video.train.presets import NEEDS_WEIGHTS, PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_survives_json(name: str) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(PRESETS[name])))) == PRESETS[name]


def test_a_mean_and_std_of_each_colour_survive_json_as_tuples() -> None:
    config = TrainConfig(mean=(110.5, 100.0, 96.0), std=(58.0, 56.0, 55.0))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict(to_dict(config)).mean == (110.5, 100.0, 96.0)
    assert differences(config, TrainConfig(mean=(110.5, 100.0, 96.0))) == {"std": ([58.0, 56.0, 55.0], 1.0)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": (1.0, 2.0)}, "mean and std: 2 values for 3 channels; give one or three"),
        ({"std": 0.0}, "std: 0.0 is not possible; choose numbers above 0"),
        ({"std": (1.0, -1.0, 1.0)}, r"std: \(1.0, -1.0, 1.0\) is not possible; choose numbers above 0"),
    ],
)
def test_an_impossible_mean_or_std_names_the_rule(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_options_reach_the_parts_they_belong_to() -> None:
    config = override(PRESETS["tiny"], model="res3d34", num_frames=4, lr=0.5, steps=7, flip=False, seed=None)
    assert (config.model.name, config.model.width) == ("res3d34", PRESETS["tiny"].model.width)
    assert config.clip == ClipSpec(4, 2, 56, 64)
    assert (config.optim.lr, config.steps, config.flip, config.seed) == (0.5, 7, False, 0)


def test_differences_name_nested_fields() -> None:
    base = TrainConfig()
    assert differences(override(base, lr=0.5, seed=3), base) == {"optim.lr": (0.5, 0.01), "seed": (3, 0)}


def test_a_field_of_another_version_is_named() -> None:
    with pytest.raises(ValueError, match=r"config: 'dropout' is unknown; .*another version"):
        from_dict(to_dict(TrainConfig()) | {"dropout": 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: 0 is not possible; choose 1 to 1000000000"),
        ({"global_batch_size": -4}, "global_batch_size: -4 is not possible; choose 1 to 1000000"),
        ({"model": "res2d18"}, "num_frames: 8, but res2d18 takes 1 alone; use that"),
        ({"frame_stride": 0}, "frame_stride: 0 is not possible; choose 1 to 32"),
    ],
)
def test_an_impossible_value_names_the_rule(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(TrainConfig(), **options)


def test_presets_that_reproduce_the_paper_share_its_input_and_optimiser() -> None:
    for name in ("ucf101-search", "sports1m", "finetune-ucf101", "finetune-hmdb51"):
        config = PRESETS[name]
        assert config.clip == ClipSpec(8, 2, 112)
        assert (config.mean, config.std, config.flip, config.label_smoothing) == (128.0, 1.0, True, 0.0)
        assert (config.optim.momentum, config.optim.weight_decay) == (0.9, 5e-5)
    assert set(PRESETS) >= NEEDS_WEIGHTS
