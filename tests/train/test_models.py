"""Networks against the paper's layer table: shapes, exact parameter and multiply-add counts; their named layers."""

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from res3d_video.train.config import TrainConfig, override
from res3d_video.train.models import MODELS, ModelConfig, build_model, count_costs, take_layers
from res3d_video.train.models.__main__ import main
from res3d_video.train.models.resnet import Conv2Plus1d
from res3d_video.train.presets import PRESETS
from res3d_video.train.step import channels_last, freeze_batch_norm

RESIDUAL = "conv1 res2a res2b res2 res3a res3b res3 res4a res4b res4 res5a res5b res5 pool5 fc8"


def on_meta(name: str, *, num_classes: int = 3, **options: object) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(ModelConfig(name, **options), num_classes=num_classes).eval()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def narrow(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name, width=4, **options), num_classes=3).eval()


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "giga"),
    [
        ("res3d18", 101, 33_222_309, 20.451),  # printed 33.2M, 19.3 G (Table 3)
        ("res3d18", 487, 33_420_327, 20.451),
        ("res3d34", 101, 63_531_941, 37.792),  # printed 63.5M, 36.7 G
        ("sr18", 101, 33_222_309, 10.836),  # printed 33.2M, 10.3 G
        ("res2d18", 101, 11_232_549, 1.738),  # printed 11.2M, 1.6 G
        ("res2d34", 101, 21_340_709, 3.588),  # printed 21.5M, 3.5 G
        ("sr18-56", 101, 33_208_485, 10.662),  # 64 · 3 · 3 · (49 - 25) fewer in conv1; printed 33.2M, 2.6 G (Table 5)
        ("sr18-224", 101, 33_263_781, 11.356),  # 64 · 3 · 3 · (121 - 49) more; printed 33.3M, 42.9 G
        ("sr18-56-table5", 101, 33_208_485, 2.759),
        ("sr18-224-table5", 101, 33_263_781, 45.423),
        ("sr10-33m", 101, 33_052_269, 11.867),
        ("sr34-33m", 101, 32_840_375, 10.328),
        ("c3d", 101, 78_409_573, 38.547),
        ("c3d", 487, 79_991_015, 38.549),  # printed 72.9M, 38.5 G
        ("r3d_18", 101, 33_222_309 - (64 * 64 + 128), 40.696),  # the projection of the first stage fewer
        ("r3d_18", 400, 33_371_472, 40.697),  # torchvision 0.28 counts these three
        ("mc3_18", 400, 11_695_440, 43.343),
        ("r2plus1d_18", 400, 31_505_325, 40.519),
    ],
)
def test_costs_are_those_of_the_layer_table(name: str, num_classes: int, parameters: int, giga: float) -> None:
    shape = (3, MODELS[name].num_frames, MODELS[name].crop_size, MODELS[name].crop_size)
    found = count_costs(ModelConfig(name), num_classes=num_classes, clip_shape=shape)
    assert (found[0], round(found[1] / 1e9, 3)) == (parameters, giga)


def test_the_command_shows_them_beside_what_the_paper_prints() -> None:
    options = ["--model", "res3d18", "--model", "c3d", "--model", "mc3", "--classes", "487"]
    lines = CliRunner().invoke(main, options).stdout.splitlines()
    assert lines[0].split() == ["model", "width", "clip", "parameters", "printed", "multiply-adds", "printed"]
    assert lines[1].split() == ["res3d18", "64", "8x112x112", "33,420,327", "33.2", "M", "20.451", "G", "19.3", "G"]
    assert lines[2].split() == ["c3d", "64", "16x112x112", "79,991,015", "72.9", "M", "38.549", "G", "38.5", "G"]
    lines = CliRunner().invoke(main, ["--model", "c3d", "--width", "32"]).stdout.splitlines()
    assert "38.5" not in lines[1], "the paper's is of another width"


@pytest.mark.parametrize("name", [*(n for n in MODELS if n.endswith("-33m")), "mc2", "mc3", "mc4", "mc5", "rmc5"])
def test_a_fitted_width_is_within_two_percent_of_res3d18_and_the_best_there_is(name: str) -> None:
    def distance(width: int | None) -> int:
        return abs(count_parameters(on_meta(name, num_classes=101, width=width)) - 33_222_309)

    fitted = MODELS[name].width
    assert distance(None) < 0.02 * 33_222_309
    assert distance(None) == min(distance(fitted - 1), distance(fitted), distance(fitted + 1))


def test_factorised_convolutions_have_the_parameters_of_the_3d_ones_they_replace() -> None:
    factorised = [m for m in on_meta("r2plus1d18").stages.modules() if isinstance(m, Conv2Plus1d)]
    full = [m for m in on_meta("res3d18").stages.modules() if getattr(m, "kernel_size", 0) == (3, 3, 3)]
    assert len(factorised) == len(full) == 16
    for ours, theirs in zip(factorised, full, strict=True):
        convolutions = count_parameters(ours) - count_parameters(ours.bn)
        assert 0.995 * theirs.weight.numel() < convolutions <= theirs.weight.numel()


MAPS = {
    "res3d18 rmc2 rmc3 r2plus1d18": [8, 8, 4, 2, 1],  # frames; Table 2
    "sr18 sr34-33m sr18-56 sr18-224 sr18-56-table5 sr18-224-table5": [4, 4, 2, 1, 1],
    "mc2 mc3": [8, 8, 8, 8, 8],  # the authors' later code averages over 8, 8, 4, 2 frames in MC2 … MC5 …
    "mc4": [8, 8, 4, 4, 4],
    "mc5": [8, 8, 4, 2, 2],
    "rmc4": [8, 8, 8, 4, 2],  # … and over 1, 1, 2, 4 in rMC2 … rMC5
    "rmc5": [8, 8, 8, 8, 4],
}
SIDES = {"sr18-56-table5": [28, 28, 14, 7, 4], "sr18-224-table5": [112, 112, 56, 28, 14]}  # by the text all are alike


@pytest.mark.parametrize(("name", "frames"), [(name, f) for names, f in MAPS.items() for name in names.split()])
def test_the_stem_and_the_stages_have_the_maps_of_the_paper(name: str, frames: list[int]) -> None:
    model, side, width = on_meta(name), MODELS[name].crop_size, MODELS[name].width
    clips = torch.zeros(1, 3, MODELS[name].num_frames, side, side, device="meta")
    maps = take_layers(model, clips, ["conv1", "res2", "res3", "res4", "res5"])
    sides = SIDES.get(name, [56, 56, 28, 14, 7])
    expected = [(1, k * width, t, s, s) for k, t, s in zip((1, 1, 2, 4, 8), frames, sides, strict=True)]
    assert [tuple(value.shape) for value in maps.values()] == expected


@pytest.mark.parametrize("name", ["mc2", "mc3", "mc4", "mc5", "rmc2", "rmc3", "rmc4", "rmc5"])
def test_groups_that_are_2d_have_kernels_of_one_frame(name: str) -> None:
    model, n = on_meta(name), int(name[-1])
    for group, module in enumerate([model.stem, *model.stages], start=1):
        depths = {conv.kernel_size[0] for conv in module.modules() if isinstance(conv, nn.Conv3d)} - {1}
        assert depths == ({3} if (group < n) != name.startswith("r") else set()), group


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_gives_logits_and_refuses_clips_that_it_cannot_take(name: str) -> None:
    model = MODELS[name]
    config = override(TrainConfig(), model=name, num_frames=model.num_frames, crop_size=model.crop_size)
    assert config.model.width == model.width
    network = on_meta(name, num_classes=7, width=8)
    num_frames, crop_size = config.clip.num_frames, config.clip.crop_size if "crop_size" in model.fixed else 40
    assert network(torch.zeros(2, 3, num_frames, crop_size, crop_size, device="meta")).shape == (2, 7)
    assert {"pool5", "fc8"} <= set(network.layers())
    if "num_frames" in model.fixed:
        with pytest.raises(ValueError, match=f"num_frames: 7, but {name} takes {model.num_frames} alone; use that"):
            override(config, num_frames=7)
    else:
        assert override(config, num_frames=7).clip.num_frames == 7


def test_what_a_model_cannot_take_is_said_and_a_default_width_gives_way_to_another_models() -> None:
    with pytest.raises(ValueError, match="crop_size: 56, but c3d takes 112 alone; use that"):
        override(TrainConfig(), model="c3d", num_frames=16, crop_size=56)
    with pytest.raises(ValueError, match=r"model: vgg does not exist; choose one of res3d10, .*res2d34"):
        ModelConfig("vgg")
    with pytest.raises(ValueError, match="width must be 1 to 1,024, got 0"):
        ModelConfig("mc2", width=0)
    assert override(TrainConfig(), model="mc2", num_frames=8).model.width == 110
    assert override(TrainConfig(), model="mc2", width=64).model.width == 64
    assert override(PRESETS["tiny"], model="mc2").model.width == PRESETS["tiny"].model.width == 16


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


def test_weights_in_old_checkpoints_and_their_optimizer_state_find_their_places() -> None:
    names = [name for name, _ in on_meta("res3d10").named_parameters()]
    block = ["conv1", "bn1", "bn1", "conv2", "bn2", "bn2", "shortcut.conv", "shortcut.bn", "shortcut.bn"]
    expected = ["stem.conv", "stem.bn", "stem.bn", *(f"stages.{i}.0.{part}" for i in range(4) for part in block)]
    assert [name.rpartition(".")[0] for name in names] == [*expected, "head", "head"]
    assert "stages.0.1.shortcut.conv.weight" not in on_meta("res3d18").state_dict()


def test_zero_gamma_passes_input_through_channels_last_keeps_values_and_frozen_batch_norm_its_statistics() -> None:
    x = torch.rand(1, 4, 2, 4, 4)  # not negative, as after a ReLU
    assert torch.equal(narrow("res3d18", zero_init_gamma=True).stages[0][1](x), x)
    model = narrow("res3d10").train()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    channels_last(model)
    assert model.stem.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    freeze_batch_norm(model)
    before = model.stem.bn.running_mean.clone()
    model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert torch.equal(model.stem.bn.running_mean, before)
    assert model.stem.bn.weight.grad is not None


@pytest.mark.parametrize("name", ["res3d18", "mc4", "rmc3", "r2plus1d18", "res2d18"])
def test_pooling_the_last_block_gives_pool5_and_the_fc_gives_prob(name: str) -> None:
    model, clips = narrow(name), torch.randn(2, 3, 1 if name == "res2d18" else 4, 32, 32)
    assert [*model.layers()] == RESIDUAL.split()
    with torch.no_grad():
        found = take_layers(model, clips, ["prob", *RESIDUAL.split()[::-1]])
        logits = model(clips)
    assert list(found) == ["prob", *RESIDUAL.split()[::-1]]
    assert torch.equal(found["res5"], found["res5b"])
    assert (found["res5"] >= 0).all()  # after the ReLU
    torch.testing.assert_close(found["res5"].flatten(2).mean(dim=2), found["pool5"])
    torch.testing.assert_close(F.linear(found["pool5"], model.head.weight, model.head.bias), logits)
    torch.testing.assert_close(found["prob"], logits.exp() / logits.exp().sum(dim=1, keepdim=True))


def test_layers_of_c3d_are_taken_after_their_relu_and_before_dropout_and_its_last_pool_rounds_up() -> None:
    model = narrow("c3d")
    with torch.no_grad():
        found = take_layers(model, torch.randn(1, 3, 16, 112, 112) * 50, ["conv5b", "pool5", "fc6", "fc7", "fc8"])
    weights = model.state_dict()
    fc6 = (found["pool5"] @ weights["fc6.fc.weight"].T + weights["fc6.fc.bias"]).clamp(min=0)
    torch.testing.assert_close(found["fc6"], fc6)
    torch.testing.assert_close(found["fc7"], (fc6 @ weights["fc7.fc.weight"].T + weights["fc7.fc.bias"]).clamp(min=0))
    torch.testing.assert_close(found["fc8"], found["fc7"] @ weights["head.weight"].T + weights["head.bias"])
    pooled, maps = found["pool5"].reshape(32, 4, 4), found["conv5b"][0]  # windows of rows 0-1, 2-3, 4-5 and 6 alone
    torch.testing.assert_close(pooled[:, 3, 3], maps[:, :, 6, 6].amax(dim=1))
    torch.testing.assert_close(pooled[:, 0, 1], maps[:, :, 0:2, 2:4].amax(dim=(1, 2, 3)))


def test_an_unknown_layer_is_named_and_no_hook_stays_after_an_error() -> None:
    model = narrow("res2d18")
    with pytest.raises(ValueError, match=r"layers: fc6 does not exist; this model has conv1, res2a, .*fc8, prob"):
        take_layers(model, torch.zeros(1, 3, 1, 32, 32), ["pool5", "fc6"])
    with pytest.raises(ValueError, match="2 frames, but a 2D network takes 1"):
        take_layers(model, torch.zeros(1, 3, 2, 32, 32), ["res5b", "pool5"])
    assert not any(module._forward_hooks for module in model.modules())
