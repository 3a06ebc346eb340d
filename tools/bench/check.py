"""check_gpu.py at work: its stages one after another, each a process with a deadline, and what they come to."""

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
import torch

from res3d_video.pipeline.typed_json import read_json
from res3d_video.tools.bench.command import pick_device
from res3d_video.tools.bench.lanes import SYNTHETIC
from res3d_video.tools.bench.measure import load_psutil
from res3d_video.tools.bench.stages import ALONE, LAST, STAGES, Stage, kept
from res3d_video.train.resolve import FastOptions, card_of, fast_path
from res3d_video.train.terminal import save_json

LEAST_S = 20.0  # of a stage; python and its packages take seconds to load


def check(
    command: list[str],
    *,
    data: Path | None,
    minutes: float,
    device: str,
    stages: tuple[str, ...],
    json_path: Path | None,
    stage: str | None,
    home: Path | None,
    until: float | None,
    quiet: bool,
) -> None:
    """Run the stages, each in a process, or one stage in this process; print and write what they found.

    Args:
        command: Starts a stage's process, before its own options.
    """
    chosen = pick_device(device)
    if stage is not None and home is not None and until is not None:
        return run_stage(stage, home, data or home / "demo-filmstrip", device=chosen, until=until)
    load_psutil()
    found: dict[str, Any] = {"device": str(chosen), "card": card_of(chosen), "stages": {}}
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as scratch:
        names, started = ["data", *stages], time.monotonic()
        for place, name in enumerate(names):
            left_s = 60 * minutes - (time.monotonic() - started)
            limit_s = max(LEAST_S, left_s * STAGES[name][0] / sum(STAGES[later][0] for later in names[place:]))
            words = ["--stage", name, "--home", scratch, "--until", str(time.monotonic() + limit_s)]
            words += ["--device", str(chosen), *(["--data", str(data)] if data else [])]
            found["stages"][name] = supervise([*command, *words], result_path(Path(scratch), name), limit_s=limit_s)
            if json_path is not None:
                save_json(json_path, found)
            if not quiet:
                click.echo(stage_line(name, found["stages"][name]), err=True)
    lines = page(found)
    found["options"] = options_found(found["stages"])
    if json_path is not None:
        save_json(json_path, found)
    click.echo("\n".join(lines))
    if chosen.type == "cuda":
        fast_path().parent.mkdir(parents=True, exist_ok=True)
        save_json(fast_path(), {"card": found["card"], "options": found["options"]})
        click.echo(f"wrote {fast_path()}")


def result_path(home: Path, name: str) -> Path:
    """Where a stage writes."""
    return home / f"stage-{name}.json"


def read_result(path: Path) -> dict[str, dict[str, Any]]:
    """What a stage has found so far; nothing where there is no file yet."""
    nothing: dict[str, dict[str, Any]] = {"found": {}, "skipped": {}, "errors": {}}
    if not path.is_file():
        return nothing
    return nothing | read_json(path, dict[str, Any], what="results", way_out="run tools/check_gpu.py again")


def run_stage(name: str, home: Path, data: Path, *, device: torch.device, until: float) -> None:
    """The stage's own process."""
    earlier = {other: read_result(result_path(home, other))["found"] for other in STAGES}
    path = result_path(home, name)
    stage = Stage(device, home, data, earlier, until, save=lambda found: save_json(path, found))
    stage.run(STAGES[name][1](stage))


def supervise(command: list[str], result: Path, *, limit_s: float) -> dict[str, Any]:
    """Run a stage's process; when its time is over, end it and all that it started.

    Args:
        command: Writes what it finds to `result`, which is read however it ends.

    Returns:
        status ("ok" or "failed"), error (one line, or None), wall_s, limit_s; found, skipped, errors of its parts.
    """
    started, error = time.monotonic(), None
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            error, code = f"ran past its {limit_s:.0f} s", 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left, too
            process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or [f"ended with exit code {code}"]
    if code < 0:
        error = f"killed by signal {-code}"
    elif code > 0:
        error = lines[-1][:300]
    found = read_result(result)
    if error is None and found["errors"]:
        error = f"failed: {', '.join(found['errors'])}"
    took = {"wall_s": round(time.monotonic() - started, 1), "limit_s": round(limit_s, 1)}
    return {"status": "ok" if error is None else "failed", "error": error, **took, **found}


def stage_line(name: str, stage: Mapping[str, Any]) -> str:
    """A stage for people."""
    skipped = f", {len(stage['skipped'])} parts skipped" if stage["skipped"] else ""
    return f"{name}: {stage['error'] or 'ok'} ({stage['wall_s']:.0f} s of {stage['limit_s']:.0f}{skipped})"


def options_found(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The options for --fast: those that C and E kept.

    Nothing where E's last rounds did not find them faster than the defaults: one trial in many is fast by chance.
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
    """Every part of every stage, and the bottleneck: Markdown."""
    lines = [f"# Check of {found['device']}", "", text_of(found["card"])]
    for name, stage in found["stages"].items():
        lines += ["", f"## {stage_line(name, stage)}", ""]
        lines += [f"- {part}: {text_of(numbers)}" for part, numbers in stage["found"].items()]
        lines += [f"- {part}: FAILED, {error}" for part, error in stage["errors"].items()]
        lines += [f"- {part}: skipped, {why}" for part, why in stage["skipped"].items()]
    return [*lines, "", f"**Bottleneck: {bottleneck(found['stages'])}**"]


def text_of(value: Any) -> str:
    """Numbers of a part for people; lists are for machines only.

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
    """What limits: the loader alone where it is slower than the step, else the GPU's or the CPU's own work."""
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
