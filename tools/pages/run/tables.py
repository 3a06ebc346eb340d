"""Tables of runs: how they went, in what they differ, on which machines, and their checkpoints."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from res3d_video.tools.pages.page import Markup, Number, render, table
from res3d_video.tools.pages.run.boxes import by_run
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.looks import name_cell
from res3d_video.train.checkpoint import CheckpointError, load_checkpoint, step_of
from res3d_video.train.config import to_dict

UNKNOWN = "–"
NO_NUMBER = Number(-1, UNKNOWN)  # sorted below all others


def percent_cell(share: float | None) -> Number:
    """An accuracy for a table."""
    return NO_NUMBER if share is None else Number(share, f"{100 * share:.1f} %")


def summary_table(runs: Sequence[Run]) -> Markup:
    """A row a run: state, accuracies, time and speed."""
    rows = []
    for place, run in enumerate(runs):
        test = run.last_test
        best = Number(run.best[0], f"{100 * run.best[0]:.1f} % at {run.best[1]:,}") if run.best else NO_NUMBER
        rows.append(
            [
                name_cell(run, place=place, num_runs=len(runs)),
                run.state_text,
                run.data or UNKNOWN,
                *(percent_cell(test.get(name)) for name in ("clip_at_1", "video_at_1", "video_at_5", "chance")),
                best,
                Number(run.hours, hours_text(run.hours)),
                NO_NUMBER if run.clips_per_s is None else Number(run.clips_per_s, f"{run.clips_per_s:,.1f}"),
                NO_NUMBER if run.data_wait is None else Number(run.data_wait, f"{100 * run.data_wait:.2f} %"),
            ]
        )
    accuracies = ["clip@1", "video@1", "video@5", "chance", "best clip@1"]
    columns = ["run", "state", "data", *accuracies, "training", "clips/s", "data wait"]
    caption = "Accuracy of the last evaluation; time without evaluations; medians of clips/s and data wait"
    return table(columns, rows, caption=caption, is_sorted_by_click=len(runs) > 1)


def hours_text(hours: float) -> str:
    """
    >>> hours_text(0.084), hours_text(3.26), hours_text(0.0005)
    ('5 min', '3.3 h', '2 s')
    """
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def flatten(values: dict[str, Any], *, begin: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the path of its name.

    >>> list(flatten({"clip": {"resize": None}, "steps": 5}))
    [('clip.resize', None), ('steps', 5)]
    """
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, begin=f"{begin}{name}.")
        else:
            yield f"{begin}{name}", value


def settings_of(run: Run) -> dict[str, Any]:
    """What a run was asked to do: preset, data and configuration; a field of a later version at its default."""
    config = to_dict(run.config) if run.config else run.about.get("config")
    about: dict[str, Any] = {"preset": run.about.get("preset", UNKNOWN), "data": run.data or UNKNOWN}
    return about | dict(flatten(config if isinstance(config, dict) else {}))


def environment_of(run: Run) -> dict[str, Any]:
    """How and with what it ran: devices, versions, the loader's and the step's settings."""
    names = ("device", "world_size", "versions", "loader", "step")
    return dict(flatten({name: value for name, value in run.about.items() if name in names}))


def side_by_side(runs: Sequence[Run], read: Callable[[Run], dict[str, Any]], *, caption: str, only: bool) -> Markup:
    """A row a field, a column a run.

    Args:
        only: Leave out the fields in which all agree.
    """
    found = [read(run) for run in runs]
    names = list(dict.fromkeys(name for one in found for name in one))
    rows = [
        [name, *(value_text(one.get(name, UNKNOWN)) for one in found)]
        for name in names
        if not only or name in differing(found)
    ]
    columns = ["setting", *(["value"] if len(runs) == 1 else [run.name for run in runs])]
    return by_run(table(columns, rows, caption=caption))


def differing(found: Sequence[dict[str, Any]]) -> list[str]:
    """Names whose values are not the same everywhere; what is not there is as None.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}])
    ['b']
    """
    names = dict.fromkeys(name for one in found for name in one)
    return [name for name in names if len({value_text(one.get(name, UNKNOWN)) for one in found}) > 1]


def value_text(value: Any) -> str:
    """A setting as people read it.

    >>> value_text(None), value_text(True), value_text([128.0, 2]), value_text(90_000), value_text(5e-5)
    ('–', 'yes', '[128.0, 2]', '90000', '5e-05')
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint of a run folder.

    Attributes:
        step, accuracy: Updates done, best clip@1 until then; None where the file cannot be read.
        written: Local time, ISO 8601.
        error: Why it cannot be read, "" if it can.
    """

    name: str
    num_bytes: int
    written: str
    step: int | None = None
    accuracy: float | None = None
    error: str = ""


def checkpoint_files(folder: Path) -> list[CheckpointFile]:
    """The checkpoints of a run folder, each read whole: latest, best, previous, then those that stay by step."""
    first = ["latest.pt", "best.pt", "previous.pt"]
    kept = sorted((p for p in folder.glob("step-*.pt") if step_of(p) is not None), key=lambda p: step_of(p) or 0)
    found = []
    for path in [*(folder / name for name in first), *kept]:
        try:
            about = path.stat()
        except OSError:
            continue
        written = datetime.fromtimestamp(about.st_mtime).astimezone().isoformat(" ", "minutes")
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            found.append(CheckpointFile(path.name, about.st_size, written, error=str(error)))
            continue
        best = state["best_accuracy"]
        accuracy = float(best) if best >= 0 else None
        found.append(CheckpointFile(path.name, about.st_size, written, int(state["step"]), accuracy))
    return found


def checkpoint_table(runs: Sequence[Run], files: dict[str, list[CheckpointFile]]) -> Markup:
    """A row a checkpoint.

    Args:
        files: Name of a run -> its checkpoints.
    """
    rows = []
    for place, run in enumerate(runs):
        for file in files[run.name]:
            whole = render("checked.html", error=file.error)
            step = NO_NUMBER if file.step is None else Number(file.step, f"{file.step:,}")
            size = Number(file.num_bytes, f"{file.num_bytes / 1e6:.1f} MB")
            name = [name_cell(run, place=place, num_runs=len(runs))] if len(runs) > 1 else []
            rows.append([*name, file.name, step, percent_cell(file.accuracy), size, file.written, whole])
    columns = [*(["run"] if len(runs) > 1 else []), "file", "step", "best clip@1 so far", "size", "written", "readable"]
    return table(columns, rows, caption="Checkpoints, each read and its checksums verified")


def facts_of(run: Run, files: Sequence[CheckpointFile]) -> dict[str, Any]:
    """A run for JSON; accuracies and shares are 0 to 1."""
    return {
        "run": str(run.folder),
        "name": run.name,
        "data": run.data,
        "state": run.state,
        "step": run.step,
        "steps": run.steps,
        **{name: run.last_test.get(name) for name in ("clip_at_1", "video_at_1", "video_at_5", "chance")},
        "best_clip_at_1": run.best[0] if run.best else None,
        "best_step": run.best[1] if run.best else None,
        "hours": run.hours,
        "clips_per_s": run.clips_per_s,
        "data_wait": run.data_wait,
        "num_replaced": run.num_replaced,
        "damaged": run.damaged,
        "checkpoints": [asdict(file) for file in files],
        "problems": run.problems,
    }
