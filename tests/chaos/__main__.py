"""The command: make chaos, or python -m tests.chaos --kills 4 --seed 1."""

import random
import tempfile
import time
from pathlib import Path

import click
import psutil

from res3d_video.tools.numbered import write_numbered_video
from tests.chaos.building import build, build_under_fire, compare_folders
from tests.chaos.ledger import Ledger, StuckError
from tests.chaos.training import compare_runs, train, train_under_fire


@click.command()
@click.option("--kills", default=50, show_default=True, help="Half of them while building, half while training.")
@click.option("--seed", default=0, show_default=True, help="Of when and what is killed.")
@click.option("--steps", default=200, show_default=True, help="Of a training.")
@click.option("--videos", default=24, show_default=True)
def main(*, kills: int, seed: int, steps: int, videos: int) -> None:
    """Kill building and training again and again; exit code 1 if anything is lost."""
    drawn, begun_s = random.Random(seed), time.monotonic()
    builds, runs = Ledger(kills // 2), Ledger(kills - kills // 2)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        raw, log = root / "raw", root / "log.txt"
        for number in range(videos):
            path = raw / f"class{number % 2}" / f"v{number:02d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_numbered_video(path, 20 + number, height=120, width=160)
        calm = root / "calm"
        try:
            calm_s = build(raw, calm / "shards", log)
            num_builds = num_runs = 0
            while not builds.is_full:
                out = root / f"shards{num_builds}"
                build_under_fire(raw, out, log, ledger=builds, drawn=drawn, calm_s=calm_s)
                compare_folders(out, calm / "shards", ledger=builds)
                num_builds += 1
            train(calm / "shards", calm / "run", log, steps=steps)
            while not runs.is_full:
                out = root / f"run{num_runs}"
                train_under_fire(calm / "shards", out, log, steps=steps, ledger=runs, drawn=drawn)
                compare_runs(out, calm / "run", ledger=runs)
                num_runs += 1
        except (StuckError, psutil.TimeoutExpired) as error:
            click.echo(log.read_text(errors="replace")[-3000:])
            raise click.ClickException(str(error)) from None
        losses = builds.losses + runs.losses
        if losses:
            click.echo(log.read_text(errors="replace")[-3000:])
    what = ", ".join(f"{count} × {name}" for name, count in sorted((builds.kills + runs.kills).items()))
    click.echo(
        f"{(builds.kills + runs.kills).total()} kills ({what}) in {num_builds} builds and {num_runs} trainings, "
        f"{len(losses)} losses, {time.monotonic() - begun_s:.0f} s"
    )
    if losses:
        raise click.ClickException(f"{len(losses)} losses")


if __name__ == "__main__":
    main()
