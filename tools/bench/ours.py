"""Our loader as it is measured: what reading its clips costs, and how many batches wait ready in it."""

from pipeline.loader import LoaderSettings
from pipeline.plan import TrainPlan
from pipeline.reader import ReadWork, StepReader

NAMES = {"filmstrip": "filmstrips", "h264": "h264"}  # codec of the shards -> what our lane is called


def loader_cost(plan: TrainPlan, *, steps: range) -> ReadWork:
    """What the loader reads and decodes for some steps, all ranks together."""
    reader = StepReader(plan.index, plan, rows=slice(0, plan.global_batch_size))
    return sum((reader.read(step).work for step in steps), ReadWork())


def warmup_batches(settings: LoaderSettings, *, codec: str, on_gpu: bool) -> int:
    """More than wait ready when a turn begins: handed over, in the thread's hand, in DALI's queues, one more.

    >>> [warmup_batches(LoaderSettings(prefetch=2, queue_depth=3), codec=c, on_gpu=True) for c in ("filmstrip", "h264")]
    [7, 25]
    """
    return settings.prefetch + settings.queue_depth * settings.pipelines(codec=codec, on_gpu=on_gpu) + 2
