"""What it costs to see every rank: torchrun --nproc-per-node 4 -m tests.train.gather_cost"""

import time
from statistics import median

import numpy as np
import torch
import torch.distributed as dist

from res3d_video.pipeline.loader import Batch
from res3d_video.train.metrics import OutcomeQueue
from res3d_video.train.models import build_model
from res3d_video.train.presets import PRESETS
from res3d_video.train.rank_times import RankClock, Reading, StragglerWatch, line_of
from res3d_video.train.ranks import from_torchrun, process_group
from res3d_video.train.step import TrainStep, build_optimizer

NUM_STEPS, NUM_GATHERS = 30, 2000


def main() -> None:
    """Print medians, on rank 0: a step, its all_reduce, and the all_gather in its place with what a line takes."""
    config, ranks = PRESETS["tiny"], from_torchrun("cpu")
    torch.set_num_threads(1)
    with process_group(ranks):
        model = build_model(config.model, num_classes=101)
        optimizer = build_optimizer(model, config.optim, fused=False)
        step = TrainStep(model, optimizer, ranks=ranks)
        clock, watch = RankClock(model, optimizer, ranks=ranks), StragglerWatch(["node"] * ranks.world_size)
        size = config.global_batch_size // ranks.world_size
        clips = torch.randn(size, 3, config.clip.num_frames, config.clip.crop_size, config.clip.crop_size)
        labels, weights, rows = torch.zeros(size, dtype=torch.int64), torch.ones(size), np.arange(size)
        batch = Batch(clips, labels, weights, rows, rows, rows, 0, config.global_batch_size)
        batches, queue, steps_s = iter(lambda: batch, None), OutcomeQueue(ranks), []
        for _ in range(NUM_STEPS):
            begun_s = time.perf_counter()
            taken = clock.take(batches)
            found = step(taken.clips, labels, weights, num_real_global=config.global_batch_size, lr=0.01)
            queue.push(1, batch, loss=found.loss, losses=found.losses, stop=False)
            steps_s.append(time.perf_counter() - begun_s)
        plain_s, gather_s = [], []
        for number in range(2 * NUM_GATHERS):
            dist.barrier()  # collective: what is measured begins together
            begun_s = time.perf_counter()
            reading: Reading | None = None
            if number % 2:
                clock.take(batches)
                reading = clock.read()
            (outcome,) = queue.push(1, batch, loss=found.loss, losses=found.losses, stop=False, reading=reading)
            if outcome.readings is not None and ranks.is_main:
                line_of(outcome.readings, watch.hosts, global_batch_size=config.global_batch_size)
                watch.add(outcome.readings)
            (gather_s if number % 2 else plain_s).append(time.perf_counter() - begun_s)
        if ranks.is_main:
            step_s, without_s, with_s = median(steps_s), median(plain_s), median(gather_s)
            added = (with_s - without_s) / step_s
            print(f"{ranks.world_size} ranks: {1e3 * step_s:.0f} ms a step, {1e3 * without_s:.2f} ms its all_reduce")
            print(
                f"{1e3 * with_s:.2f} ms to see every rank: {added:+.3%} of a step, {added / 10:+.3%} at --log-every 10"
            )


if __name__ == "__main__":
    main()
