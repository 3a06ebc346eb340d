"""How a loader works; nothing here changes what it delivers."""

from dataclasses import dataclass

from pipeline.errors import UserError

WEEK_S = 604_800.0  # longer than anybody waits
BOUNDS: dict[str, tuple[float, float]] = {
    "num_threads": (1, 1024), "prefetch": (1, 1000), "queue_depth": (1, 100), "num_pipelines": (1, 100),
    "hw_decoder_load": (0, 1), "read_ahead": (0, 10_000), "stall_timeout_s": (0, WEEK_S),
}  # fmt: skip


@dataclass(frozen=True)
class LoaderSettings:
    """What can be tuned; `tools/bench_loader.py --autotune` finds the best.

    Attributes:
        num_threads: CPU threads of a DALI pipeline; for H.264 on a GPU also the streams that a batch is joined to.
        prefetch: Batches that wait ready at most.
        queue_depth: Batches that a DALI pipeline works on at a time.
        num_pipelines: DALI pipelines that take turns; None for seven with H.264 on a GPU, an H100 having seven
            decoders, and else one.
        hw_decoder_load: Share of the JPEGs for a GPU's JPEG engines; its cores take the rest. A CPU ignores it.
        read_ahead: Steps whose bytes the system is asked to fetch from disk before they are needed; 0 for none.
        stall_timeout_s: A batch that takes longer is an error; 0 for none.
    """

    num_threads: int = 2
    prefetch: int = 2
    queue_depth: int = 2
    num_pipelines: int | None = None
    hw_decoder_load: float = 0.65
    read_ahead: int = 4
    stall_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # nor is NaN
                raise UserError(f"{name}: {value:g} is not possible; choose {least:g} to {most:g}")
