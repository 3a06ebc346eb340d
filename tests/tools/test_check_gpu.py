"""tools/check_gpu.py: a stage that fails is a line, what it found counts, and only what is exact and faster is kept."""

import itertools
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from res3d_video.pipeline.errors import UserError
from res3d_video.tools import check_gpu
from res3d_video.tools.bench import check
from res3d_video.tools.bench.check import bottleneck, options_found, page, supervise
from res3d_video.tools.bench.stages import STAGES, Stage, Trial, climb
from tests.schemas import check_schema
from tests.until import until

SAVES = "import json, os, sys, time; open(sys.argv[1], 'w').write(json.dumps({'found': {'n': 1}})); "


def stage_of(tmp_path: Path, saved: list[dict[str, Any]]) -> Stage:
    return Stage(torch.device("cpu"), tmp_path, tmp_path, {}, time.monotonic() + 60, saved.append)


@pytest.mark.parametrize(
    ("program", "limit_s", "error"),
    [
        ("", 60, None),
        ("raise ValueError('first\\nno such engine')", 60, "no such engine"),
        ("os.kill(os.getpid(), 9)", 60, "killed by signal 9"),
        ("time.sleep(600)", 1, "ran past its 1 s"),
        ("sys.exit(7)", 60, "ended with exit code 7"),
    ],
)
def test_however_a_stage_ends_it_is_a_line_and_what_it_found_counts(
    tmp_path: Path, program: str, limit_s: float, error: str | None
) -> None:
    result = tmp_path / "stage.json"
    done = supervise([sys.executable, "-c", SAVES + program, str(result)], result, limit_s=limit_s)
    assert (done["status"], done["error"]) == ("failed" if error else "ok", error)
    assert done["found"] == {"n": 1}
    assert done["wall_s"] < 30


def test_a_stage_that_writes_nothing_is_accounted_for(tmp_path: Path) -> None:
    done = supervise([sys.executable, "-c", "1 / 0"], tmp_path / "none.json", limit_s=60)
    assert done["error"] == "ZeroDivisionError: division by zero"
    assert (done["found"], done["skipped"], done["errors"]) == ({}, {}, {})


def test_what_a_stage_started_ends_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = (
        f"import subprocess; one = subprocess.Popen(['sleep', '600']); open({str(child)!r}, 'w').write(str(one.pid)); "
    )
    supervise([sys.executable, "-c", start + "import time; time.sleep(600)"], tmp_path / "none.json", limit_s=1)
    state = Path(f"/proc/{child.read_text()}/stat")
    until(lambda: not state.exists() or state.read_text().split()[2] == "Z")  # nobody may have collected it yet


def test_a_part_that_fails_does_not_stop_the_next_one(tmp_path: Path) -> None:
    saved: list[dict[str, Any]] = []
    stage = stage_of(tmp_path, saved)
    with stage.part("broken") as found:
        assert found is not None
        found["before"] = 1
        raise UserError("no such\nengine")
    with stage.part("needs more", needs_gpu=True) as found:
        assert found is None
    with stage.part("whole") as found:
        assert found is not None
        found["after"] = 2
    assert stage.errors == {"broken": "UserError: no such engine"}
    assert stage.skipped == {"needs more": "needs a GPU"}
    assert (stage.found["broken"]["before"], stage.found["whole"]["after"]) == (1, 2)
    assert json.loads(json.dumps(saved[-1])).keys() == {"found", "skipped", "errors"}


KINDS = {  # exact, ratios, error -> kept
    (exact, ratios, error): exact is True and error is None and ratios == (1.1, 1.2, 1.3)
    for exact in (True, False, None)
    for error in (None, "failed")
    for ratios in ((), (1.1, 1.2, 1.3), (0.9, 1.2, 1.3), (1.001, 1.002, 1.003))
}


def looked_up(trials: list[Trial], tried: list[dict[str, Any]], base: dict[str, Any], change: dict[str, Any]) -> Trial:
    """What was measured of a change, and a note of what it was tried on top of."""
    tried.append(dict(base))
    return next(trial for trial in trials if trial.change == change)


def test_only_what_is_exact_and_faster_is_kept_of_every_combination_of_three() -> None:
    for kinds in itertools.product(KINDS, repeat=3):
        trials = [Trial({name: n}, *kind) for n, (name, kind) in enumerate(zip("abc", kinds, strict=True))]
        tried: list[dict[str, Any]] = []
        kept = climb({}, [trial.change for trial in trials], partial(looked_up, trials, tried))
        wanted = {name: n for n, name in enumerate("abc") if KINDS[kinds[n]]}
        assert kept == wanted
        assert tried[2] == {name: n for name, n in wanted.items() if name != "c"}  # each on top of those before


def measured() -> dict[str, Any]:
    """Results of all stages, made up: every stage failed or empty but for a few."""
    stages = {
        name: {"status": "ok", "error": None, "wall_s": 1, "limit_s": 2, "found": {}, "skipped": {}, "errors": {}}
        for name in STAGES
    }
    trial = Trial({"compile": True}, True, (1.1, 1.2, 1.3)).summary()
    stages["C"]["found"] = {
        "trials": [trial, Trial({"cuda_graph": True}, error="no").summary()],
        "options": {"compile": True},
    }
    rate = {"median": 900.0, "min": 1.0, "max": 999.0}
    stages["D"]["found"] = {"load 1, 2 threads": {"clips_per_s": rate, "cores": 1.5, "gpu": {"jpeg": 96.0}}}
    rates = [{"synthetic step": [300.0], "real step": [290.0]}] * 2
    saturated = {"median": 0.97, "min": 0.95, "max": 0.98}
    final = Trial({}, True, (1.1, 1.2, 1.3), more={"rates": rates, "saturation": [saturated] * 2}).summary()
    stages["E"]["found"] = {"trials": [], "options": {"compile": True, "connections": 32}, "default_and_best": final}
    stages["B"]["found"] = {"filmstrip": {"exact": False, "mean": 3.5, "max": 90.0}}
    return {"device": "cuda:0", "card": {"gpu": "NVIDIA H100"}, "stages": stages}


def test_the_page_has_what_is_exact_what_is_fast_saturation_and_the_bottleneck() -> None:
    text = "\n".join(page(measured()))
    for line in (
        "| filmstrip | NO | 3.50 | 90.00 |",
        "| C: compile True | × 1.200 [1.100..1.300] | yes | True |",
        "| C: cuda_graph True | no | – | no |",
        "- best: 0.970 [0.950..0.980]",
        "| load 1, 2 threads | 900 | 1.50 | 96 % |",
    ):
        assert line in text
    assert text.endswith(
        "**Bottleneck: training; the loader alone is 3.0 times as fast; its first limit: JPEG engines at 96 %**"
    )


def test_a_page_of_nothing_but_failures_is_written() -> None:
    found = measured()
    for stage in found["stages"].values():
        stage |= {"found": {}, "status": "failed", "error": "killed by signal 9"}
    assert sum("killed by signal 9" in line for line in page(found)) == len(STAGES)
    assert bottleneck({}, on_gpu=True) == "unknown, for D or E did not end"
    assert options_found(found) == {}


def test_the_settings_are_those_of_the_last_stage_that_chose_and_only_what_fast_takes() -> None:
    found = measured()
    found["stages"]["E"]["found"]["options"] |= {"high_priority": True}
    assert options_found(found) == {"compile": True, "high_priority": True}  # connections is none of the trainer's
    found["stages"]["E"]["found"] = {}
    assert options_found(found) == {"compile": True}


def test_what_the_last_rounds_do_not_confirm_is_not_used() -> None:
    found = measured()
    for ratios, exact in (((0.9, 1.2, 1.3), True), ((1.1, 1.2, 1.3), False), ((), True)):
        found["stages"]["E"]["found"]["default_and_best"] = Trial({}, exact, ratios).summary()
        assert options_found(found) == {}


def test_a_default_that_is_slower_here_is_turned_off() -> None:
    found = measured()
    found["stages"]["C"]["found"]["trials"] = [Trial({"compile": True}, True, (0.9, 0.8, 0.9)).summary()]
    found["stages"]["E"]["found"]["options"] = {"cuda_graph": True}
    assert options_found(found) == {"compile": False, "cuda_graph": True}


def test_json_page_and_settings_are_complete_whatever_the_stages_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, seen = measured()["stages"], []

    def made_up(command: list[str], result: Path, *, limit_s: float) -> dict[str, Any]:
        name = command[command.index("--stage") + 1]
        written = json.loads(numbers.read_text()) if numbers.is_file() else {"stages": {}}
        seen.append((name, list(written["stages"]), limit_s))
        return results[name]

    numbers, text, settings = tmp_path / "gpu.json", tmp_path / "gpu.md", tmp_path / "fast.json"
    monkeypatch.setattr(check, "supervise", made_up)
    files = ["--json", str(numbers), "--markdown", str(text), "--save", str(settings)]
    done = CliRunner().invoke(check_gpu.main, ["--device", "cpu", "--minutes", "10", *files], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(numbers.read_text())
    check_schema("check_gpu", found)
    assert list(found["stages"]) == [name for name, _, _ in seen] == list(STAGES)
    assert [written for _, written, _ in seen] == [list(STAGES)[:n] for n in range(len(STAGES))]  # after every stage
    assert sum(limit_s for _, _, limit_s in seen) > 600  # time that a stage leaves is for those after it
    assert text.read_text().strip() in done.output
    assert json.loads(settings.read_text()) == {"card": found["card"], "options": {"compile": True}}


def test_a_stage_that_does_not_exist_is_wrong_usage() -> None:
    done = CliRunner().invoke(check_gpu.main, ["--stages", "a,H"])
    assert done.exit_code == 2
    assert "choose of A,B,C,D,E,F,G, with commas" in done.output


@pytest.mark.long
def test_the_whole_check_ends_in_three_minutes_on_a_cpu(tmp_path: Path) -> None:
    numbers = tmp_path / "gpu.json"
    command = [sys.executable, check_gpu.__file__, "--device", "cpu", "--minutes", "3", "--json", str(numbers)]
    subprocess.run(command, check=True, timeout=300)
    found = json.loads(numbers.read_text())
    check_schema("check_gpu", found)
    assert list(found["stages"]) == list(STAGES)
    assert all(one["exact"] for part, one in found["stages"]["B"]["found"].items() if "exact" in one)
