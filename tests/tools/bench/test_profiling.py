"""Profiles tell kernels apart, add them up, and find the gaps between them."""

import json
from pathlib import Path

import pytest
import torch

from res3d_video.tools.bench.run import Kernel, Profile, compare_kernels, covered, profile_page, profile_steps


def test_the_union_of_intervals_counts_overlap_once() -> None:
    assert covered([]) == 0
    assert covered([(0, 1), (1, 2)]) == 2
    assert covered([(3, 9), (0, 1), (4, 5), (8, 10)]) == 8


def test_the_gap_is_that_of_the_busiest_stream() -> None:
    busy = Profile("real", num_steps=2, wall_s=10.0, kernels=[], busy_s={7: 9.0, 20: 3.0})
    assert busy.gap == pytest.approx(0.1)
    assert Profile("real", 1, 1.0, []).gap is None


def test_kernels_are_compared_by_the_step_and_the_slowest_comes_first() -> None:
    without = Profile("synthetic", 2, 1.0, [Kernel("conv", 0.2, 20), Kernel("bn", 0.1, 40)])
    with_loader = Profile("real", 4, 2.4, [Kernel("conv", 0.4, 40), Kernel("bn", 0.3, 80), Kernel("jpeg", 0.02, 2200)])
    assert compare_kernels(without, with_loader) == [
        ["conv", "100.000", "100.000", "+0.000", "10", "10"],
        ["bn", "50.000", "75.000", "+25.000", "20", "20"],
        ["jpeg", "0.000", "5.000", "+5.000", "0", "550"],
    ]
    assert len(compare_kernels(without, with_loader, top=2)) == 2
    page = profile_page(without, with_loader)
    assert "| synthetic | 500.00 | 150.00 | - |" in page
    assert "| real | 600.00 | 180.00 | - |" in page


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_profile_has_the_step_s_operators_and_a_trace(tmp_path: Path, device: str) -> None:
    x = torch.rand(256, 256, device=device)
    calls = []

    def step() -> None:
        calls.append(x @ x)

    found = profile_steps("matmul", step, num_steps=4, device=torch.device(device), trace=tmp_path / "new" / "a.json")
    assert len(calls) == 4 + 3, "some steps come before, unprofiled"
    if device == "cpu":
        (kernel,) = [kernel for kernel in found.kernels if kernel.name == "aten::mm"]
        assert kernel.calls == 4
        assert found.gap is None
    else:
        assert found.kernels
        assert found.gap is not None
        assert 0 <= found.gap < 1
    assert 0 < found.kernels[0].total_s <= found.wall_s
    assert [k.total_s for k in found.kernels] == sorted((k.total_s for k in found.kernels), reverse=True)
    assert json.loads((tmp_path / "new" / "a.json").read_text())["traceEvents"]
