"""What the turns of a benchmark come to: medians, spreads, saturation, and what the verdict needs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pipeline.clip import ClipSpec
from pipeline.reader import ReadWork
from tools.bench.lanes import LOADER, REAL, SYNTHETIC
from tools.bench.measure import Memory, Spread
from tools.bench.soak import Window
from tools.bench.threads import DALI_WORKERS, LOADER_THREAD, SOFTWARE_DECODERS
from tools.bench.turns import Turn
from tools.bench.verdict import Figures


@dataclass
class Result:
    """Everything that was measured.

    Attributes:
        num_threads: Of all DALI pipelines together.
        producer_ms: CPU time of one thread for all but decoding of a batch.
        resident: Share of the shards in the page cache before the first turn; None where unknown.
        soak_lane, soak: What ran for --soak-minutes, and its windows.
        gpu_missing: Readings that NVML does not give here, and why.
        gpu_driver: Its version.
    """

    spec: ClipSpec
    batch_size: int
    on_gpu: bool
    num_cpus: int
    num_threads: int
    producer_ms: float | None = None
    resident: float | None = None
    turns: list[Turn] = field(default_factory=list)
    soak_lane: str = ""
    soak: list[Window] = field(default_factory=list)
    gpu_missing: dict[str, str] = field(default_factory=dict)
    gpu_driver: str = ""

    def turns_of(self, lane: str) -> list[Turn]:
        """In order of the repeats."""
        return sorted((turn for turn in self.turns if turn.lane == lane), key=lambda turn: turn.repeat)

    @property
    def lanes(self) -> list[str]:
        """Those that had a turn."""
        return [lane for lane in (LOADER, SYNTHETIC, REAL) if self.turns_of(lane)]

    @property
    def saturation(self) -> Spread | None:
        """Speed on the loader's clips as a share of that on ready ones, each repeat's turns against each other."""
        pairs = zip(self.turns_of(REAL), self.turns_of(SYNTHETIC), strict=True)
        ratios = [real.clips_per_s / synthetic.clips_per_s for real, synthetic in pairs]
        return Spread.of(ratios) if ratios else None

    @property
    def memory(self) -> list[Memory]:
        """Of the process, over all turns."""
        return [sample for turn in self.turns for sample in turn.memory]


def lane_numbers(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians and spreads of one lane's turns; what was not measured or means nothing there is None."""
    loads = turns[0].plan_steps is not None
    clips_per_s = Spread.of([turn.clips_per_s for turn in turns])
    work = sum((turn.work for turn in turns), ReadWork())
    from_disk = [turn.disk_bytes / turn.wall_s for turn in turns if turn.disk_bytes is not None]
    waits = loads and turns[0].lane == REAL  # alone, the loader is waited for all the time
    return {
        "clips_per_s": clips_per_s,
        "ms_per_step": Spread.of([turn.ms_per_step for turn in turns]),
        "cores": Spread.of([turn.cores for turn in turns]),
        "data_wait": median(turn.data_wait for turn in turns) if waits else None,
        "data_wait_ms": median(1000 * turn.data_wait_s / turn.num_steps for turn in turns) if waits else None,
        "pictures_per_s": median(turn.work.num_pictures / turn.wall_s for turn in turns) if loads else None,
        "decoded_to_used": work.decoded_to_used if loads else None,
        "bytes_per_s": median(turn.work.num_bytes / turn.wall_s for turn in turns) if loads else None,
        "disk_bytes_per_s": median(from_disk) if from_disk and loads else None,
        **{name: gpu_median(turns, name) for name in ("sm", "jpeg", "dec")},
        "gpu_memory": gpu_median(turns, "memory_used"),
    }


def gpu_median(turns: Sequence[Turn], name: str) -> float | None:
    """Median of one of NVML's readings; None where it was never had."""
    values = [value for turn in turns if turn.gpu and (value := getattr(turn.gpu, name)) is not None]
    return median(values) if values else None


def thread_cores(turns: Sequence[Turn]) -> dict[str, float]:
    """Cores that each group of threads kept busy, the busiest first."""
    groups = {group for turn in turns for group in turn.thread_s}
    cores = {group: median(turn.thread_s.get(group, 0.0) / turn.wall_s for turn in turns) for group in groups}
    return dict(sorted(cores.items(), key=lambda item: -item[1]))


def figures(result: Result) -> Figures:
    """What the verdict needs."""
    numbers = {lane: lane_numbers(result.turns_of(lane)) for lane in result.lanes}
    loader, threads = numbers[LOADER], thread_cores(result.turns_of(LOADER))
    real, synthetic = numbers.get(REAL), numbers.get(SYNTHETIC)
    busy = {
        "JPEG engines": loader["jpeg"] and loader["jpeg"] / 100,
        "video engines": loader["dec"] and loader["dec"] / 100,
        "GPU kernels": loader["sm"] and loader["sm"] / 100,
        "host cores": loader["cores"].median / result.num_cpus,
        "DALI threads": threads.get(DALI_WORKERS, 0.0) / result.num_threads,
        "software decoders": threads[SOFTWARE_DECODERS] / result.num_threads if SOFTWARE_DECODERS in threads else None,
        "the loader's own thread": threads.get(LOADER_THREAD, 0.0),
    }
    disk, read = loader["disk_bytes_per_s"], loader["bytes_per_s"]
    return Figures(
        on_gpu=result.on_gpu,
        num_cpus=result.num_cpus,
        loader=loader["clips_per_s"].median,
        loader_cores=loader["cores"].median,
        busy={name: min(share, 1.0) for name, share in busy.items() if share is not None},  # time comes in ticks
        disk_share=disk / read if disk is not None and read else None,
        synthetic=synthetic["clips_per_s"].median if synthetic else None,
        real=real["clips_per_s"].median if real else None,
        saturation=result.saturation.median if result.saturation else None,
        data_wait=real["data_wait"] if real else 0.0,
        extra_cores=real["cores"].median - synthetic["cores"].median if real and synthetic else 0.0,
    )
