"""A long run in windows of ten seconds: does the rate drift, does memory grow? The judgement is pure arithmetic."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from res3d_video.tools.bench.measure import fitted_slope

WINDOW_S, SAMPLE_EVERY_S = 10.0, 0.5
MAX_DRIFT = 0.03  # of the rate
MAX_GROWTH = 0.01  # of the memory, over the second half
MIN_WINDOWS = 6  # two a third

# field of a window -> its name for people
MEMORIES = {"own": "host memory", "gpu_reserved": "torch's GPU memory", "gpu_used": "GPU memory"}


@dataclass(frozen=True)
class Use:
    """Memory at one moment, bytes.

    Attributes:
        own: Of this process and its children, no file's.
        gpu_reserved: By torch; None on a CPU.
        gpu_used: By all processes, as NVML says; None where it says nothing.
    """

    own: int
    gpu_reserved: int | None = None
    gpu_used: int | None = None


def least(uses: Sequence[Use]) -> Use:
    """Of each memory the least.

    >>> least([Use(5, 30), Use(7, 20)])
    Use(own=5, gpu_reserved=20, gpu_used=None)
    """
    found = {name: [value for use in uses if (value := getattr(use, name)) is not None] for name in MEMORIES}
    return Use(**{name: min(values) for name, values in found.items() if values})


@dataclass(frozen=True)
class Window:
    """Some seconds of the run.

    Attributes:
        end_s: Since the beginning of the run.
        num_clips: Since the beginning of the run.
        clips_per_s: In this window.
        use: The least in it: batches come and go, a leak stays.
    """

    end_s: float
    num_clips: int
    clips_per_s: float
    use: Use


@dataclass(frozen=True)
class Growth:
    """Memory over the second half of a run, by least squares.

    Attributes:
        share: Growth from the middle to the end, of the mean.
    """

    bytes_per_minute: float
    bytes_per_1000_clips: float
    share: float


@dataclass(frozen=True)
class Judgement:
    """What a run's windows say.

    Attributes:
        drift: Change of the rate from the first window to the last along a fitted line, as a share of the mean.
        change: Median rate of the last third against that of the first, as a share of it.
        worst: Of the last third's windows, the one furthest from the first third's median, as a share of it.
        growth: Field of `Use` -> its growth.
    """

    minutes: float
    num_clips: int
    drift: float
    change: float
    worst: float
    growth: dict[str, Growth]

    @property
    def failures(self) -> list[str]:
        """What did not stay as it was."""
        found = []
        if max(abs(self.drift), abs(self.change)) > MAX_DRIFT:
            found.append(f"the rate drifts over {100 * MAX_DRIFT:.0f} %")
        return found + [f"{MEMORIES[name]} grows" for name, g in self.growth.items() if g.share > MAX_GROWTH]

    def sentence(self) -> str:
        """For people, whether it was steady last."""
        grown = ", ".join(
            f"{MEMORIES[name]} {g.bytes_per_minute / 1e6:+.2f} MB a minute, "
            f"{g.bytes_per_1000_clips / 1e6:+.3f} MB/1000 clips"
            for name, g in self.growth.items()
        )
        result = "NOT steady: " + " and ".join(self.failures) if self.failures else "no drift over 3 %, no growth"
        return (
            f"{self.minutes:.1f} minutes, {self.num_clips} clips: drift {self.drift:+.1%}, "
            f"last third {self.change:+.1%} against the first (worst window {self.worst:+.1%}); "
            f"second half: {grown}; {result}"
        )


def soak(
    run: Callable[[], int],
    *,
    num_windows: int,
    finish: Callable[[], None],
    use: Callable[[], Use],
    window_s: float = WINDOW_S,
    report: Callable[[list[Window]], None] = lambda windows: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Window]:
    """Run something for some windows of at least so many seconds.

    Args:
        run: Does one step and returns its number of clips.
        finish: Waits until all steps are done; called once a window.
        use: Memory now; asked twice a second.
    """
    windows: list[Window] = []
    num_clips = clips_before = 0
    begun = before = sampled = clock()
    uses: list[Use] = []
    while len(windows) < num_windows:
        num_clips += run()
        if clock() - sampled >= SAMPLE_EVERY_S:
            uses.append(use())
            sampled = clock()
        if clock() - before < window_s:
            continue
        finish()
        now = clock()
        windows.append(
            Window(now - begun, num_clips, (num_clips - clips_before) / (now - before), least([*uses, use()]))
        )
        report(windows)
        before, clips_before = now, num_clips
        uses.clear()
    return windows


def judge(windows: Sequence[Window]) -> Judgement | None:
    """What the windows say; None when there are too few to say anything."""
    if len(windows) < MIN_WINDOWS:
        return None
    rates, ends = np.array([w.clips_per_s for w in windows]), np.array([w.end_s for w in windows])
    third = len(windows) // 3
    first, last = np.median(rates[:third]), rates[-third:]
    furthest = last[np.argmax(np.abs(last - first))]
    return Judgement(
        minutes=float(ends[-1]) / 60,
        num_clips=windows[-1].num_clips,
        drift=float(fitted_slope(ends, rates) * (ends[-1] - ends[0]) / rates.mean()),
        change=float(np.median(last) / first - 1),
        worst=float(furthest / first - 1),
        growth={name: growth(windows, name) for name in MEMORIES if getattr(windows[0].use, name) is not None},
    )


def growth(windows: Sequence[Window], name: str) -> Growth:
    """Of one of the memories over the second half of some windows; in the first, buffers find their size."""
    half = windows[len(windows) // 2 :]
    used = np.array([getattr(w.use, name) for w in half], float)
    ends, clips = np.array([w.end_s for w in half]), np.array([w.num_clips for w in half], float)
    per_s = fitted_slope(ends, used)
    share = per_s * (ends[-1] - ends[0]) / used.mean() if used.any() else 0.0
    return Growth(60 * per_s, 1000 * fitted_slope(clips, used), float(share))
