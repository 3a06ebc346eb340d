"""sync_shards and the other commands on URLs, as a user types them."""

import json
import threading
from pathlib import Path

import pytest

from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.tools import bench_loader, check_shards, make_shards, sync_shards
from tests.hostile.servers import Server, Way, right
from tests.s3_server import S3Server
from tests.schemas import check_schema
from tests.tools.commands import run

BENCH = "--frames 4 --crop-size 56 --resize 64 --batch-size 2 --batches 2 --loader-only --repeats 1"


def test_a_dataset_is_copied_checked_and_copied_no_second_time(
    numbered: ShardIndex, s3: S3Server, tmp_path: Path
) -> None:
    url = "s3://shards/copied"
    told = json.loads(run(sync_shards.main, numbered.data_dir, url, "--json").stdout)
    check_schema("sync_shards", told)
    assert told["num_copied"] > 2 * len(numbered.tars)
    assert told["num_kept"] == 0
    again = run(sync_shards.main, numbered.data_dir, url, "--quiet", "--json")
    assert json.loads(again.stdout)["num_copied"] == 0
    whole = run(check_shards.main, url, "--decode", "--cache", tmp_path)
    assert "11 samples of 2 classes in 3 shards: whole" in whole.output


def test_shards_that_were_built_at_a_url_are_copied_to_a_folder(ucf_raw: Path, s3: S3Server, tmp_path: Path) -> None:
    url = "s3://shards/made"
    words = ["ucf101", "--raw", ucf_raw, "--samples-per-shard", 3]
    first = run(make_shards.main, *words, "--out", url, "--task", "1/2")
    assert f"1 shards written, 0 kept as they were; 1 of 2 are there: {url}" in first.stdout
    made = run(make_shards.main, *words, "--out", url, "--task", "2/2")
    local = run(make_shards.main, *words, "--out", f"file://{tmp_path}/local")
    assert made.stdout.splitlines()[1:] == local.stdout.replace(f"{tmp_path}/local", url).splitlines()[1:]
    assert json.loads(run(make_shards.main, *words, "--out", url, "--json").stdout)["out"] == url
    run(sync_shards.main, url, tmp_path / "back", "--quiet")
    assert open_index(tmp_path / "back").fingerprint == open_index(tmp_path / "local").fingerprint


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((sync_shards.main, "nowhere", "s3://b/x"), 2, "nowhere is no folder; make shards with python tools/make_"),
        ((sync_shards.main, ".", "https://host/x"), 1, "error: https://host/x: web servers take no files"),
        ((check_shards.main, "floppy://x", "--cache", "{tmp}"), 1, "error: floppy://x: cannot be opened"),
        ((check_shards.main, "memory://x", "--cache-limit", "much"), 2, "'much' is no size; choose one like 50GB"),
        ((bench_loader.main, "--data", "memory://x", "--cold"), 2, "copy it with tools/sync_shards.py first"),
    ],
)
def test_mistakes_get_one_line(words: tuple, code: int, message: str, tmp_path: Path) -> None:
    command, *options = words
    result = run(command, *(option.replace("{tmp}", str(tmp_path)) for option in options), code=code)
    assert message in " ".join(result.stderr.split())


def test_commands_keep_the_secrets_of_a_url_to_themselves(numbered: ShardIndex, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with Server(numbered.data_dir, [Way("", "", right)]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        url = f"http://someone:hunter2@{host}/0?signature=hunter2"
        words = ["--cache", tmp_path / "cache"]
        good = [
            run(check_shards.main, url, *words, "--json"),
            run(sync_shards.main, url, tmp_path / "copy", "--json"),
            run(bench_loader.main, "--data", url, *words, *BENCH.split(), "--json", tmp_path / "b.json"),
        ]
        server.shutdown()
    bad = [
        run(sync_shards.main, url, tmp_path / "more", "--remote-timeout", "0", code=1),
        run(check_shards.main, url, "--cache", tmp_path / "other", "--remote-timeout", "0", code=1),
        run(sync_shards.main, numbered.data_dir, url, code=1),
        run(bench_loader.main, "--data", url, "--cold", code=2),
    ]
    texts = [result.output for result in good + bad]
    texts += [f"{path} {path.read_bytes()!r}" for path in tmp_path.rglob("*.json")]
    assert json.loads(good[1].stdout)["source"] == f"http://{host}/0"
    assert all(host in result.output for result in bad)
    assert not [text for text in texts if "hunter2" in text or "someone" in text]
