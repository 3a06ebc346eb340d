"""Our loader as it is measured: what reading its clips costs, and how many batches wait ready in it."""

import time
from statistics import median

from pipeline.frames import SimpleEngine
from pipeline.loader import ClipLoader, LoaderSettings
from pipeline.plan import TrainPlan
from pipeline.reader import ReadWork, StepReader

PRODUCER_STEPS = 30
NAMES = {"filmstrip": "filmstrips", "h264": "h264"}  # codec of the shards -> what our lane is called


def loader_cost(plan: TrainPlan, *, steps: range) -> ReadWork:
    """What the loader reads and decodes for some steps, all ranks together."""
    reader = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size))
    return sum((reader.read(step).work for step in steps), ReadWork())


def producer_ms(loader: ClipLoader, plan: TrainPlan) -> float:
    """CPU time of one thread for all but decoding of a batch, ms: plan, read, check, join, what DALI is fed.

    Of H.264 on a CPU, which is decoded before DALI is fed: plan, read and check alone.
    """
    reader, decoder = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size)), loader.decoder
    is_fed = not isinstance(decoder, SimpleEngine) and (plan.index.codec == "filmstrip" or loader.device.type == "cuda")
    taken_s = []
    for step in range(PRODUCER_STEPS):
        started = time.thread_time()
        reader.fetch(step + loader.settings.read_ahead)
        read = reader.read(step)
        if is_fed:
            decoder.inputs(read)
        taken_s.append(time.thread_time() - started)
    return 1000 * median(taken_s[loader.settings.read_ahead :])


def warmup_batches(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """More than wait ready when a turn begins: handed over, in the thread's hand, in DALI's queues, one more.

    >>> [warmup_batches(LoaderSettings(prefetch=2, queue_depth=3), codec=c, on_gpu=True) for c in ("filmstrip", "h264")]
    [7, 10]
    """
    return settings.prefetch + settings.queue_depth * settings.pipelines(codec=codec, on_gpu=on_gpu) + 2
