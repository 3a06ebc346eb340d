"""check_gpu.py at work: its stages one after another, each a process with a deadline, and what they come to."""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from res3d_video.tools.bench.command import pick_device
from res3d_video.tools.bench.machine import markdown, write
from res3d_video.tools.bench.measure import load_psutil
from res3d_video.tools.bench.results import Figures, first_limit
from res3d_video.tools.bench.stages import STAGES, Stage, read_result
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
    markdown_path: Path | None,
    save: Path | None,
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
    found["options"] = options_found(found)
    if json_path is not None:
        save_json(json_path, found)
    if markdown_path is not None:
        write(markdown_path, "\n".join(lines))
    click.echo("\n".join(lines))
    if save is not None or chosen.type == "cuda":
        where = save or fast_path()
        where.parent.mkdir(parents=True, exist_ok=True)
        save_json(where, {"card": found["card"], "options": found["options"]})
        click.echo(f"wrote {where}")


def result_path(home: Path, name: str) -> Path:
    """Where a stage writes."""
    return home / f"stage-{name}.json"


def run_stage(name: str, home: Path, data: Path, *, device: torch.device, until: float) -> None:
    """The stage's own process."""
    earlier = {other: read_result(result_path(home, other)) for other in STAGES if other != name}
    path = result_path(home, name)
    stage = Stage(device, home, data, earlier, until, save=lambda found: save_json(path, found))
    stage.tell()
    STAGES[name][1](stage)
    stage.tell()


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
    found = {"found": {}, "skipped": {}, "errors": {}} | read_result(result)
    if error is None and found["errors"]:
        part, error = next(iter(found["errors"].items()))
        error = f"{part}: {error}"
    took = {"wall_s": round(time.monotonic() - started, 1), "limit_s": round(limit_s, 1)}
    return {"status": "ok" if error is None else "failed", "error": error, **took, **found}


def stage_line(name: str, stage: dict[str, Any]) -> str:
    """A stage for people."""
    skipped = f", {len(stage['skipped'])} parts skipped" if stage["skipped"] else ""
    return f"{name}: {stage['error'] or 'ok'} ({stage['wall_s']:.0f} s of {stage['limit_s']:.0f}{skipped})"


def options_found(found: dict[str, Any]) -> dict[str, Any]:
    """The options for --fast: what stage E kept, else what C kept.

    Nothing where E's last rounds did not find them faster than the defaults: one trial in many is fast by chance.
    """
    step, whole = (found["stages"].get(name, {}).get("found", {}) for name in "CE")
    last = whole.get("default_and_best")
    if last is not None and not last["is_kept"]:
        return {}
    options = whole.get("options", step.get("options", {}))
    if any("compile" in trial["change"] and not trial["is_kept"] for trial in step.get("trials", [])):
        options = {"compile": False} | options  # it is on by default
    return {key: value for key, value in options.items() if key in FastOptions.__annotations__}


def page(found: dict[str, Any]) -> list[str]:
    """What is exact, what is fast, saturation, and the bottleneck: Markdown."""
    stages = {name: stage["found"] for name, stage in found["stages"].items()}
    card = ", ".join(f"{name} {value}" for name, value in found["card"].items())
    lines = [f"# Check of {found['device']}", "", card, "", "## Stages", ""]
    lines += [f"- {stage_line(name, stage)}" for name, stage in found["stages"].items()]
    for name, stage in found["stages"].items():
        lines += [f"- {name}, {part}: {error}" for part, error in stage["errors"].items()]
        lines += [f"- {name}, {part}: skipped, {why}" for part, why in stage["skipped"].items()]
    parts = [(part, one) for name in "BG" for part, one in stages.get(name, {}).items() if "exact" in one]
    lines += ["", "## What is exact", "", *markdown(["", "exact", "mean", "max"], [exact_row(*row) for row in parts])]
    trials = [(name, trial) for name in "CE" for trial in stages.get(name, {}).get("trials", [])]
    header = ["", "speed", "exact", "kept"]
    lines += ["", "## What is fast", "", *markdown(header, [trial_row(*row) for row in trials])]
    alone = {part: one for part, one in stages.get("D", {}).items() if "clips_per_s" in one}
    rows = [
        [part, f"{one['clips_per_s']['median']:.0f}", f"{one['cores']:.2f}", engine_share(one)]
        for part, one in alone.items()
    ]
    lines += ["", *markdown(["loader alone", "clips/s", "cores", "JPEG engines"], rows)]
    lines += ["", "## Saturation", ""]
    final = stages.get("E", {}).get("default_and_best")
    for name, one in zip(("default", "best"), (final or {}).get("more", {}).get("saturation", []), strict=False):
        lines.append(f"- {name}: {one['median']:.3f} [{one['min']:.3f}..{one['max']:.3f}]")
    for lane, one in stages.get("F", {}).items():
        idle = "unknown" if one.get("idle_share") is None else f"{one['idle_share']:.1%}"
        top = ", ".join(f"{kernel[:40]} {ms:.1f} ms" for kernel, ms in list(one.get("kernels", {}).items())[:3])
        lines.append(f"- {lane}: the step's stream is idle for {idle}; {top}")
    return [*lines, "", f"**Bottleneck: {bottleneck(stages, on_gpu=found['device'] != 'cpu')}**"]


def exact_row(part: str, one: dict[str, Any]) -> list[str]:
    """A row of what is exact."""
    numbers = [f"{one[name]:.2f}" if name in one else "–" for name in ("mean", "max")]
    return [part, "yes" if one["exact"] else "NO", *numbers]


def trial_row(stage: str, trial: dict[str, Any]) -> list[str]:
    """A row of what is fast."""
    name = ", ".join(f"{option} {value}" for option, value in trial["change"].items())
    if trial["error"]:
        return [f"{stage}: {name}", trial["error"], "–", "no"]
    ratios = trial["ratios"]
    speed = f"× {median(ratios):.3f} [{min(ratios):.3f}..{max(ratios):.3f}]"
    return [f"{stage}: {name}", speed, {True: "yes", False: "NO", None: "–"}[trial["exact"]], str(trial["is_kept"])]


def engine_share(one: dict[str, Any]) -> str:
    """Use of the JPEG engines, where NVML says it."""
    share = (one.get("gpu") or {}).get("jpeg")
    return "–" if share is None else f"{share:.0f} %"


def bottleneck(stages: dict[str, Any], *, on_gpu: bool) -> str:
    """What limits: the loader alone where it is slower than the step, else the GPU's or the CPU's own work."""
    alone = [one for one in stages.get("D", {}).values() if "clips_per_s" in one]
    rates = (stages.get("E", {}).get("default_and_best") or {}).get("more", {}).get("rates")
    if not alone or not rates:
        return "unknown, for D or E did not end"
    best = max(alone, key=lambda one: one["clips_per_s"]["median"])
    gpu, num_cpus = best.get("gpu") or {}, len(os.sched_getaffinity(0))
    shares = {"JPEG engines": gpu.get("jpeg"), "video engines": gpu.get("dec"), "GPU kernels": gpu.get("sm")}
    busy = {name: share / 100 for name, share in shares.items() if share is not None}
    busy["host cores"] = min(best["cores"] / num_cpus, 1.0)
    loader, ready = best["clips_per_s"]["median"], median(rates[1]["synthetic step"])
    figures = Figures(on_gpu, num_cpus, loader, best["cores"], busy)
    if loader < ready:
        return f"the loader, at {loader / ready:.2f} times the step's speed; first limit: {first_limit(figures)}"
    return f"training; the loader alone is {loader / ready:.1f} times as fast; its first limit: {first_limit(figures)}"
