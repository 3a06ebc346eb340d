"""How a loader works; nothing here changes what it delivers."""

from dataclasses import dataclass
from importlib.util import find_spec

from res3d_video.pipeline.errors import UserError

WEEK_S = 604_800.0  # longer than anybody waits
BOUNDS: dict[str, tuple[float, float]] = {
    "num_threads": (1, 1024), "prefetch": (1, 1000), "queue_depth": (1, 100), "num_pipelines": (1, 100),
    "hw_decoder_load": (0, 1), "read_ahead": (0, 10_000), "stall_timeout_s": (0, WEEK_S),
}  # fmt: skip
NVDEC_PIPELINES = 2  # experimental; GPUs have one to eight video decoders, and more pipelines compete with the trainer
ENGINES = ("auto", "dali", "simple")


@dataclass(frozen=True)
class LoaderSettings:
    """What can be tuned; `tools/bench_loader.py --autotune` finds the best.

    Attributes:
        engine: What decodes: "dali"; "simple", libjpeg-turbo or FFmpeg in threads; "auto", DALI where it is installed.
        num_threads: CPU threads of a DALI pipeline, or of the simple engine; for H.264 on a GPU also the streams that
            a batch is joined to.
        prefetch: Batches that wait ready at most.
        queue_depth: Batches that a DALI pipeline works on at a time.
        num_pipelines: DALI pipelines that take turns; None for two with H.264 on a GPU, else one.
        hw_decoder_load: Share of the JPEGs for a GPU's JPEG engines; its cores take the rest. With all on one side, a
            clip's pixels do not depend on its batch, and no decoding waits for the trainer's kernels. A CPU ignores it.
        fancy_upsampling: On a GPU, smooth the chroma of JPEGs as a CPU always does.
        read_ahead: Steps whose bytes the system is asked to fetch from disk before they are needed; 0 for none.
        stall_timeout_s: A batch that takes longer is an error; 0 for none.
    """

    engine: str = "auto"
    num_threads: int = 2
    prefetch: int = 2
    queue_depth: int = 2
    num_pipelines: int | None = None
    hw_decoder_load: float = 1.0
    fancy_upsampling: bool = False
    read_ahead: int = 4
    stall_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"engine: {self.engine!r} does not exist; choose auto, dali or simple")
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # nor is NaN
                raise UserError(f"{name} must be {least:g} to {most:g}, got {value:g}")

    def pipelines(self, *, codec: str, on_gpu: bool) -> int:
        """DALI pipelines that a loader has for shards of a codec."""
        return self.num_pipelines or (NVDEC_PIPELINES if codec == "h264" and on_gpu else 1)

    def chosen_engine(self) -> str:
        """Which engine "auto" is on this machine; a `UserError` if DALI is chosen, and not installed."""
        installed = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None
        if self.engine == "dali" and not installed:
            raise UserError(
                "engine: dali needs nvidia-dali, which is not installed; pip install nvidia-dali-cuda130, or choose "
                "simple"
            )
        return self.engine if self.engine != "auto" else "dali" if installed else "simple"
