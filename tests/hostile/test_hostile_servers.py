"""Ways in which a server can misbehave: each ends in the dataset or in one line, soon and in little room."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from res3d_video.pipeline.sync import sync_dataset
from res3d_video.tools.numbered import write_numbered_video
from tests.conftest import build_numbered
from tests.hostile.servers import SECRET, TIMEOUT_S, USER

CHECKOUT = Path(__file__).resolve().parents[2]
NUM_TARS, STEP = 2, 3  # every third way; `python -m tests.hostile.servers` tries all
MAX_SECONDS = 100.0  # thirty-two at once on two cores, which others use too; alone each takes less than ten
MAX_MEMORY, MAX_DISK = 10**9, 10**6  # of all together, and of each


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each way, by its name; "all" holds the memory."""
    folder = tmp_path_factory.mktemp("servers")
    for i in range(6):
        path = folder / "raw" / ("even", "odd")[i % 2] / f"g{i:02d}_x.mp4"
        path.parent.mkdir(exist_ok=True, parents=True)
        write_numbered_video(path, 20 + i, width=172, height=96)
    build_numbered(folder / "raw", folder / "built", samples_per_shard=3, size=32)
    sync_dataset(folder / "built", folder / "data")
    command = [sys.executable, "-m", "tests.hostile.servers", folder / "data", folder / "scratch", STEP]
    done = subprocess.run(list(map(str, command)), cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    texts = [done.stdout, done.stderr, *(path.name for path in folder.glob("scratch/**/*"))]
    texts += [path.read_bytes().decode("latin-1") for path in folder.glob("scratch/**/known.json")]
    assert not [text for text in texts if USER in text or SECRET in text], "secrets of the URL"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.get("name", "all"): line for line in lines}


@pytest.fixture
def web(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of web servers; S3's clients have ways of their own."""
    return {name: one for name, one in found.items() if name != "all" and not name.startswith("s3 ")}


def ended(web: dict[str, dict[str, Any]], start: str, word: str = "") -> dict[str, dict[str, Any]]:
    """Those whose names begin with something, and have a word."""
    return {name: one for name, one in web.items() if name.startswith(start) and word in name}


pytestmark = pytest.mark.slow


def test_every_way_ends_in_the_dataset_or_in_one_line(found: dict[str, dict[str, Any]]) -> None:
    ways = {name: one for name, one in found.items() if name != "all"}
    assert len(ways) > 150
    assert not {name: one["crashed"] for name, one in ways.items() if "crashed" in one}
    for name, one in ways.items():
        lines = [*one["said"], *filter(None, [one.get("refused")])]
        assert lines or one["whole"] == NUM_TARS, f"{name}: silence"
        url = "s3://ways/" if name.startswith("s3 ") else "http://127.0.0.1"
        assert all(url in line and line.isprintable() and len(line) < 700 for line in lines), lines


def test_it_takes_little_time_memory_and_disk(found: dict[str, dict[str, Any]]) -> None:
    ways = {name: one for name, one in found.items() if name != "all"}
    assert {name: one["seconds"] for name, one in ways.items() if one["seconds"] > MAX_SECONDS} == {}
    assert {name: one["disk"] for name, one in ways.items() if one["disk"] > MAX_DISK} == {}
    assert found["all"]["memory"] < MAX_MEMORY


def test_what_time_heals_is_waited_for(web: dict[str, dict[str, Any]]) -> None:
    once = {name: one for name, one in web.items() if name.endswith(", once")}
    assert len(once) > 10
    assert [name for name, one in once.items() if one.get("whole") != NUM_TARS] == []


def test_only_404_and_410_are_absence(web: dict[str, dict[str, Any]]) -> None:
    for file, words in (("dataset.json", "no dataset.json, so no finished shards"), ("index/", "is not there; copy")):
        said = {name for name, one in ended(web, file).items() if words in one.get("refused", "")}
        assert said == {*ended(web, file, "status 404"), *ended(web, file, "status 410")}
    tars = {name for name, one in ended(web, "numbered").items() if "is not there" in str(one["said"])}
    assert tars == {*ended(web, "numbered", "status 404"), *ended(web, "numbered", "status 410")}
    for status in ("404", "410"):
        assert all(one["whole"] == NUM_TARS for one in ended(web, "checksums.json", f"status {status}").values())


def test_who_may_not_read_is_told_so_and_at_once(web: dict[str, dict[str, Any]]) -> None:
    refused = {name for name, one in web.items() if "look at the credentials" in one.get("refused", "")}
    expected = {name for name in web if "status 401" in name or "status 403" in name}
    assert refused == expected
    assert not [name for name in expected if web[name]["said"]], "nothing was tried again"


def test_stalls_and_errors_of_the_server_are_tried_again_until_the_deadline(web: dict[str, dict[str, Any]]) -> None:
    words = ("status 429", "status 500", "status 503", "silence", "byte by byte", "a byte, and", "a chunk, and")
    tried = {name: one for name, one in web.items() if any(w in name for w in words) and "once" not in name}
    assert len(tried) > 15
    for name, one in tried.items():
        assert f"no answer for {TIMEOUT_S:.0f} s" in one["refused"], name
        assert any("trying again" in line for line in one["said"]), name


def test_redirects_that_lead_nowhere_are_not_tried_again(web: dict[str, dict[str, Any]]) -> None:
    for name, one in {**ended(web, "dataset.json", "to itself"), **ended(web, "dataset.json", "a file")}.items():
        assert "leads to no file" in one["refused"], name


def test_sizes_are_known_before_anything_is_read(web: dict[str, dict[str, Any]]) -> None:
    for name, one in ended(web, "", "a huge length").items():
        lines = one["said"] if name.startswith("numbered") else [one["refused"]]
        assert f"{10**15} bytes, more than the" in lines[-1], name
