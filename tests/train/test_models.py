"""Networks against the paper's layer table: shapes, exact parameter and multiply-add counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from train.models import MODELS, ModelConfig, build_model
from train.models.cost import count_multiply_adds, count_parameters
from train.models.resnet3d import BLOCKS, RES3D_STRIDES, SR18_STRIDES, ResNet3d
from train.precision import channels_last, freeze_batch_norm


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
    ],
)
def test_multiply_adds_are_those_of_the_layer_table(name: str, num_frames: int, expected_g: float) -> None:
    model = on_meta(name, num_classes=101)
    counted = count_multiply_adds(model, clip_shape=(3, num_frames, 112, 112))
    assert round(counted / 1e9, 3) == expected_g


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
    assert [shape[1] for shape in shapes] == [4, 4, 2, 1, 1]
    assert [name for name, a, b in zip("2345", RES3D_STRIDES, SR18_STRIDES, strict=True) if a != b] == ["5"]


@pytest.mark.parametrize("depth", sorted(BLOCKS))
def test_a_depth_counts_the_convolutions_on_the_main_path_and_the_fc(depth: int) -> None:
    assert 2 + 2 * sum(BLOCKS[depth]) == depth


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("crop", [32, 56])
def test_every_model_gives_one_row_of_logits_a_clip(name: str, crop: int) -> None:
    num_frames = 1 if name.startswith("res2d") else 4
    model = on_meta(name, num_classes=7, width=8)
    assert model(torch.zeros(2, 3, num_frames, crop, crop, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(("name", "num_frames"), [("res3d10", 4), ("res2d18", 1)])
def test_one_step_lowers_the_loss(name: str, num_frames: int) -> None:
    torch.manual_seed(0)
    model = channels_last(build_model(ModelConfig(name, width=8), num_classes=3)).train()
    clips, labels = torch.randn(6, 3, num_frames, 32, 32) * 50, torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(clips), labels)
    before.backward()
    optimizer.step()
    assert F.cross_entropy(model(clips), labels) < before


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
