"""The paper's numbers for a run, and what keeps them from being compared."""

import pytest

from res3d_video.tools.pages.run.paper_numbers import printed_for, what_is_other
from res3d_video.train.config import TrainConfig, override
from res3d_video.train.presets import PRESETS

SR18 = {"model": "sr18", "num_frames": 4, "frame_stride": 8}


@pytest.mark.parametrize(
    ("preset", "data", "changes", "where", "accuracies"),
    [
        ("ucf101-search", "ucf101", {}, "Table 3, 3D-Res18", (45.6, None, None)),
        ("ucf101-search", "ucf101", {"model": "res3d34"}, "Table 3, 3D-Res34", (45.9, None, None)),
        ("ucf101-search-2d", "ucf101", {}, "Table 3, 2D-Res18", (42.2, None, None)),
        ("ucf101-search", "ucf101", SR18, "Table 4, 8", (38.8, None, None)),
        ("tiny", "ucf101", {"frame_stride": 4}, "Table 3, 3D-Res18", (45.6, None, None)),
        ("sports1m", "sports1m", {}, "Table 8, Res3D", (48.8, 65.6, 87.8)),
        ("sports1m-c3d", "sports1m", {}, "Table 8, C3D", (46.1, 61.1, 85.2)),
        ("sports1m-2d", "sports1m", {}, "Table 8, 2D-Resnet", (45.5, 59.4, 83.0)),
        ("finetune-ucf101", "ucf101", {}, "Table 9, mean of three splits, fine-tuned", (None, 85.8, None)),
        ("finetune-hmdb51", "hmdb51", {}, "Table 10, mean of three splits, fine-tuned", (None, 54.9, None)),
    ],
)  # fmt: skip
def test_the_numbers_are_those_of_the_papers_tables(
    preset: str, data: str, changes: dict, where: str, accuracies: tuple
) -> None:
    printed = printed_for(override(PRESETS[preset], **changes), preset=preset, data=data)
    assert printed is not None
    assert printed.where == where
    assert (printed.clip_at_1, printed.video_at_1, printed.video_at_5) == accuracies


@pytest.mark.parametrize(
    ("preset", "data"), [("tiny", "mine"), ("finetune-ucf101", "mine"), ("ucf101-search", "hmdb51")]
)
def test_other_data_have_no_numbers(preset: str, data: str) -> None:
    assert printed_for(PRESETS[preset], preset=preset, data=data) is None


def other(config: TrainConfig, *, chance: float | None, num_steps: int) -> list[str]:
    printed = printed_for(config, preset="ucf101-search", data="ucf101")
    assert printed is not None
    return what_is_other(config, printed, data="ucf101", chance=chance, num_steps=num_steps)


def test_a_whole_run_of_the_papers_recipe_may_be_compared() -> None:
    assert other(PRESETS["ucf101-search"], chance=1 / 101, num_steps=90_000) == []


def test_a_part_of_the_classes_a_narrow_network_small_crops_and_few_steps_are_named() -> None:
    config = override(PRESETS["ucf101-search"], width=8, crop_size=56, resize=64, split="2")
    assert other(config, chance=0.2, num_steps=300) == [
        "5 of 101 classes: guessing gives 20.0 %, there 1.0 %",
        "width 8, there 64",
        "crops of 56 pixels, there 112",
        "split 2, there 1",
        "6,000 clips trained on, there 1,800,000",
    ]


def test_another_network_is_named_in_place_of_its_width() -> None:
    assert other(PRESETS["tiny"], chance=None, num_steps=10**6)[0] == "network res3d10, there res3d18"
