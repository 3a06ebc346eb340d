"""Named layers: what a name gives in each family, against the same thing computed another way."""

import pytest
import torch

from res3d_video.train.models import MODELS, ModelConfig, build_model
from res3d_video.train.models.layers import layer_names, take_layers

RESIDUAL = ["conv1", "res2a", "res2b", "res2", "res3a", "res3b", "res3", "res4a", "res4b", "res4", "res5a", "res5b"]


def narrow(name: str, *, num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name, width=4), num_classes=num_classes).eval()


def test_layers_of_res3d_have_the_shapes_of_table_2() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig("res3d18"), num_classes=101).eval()
        found = take_layers(model, torch.zeros(2, 3, 8, 112, 112), ["res5b", "pool5", "prob", "res2", "fc8"])
    assert {name: list(value.shape) for name, value in found.items()} == {
        "res5b": [2, 512, 1, 7, 7],  # 25,088 numbers a clip
        "pool5": [2, 512],
        "prob": [2, 101],
        "res2": [2, 64, 8, 56, 56],
        "fc8": [2, 101],
    }
    assert list(found) == ["res5b", "pool5", "prob", "res2", "fc8"]


@pytest.mark.parametrize("name", ["res3d18", "mc4", "rmc3", "r2plus1d18", "res2d18"])
def test_pooling_the_last_block_gives_pool5_and_the_fc_gives_prob(name: str) -> None:
    model, clips = narrow(name), torch.randn(2, 3, 1 if name == "res2d18" else 4, 32, 32)
    assert layer_names(model) == [*RESIDUAL, "res5", "pool5", "fc8", "prob"]
    with torch.no_grad():
        found = take_layers(model, clips, layer_names(model))
        logits = model(clips)
    assert torch.equal(found["res5"], found["res5b"])
    assert (found["res5"] >= 0).all()  # after the ReLU
    torch.testing.assert_close(found["res5"].flatten(2).mean(dim=2), found["pool5"])
    weights = model.state_dict()
    torch.testing.assert_close(found["pool5"] @ weights["head.weight"].T + weights["head.bias"], logits)
    torch.testing.assert_close(found["prob"], logits.exp() / logits.exp().sum(dim=1, keepdim=True))


def test_a_deeper_network_names_more_blocks() -> None:
    assert {"res4f", "res5c"} <= set(layer_names(narrow("res3d34")))
    assert "res5b" not in layer_names(narrow("res3d10"))


def test_fc6_and_fc7_of_c3d_are_taken_after_their_relu_and_before_dropout() -> None:
    model = narrow("c3d")
    with torch.no_grad():
        found = take_layers(model, torch.randn(1, 3, 16, 112, 112) * 50, ["conv5b", "pool5", "fc6", "fc7", "fc8"])
    assert found["conv5b"].shape == (1, 32, 2, 7, 7)
    assert found["pool5"].shape == (1, 32 * 4 * 4)
    weights = model.state_dict()
    fc6 = (found["pool5"] @ weights["fc6.fc.weight"].T + weights["fc6.fc.bias"]).clamp(min=0)
    torch.testing.assert_close(found["fc6"], fc6)
    torch.testing.assert_close(found["fc7"], (fc6 @ weights["fc7.fc.weight"].T + weights["fc7.fc.bias"]).clamp(min=0))
    torch.testing.assert_close(found["fc8"], found["fc7"] @ weights["head.weight"].T + weights["head.bias"])


def test_the_last_pool_of_c3d_rounds_up_as_caffe_does() -> None:
    model = narrow("c3d")
    with torch.no_grad():
        found = take_layers(model, torch.randn(1, 3, 16, 112, 112) * 50, ["conv5b", "pool5"])
    pooled, maps = found["pool5"].reshape(32, 4, 4), found["conv5b"][0]  # windows of rows 0-1, 2-3, 4-5 and 6 alone
    torch.testing.assert_close(pooled[:, 3, 3], maps[:, :, 6, 6].amax(dim=1))
    torch.testing.assert_close(pooled[:, 0, 1], maps[:, :, 0:2, 2:4].amax(dim=(1, 2, 3)))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_prob_and_pool5(name: str) -> None:
    with torch.device("meta"):
        assert {"pool5", "fc8", "prob"} <= set(layer_names(build_model(ModelConfig(name, width=4), num_classes=3)))


def test_an_unknown_layer_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"layers: fc6 does not exist; this model has conv1, res2a, .*pool5, fc8, prob"
    ):
        take_layers(narrow("res3d18"), torch.zeros(1, 3, 4, 32, 32), ["pool5", "fc6"])


def test_no_hook_stays_even_after_an_error() -> None:
    model = narrow("res2d18")
    take_layers(model, torch.zeros(1, 3, 1, 32, 32), ["res5b"])
    with pytest.raises(ValueError, match="takes 1"):
        take_layers(model, torch.zeros(1, 3, 2, 32, 32), ["res5b", "pool5"])
    assert not any(module._forward_hooks for module in model.modules())
