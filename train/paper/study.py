"""Tables 3 to 7 of arXiv:1708.05038: the networks and clips that they compare, as trainings, and their claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.typed_json import Count, Share, read_json
from res3d_video.train.config import TrainConfig
from res3d_video.train.evaluation import SCORES
from res3d_video.train.models import MODELS

PAPER_CROP, PAPER_RESIZE = 112, 128  # pixels (section 3)
PAPER_STEPS = 90_000
NUM_CLIPS = 10  # of each test video, evenly spaced; all are scored
# Table 5's 46.1 % at 112 pixels is the entry of Table 4 for stride 4, so SR18 has that stride where none is named.
SR18_STRIDE = 4
RES3D_STRIDE = 2


@dataclass(frozen=True)
class Row:
    """A network on one kind of clip.

    Attributes:
        model: Key of MODELS.
        frame_stride: Source frames from one taken frame to the next.
        paper: The paper's clip accuracy on UCF101 split 1, percent; None if we do not know it.
    """

    name: str
    model: str
    frame_stride: int = RES3D_STRIDE
    paper: float | None = None


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        factor: What its rows differ in.
        claim: What it shows, in our words.
        above: (row, rival): the row must be more accurate.
        not_below: (row, rival): the rival must not be more accurate.
        note: A caveat for the reader.
    """

    factor: str
    rows: tuple[Row, ...]
    claim: str
    above: Pairs
    not_below: Pairs = ()
    note: str = ""


def against(rows: Sequence[str], rivals: Sequence[str]) -> Pairs:
    """All pairs of a row and a rival."""
    return tuple((row, rival) for row in rows for rival in rivals)


MIXED = [f"{kind}{n}" for kind in ("MC", "rMC") for n in (2, 3, 4, 5)]
STRIDES = ((1, 43.8), (2, 46.3), (4, 46.1), (8, 38.8), (16, 38.1), (32, 36.9))

TABLES = {
    3: Table(
        "kind and depth of the network",
        (
            Row("2D-Res18", "res2d18", 1, 42.2),
            Row("2D-Res34", "res2d34", 1, 42.2),
            Row("3D-Res18", "res3d18", paper=45.6),
            Row("3D-Res34", "res3d34", paper=45.9),
        ),
        "3D networks beat 2D networks of the same depth",
        above=(("3D-Res18", "2D-Res18"), ("3D-Res34", "2D-Res34")),
    ),
    4: Table(
        "frame stride of SR18",
        tuple(Row(str(stride), "sr18", stride, accuracy) for stride, accuracy in STRIDES),
        "taking one of every 2 to 4 frames is best",
        above=against(["2", "4"], ["1", "8", "16", "32"]),
        note="The paper skips videos shorter than a clip; here their last frame repeats.",
    ),
    5: Table(
        "resolution of SR18",
        (
            Row("56", "sr18-56", SR18_STRIDE, 37.6),
            Row("112", "sr18", SR18_STRIDE, 46.1),
            Row("224", "sr18-224", SR18_STRIDE, 44.0),
        ),
        "112 pixels are best",
        above=against(["112"], ["56", "224"]),
        note="Stems as the text has them. The stride is not named; 46.1 % is Table 4's entry for stride 4.",
    ),
    6: Table(
        "kind of convolution",
        (
            Row("2D", "res2d18-33m", 1),
            *(Row(name, name.lower()) for name in MIXED),
            Row("2.5D", "r2plus1d18"),
            Row("3D", "res3d18"),
        ),
        "3D convolutions in all layers are best",
        above=against(["3D"], ["2D", *MIXED, "2.5D"]),
        note="Widths fitted to the parameters of 3D. The paper's widths and numbers are not known to us.",
    ),
    7: Table(
        "depth of SR18",
        tuple(Row(str(n), "sr18" if n == 18 else f"sr{n}-33m", SR18_STRIDE) for n in (10, 16, 18, 26, 34)),
        "depth 18 is the best trade-off: better than shallower networks, and deeper ones are no better",
        above=against(["18"], ["10", "16"]),
        not_below=against(["18"], ["26", "34"]),
        note="Widths fitted to the parameters of depth 18. The paper's widths and numbers are not known to us.",
    ),
}


@dataclass(frozen=True)
class StudySettings:
    """Settings of all runs of a study; None takes the paper's value.

    Attributes:
        steps: Steps per run; the schedule of the UCF101 protocol is scaled to it.
        batch_size: Clips per step.
        size: Crop in place of the paper's 112 pixels; its other sizes are scaled too.
        width_scale: Factor for the channels of all layers.
    """

    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    size: int = PAPER_CROP
    width_scale: float = 1.0


@dataclass(frozen=True)
class StudyRun:
    """A training.

    Attributes:
        folder: Its folder in that of the study; the same for rows that do not differ.
        data: Folder of its shards.
        arguments: Arguments of train/main.py, without --out.
        parameters, multiply_adds: Number of the network's parameters, and of its multiply-adds for a clip.
        is_enlarged: Whether its frames are larger than the stored ones.
    """

    folder: Path
    seed: int
    data: Path
    arguments: list[str]
    config: TrainConfig
    parameters: int
    multiply_adds: int
    is_enlarged: bool


def plan_run(row: Row, *, seed: int, settings: StudySettings, indexes: Sequence[ShardIndex]) -> StudyRun:
    """The training of a row.

    Args:
        indexes: The same videos at one or more stored sizes; takes the smallest one that need not be enlarged.

    Raises:
        UserError: A setting does not fit.
        click.UsageError: An option of the trainer has an impossible value.
    """
    from res3d_video.train.models import count_costs
    from res3d_video.train.resolve import configure

    model, scale = MODELS[row.model], settings.size / PAPER_CROP
    crop_size, resize = round(model.crop_size * scale), round(model.crop_size * scale * PAPER_RESIZE / PAPER_CROP)
    by_size = sorted(indexes, key=lambda index: index.size)
    index = next((index for index in by_size if index.size >= resize), by_size[-1])
    options: dict[str, Any] = {
        "model": row.model,
        "width": max(1, round(model.width * settings.width_scale)),
        "num_frames": model.num_frames,
        "frame_stride": row.frame_stride,
        "crop_size": crop_size,
        "resize": resize,
        "seed": seed,
        "eval_every": max(1, (settings.steps or PAPER_STEPS) // 5),
        "eval_clips": 1,
    }
    optional = {"scale_to_steps": settings.steps, "global_batch_size": settings.batch_size, "lr": settings.lr}
    options |= {name: value for name, value in optional.items() if value is not None}
    if settings.steps is not None:
        options["save_every"] = min(1_000, max(1, settings.steps // 10))
    preset = "ucf101-search-2d" if model.num_frames == 1 else "ucf101-search"
    config = configure(preset, index, world_size=1, split=None, **options)
    parameters, multiply_adds = count_costs(
        config.model, num_classes=len(index.classes), clip_shape=(3, model.num_frames, crop_size, crop_size)
    )
    arguments = ["--data", str(index.data_dir), "--preset", preset, "--resume", "auto"]
    for name, value in options.items():
        arguments += [f"--{name.replace('global_', '').replace('_', '-')}", str(value)]
    name = f"{row.model}-w{options['width']}-{model.num_frames}x{crop_size}-stride{row.frame_stride}"
    folder = Path("runs") / name / f"seed{seed}"
    enlarged = resize > index.size
    return StudyRun(folder, seed, index.data_dir, arguments, config, parameters, multiply_adds, enlarged)


class RunScores(TypedDict):
    """What is read of a run's scores.json; `all_clips_at_1` is the accuracy of all clips, as in section 3."""

    step: Count
    all_clips_at_1: Share
    video_at_1: Share
    chance: Share


def read_scores(out: Path, run: StudyRun) -> RunScores | None:
    """The scores of a run of the study in `out`; None if there are none yet, or they are of fewer steps."""
    try:
        scores = read_json(out / run.folder / SCORES, RunScores, what="scores", way_out="score the run again")
    except UserError:
        return None
    return scores if scores["step"] == run.config.steps else None


def is_clearly_above(accuracies: Sequence[float], rivals: Sequence[float]) -> bool:
    """Whether each run of a row is more accurate than each run of its rival, with at least two seeds each.

    If only the seed differs, this happens by chance for three runs against three in one of 20 cases.

    >>> is_clearly_above([0.5, 0.6], [0.4, 0.45]), is_clearly_above([0.5, 0.6], [0.5, 0.4])
    (True, False)
    """
    return min(len(accuracies), len(rivals)) >= 2 and min(accuracies) > max(rivals)


def judge(table: Table, accuracies: Mapping[str, Sequence[float]]) -> tuple[str, list[str]]:
    """The verdict on a table's claim.

    Args:
        accuracies: Name of a row with runs -> clip accuracy of each, 0 to 1.

    Returns:
        "seen" if all comparisons are clear, "not seen" if one is clearly the other way round, else "undecided"; and a
        line for each comparison that speaks against the claim, or leaves it open.
    """
    reversed_, unclear = [], []
    for names, must_win in [(pair, True) for pair in table.above] + [(pair, False) for pair in table.not_below]:
        if lacking := [name for name in names if name not in accuracies]:
            unclear.append(f"{' and '.join(lacking)} not run")
            continue
        ours, theirs = (accuracies[name] for name in names)
        difference = 100 * (sum(ours) / len(ours) - sum(theirs) / len(theirs))
        line = f"{names[0]} against {names[1]}: {difference:+.1f} points"
        if is_clearly_above(theirs, ours):
            reversed_.append(line)
        elif min(len(ours), len(theirs)) < 2:
            unclear.append(f"{line}, one seed")
        elif must_win and not is_clearly_above(ours, theirs):
            unclear.append(f"{line}, but not in every seed")
    if reversed_:
        return "not seen", reversed_
    return ("undecided", list(dict.fromkeys(unclear))) if unclear else ("seen", [])
