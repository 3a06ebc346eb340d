"""The stem on blocks of pixels against the stem on pixels: the same numbers, the same weights in a checkpoint."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.models.stem import StemConv2d, StemConv3d, fold_pixels, use_space_to_depth
from res3d_video.train.step import channels_last

CHANNELS = pytest.mark.parametrize("channels", [12, 16])


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, of the largest expected value."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


def with_gradients(stem: nn.Module, pixels: Tensor, *, channels: int | None) -> list[Tensor]:
    """Output, gradient of the weight, gradient of the input, for a gradient of the output that is not uniform."""
    use_space_to_depth(stem, channels=channels)
    pixels = pixels.detach().requires_grad_()
    output = stem(pixels)
    output_gradient = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return [output, *torch.autograd.grad(output, [stem.weight, pixels], output_gradient)]


def assert_same(stem: nn.Module, pixels: Tensor, *, channels: int) -> None:
    expected = with_gradients(stem, pixels, channels=None)
    for found, plain in zip(with_gradients(stem, pixels, channels=channels), expected, strict=True):
        assert found.shape == plain.shape
        assert relative(found, plain) < 1e-10, pixels.shape


@CHANNELS
@pytest.mark.parametrize("num_frames", [1, 8, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("sides", [(24, 32), (23, 32), (24, 31), (23, 31)])
def test_clips_have_the_same_output_and_gradients(channels: int, num_frames: int, layout: Any, sides: tuple) -> None:
    torch.manual_seed(0)
    clips = torch.randn(2, 3, num_frames, *sides, dtype=torch.float64).contiguous(memory_format=layout)
    assert_same(StemConv3d(8).double(), clips, channels=channels)


@CHANNELS
def test_frames_of_every_small_size_have_the_same_output_and_gradients(channels: int) -> None:
    torch.manual_seed(0)
    stem = StemConv2d(4).double()
    for height, width in itertools.product(range(1, 13), repeat=2):
        assert_same(stem, torch.randn(1, 3, height, width, dtype=torch.float64), channels=channels)


def test_a_channel_is_a_colour_at_a_place_of_the_block_and_the_fourth_colour_is_zero() -> None:
    frames = torch.arange(1.0, 13).reshape(1, 3, 2, 2)  # colour c at (y, x) is 4c + 2y + x + 1
    (block,) = fold_pixels(frames, channels=16)[:, :, 2, 2]
    assert block.reshape(2, 2, 4).tolist() == [[[1, 5, 9, 0], [2, 6, 10, 0]], [[3, 7, 11, 0], [4, 8, 12, 0]]]


@CHANNELS
@pytest.mark.parametrize(("name", "num_frames"), [("res3d10", 8), ("res2d18", 1)])
def test_a_whole_model_has_the_same_logits_and_gradients(channels: int, name: str, num_frames: int) -> None:
    torch.manual_seed(0)
    model = channels_last(build_model(ModelConfig(name, width=2), num_classes=5)).double().train()
    clips, labels = torch.randn(3, 3, num_frames, 24, 24, dtype=torch.float64), torch.tensor([0, 3, 4])

    def run() -> list[Tensor]:
        logits = model(clips)
        return [logits, *torch.autograd.grad(F.cross_entropy(logits, labels), list(model.parameters()))]

    expected, before = run(), {name: value.clone() for name, value in model.state_dict().items()}
    use_space_to_depth(model, channels=channels)
    model.load_state_dict(before)  # names and shapes of the weights stay
    for found, plain in zip(run(), expected, strict=True):
        assert relative(found, plain) < 1e-10
