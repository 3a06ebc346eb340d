"""Every command that a page names, run or not, exists and has the options it is given there."""

import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import IN_TEXT, PAGES, Block, all_blocks, command_lines, mistake, name_of, our_commands

SHELLS = {"", "bash", "console", "sh"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    scripts = [block.text for block in all_blocks() if block.page == page and block.language in SHELLS]
    scripts += IN_TEXT.findall(page.read_text())
    wrong = [
        found
        for script in scripts
        for words in command_lines(script.replace("\\\n", " "))
        for name, rest in our_commands(words)
        if (found := mistake(name, rest))
    ]
    assert not wrong


def of_many_machines(start: str) -> Block:
    """The block of docs/many-machines.md that begins so."""
    (block,) = (b for b in all_blocks() if b.page.name == "many-machines.md" and b.text.startswith(start))
    return block


def test_the_slurm_script_is_a_bash_script_that_asks_for_what_it_uses() -> None:
    script = of_many_machines("#!/bin/bash").text
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    asked = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines()[1:9])
    assert asked.keys() >= {"array", "cpus-per-task", "requeue"}
    ((name, words),) = [found for line in command_lines(script) for found in our_commands(line)]
    assert (name, mistake(name, words)) == ("tools/make_shards.py", "")
    given = dict(pairwise(words))
    assert (given["--task"], given["--workers"]) == (
        "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT",
        "$SLURM_CPUS_PER_TASK",
    )


def test_the_job_for_kubernetes_is_one_of_kuberay_whose_machines_see_the_videos() -> None:
    job = yaml.safe_load(of_many_machines("apiVersion:").text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    ((name, words),) = our_commands(shlex.split(job["spec"]["entrypoint"]))
    assert (name, mistake(name, words)) == ("res3d-make-shards", "")
    given = dict(pairwise(words))
    assert given["--ray"] == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values()), (
        "as Go wants it"
    )
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        machine = group["template"]["spec"]
        (container,) = machine["containers"]
        (mount,) = container["volumeMounts"]
        assert given["--raw"].startswith(f"{mount['mountPath']}/")
        assert mount["name"] in {volume["name"] for volume in machine["volumes"]}
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_a_mistake_in_a_command_line_is_found() -> None:
    for line, said in (
        ("python tools/make_shards.py ucf101 --codec h264 --out x", ""),
        ("python tools/make_shards.py ucf101 --codec h265", "h265"),
        ("python tools/make_shards.py ucf102", "ucf102"),
        ("python tools/make_shards.py ucf101 --qualty 3", "no such option"),
        ("res3d-chek-shards x", "no such command"),
        ("torchrun --nproc-per-node 8 train/main.py --data x --preset tiny --out y --steps many", "many"),
        ("srun --x=1 torchrun --nnodes $N \\\n  train/main.py --data x --preset tiny --out y --lr $LR", ""),
    ):
        ((name, words),) = [found for words in command_lines(line) for found in our_commands(words)]
        found = mistake(name, words)
        assert (said in found) if said else not found
