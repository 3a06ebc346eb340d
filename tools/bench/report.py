"""A benchmark's numbers as a table for people, a table for a page and a dict for machines. Pure."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from res3d_video.tools.bench.lanes import LOADER
from res3d_video.tools.bench.machine import markdown, table
from res3d_video.tools.bench.measure import Spread, slope
from res3d_video.tools.bench.results import Result, bottleneck, figures, lane_numbers, thread_cores
from res3d_video.tools.bench.soak import judge


def rate_text(rate: Spread) -> str:
    """Clips/s for people: a small number keeps a decimal.

    >>> rate_text(Spread(211.4, 190.0, 226.0)), rate_text(Spread(9.25, 8.0, 11.0))
    ('211 [190..226]', '9.2 [8.0..11.0]')
    """
    digits = 0 if rate.median >= 100 else 1
    return f"{rate.median:.{digits}f} [{rate.min:.{digits}f}..{rate.max:.{digits}f}]"


HEADERS = {
    "clips_per_s": "clips/s",
    "ms_per_step": "ms/step",
    "cores": "cores",
    "data_wait": "data wait",
    "data_wait_ms": "ms/step of it",
    "pictures_per_s": "pictures/s",
    "decoded_to_used": "decoded/used",
    "bytes_per_s": "MB/s",
    "disk_bytes_per_s": "disk, MB/s",
    "sm": "SM",
    "jpeg": "JPEG",
    "dec": "DEC",
    "gpu_memory": "GPU, GB",
}
SHOWN: dict[str, Callable[[Any], str]] = {  # how a cell is written; others are whole numbers
    "clips_per_s": rate_text,
    "ms_per_step": lambda spread: f"{spread.median:.1f}",
    "cores": lambda spread: f"{spread.median:.2f}",
    "data_wait": lambda share: f"{100 * share:.1f} %",
    "data_wait_ms": lambda ms: f"{ms:.2f}",
    "decoded_to_used": lambda ratio: f"{ratio:.2f}",
    "bytes_per_s": lambda rate: f"{rate / 1e6:.1f}",
    "disk_bytes_per_s": lambda rate: f"{rate / 1e6:.1f}",
    **dict.fromkeys(("sm", "jpeg", "dec"), lambda percent: f"{percent:.0f} %"),
    "gpu_memory": lambda used: f"{used / 1e9:.1f}",
}


def cells(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table; a column that no lane has a number for is left out."""
    numbers = {lane: lane_numbers(result.turns_of(lane)) for lane in result.lanes}
    columns = [name for name in HEADERS if any(lane[name] is not None for lane in numbers.values())]
    rows = [
        [lane, *("–" if own[name] is None else SHOWN.get(name, "{:.0f}".format)(own[name]) for name in columns)]
        for lane, own in numbers.items()
    ]
    return ["", *(HEADERS[name] for name in columns)], rows


def notes(result: Result) -> list[str]:
    """Lines below the table."""
    lines = []
    if result.saturation:
        s = result.saturation
        lines.append(f"saturation (real step / synthetic step) {s.median:.3f} [{s.min:.3f}..{s.max:.3f}]")
    threads = [
        f"{group} {cores:.2f}" for group, cores in thread_cores(result.turns_of(LOADER)).items() if cores >= 0.01
    ]
    if threads:
        lines.append(f"cores of the loader alone: {', '.join(threads)}")
    if result.producer_ms is not None:
        rate = 1000 * result.batch_size / result.producer_ms
        lines.append(
            f"producer, all but decoding: {result.producer_ms:.2f} ms a batch of one thread, {rate:,.0f} clips/s"
        )
    memory = result.memory
    lines.append(
        f"memory of this process over {memory[-1].done - memory[0].done} clips of all lanes: own "
        f"{memory[0].own / 1e6:.0f} -> {memory[-1].own / 1e6:.0f} MB, "
        f"{1000 * slope(memory) / 1e6:+.3f} MB/1000 clips in the second half"
    )
    share = "unknown" if result.resident is None else f"{100 * result.resident:.0f} %"
    lines.append(f"shards in the page cache before the first turn: {share}")
    if unsettled := [turn for turn in result.turns if turn.busy_before > 0.1]:
        worst = max(turn.busy_before for turn in unsettled)
        lines.append(f"{len(unsettled)} turns began while this process still kept up to {worst:.1f} cores busy")
    lines += [f"NVML: {name} is not available ({reason})" for name, reason in result.gpu_missing.items()]
    if result.soak:
        judged = judge(result.soak)
        lines.append(f"soak, {result.soak_lane}: " + (judged.sentence() if judged else "too short to judge"))
    return lines


def console(result: Result) -> list[str]:
    """The table, what belongs to it, and the bottleneck as the last line."""
    return ["", *table(*cells(result)), "", *notes(result), bottleneck(figures(result))]


def page(result: Result) -> list[str]:
    """The same as Markdown."""
    below = [f"- {line}" for line in notes(result)]
    return [*markdown(*cells(result)), "", *below, "", f"**{bottleneck(figures(result))}**"]


def summary(result: Result) -> dict[str, Any]:
    """For machines: seconds, bytes, shares of 1; NVML's readings in percent."""
    found = figures(result)
    judgement = judge(result.soak)
    return {
        "lanes": {
            lane: {
                name: asdict(value) if isinstance(value, Spread) else value
                for name, value in lane_numbers(result.turns_of(lane)).items()
            }
            | {"thread_cores": thread_cores(result.turns_of(lane))}
            for lane in result.lanes
        },
        "saturation": result.saturation and asdict(result.saturation),
        "own_bytes_per_1000_clips": 1000 * slope(result.memory),
        "producer_ms": result.producer_ms,
        "resident": result.resident,
        "gpu_missing": result.gpu_missing,
        "figures": asdict(found),
        "bottleneck": bottleneck(found),
        "soak": {
            "lane": result.soak_lane,
            "judgement": judgement and asdict(judgement) | {"failures": judgement.failures},
            "windows": [asdict(window) for window in result.soak],
        },
        "turns": [
            asdict(turn) | {"clips_per_s": turn.clips_per_s, "cores": turn.cores, "data_wait": turn.data_wait}
            for turn in result.turns
        ],
    }
