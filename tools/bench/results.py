"""Results of the rounds: medians and ranges, saturation, the bottleneck; as a table and as JSON. Pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import linear_regression, median
from typing import Any

from res3d_video.pipeline.reader import ReadWork
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC, Round
from res3d_video.tools.bench.machine import DALI_WORKERS, LOADER_THREAD, SOFTWARE_DECODERS
from res3d_video.tools.bench.measure import Spread
from res3d_video.train.terminal import text_table

FULL = 0.85  # share of the time in which a resource counts as full; with work in batches, it never gets higher
MIN_ROUNDS = 6  # from which on drift and growth of memory are reported: two rounds in each third


@dataclass
class Result:
    """All rounds, and what is needed to interpret them.

    Attributes:
        on_gpu: Whether training and decoding happen on a GPU.
        num_cpus: CPUs that this process may use.
        num_threads: Threads of all DALI pipelines together.
        gpu_missing: Reading that NVML does not give here -> why.
    """

    on_gpu: bool
    num_cpus: int
    num_threads: int
    rounds: list[Round] = field(default_factory=list)
    gpu_missing: dict[str, str] = field(default_factory=dict)

    def of(self, lane: str) -> list[Round]:
        """The rounds of a lane, in order."""
        return sorted((one for one in self.rounds if one.lane == lane), key=lambda one: one.repeat)

    @property
    def lanes(self) -> dict[str, dict[str, Any]]:
        """`lane_numbers` of the lanes that were measured."""
        return {lane: lane_numbers(own) for lane in (LOADER, SYNTHETIC, REAL) if (own := self.of(lane))}

    @property
    def saturation(self) -> Spread | None:
        """Speed of the real step / speed of the synthetic step, in each round."""
        pairs = zip(self.of(REAL), self.of(SYNTHETIC), strict=True)
        ratios = [real.clips_per_s / synthetic.clips_per_s for real, synthetic in pairs]
        return Spread.of(ratios) if ratios else None


def lane_numbers(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians and ranges of a lane; None for what was not measured, or has no meaning in it."""
    loads = rounds[0].plan_steps is not None
    waits = loads and rounds[0].lane == REAL  # the loader alone is waited for all the time
    from_disk = [one.disk_bytes / one.wall_s for one in rounds if one.disk_bytes is not None]
    readings = {name: [one.gpu[name] for one in rounds if name in one.gpu] for name in ("sm", "jpeg", "dec")}
    memory = [one.gpu["memory_bytes"] for one in rounds if "memory_bytes" in one.gpu]
    return {
        "clips_per_s": Spread.of([one.clips_per_s for one in rounds]),
        "ms_per_step": Spread.of([1000 * one.wall_s / one.num_batches for one in rounds]),
        "cores": Spread.of([one.cores for one in rounds]),
        "data_wait": median(one.data_wait_s / one.wall_s for one in rounds) if waits else None,
        "decoded_to_used": sum((one.work for one in rounds), ReadWork()).decoded_to_used if loads else None,
        "bytes_per_s": median(one.work.num_bytes / one.wall_s for one in rounds) if loads else None,
        "disk_bytes_per_s": median(from_disk) if from_disk and loads else None,
        **{name: median(values) if values else None for name, values in readings.items()},
        "gpu_memory": median(memory) if memory else None,
    }


def thread_cores(rounds: Sequence[Round]) -> dict[str, float]:
    """Group of threads -> cores that it kept busy; the busiest first."""
    groups = {group for one in rounds for group in one.thread_s}
    cores = {group: median(one.thread_s.get(group, 0.0) / one.wall_s for one in rounds) for group in groups}
    return dict(sorted(cores.items(), key=lambda item: -item[1]))


def busy_shares(result: Result) -> dict[str, float]:
    """Resource -> share of it that the loader alone kept busy, 0 to 1; without those that were not measured."""
    loader, threads = result.lanes[LOADER], thread_cores(result.of(LOADER))
    busy = {
        "JPEG engines": loader["jpeg"] and loader["jpeg"] / 100,
        "video engines": loader["dec"] and loader["dec"] / 100,
        "GPU kernels": loader["sm"] and loader["sm"] / 100,
        "host cores": loader["cores"].median / result.num_cpus,
        "DALI threads": threads.get(DALI_WORKERS, 0.0) / result.num_threads,
        "software decoders": threads[SOFTWARE_DECODERS] / result.num_threads if SOFTWARE_DECODERS in threads else None,
        "the loader's own thread": threads.get(LOADER_THREAD, 0.0),
    }
    return {name: min(share, 1.0) for name, share in busy.items() if share is not None}  # CPU time comes in ticks


def first_limit(result: Result) -> str:
    """The resource that keeps the loader alone from being faster, or that none of them is full.

    Bytes from the disk are only mentioned, because they do not show that anything waits for them.
    """
    busy = busy_shares(result)
    name = max(busy, key=lambda resource: busy[resource])
    fullest = f"{name} at {100 * busy[name]:.0f} %"
    if busy[name] >= FULL:
        return fullest
    disk, read = (result.lanes[LOADER][key] for key in ("disk_bytes_per_s", "bytes_per_s"))
    share = f"; {100 * disk / read:.0f} % of what is read comes from the disk" if disk and read else ""
    return f"none is full; the nearest is {fullest}{share}"


def bottleneck(result: Result) -> str:
    """A sentence that says how long training waits for the loader, and why."""
    lanes, saturation, limit = result.lanes, result.saturation, f"first limit: {first_limit(result)}"
    loader, cores = lanes[LOADER]["clips_per_s"].median, lanes[LOADER]["cores"].median
    if saturation is None:
        return f"the loader alone delivers {loader:.0f} clips/s with {cores:.1f} cores; {limit}"
    synthetic, real = (lanes[lane]["clips_per_s"].median for lane in (SYNTHETIC, REAL))
    if result.on_gpu:
        return (
            f"the GPU waits {100 * max(0.0, 1 - saturation.median):.1f} % of the time; "
            f"the loader could feed {loader / synthetic:.1f} such GPUs; {limit}"
        )
    return (
        f"training waits for clips {100 * lanes[REAL]['data_wait']:.1f} % of the time; decoding and training share "
        f"{result.num_cpus} CPUs, so with real clips it runs at {saturation.median:.2f} of its speed on ready ones; "
        f"the loader alone delivers {loader / real:.1f} times what training takes; {limit}"
    )


# key of `lane_numbers` -> name of its column, and how to write a cell
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "clips_per_s": ("clips/s", str),
    "ms_per_step": ("ms/step", lambda spread: f"{spread.median:.1f}"),
    "cores": ("cores", lambda spread: f"{spread.median:.2f}"),
    "data_wait": ("data wait", "{:.1%}".format),
    "decoded_to_used": ("decoded/used", "{:.2f}".format),
    "bytes_per_s": ("MB/s", lambda rate: f"{rate / 1e6:.1f}"),
    "disk_bytes_per_s": ("disk, MB/s", lambda rate: f"{rate / 1e6:.1f}"),
    "sm": ("SM", "{:.0f}%".format),
    "jpeg": ("JPEG", "{:.0f}%".format),
    "dec": ("DEC", "{:.0f}%".format),
    "gpu_memory": ("GPU, GB", lambda used: f"{used / 1e9:.1f}"),
}


def report(result: Result) -> list[str]:
    """A table of the lanes, without empty columns; notes; and the bottleneck as the last line."""
    lanes = result.lanes
    shown = {name: of for name, of in COLUMNS.items() if any(own[name] is not None for own in lanes.values())}
    rows = [
        [lane, *("–" if own[name] is None else text(own[name]) for name, (_, text) in shown.items())]
        for lane, own in lanes.items()
    ]
    return ["", *text_table(["", *(name for name, _ in shown.values())], rows), "", *notes(result), bottleneck(result)]


def notes(result: Result) -> list[str]:
    """The lines between the table and the bottleneck."""
    lines, rounds = [], result.rounds
    if s := result.saturation:
        lines.append(f"saturation (real step / synthetic step) {s.median:.3f} [{s.min:.3f}..{s.max:.3f}]")
    groups = [f"{group} {cores:.2f}" for group, cores in thread_cores(result.of(LOADER)).items() if cores >= 0.01]
    if groups:
        lines.append(f"cores of the loader alone: {', '.join(groups)}")
    if rounds[-1].repeat + 1 >= MIN_ROUNDS:
        lines += [
            f"{lane}: {drift(result.of(lane)):+.1%} from the first third of the rounds to the last"
            for lane in result.lanes
        ]
        lines.append(
            f"memory of this process over {rounds[-1].total_clips} clips of all lanes: own "
            f"{rounds[0].own_bytes / 1e6:.0f} -> {rounds[-1].own_bytes / 1e6:.0f} MB, "
            f"{growth(rounds) / 1e6:+.3f} MB/1000 clips in the second half"
        )
    return lines + [f"NVML: {name} is not available ({reason})" for name, reason in result.gpu_missing.items()]


def drift(rounds: Sequence[Round]) -> float:
    """Change of the median rate from the first third of the rounds to the last, as a share of the first."""
    rates, third = [one.clips_per_s for one in rounds], len(rounds) // 3
    return median(rates[-third:]) / median(rates[:third]) - 1


def growth(rounds: Sequence[Round]) -> float:
    """Bytes of memory per 1000 clips, by least squares over the second half, when buffers have their size."""
    half = rounds[len(rounds) // 2 :]
    clips, own = [one.total_clips for one in half], [one.own_bytes for one in half]
    return 1000 * linear_regression(clips, own).slope if len(half) > 1 else 0.0


def summary(result: Result) -> dict[str, Any]:
    """Everything for the JSON file: in seconds, bytes and shares of 1; NVML's readings in percent."""
    return {
        "lanes": {
            lane: {name: asdict(value) if isinstance(value, Spread) else value for name, value in own.items()}
            | {"thread_cores": thread_cores(result.of(lane))}
            for lane, own in result.lanes.items()
        },
        "saturation": result.saturation and asdict(result.saturation),
        "own_bytes_per_1000_clips": growth(result.rounds),
        "gpu_missing": result.gpu_missing,
        "busy": busy_shares(result),
        "bottleneck": bottleneck(result),
        "rounds": [asdict(one) | {"clips_per_s": one.clips_per_s, "cores": one.cores} for one in result.rounds],
    }
