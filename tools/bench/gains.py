"""What each optimisation of the training step gains, from the ways' turns: tables, sentences, JSON. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

from tools.bench.ladder import PLAIN, Way
from tools.bench.measure import Spread
from tools.bench.steps import Lane, Workload


def quotient(lane: Lane, other: Lane) -> Spread | None:
    """How many times the speed of `other`, round by round; None if one of them failed."""
    if lane.failed or other.failed:
        return None
    return Spread.of([b.ms_per_step / a.ms_per_step for a, b in zip(lane.turns, other.turns, strict=True)])


def times(spread: Spread | None) -> str:
    """
    >>> times(Spread(1.234, 1.2, 1.3))
    '1.23 [1.20..1.30]'
    """
    return "–" if spread is None else f"{spread.median:.2f} [{spread.min:.2f}..{spread.max:.2f}]"


HEADER = ["ms a step", "clips/s", "gain, times", "GPU memory, GB"]


def row(name: str, lane: Lane, gain: Spread | None, *, batch_size: int) -> list[str]:
    """A way's line of a table."""
    if lane.failed:
        return [name, "failed", "–", "–", "–"]
    ms = lane.ms_per_step
    peaks = [turn.peak_bytes for turn in lane.turns if turn.peak_bytes is not None]
    return [
        name,
        f"{ms.median:.1f} [{ms.min:.1f}..{ms.max:.1f}]",
        f"{1000 * batch_size / ms.median:,.1f}",
        times(gain),
        f"{max(peaks) / 1e9:.1f}" if peaks else "–",
    ]


@dataclass(frozen=True)
class Found:
    """Everything measured.

    Attributes:
        rungs, without: The ladder, and everything without one thing: name -> way.
    """

    workload: Workload
    rungs: dict[str, Way]
    without: dict[str, Way]
    lanes: dict[Way, Lane]

    @property
    def full(self) -> Lane:
        """With everything on."""
        return self.lanes[list(self.rungs.values())[-1]]

    @property
    def gains(self) -> dict[str, Spread | None]:
        """How many times faster a rung is than the one below it."""
        lanes = {name: self.lanes[way] for name, way in self.rungs.items()}
        below = list(lanes.values())
        return {name: quotient(lane, below[i]) for i, (name, lane) in enumerate(list(lanes.items())[1:])}

    @property
    def losses(self) -> dict[str, Spread | None]:
        """How many times faster everything is than everything without one thing."""
        return {name: quotient(self.full, self.lanes[way]) for name, way in self.without.items()}

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Headers and rows: the ladder, and everything without one thing."""
        size = self.workload.batch_size
        gains = {"float32": None, **self.gains}
        rungs = [row(name, self.lanes[way], gains[name], batch_size=size) for name, way in self.rungs.items()]
        without = [row(name, self.lanes[way], self.losses[name], batch_size=size) for name, way in self.without.items()]
        return [
            (["each adds to those above", *HEADER], rungs),
            (["everything", *HEADER[:2], "gain of having it, times", HEADER[3]], without),
        ]

    def sentences(self) -> list[str]:
        """What it comes to, what gains nothing that can be told from noise, and why something has no number."""
        plain, lines = self.lanes[PLAIN], []
        total = quotient(self.full, plain)
        if total is not None:
            rate = 1000 * self.workload.batch_size / self.full.ms_per_step.median
            lines.append(f"everything: {rate:,.1f} clips/s, {times(total)} times plain float32")
        unclear = [name.removeprefix("without ") for name, gain in self.losses.items() if gain and gain.min <= 1]
        if unclear:
            lines.append(f"no gain beyond noise when taken away from everything: {', '.join(unclear)}")
        names = {way: name for name, way in (self.without | self.rungs).items()}
        lines += [f"{names[way]} failed: {lane.failed}" for way, lane in self.lanes.items() if lane.failed]
        return lines

    def summary(self) -> dict[str, Any]:
        """For JSON; milliseconds and bytes."""

        def lane_of(way: Way, gain: Spread | None) -> dict[str, Any]:
            lane = self.lanes[way]
            return {
                "way": asdict(way),
                "failed": lane.failed or None,
                "ms_per_step": None if lane.failed else asdict(lane.ms_per_step),
                "clips_per_s": None if lane.failed else 1000 * self.workload.batch_size / lane.ms_per_step.median,
                "gain": gain and asdict(gain),
                "turns": [asdict(turn) for turn in lane.turns],
            }

        return {
            "ladder": {name: lane_of(way, self.gains.get(name)) for name, way in self.rungs.items()},
            "everything": {name: lane_of(way, self.losses[name]) for name, way in self.without.items()},
        }
