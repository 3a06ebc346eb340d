"""From a benchmark's numbers to one sentence. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

FULL = 0.85  # of a resource's time; more is never seen where work arrives in batches


@dataclass(frozen=True)
class Figures:
    """What the verdict is made of; medians of the repeats.

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


def sentence(figures: Figures) -> str:
    """The verdict."""
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
