"""Settings as dataclasses whose fields say what they mean and what they may be; and those of the loader."""

from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal, get_args, get_origin

from res3d_video.pipeline.errors import UserError

WEEK_S = 604_800  # longer than anybody waits
NVDEC_PIPELINES = 2  # experimental; GPUs have one to eight video decoders, and more pipelines compete with the trainer


def described(default: Any, help: str, *bounds: float, **option: Any) -> Any:
    """A field of a dataclass with its meaning, which is also the help of its option on a command line.

    Args:
        bounds: Least and greatest value, both included; none for what is no number.
        option: How the command line writes it (`train.terminal.field_options`): `flag`, `metavar`.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds, "option": option})


def check_fields(settings: Any) -> None:
    """Raise UserError where a described field is out of its bounds, or none of its literals."""
    for one in fields(settings):
        value, bounds = getattr(settings, one.name), one.metadata.get("bounds")
        if bounds and value is not None and not bounds[0] <= value <= bounds[1]:  # nor is NaN
            raise UserError(f"{one.name} must be {bounds[0]:,} to {bounds[1]:,}, got {value}")
        if get_origin(one.type) is Literal and value not in (names := get_args(one.type)):
            raise UserError(f"{one.name} must be one of {', '.join(names)}, got {value!r}")


def require_positive(**counts: int | None) -> None:
    """Raise UserError for counts below 1, by their names."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{name} must be >= 1, got {count}")


@dataclass(frozen=True)
class LoaderSettings:
    """How a loader works; nothing here changes what it delivers. `tools/bench_loader.py --autotune` finds the best."""

    engine: Literal["auto", "dali", "simple"] = described(
        "auto", "What decodes; auto is DALI where it is installed, else libjpeg-turbo and FFmpeg in threads."
    )
    # For H.264 on a GPU also the streams that a batch is joined to.
    num_threads: int = described(2, "Decoding threads a process.", 1, 1024)
    prefetch: int = described(2, "Batches that wait ready at most.", 1, 1000)
    queue_depth: int = described(2, "Batches being decoded at a time.", 1, 100)
    num_pipelines: int | None = described(
        None, "DALI pipelines that take turns.  [default: 2 for H.264 on a GPU, else 1]", 1, 100
    )
    # With all on one side, a clip's pixels do not depend on its batch, and no decoding waits for the trainer's kernels.
    hw_decoder_load: float = described(1.0, "Share of the pictures for a GPU's JPEG engines, 0 to 1.", 0, 1)
    fancy_upsampling: bool = described(
        False, "On a GPU, smooth the chroma of JPEGs as a CPU does.", flag="--fancy-upsampling/--no-fancy-upsampling"
    )
    read_ahead: int = described(4, "Steps whose bytes are asked from disk before they are needed.", 0, 10_000)
    stall_timeout_s: float = described(
        300.0, "Seconds that a batch may take before the run gives up; 0: any time.", 0, WEEK_S, flag="--stall-timeout"
    )

    def __post_init__(self) -> None:
        check_fields(self)

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
