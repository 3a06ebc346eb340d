"""What the turns of a benchmark come to: medians, spreads, saturation, the bottleneck. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import DALI_WORKERS, LOADER_THREAD, SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Memory, Spread, Turn
from res3d_video.tools.bench.soak import Window

FULL = 0.85  # of a resource's time; more is never seen where work arrives in batches


@dataclass(frozen=True)
class Figures:
    """What the bottleneck is made of; medians of the repeats.

    Attributes:
        on_gpu: Where training and decoding happen.
        num_cpus: That this process may use.
        loader: Clips/s of the loader alone.
        loader_cores: Host cores that it kept busy.
        busy: Resource -> share of it that the loader alone kept busy, 0 to 1.
        disk_share: Of the bytes that the loader alone read; None where unknown.
        synthetic, real: Clips/s of the training steps; None when they were not measured.
        saturation: Median of real / synthetic, turn by turn.
        data_wait: Share of the real steps' time that the host waited for clips.
        extra_cores: Of the real steps, over the synthetic ones.
    """

    on_gpu: bool
    num_cpus: int
    loader: float
    loader_cores: float
    busy: Mapping[str, float]
    disk_share: float | None = None
    synthetic: float | None = None
    real: float | None = None
    saturation: float | None = None
    data_wait: float = 0.0
    extra_cores: float = 0.0


def bottleneck(figures: Figures) -> str:
    """What holds training up, in a sentence."""
    limit = f"first limit: {first_limit(figures)}"
    if figures.saturation is None or not figures.synthetic or not figures.real:
        return f"the loader alone delivers {figures.loader:.0f} clips/s with {figures.loader_cores:.1f} cores; {limit}"
    if figures.on_gpu:
        waits = max(0.0, 1 - figures.saturation)
        return (
            f"the GPU waits {100 * waits:.1f} % of the time; "
            f"the loader could feed {figures.loader / figures.synthetic:.1f} such GPUs; {limit}"
        )
    return (
        f"training waits for clips {100 * figures.data_wait:.1f} % of the time; decoding and training share "
        f"{figures.num_cpus} CPUs, so with real clips it runs at {figures.saturation:.2f} of its speed on ready ones; "
        f"the loader alone delivers {figures.loader / figures.real:.1f} times what training takes; {limit}"
    )


def first_limit(figures: Figures) -> str:
    """What keeps the loader alone from being faster: the fullest resource, or nothing that was measured.

    NVML's JPEG and video engines and kernels, the host's cores, DALI's threads, PyAV's and the loader's own one are
    such resources. That bytes come from the disk does not show that anything waits for them: it is only mentioned.
    """
    if not figures.busy:
        return "unknown, nothing could be measured"
    name = max(figures.busy, key=lambda resource: figures.busy[resource])
    fullest = f"{name} at {100 * figures.busy[name]:.0f} %"
    if figures.busy[name] >= FULL:
        return fullest
    disk = f"; {100 * figures.disk_share:.0f} % of what is read comes from the disk" if figures.disk_share else ""
    return f"none is full; the nearest is {fullest}{disk}"


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
    """What the bottleneck needs."""
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
