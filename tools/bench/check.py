"""What tools/check_gpu.py does: runs its stages, each in a process with a deadline, and sums up what they found."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import click

from res3d_video.pipeline.typed_json import read_json
from res3d_video.tools.bench.command import pick_device
from res3d_video.tools.bench.lanes import SYNTHETIC
from res3d_video.tools.bench.measure import load_psutil
from res3d_video.tools.bench.stages import ALONE, LAST, STAGES, Stage, kept
from res3d_video.train.resolve import FastOptions, card_of, fast_path
from res3d_video.train.terminal import save_json

LEAST_S = 20.0  # of a stage: Python and its packages take seconds to load


def check(
    command: list[str], *, data: Path | None, minutes: float, device: str, stages: tuple[str, ...],
    json_path: Path | None, quiet: bool,
) -> None:  # fmt: skip
    """Run the stages; print what they found, and write it after each of them.

    Args:
        command: The command that runs one stage, before the options of the stage.
    """
    load_psutil()
    chosen = pick_device(device)
    found: dict[str, Any] = {"device": str(chosen), "card": card_of(chosen), "stages": {}}
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as scratch:
        names, started = ["data", *stages], time.monotonic()
        for place, name in enumerate(names):
            left_s = 60 * minutes - (time.monotonic() - started)
            limit_s = max(LEAST_S, left_s * STAGES[name][0] / sum(STAGES[later][0] for later in names[place:]))
            words = ["--stage", name, scratch, str(time.monotonic() + limit_s), "--device", str(chosen)]
            words += ["--data", str(data)] if data else []
            stage = supervise([*command, *words], result_path(Path(scratch), name), limit_s=limit_s)
            found["stages"][name] = stage
            if json_path is not None:
                save_json(json_path, found)
            if not quiet:
                click.echo(stage_line(name, stage), err=True)
    found["options"] = options_found(found["stages"])
    if json_path is not None:
        save_json(json_path, found)
    click.echo("\n".join(page(found)))
    if chosen.type == "cuda":
        fast_path().parent.mkdir(parents=True, exist_ok=True)
        save_json(fast_path(), {"card": found["card"], "options": found["options"]})
        click.echo(f"wrote {fast_path()}")


def result_path(home: Path, name: str) -> Path:
    """Where a stage writes its results."""
    return home / f"stage-{name}.json"


def read_result(path: Path) -> dict[str, dict[str, Any]]:
    """The results that a stage has written so far; empty if it has written none."""
    result: dict[str, dict[str, Any]] = {"found": {}, "skipped": {}, "errors": {}}
    if path.is_file():
        result |= read_json(path, dict[str, Any], what="results", way_out="run tools/check_gpu.py again")
    return result


def run_stage(name: str, home: Path, until: float, *, data: Path | None, device: str) -> None:
    """Run one stage in this process.

    Args:
        home: Folder that all stages share.
        until: time.monotonic() at which the process is killed.
    """
    earlier = {other: read_result(result_path(home, other))["found"] for other in STAGES}
    path, data = result_path(home, name), data or home / "demo-filmstrip"
    stage = Stage(pick_device(device), home, data, earlier, until, save=lambda found: save_json(path, found))
    stage.run(STAGES[name][1](stage))


def supervise(command: list[str], result: Path, *, limit_s: float) -> dict[str, Any]:
    """Run the process of a stage; when its time is over, kill it and every process that it started.

    Args:
        command: Writes its results to `result`, which is read no matter how the process ends.

    Returns:
        status ("ok" or "failed"), error (one line, or None), wall_s, limit_s; found, skipped and errors of its parts.
    """
    started, error = time.monotonic(), None
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            error, code = f"ran past its {limit_s:.0f} s", 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the processes that it has left behind
            process.wait()
        stderr.seek(0)
        lines = stderr.read().decode(errors="replace").strip().splitlines() or [f"ended with exit code {code}"]
    if code:
        error = f"killed by signal {-code}" if code < 0 else lines[-1][:300]
    found = read_result(result)
    if error is None and found["errors"]:
        error = f"failed: {', '.join(found['errors'])}"
    took = {"wall_s": round(time.monotonic() - started, 1), "limit_s": round(limit_s, 1)}
    return {"status": "ok" if error is None else "failed", "error": error, **took, **found}


def stage_line(name: str, stage: Mapping[str, Any]) -> str:
    """How a stage ended, in a line."""
    skipped = f", {len(stage['skipped'])} parts skipped" if stage["skipped"] else ""
    return f"{name}: {stage['error'] or 'ok'} ({stage['wall_s']:.0f} s of {stage['limit_s']:.0f}{skipped})"


def options_found(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The options for --fast: those that stages C and E kept.

    None if the last rounds of E did not confirm that they are faster than the defaults: among many trials, one is
    faster by chance.
    """
    (step, failed), (whole, _) = (
        (stages[name]["found"], stages[name]["errors"]) if name in stages else ({}, {}) for name in "CE"
    )
    if LAST in whole and not whole[LAST]["kept"]:
        return {}
    tried = {"compile": False} if "compile True" in step | failed else {}  # it is on by default
    options = tried | kept(step) | kept(whole)
    return {key: value for key, value in options.items() if key in FastOptions.__annotations__}


def page(found: Mapping[str, Any]) -> list[str]:
    """All parts of all stages, and the bottleneck, as Markdown."""
    lines = [f"# Check of {found['device']}", "", text_of(found["card"])]
    for name, stage in found["stages"].items():
        lines += ["", f"## {stage_line(name, stage)}", ""]
        lines += [f"- {part}: {text_of(numbers)}" for part, numbers in stage["found"].items()]
        lines += [f"- {part}: FAILED, {error}" for part, error in stage["errors"].items()]
        lines += [f"- {part}: skipped, {why}" for part, why in stage["skipped"].items()]
    return [*lines, "", f"**Bottleneck: {bottleneck(found['stages'])}**"]


def text_of(value: Any) -> str:
    """The numbers of a part as text; lists are only in the JSON file.

    >>> text_of({"exact": False, "mean": 3.512, "speed": {"median": 1.2, "min": 1.1, "max": 1.3}, "weights": [1, 0]})
    'exact NO, mean 3.51, speed 1.200 [1.100..1.300]'
    """
    if isinstance(value, dict) and value.keys() == {"median", "min", "max"}:
        digits = 0 if value["median"] >= 100 else 3
        return f"{value['median']:.{digits}f} [{value['min']:.{digits}f}..{value['max']:.{digits}f}]"
    if isinstance(value, dict):
        shown = {name: one for name, one in value.items() if one not in (None, {}) and not isinstance(one, list)}
        return ", ".join(f"{name} {text_of(one)}" for name, one in shown.items())
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def bottleneck(stages: Mapping[str, Any]) -> str:
    """Whether the loader or training is the bottleneck, and the first limit of the loader."""
    parts = {name: stage["found"] for name, stage in stages.items()}
    alone = [part for name, part in parts.get("D", {}).items() if name.startswith(ALONE)]
    last = parts.get("E", {}).get(LAST)
    if not alone or not last:
        return "unknown, for D or E did not end"
    best = max(alone, key=lambda one: one["clips_per_s"]["median"])
    ratio, limit = best["clips_per_s"]["median"] / median(last["rates"][1][SYNTHETIC]), best["first_limit"]
    if ratio < 1:
        return f"the loader, at {ratio:.2f} times the step's speed; first limit: {limit}"
    return f"training; the loader alone is {ratio:.1f} times as fast; its first limit: {limit}"
