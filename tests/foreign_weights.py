"""Others' forward passes, written here from their names of weights, and files of those weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, CLASSES = 4, 3
SPACE, TIME = (0, 1, 1), (1, 0, 0)


class TorchvisionForward:
    """torchvision's VideoResNet on a state dict with its names; the first run makes the weights it asks for.

    Layers, strides and names as in torchvision 0.28, torchvision/models/video/resnet.py.
    """

    def __init__(self, name: str) -> None:
        self.name, self.state, self.random = name, {}, torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int, low: float = -0.3, high: float = 0.3) -> Tensor:
        if name not in self.state:
            self.state[name] = torch.rand(shape, generator=self.random) * (high - low) + low
        return self.state[name]

    def conv(self, name: str, x: Tensor, channels: int, kernel: tuple, stride: tuple, pad: tuple) -> Tensor:
        return F.conv3d(x, self.weight(f"{name}.weight", channels, x.shape[1], *kernel), stride=stride, padding=pad)

    def bn(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        mean = self.weight(f"{name}.running_mean", channels)
        variance = self.weight(f"{name}.running_var", channels, low=1)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        scale, shift = self.weight(f"{name}.weight", channels, low=0.5, high=2), self.weight(f"{name}.bias", channels)
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)

    def convolution(self, name: str, x: Tensor, channels: int, *, middle: int, stride: int, flat: bool) -> Tensor:
        if self.name == "r2plus1d_18":
            x = self.conv(f"{name}.0", x, middle, (1, 3, 3), (1, stride, stride), SPACE)
            x = F.relu(self.bn(f"{name}.1", x))
            return self.conv(f"{name}.3", x, channels, (3, 1, 1), (stride, 1, 1), TIME)
        depth, temporal, pad = (1, 1, SPACE) if flat else (3, stride, (1, 1, 1))
        return self.conv(name, x, channels, (depth, 3, 3), (temporal, stride, stride), pad)

    def __call__(self, x: Tensor) -> Tensor:
        if self.name == "r2plus1d_18":
            x = self.conv("stem.0", x, 45 * WIDTH // 64, (1, 7, 7), (1, 2, 2), (0, 3, 3))
            x = self.conv("stem.3", F.relu(self.bn("stem.1", x)), WIDTH, (3, 1, 1), (1, 1, 1), TIME)
            x = F.relu(self.bn("stem.4", x))
        else:
            x = F.relu(self.bn("stem.1", self.conv("stem.0", x, WIDTH, (3, 7, 7), (1, 2, 2), (1, 3, 3))))
        for layer in (1, 2, 3, 4):
            flat = self.name == "mc3_18" and layer > 1
            for block in (0, 1):
                name, before, after = f"layer{layer}.{block}", x.shape[1], WIDTH * 2 ** (layer - 1)
                stride = 2 if layer > 1 and block == 0 else 1
                kind = {"middle": before * after * 27 // (before * 9 + 3 * after), "flat": flat}
                y = self.convolution(f"{name}.conv1.0", x, after, stride=stride, **kind)
                y = self.convolution(f"{name}.conv2.0", F.relu(self.bn(f"{name}.conv1.1", y)), after, stride=1, **kind)
                y = self.bn(f"{name}.conv2.1", y)
                if stride == 2:
                    down = (1, 2, 2) if flat else (2, 2, 2)
                    x = self.conv(f"{name}.downsample.0", x, after, (1, 1, 1), down, (0, 0, 0))
                    x = self.bn(f"{name}.downsample.1", x)
                x = F.relu(y + x)
        weight, bias = self.weight("fc.weight", CLASSES, 8 * WIDTH), self.weight("fc.bias", CLASSES)
        return F.linear(x.mean((2, 3, 4)), weight, bias)


class CaffeForward:
    """The authors' Res3D of depth 18 on blobs with its names (C3D v1.1, feature extraction's network file)."""

    def __init__(self) -> None:
        self.blobs: dict[str, np.ndarray] = {}
        self.random = np.random.default_rng(0)

    def blob(self, name: str, *shape: int, low: float = -0.3, high: float = 0.3) -> Tensor:
        if name not in self.blobs:
            self.blobs[name] = self.random.uniform(low, high, shape).astype(np.float32)
        return torch.from_numpy(self.blobs[name])

    def layer(self, name: str, x: Tensor, channels: int, *, size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        """Convolution3D, BatchNorm and Scale; sizes and strides are (depth, height and width)."""
        (depth, side), (temporal, spatial) = size, stride
        weight = self.blob(f"{name}.0", channels, x.shape[1], depth, side, side)
        pad = (depth // 2, side // 2, side // 2)
        x = F.conv3d(x, weight, stride=(temporal, spatial, spatial), padding=pad)
        end = "_conv1" if name == "conv1" else name.removeprefix("res")
        factor = self.blob(f"bn{end}.2", 1, low=500, high=900)  # of caffe's sums that are not divided yet
        mean = self.blob(f"bn{end}.0", channels, low=-99, high=99) / factor
        variance = self.blob(f"bn{end}.1", channels, low=900, high=1800) / factor
        x = (x - mean.view(-1, 1, 1, 1)) / (variance.view(-1, 1, 1, 1) + 1e-5).sqrt()
        scale, shift = self.blob(f"scale{end}.0", channels, low=0.5, high=2), self.blob(f"scale{end}.1", channels)
        return x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)

    def __call__(self, bgr: Tensor) -> Tensor:
        x = F.relu(self.layer("conv1", bgr, WIDTH, size=(3, 7), stride=(1, 2)))
        for stage in (2, 3, 4, 5):
            channels, stride = WIDTH * 2 ** (stage - 2), 1 if stage == 2 else 2
            for block in "ab":
                name, step = f"res{stage}{block}_branch", stride if block == "a" else 1
                y = F.relu(self.layer(f"{name}2a", x, channels, size=(3, 3), stride=(step, step)))
                y = self.layer(f"{name}2b", y, channels, size=(3, 3), stride=(1, 1))
                shortcut = self.layer(f"{name}1", x, channels, size=(1, 1), stride=(step, step)) if block == "a" else x
                x = F.relu(shortcut + y)
        return F.linear(x.mean((2, 3, 4)), self.blob("fc8.0", CLASSES, 8 * WIDTH), self.blob("fc8.1", CLASSES))


def c3d_blobs(*, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Blobs of the authors' C3D of another width, with their names."""
    random, blobs, before = np.random.default_rng(0), {}, 3
    factors = {"1a": 1, "2a": 2, "3a": 4, "3b": 4, "4a": 8, "4b": 8, "5a": 8, "5b": 8}
    for name, factor in factors.items():
        blobs[f"conv{name}.0"] = random.normal(size=(factor * width, before, 3, 3, 3))
        blobs[f"conv{name}.1"] = random.normal(size=(1, 1, 1, factor * width))
        before = factor * width
    linear = {"fc6-1": (64 * width, 128 * width), "fc7-1": (64 * width, 64 * width), "fc8-1": (CLASSES, 64 * width)}
    for name, shape in linear.items():
        blobs[f"{name}.0"] = random.normal(size=(1, 1, *shape))
        blobs[f"{name}.1"] = random.normal(size=(1, 1, 1, shape[0]))
    return blobs


def written(folder: Path, theirs: Callable[[Tensor], Tensor]) -> Path:
    """The file of a network whose weights come to be when it is run."""
    with torch.no_grad():
        theirs(torch.zeros(1, 3, 8, 32, 32))
    if isinstance(theirs, TorchvisionForward):
        torch.save(theirs.state, path := folder / "theirs.pth")
    else:
        np.savez(path := folder / "theirs.npz", **theirs.blobs)
    return path
