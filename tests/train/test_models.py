"""Networks against the paper's layer table: shapes, exact parameter and multiply-add counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from res3d_video.train.config import TrainConfig, override
from res3d_video.train.models import BLOCKS, MODELS, ModelConfig, build_model
from res3d_video.train.models.resnet import RES3D_STRIDES, SR18_STRIDES, Conv2Plus1d, MixedResNet, ResNet3d
from res3d_video.train.models.table import count_multiply_adds, count_parameters
from res3d_video.train.presets import PRESETS
from res3d_video.train.step import channels_last, freeze_batch_norm


def on_meta(name: str, *, num_classes: int, **options: object) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(ModelConfig(name, **options), num_classes=num_classes)


def stage_shapes(model: nn.Module, clip_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes [C, T, H, W] after the stem and each stage, for one clip."""
    shapes = []
    for module in [model.stem, *model.stages]:
        module.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    model.eval()(torch.zeros(1, *clip_shape, device="meta"))
    return shapes


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("res3d18", 101, 33_222_309),  # printed 33.2M (Table 3)
        ("res3d18", 487, 33_420_327),
        ("res3d34", 101, 63_531_941),  # printed 63.5M
        ("sr18", 101, 33_222_309),
        ("res2d18", 101, 11_232_549),  # printed 11.2M
        ("res2d34", 101, 21_340_709),
        ("sr18-56", 101, 33_208_485),  # 64 · 3 · 3 · (49 - 25) fewer in conv1; printed 33.2M (Table 5)
        ("sr18-224", 101, 33_263_781),  # 64 · 3 · 3 · (121 - 49) more; printed 33.3M
        ("c3d", 101, 78_409_573),
        ("c3d", 487, 79_991_015),
        ("r3d_18", 400, 33_371_472),  # torchvision 0.28 counts the last three
        ("mc3_18", 400, 11_695_440),
        ("r2plus1d_18", 400, 31_505_325),
    ],
)
def test_parameters_are_exactly_those_of_the_layer_table(name: str, num_classes: int, expected: int) -> None:
    assert count_parameters(on_meta(name, num_classes=num_classes)) == expected


def test_an_identity_shortcut_in_the_first_stage_has_4224_parameters_fewer() -> None:
    with torch.device("meta"):
        model = ResNet3d(num_classes=101, first_projection=False)
    assert count_parameters(model) == 33_218_085 == 33_222_309 - (64 * 64 + 128)


@pytest.mark.parametrize(
    ("name", "num_frames", "expected_g"),
    [
        ("res3d18", 8, 20.451),
        ("res3d34", 8, 37.792),
        ("sr18", 4, 10.836),
        ("res2d18", 1, 1.738),
        ("res2d34", 1, 3.588),
        ("sr10-33m", 4, 11.867),
        ("sr34-33m", 4, 10.328),
        ("r3d_18", 8, 20.348),
    ],
)
def test_multiply_adds_are_those_of_the_layer_table(name: str, num_frames: int, expected_g: float) -> None:
    model = on_meta(name, num_classes=101)
    counted = count_multiply_adds(model, clip_shape=(3, num_frames, 112, 112))
    assert round(counted / 1e9, 3) == expected_g


def test_multiply_adds_of_c3d_with_487_classes_are_those_that_the_paper_prints() -> None:
    counted = count_multiply_adds(on_meta("c3d", num_classes=487), clip_shape=(3, 16, 112, 112))
    assert round(counted / 1e9, 3) == 38.549


@pytest.mark.parametrize("name", [*(n for n in MODELS if n.endswith("-33m")), "mc2", "mc3", "mc4", "mc5", "rmc5"])
def test_a_fitted_width_is_within_two_percent_of_res3d18_and_the_best_there_is(name: str) -> None:
    def distance(width: int | None) -> int:
        return abs(count_parameters(on_meta(name, num_classes=101, width=width)) - 33_222_309)

    fitted = MODELS[name].width
    assert distance(None) < 0.02 * 33_222_309
    assert distance(None) == min(distance(fitted - 1), distance(fitted), distance(fitted + 1))


def test_factorised_convolutions_have_the_parameters_of_the_3d_ones_they_replace() -> None:
    pairs = [
        (sum(w.numel() for name, w in factorised.named_parameters() if "bn" not in name), full.weight.numel())
        for factorised, full in zip(
            (m for m in on_meta("r2plus1d18", num_classes=9).stages.modules() if isinstance(m, Conv2Plus1d)),
            (m for m in on_meta("res3d18", num_classes=9).stages.modules() if getattr(m, "kernel_size", 0) == (3,) * 3),
            strict=True,
        )
    ]
    assert len(pairs) == 16
    assert all(0.995 * full < factorised <= full for factorised, full in pairs)


def test_multiply_adds_of_one_convolution_are_what_arithmetic_says() -> None:
    conv = nn.Conv3d(3, 5, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False, device="meta")
    assert count_multiply_adds(conv, clip_shape=(3, 4, 16, 16)) == 5 * 4 * 8 * 8 * 3 * 3 * 7 * 7


def test_stages_of_res3d_have_the_shapes_of_table_2() -> None:
    assert stage_shapes(on_meta("res3d18", num_classes=101), (3, 8, 112, 112)) == [
        (64, 8, 56, 56),
        (64, 8, 56, 56),
        (128, 4, 28, 28),
        (256, 2, 14, 14),
        (512, 1, 7, 7),
    ]


def test_the_last_stage_of_sr18_keeps_time() -> None:
    shapes = stage_shapes(on_meta("sr18", num_classes=101), (3, 4, 112, 112))
    assert stage_shapes(on_meta("sr34-33m", num_classes=101, width=64), (3, 4, 112, 112)) == shapes
    assert [shape[1] for shape in shapes] == [4, 4, 2, 1, 1]
    assert [name for name, a, b in zip("2345", RES3D_STRIDES, SR18_STRIDES, strict=True) if a != b] == ["5"]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("mc2", [8, 8, 8, 8, 8]),  # the authors' later code averages over 8, 8, 4, 2 frames in MC2 … MC5 …
        ("mc3", [8, 8, 8, 8, 8]),
        ("mc4", [8, 8, 4, 4, 4]),
        ("mc5", [8, 8, 4, 2, 2]),
        ("rmc2", [8, 8, 4, 2, 1]),  # … and over 1, 1, 2, 4 in rMC2 … rMC5
        ("rmc3", [8, 8, 4, 2, 1]),
        ("rmc4", [8, 8, 8, 4, 2]),
        ("rmc5", [8, 8, 8, 8, 4]),
        ("r2plus1d18", [8, 8, 4, 2, 1]),
    ],
)
def test_2d_groups_keep_all_frames(name: str, frames: list[int]) -> None:
    shapes = stage_shapes(on_meta(name, num_classes=5, width=4), (3, 8, 112, 112))
    assert [shape[1] for shape in shapes] == frames
    assert [shape[2] for shape in shapes] == [56, 56, 28, 14, 7]


@pytest.mark.parametrize("name", ["mc2", "mc3", "mc4", "mc5", "rmc2", "rmc3", "rmc4", "rmc5"])
def test_groups_that_are_2d_have_kernels_of_one_frame(name: str) -> None:
    n = int(name[-1])
    for group, module in enumerate(
        [on_meta(name, num_classes=5, width=4).stem, *on_meta(name, num_classes=5).stages], 1
    ):
        depths = {conv.kernel_size[0] for conv in module.modules() if isinstance(conv, nn.Conv3d)} - {1}
        assert depths == ({3} if (group < n) != name.startswith("r") else set()), group


@pytest.mark.parametrize("options", [{}, {"first_2d": 6}, {"first_2d": 2, "first_3d": 3}])
def test_a_mixed_network_needs_one_group_to_change_at(options: dict) -> None:
    with pytest.raises(ValueError, match="give one of them, 2, 3, 4 or 5"):
        MixedResNet(num_classes=3, **options)


@pytest.mark.parametrize(
    ("name", "crop_size", "after_stem"),
    [
        ("sr18-56", 56, 56),
        ("sr18", 112, 56),
        ("sr18-224", 224, 56),
        ("sr18-56-table5", 56, 28),
        ("sr18-224-table5", 224, 112),
    ],
)
def test_the_text_gives_every_resolution_the_same_maps_and_table_5_does_not(
    name: str, crop_size: int, after_stem: int
) -> None:
    shapes = stage_shapes(on_meta(name, num_classes=5, width=4), (3, 4, crop_size, crop_size))
    assert shapes[0] == (4, 4, after_stem, after_stem)
    counted = count_multiply_adds(on_meta(name, num_classes=101), clip_shape=(3, 4, crop_size, crop_size))
    expected_g = {56: 10.7, 112: 10.8, 224: 11.4} if "table5" not in name else {56: 2.8, 224: 45.4}
    assert round(counted / 1e9, 1) == expected_g[crop_size]


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_a_depth_counts_the_convolutions_on_the_main_path_and_the_fc(depth: int) -> None:
    assert 2 + 2 * sum(BLOCKS[depth]) == depth


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("crop", [32, 56])
def test_every_model_gives_one_row_of_logits_a_clip(name: str, crop: int) -> None:
    num_frames = MODELS[name].num_frames if "num_frames" in MODELS[name].fixed else 4
    crop = MODELS[name].crop_size if "crop_size" in MODELS[name].fixed else crop
    model = on_meta(name, num_classes=7, width=8)
    assert model(torch.zeros(2, 3, num_frames, crop, crop, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["res3d10", "res2d18", "sr18-56", "sr10-33m", "mc3", "rmc4", "r2plus1d18", "c3d"])
def test_one_step_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    num_frames, crop = {"c3d": (16, 112), "res2d18": (1, 32)}.get(name, (4, 32))
    width = 4 if name == "c3d" else 8  # torch 2.13: 1x1 2D convolutions, channels-last, below 8 channels corrupt memory
    model = channels_last(build_model(ModelConfig(name, width=width), num_classes=3)).train()
    clips, labels = torch.randn(6, 3, num_frames, crop, crop) * 50, torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def loss() -> torch.Tensor:
        torch.manual_seed(1)  # C3D drops the same units both times
        return F.cross_entropy(model(clips), labels)

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_trainer_builds_every_model_and_refuses_clips_that_it_cannot_take(name: str) -> None:
    model = MODELS[name]
    config = override(TrainConfig(), model=name, num_frames=model.num_frames, crop_size=model.crop_size)
    assert config.model.width == model.width
    with torch.device("meta"):
        assert build_model(config.model, num_classes=3).head.out_features == 3
    if "num_frames" in model.fixed:
        with pytest.raises(ValueError, match=rf"num_frames: 7, but {name} takes .*; use {model.num_frames}$"):
            override(config, num_frames=7)
    else:
        assert override(config, num_frames=7).clip.num_frames == 7


def test_c3d_names_the_frames_and_the_crop_that_its_fc_fixes() -> None:
    with pytest.raises(ValueError, match="num_frames: 8, but c3d takes 16 frames; use 16"):
        override(TrainConfig(), model="c3d")
    with pytest.raises(ValueError, match="crop_size: 56, but c3d takes 112 pixels; use 112"):
        override(TrainConfig(), model="c3d", num_frames=16, crop_size=56)
    with pytest.raises(ValueError, match="8 frames of 56x56, but C3D takes 16 of 112x112"):
        on_meta("c3d", num_classes=3, width=4)(torch.zeros(1, 3, 8, 56, 56, device="meta"))


def test_a_default_width_gives_way_to_another_models_and_a_chosen_one_stays() -> None:
    assert ModelConfig("mc2").width == 110
    assert override(TrainConfig(), model="mc2", num_frames=8).model.width == 110
    assert override(TrainConfig(), model="mc2", width=64).model.width == 64
    assert override(PRESETS["tiny"], model="mc2").model.width == PRESETS["tiny"].model.width == 16
    with pytest.raises(ValueError, match="width: 0 is not possible"):
        ModelConfig("mc2", width=0)


def test_zero_gamma_makes_every_second_block_pass_its_input_through() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig("res3d18", width=8, zero_init_gamma=True), num_classes=3)
    x = torch.rand(1, 8, 2, 4, 4)  # not negative, as after a ReLU
    assert torch.equal(model.stages[0][1](x), x)


def test_a_2d_network_refuses_more_than_one_frame() -> None:
    with pytest.raises(ValueError, match="2 frames, but a 2D network takes 1"):
        on_meta("res2d18", num_classes=3)(torch.zeros(1, 3, 2, 32, 32, device="meta"))


def test_names_of_weights_are_stable() -> None:
    names = set(on_meta("res3d18", num_classes=3).state_dict())
    assert {
        "stem.conv.weight",
        "stem.bn.running_mean",
        "stages.0.0.conv1.weight",
        "stages.0.0.shortcut.conv.weight",
        "stages.3.1.bn2.weight",
        "head.weight",
        "head.bias",
    } <= names
    assert "stages.0.1.shortcut.conv.weight" not in names


def test_the_optimizers_state_in_old_checkpoints_meets_its_own_weights() -> None:
    names = [name for name, _ in on_meta("res3d10", num_classes=3).named_parameters()]
    block = ["conv1", "bn1", "bn1", "conv2", "bn2", "bn2", "shortcut.conv", "shortcut.bn", "shortcut.bn"]
    expected = ["stem.conv", "stem.bn", "stem.bn", *(f"stages.{i}.0.{part}" for i in range(4) for part in block)]
    assert [name.rpartition(".")[0] for name in names] == [*expected, "head", "head"]


def test_an_unknown_model_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"model: vgg does not exist; choose one of res3d10, .*res2d34"):
        ModelConfig("vgg")


def test_channels_last_changes_memory_and_no_value() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig("res3d10", width=8), num_classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    channels_last(model)
    assert model.stem.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig("res3d10", width=8), num_classes=3).train()
    freeze_batch_norm(model)
    before = model.stem.bn.running_mean.clone()
    model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert torch.equal(model.stem.bn.running_mean, before)
    assert model.stem.bn.weight.grad is not None
