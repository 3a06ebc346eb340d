"""The sections of the page of runs."""

from collections.abc import Sequence

from res3d_video.tools.figures.filters import read_filters
from res3d_video.tools.pages.page import Markup, Number, Section, render, table
from res3d_video.tools.pages.run import charts
from res3d_video.tools.pages.run.boxes import folded, joined, note
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.filters import filter_figure
from res3d_video.tools.pages.run.looks import MOST_DRAWN, key, name_cell
from res3d_video.tools.pages.run.paper_numbers import Printed, printed_for, what_is_other
from res3d_video.tools.pages.run.speed import Bench, bench_chart, grouped, listed, wait_verdict
from res3d_video.tools.pages.run.tables import (
    CheckpointFile,
    checkpoint_table,
    differing,
    environment_of,
    settings_of,
    side_by_side,
    summary_table,
)
from res3d_video.tools.pages.run.thinning import MOST_POINTS


def summary(runs: Sequence[Run]) -> Section:
    """How the runs went, and what of them could not be read."""
    problems = [note(f"{run.name}: {problem}", warning=True) for run in runs for problem in run.problems]
    stopped = [run for run in runs if run.state == "stopped" and run.steps]
    hints = [note(f"{run.name} is {run.state_text}; the same command goes on.") for run in stopped]
    lead = "On the test side: clip@1 of one centre clip, video@1 and video@5 of several clips a video together."
    return Section("summary", "Summary", lead, joined([*problems, *hints[:3], summary_table(runs), *damaged(runs)]))


def damaged(runs: Sequence[Run]) -> list[Markup]:
    """What samples could not be read, and how often others took their place."""
    names = ", ".join(f"{run.name} {run.num_replaced:,}" for run in runs if run.damaged)
    rows = [
        [run.name, Number(one["step"], f"{one['step']:,}"), one["key"], one["tar"], one["reason"]]
        for run in runs
        for one in run.damaged
    ]
    if not rows:
        return []
    said = f"Clips replaced because a sample is damaged: {names}. tools/check_shards.py finds all damage."
    columns = ["run", "met at step", "sample", "tar", "reason"]
    return [note(said, warning=True), folded("Damaged samples", table(columns, rows, caption="Damaged samples"))]


def learning(runs: Sequence[Run]) -> Section:
    """Loss, accuracy and learning rate over steps."""
    made = []
    if any(len(run.curve("loss").steps) for run in runs):
        made.append(charts.loss_chart(runs))
    if any(len(run.accuracy.steps) for run in runs):
        made.append(charts.accuracy_chart(runs))
    if any(len(run.curve("lr").steps) for run in runs):
        made.append(charts.rate_chart(runs))
    missing = [] if any(len(run.accuracy.steps) for run in runs) else [note("Not evaluated yet.")]
    missing = missing if made else [note("No step has been logged yet.")]
    lead = f"Over steps. Of a long curve the lowest and highest points of {MOST_POINTS // 2} stretches are drawn."
    return Section("learning", "Learning", lead, joined([key(runs), joined(made, box="charts"), *missing]))


def speed(runs: Sequence[Run], benches: Sequence[Bench]) -> Section:
    """Clips a second, the wait for them, and who waits for whom."""
    verdicts = [(run, wait_verdict(run)) for run in runs]
    body = [render("verdicts.html", groups=grouped(verdicts), only_one=len(runs) == 1), key(runs)]
    made = []
    if any(len(run.curve("clips_per_s").steps) for run in runs):
        made.append(charts.speed_chart(runs))
    if any(len(run.curve("data_wait").steps) for run in runs):
        made.append(charts.wait_chart(runs, most=min(verdict.most for _, verdict in verdicts)))
    made += [bench_chart(bench, name=f"bench{place}") for place, bench in enumerate(benches)]
    lead = (
        "Of the training alone: without evaluations, and without the first line, in which everything starts. Training "
        "may wait 3 % of the time from batch 256 on, below it 5 %; what waits longer is held up by the loader."
    )
    return Section("speed", "Speed", lead, joined([*body, joined(made, box="charts")]))


def filters(runs: Sequence[Run], checkpoints: dict[str, list[CheckpointFile]]) -> Section:
    """conv1 of each run's newest readable checkpoint."""
    made, missing = [], []
    for run in runs[:MOST_DRAWN]:
        readable = [file for file in checkpoints[run.name] if not file.error]
        newest = max(readable, key=lambda file: file.step or 0, default=None)
        if newest is None:
            missing.append(note(f"{run.name} has no checkpoint that can be read."))
            continue
        try:
            made.append(filter_figure(read_filters(run.folder / newest.name), name=run.name))
        except ValueError as error:
            missing.append(note(str(error)))
    lead = (
        "conv1, slice after slice in time. Each filter is divided by its largest absolute weight: mid grey is 0, "
        "brighter positive, darker negative, in red, green and blue."
    )
    return Section("filters", "Filters", lead, joined([joined(made, box="charts filters"), *missing]))


def paper(runs: Sequence[Run]) -> Section:
    """The paper's numbers beside ours."""
    rows, others = [], []
    remarks: dict[str, list[str]] = {}
    for place, run in enumerate(runs):
        preset = str(run.about.get("preset", ""))
        printed = printed_for(run.config, preset=preset, data=run.data) if run.config else None
        if printed is None or run.config is None:
            others.append(run.name)
            continue
        test = run.last_test
        other = what_is_other(run.config, printed, data=run.data, chance=test.get("chance"), num_steps=run.step)
        said = f"not to be compared: {'; '.join(other)}" if other else "the same network, clips and data"
        remarks.setdefault(said, []).append(run.name)
        ours = [accuracy_pair(test.get(name), printed, name) for name in ("clip_at_1", "video_at_1", "video_at_5")]
        rows.append([name_cell(run, place=place, num_runs=len(runs)), printed.where, *ours])
    body = []
    if rows:
        columns = ["run", "in the paper", "clip@1", "video@1", "video@5"]
        body.append(table(columns, rows, caption="Ours | the paper's, per cent"))
        body += [note(f"{listed(names)}: {said}.") for said, names in remarks.items()]
    if others:
        body.append(note(f"The paper has no numbers for what {listed(others)} does."))
    lead = (
        "Tran et al., arXiv:1708.05038. What a number needs to be compared: the same data, network, clips and length."
    )
    return Section("paper", "The paper", lead, joined(body))


def accuracy_pair(ours: float | None, printed: Printed, name: str) -> str:
    """ "80.6 | 45.6"."""
    theirs = getattr(printed, name)
    return f"{'–' if ours is None else f'{100 * ours:.1f}'}\u00a0|\u00a0{'–' if theirs is None else f'{theirs:.1f}'}"


def settings(runs: Sequence[Run]) -> Section:
    """What differs between the runs, and all settings, folded."""
    whole = folded("All settings", side_by_side(runs, settings_of, caption="Settings from config.json", only=False))
    if len(runs) == 1:
        return Section("settings", "Settings", "What the run was asked to do.", whole)
    if differing([settings_of(run) for run in runs]):
        body = side_by_side(runs, settings_of, caption="Settings in which the runs differ", only=True)
    else:
        body = note("All settings are the same.")
    return Section("settings", "Settings", "In what the runs differ; the rest is folded away.", joined([body, whole]))


def files(runs: Sequence[Run], checkpoints: dict[str, list[CheckpointFile]]) -> Section:
    """Checkpoints, and where the runs were at work."""
    body = [checkpoint_table(runs, checkpoints)] if any(checkpoints.values()) else [note("There is no checkpoint yet.")]
    where = side_by_side(runs, environment_of, caption="Devices, versions, loader and step", only=False)
    folders = table(["run", "folder"], [[run.name, str(run.folder)] for run in runs], caption="Folders")
    lead = "Every checkpoint was read whole. Below: devices, versions, and how the loader and the step worked."
    return Section(
        "files", "Files and machines", lead, joined([*body, folded("Environment", where), folded("Folders", folders)])
    )
