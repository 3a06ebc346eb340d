"""From a benchmark's numbers to one sentence, and which targets hold. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

FULL = 0.85  # of a resource's time; more is never seen where work arrives in batches
FROM_DISK = 0.05  # of the bytes read; with so many, and nothing full, it is the disk's latency that one waits for

MIN_ALTERNATIONS = 5
SATURATION = {256: 0.97, 1: 0.95}  # least batch size -> share of the synthetic step's speed
LOADER_CLIPS_PER_S, LOADER_CORES = 15_000, 3  # of filmstrips
H264_GOP, H264_CLIPS_PER_S = 8, 2_400
EXTRA_CORES = 2  # while training, over synthetic training
CPU_CLIPS_PER_S = 200  # on two CPU cores


@dataclass(frozen=True)
class Figures:
    """What the verdict is made of; medians of the repeats.

    Attributes:
        on_gpu: Where training and decoding happen.
        gop_size: Of h264 shards; None for filmstrips.
        standard_clip: 8×112×112 at stride 2, which the targets speak of.
        num_cpus: That this process may use.
        loader: Clips/s of the loader alone.
        loader_cores: Host cores that it kept busy.
        busy: Resource -> share of it that the loader alone kept busy, 0 to 1.
        disk_share: Of the bytes that the loader alone read; None where unknown.
        disk_bytes_per_s: Of the loader alone.
        synthetic, real: Clips/s of the training steps; None when they were not measured.
        saturation: Median of real / synthetic, turn by turn.
        data_wait: Share of the real steps' time that the host waited for clips.
        extra_cores: Of the real steps, over the synthetic ones.
    """

    on_gpu: bool
    standard_clip: bool
    batch_size: int
    num_repeats: int
    num_cpus: int
    loader: float
    loader_cores: float
    busy: Mapping[str, float]
    disk_share: float | None = None
    disk_bytes_per_s: float = 0.0
    synthetic: float | None = None
    real: float | None = None
    saturation: float | None = None
    data_wait: float = 0.0
    extra_cores: float = 0.0
    gop_size: int | None = None


@dataclass(frozen=True)
class Target:
    """One thing that was asked for, and whether it holds; None when it cannot be said."""

    what: str
    holds: bool | None

    def line(self) -> str:
        """For people."""
        return f"{'not judged' if self.holds is None else 'holds' if self.holds else 'FAILS'}: {self.what}"


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
    """What keeps the loader alone from being faster: the fullest resource, or the disk, or nothing that was measured.

    NVML's JPEG and video engines and kernels, the host's cores, DALI's threads, PyAV's and the loader's own one are
    such resources.
    """
    if not figures.busy:
        return "unknown, nothing could be measured"
    name = max(figures.busy, key=lambda resource: figures.busy[resource])
    fullest = f"{name} at {100 * figures.busy[name]:.0f} %"
    if figures.busy[name] >= FULL:
        return fullest
    if figures.disk_share is not None and figures.disk_share >= FROM_DISK:
        return f"disk, {figures.disk_bytes_per_s / 1e6:.1f} MB/s of what is read come from it"
    return f"none is full; the nearest is {fullest}"


def targets(figures: Figures) -> list[Target]:
    """The targets that speak of what was measured."""
    found = []
    if figures.on_gpu and figures.gop_size is None and figures.saturation is not None:
        wanted = next(share for least, share in SATURATION.items() if figures.batch_size >= least)
        enough = figures.num_repeats >= MIN_ALTERNATIONS
        found.append(
            Target(
                f"saturation {figures.saturation:.3f}, at least {wanted} at batch {figures.batch_size}"
                + ("" if enough else f"; {figures.num_repeats} alternations, at least {MIN_ALTERNATIONS} are needed"),
                figures.saturation >= wanted if enough else None,
            )
        )
        found.append(
            Target(
                f"{figures.extra_cores:+.1f} cores over synthetic training, at most {EXTRA_CORES}",
                figures.extra_cores <= EXTRA_CORES,
            )
        )
    if figures.on_gpu and figures.gop_size == H264_GOP and figures.standard_clip:
        found.append(
            Target(
                f"loader alone {figures.loader:.0f} clips/s out of h264 of GOP {H264_GOP}, at least {H264_CLIPS_PER_S}",
                figures.loader >= H264_CLIPS_PER_S,
            )
        )
    if figures.on_gpu and figures.gop_size is None and figures.standard_clip:
        found.append(
            Target(
                f"loader alone {figures.loader:.0f} clips/s with {figures.loader_cores:.1f} cores, "
                f"at least {LOADER_CLIPS_PER_S} with at most {LOADER_CORES}",
                figures.loader >= LOADER_CLIPS_PER_S and figures.loader_cores <= LOADER_CORES,
            )
        )
    if not figures.on_gpu and figures.standard_clip and figures.num_cpus == 2:
        found.append(
            Target(
                f"loader alone {figures.loader:.0f} clips/s on two CPUs, at least {CPU_CLIPS_PER_S}",
                figures.loader >= CPU_CLIPS_PER_S,
            )
        )
    return found
