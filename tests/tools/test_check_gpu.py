"""tools/check_gpu.py: a stage that fails is a line, what it found counts, and only what is exact and faster is kept."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.tools import check_gpu
from res3d_video.tools.bench import check, stages
from res3d_video.tools.bench.check import bottleneck, options_found, page, supervise
from res3d_video.tools.bench.stages import ALONE, LAST, STAGES, Part, Stage, climb, kept
from tests.schemas import check_schema
from tests.tools.commands import run
from tests.until import until

SAVES = "import json, os, sys, time; open(sys.argv[1], 'w').write(json.dumps({'found': {'n': 1}})); "


@pytest.mark.parametrize(
    ("program", "limit_s", "error"),
    [
        ("", 60, None),
        ("raise ValueError('first\\nno such engine')", 60, "no such engine"),
        ("os.kill(os.getpid(), 9)", 60, "killed by signal 9"),
        ("time.sleep(600)", 1, "ran past its 1 s"),
        ("sys.exit(7)", 60, "ended with exit code 7"),
        ("os.remove(sys.argv[1]); 1 / 0", 60, "ZeroDivisionError: division by zero"),
    ],
)
def test_however_a_stage_ends_it_is_a_line_and_what_it_found_counts(
    tmp_path: Path, program: str, limit_s: float, error: str | None
) -> None:
    result = tmp_path / "stage.json"
    done = supervise([sys.executable, "-c", SAVES + program, str(result)], result, limit_s=limit_s)
    assert (done["status"], done["error"]) == ("failed" if error else "ok", error)
    assert done["found"] == ({"n": 1} if result.is_file() else {})
    assert done["wall_s"] < 30


def test_what_a_stage_started_ends_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = f"import subprocess as s; one = s.Popen(['sleep', '600']); open({str(child)!r}, 'w').write(str(one.pid)); "
    supervise([sys.executable, "-c", start + "one.wait()"], tmp_path / "none.json", limit_s=1)
    state = Path(f"/proc/{child.read_text()}/stat")
    until(lambda: not state.exists() or state.read_text().split()[2] == "Z")  # nobody may have collected it yet


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """On a CPU; what it saves is in its folder."""
    saved, cpu = tmp_path / "saved.json", torch.device("cpu")
    return Stage(cpu, tmp_path, tmp_path, {}, time.monotonic() + 60, save=lambda f: saved.write_text(json.dumps(f)))


def test_a_part_that_fails_does_not_stop_the_next_one(stage: Stage, tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise UserError("no such\nengine")

    stage.run(iter([Part("broken", broken), Part("more", broken, needs_gpu=True), Part("whole", lambda: {"n": 2})]))
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["errors"] == {"broken": "UserError: no such engine"}
    assert saved["skipped"] == {"more": "needs a GPU"}
    assert {name: found["n"] for name, found in saved["found"].items()} == {"whole": 2}


def test_each_change_is_tried_on_top_of_those_kept_before(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compared(stage: Stage, base: dict, change: dict, **_: object) -> dict[str, Any]:
        tried.append((base, change))
        if change == {"c": 3}:
            raise UserError("it fails")
        return {"change": change, "kept": change != {"b": 2}}

    monkeypatch.setattr(stages, "compared", compared)
    monkeypatch.setattr(stages, "ON_A_CPU", set("abcd"))
    stage.run(climb(stage, {"x": 0}, [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}, {"e": 5}], ("real step",)))
    first, later = {"x": 0}, {"x": 0, "a": 1}
    assert tried == [(first, {"a": 1}), (later, {"b": 2}), (later, {"c": 3}), (later, {"d": 4})]
    assert kept(stage.found) == {"a": 1, "d": 4}
    assert (list(stage.errors), list(stage.skipped)) == (["c 3"], ["e 5"])


def tried(change: dict[str, Any], *, is_kept: bool = True) -> dict[str, Any]:
    return {"change": change, "exact": True, "speed": {"median": 1.2, "min": 1.1, "max": 1.3}, "kept": is_kept}


def measured() -> dict[str, Any]:
    """Results of all stages, made up: every stage failed or empty but for a few."""
    found: dict[str, Any] = {
        name: {"status": "ok", "error": None, "wall_s": 1, "limit_s": 2, "found": {}, "skipped": {}, "errors": {}}
        for name in STAGES
    }
    found["B"]["found"] = {"filmstrip": {"exact": False, "mean": 3.5, "max": 90.0, "weights": [1]}}
    found["C"]["found"] = {"compile True": tried({"compile": True})}
    found["C"]["errors"] = {"cuda_graph True": "it fails"}
    rate = {"median": 900.0, "min": 1.0, "max": 999.0}
    found["D"]["found"] = {ALONE: {"clips_per_s": rate, "cores": 1.5, "first_limit": "JPEG engines at 96 %"}}
    found["E"]["found"] = {
        "connections 8": tried({"connections": 8}),
        LAST: tried({}) | {"rates": [{}, {"synthetic step": [300.0], "real step": [290.0]}]},
    }
    return {"device": "cuda:0", "card": {"gpu": "NVIDIA H100"}, "stages": found}


def test_the_page_has_every_part_and_the_bottleneck() -> None:
    found = measured()
    lines = page(found)
    assert {
        "- filmstrip: exact NO, mean 3.5, max 90",
        "- compile True: change compile yes, exact yes, speed 1.200 [1.100..1.300], kept yes",
        "- cuda_graph True: FAILED, it fails",
        f"- {ALONE}: clips_per_s 900 [1..999], cores 1.5, first_limit JPEG engines at 96 %",
        "**Bottleneck: training; the loader alone is 3.0 times as fast; its first limit: JPEG engines at 96 %**",
    } <= set(lines)
    for stage in found["stages"].values():
        stage |= {"found": {}, "status": "failed", "error": "killed by signal 9"}
    assert sum("killed by signal 9" in line for line in page(found)) == len(STAGES)
    assert bottleneck({}) == "unknown, for D or E did not end"
    assert options_found(found["stages"]) == {}


def test_the_settings_are_what_was_kept_and_confirmed_and_what_fast_takes() -> None:
    stages = measured()["stages"]
    assert options_found(stages) == {"compile": True}  # connections is none of the trainer's
    stages["E"]["found"]["cuda_graph True"] = tried({"cuda_graph": True})
    stages["C"]["found"]["compile True"]["kept"] = False  # on by default, and slower here
    assert options_found(stages) == {"compile": False, "cuda_graph": True}
    stages["C"]["found"], stages["C"]["errors"] = {}, {"compile True": "no compiler"}
    assert options_found(stages) == {"compile": False, "cuda_graph": True}
    stages["E"]["found"][LAST]["kept"] = False
    assert options_found(stages) == {}
    del stages["E"], stages["C"]
    assert options_found(stages) == {}


def test_json_page_and_settings_are_complete_whatever_the_stages_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, seen = measured()["stages"], []

    def made_up(command: list[str], result: Path, *, limit_s: float) -> dict[str, Any]:
        name = command[command.index("--stage") + 1]
        written = json.loads(numbers.read_text()) if numbers.is_file() else {"stages": {}}
        seen.append((name, list(written["stages"]), limit_s))
        return results[name]

    numbers, settings = tmp_path / "gpu.json", tmp_path / "new" / "fast.json"
    monkeypatch.setattr(check, "supervise", made_up)
    monkeypatch.setattr(check, "pick_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(check, "card_of", lambda device: {"gpu": "NVIDIA H100"})
    monkeypatch.setattr(check, "fast_path", lambda: settings)
    done = run(check_gpu.main, "--minutes", "10", "--json", numbers)
    found = json.loads(numbers.read_text())
    check_schema("check_gpu", found)
    assert list(found["stages"]) == [name for name, _, _ in seen] == list(STAGES)
    assert [written for _, written, _ in seen] == [list(STAGES)[:n] for n in range(len(STAGES))]  # after every stage
    assert sum(limit_s for _, _, limit_s in seen) > 600  # time that a stage leaves is for those after it
    assert "\n".join(page(found)) in done.output
    assert json.loads(settings.read_text()) == {"card": found["card"], "options": {"compile": True}}
    assert "stages must be some of A,B,C,D,E,F,G, got 'a,H'" in run(check_gpu.main, "--stages", "a,H", code=2).output


@pytest.mark.long
def test_the_whole_check_ends_in_three_minutes_on_a_cpu(tmp_path: Path) -> None:
    numbers = tmp_path / "gpu.json"
    command = [sys.executable, check_gpu.__file__, "--device", "cpu", "--minutes", "3", "--json", str(numbers)]
    subprocess.run(command, check=True, timeout=300)
    found = json.loads(numbers.read_text())
    check_schema("check_gpu", found)
    assert list(found["stages"]) == list(STAGES)
    assert all(one["exact"] for part, one in found["stages"]["B"]["found"].items() if "exact" in one)
