"""The stages of tools/check_gpu.py: each runs in a process of its own, part by part."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import kind_and_line
from res3d_video.pipeline.index import open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, TrainPlan
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import machine, meter_of
from res3d_video.tools.bench.measure import BenchError, Child, Order, Spread
from res3d_video.tools.bench.results import first_limit
from res3d_video.tools.bench.run import Settings, first_steps, open_lanes, profile_steps, run
from res3d_video.tools.make_demo_videos import demo_videos
from res3d_video.tools.numbered import read_numbers, write_numbered_video
from res3d_video.tools.run_reader import read_run
from res3d_video.train.models import ModelConfig
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, TrainStep, default_options

CODECS = ("filmstrip", "h264")
CHECKOUT = Path(__file__).resolve().parents[2]
CLIP = ClipSpec(8, 2, 112)
MAX_MEAN_ERROR, FAR, MAX_FAR_SHARE = 2.0, 32, 0.01  # of 255: nvJPEG does not smooth chroma, libjpeg-turbo does
MAX_LOSS_ERROR = 0.02  # relative, over 20 steps in bfloat16 at a small learning rate
ROUNDS, LAST_ROUNDS, RECORDINGS = 3, 7, 20
COMPARED_STEPS = {"cpu": 5, "cuda": 20}
STEP_OPTIONS = ("compile", "space_to_depth", "cuda_graph", "high_priority")
ON_A_CPU = {"compile", "space_to_depth"}  # of the options that are tried
CLOSING_S = 12.0  # that ending a process takes if it does not answer
CONNECTIONS = 32  # hardware queues of CUDA, as in the trainer (train/main.py)
THREADS = (2, 4)  # of the loader
ALONE, LAST = "loader alone", "default and best"  # parts that the page's last line is made of
Found = dict[str, Any]


class Part(NamedTuple):
    """One check or measurement of a stage; `work` returns its numbers."""

    name: str
    work: Callable[[], Found]
    needs_gpu: bool = False


@dataclass
class Stage:
    """A stage and what its parts have found so far.

    Attributes:
        home: Folder that all stages share, with the shards and runs that they make.
        data: Shards that speed is measured on.
        earlier: Stage -> part -> numbers, of the stages before this one.
        until: time.monotonic() at which the stage is killed.
        save: Writes `found`, `skipped` and `errors` after each part, so that they survive a kill.
    """

    device: torch.device
    home: Path
    data: Path
    earlier: Mapping[str, Mapping[str, Found]]
    until: float
    save: Callable[[Found], None]
    found: dict[str, Found] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        return max(0.0, self.until - time.monotonic())

    def run(self, parts: Iterator[Part]) -> None:
        """Run the parts in order; one that fails becomes an entry of `errors`, and the next one runs."""
        meter = meter_of(self.device)
        for part in parts:
            started = time.monotonic()
            if part.needs_gpu and not self.on_gpu:
                self.skipped[part.name] = "needs a GPU"
            else:
                try:
                    found = part.work()
                except Exception as error:  # whatever a library raises, the next part can still run
                    self.errors[part.name] = kind_and_line(error)
                else:
                    readings = {"gpu_after": meter.sample()} if meter else {}
                    self.found[part.name] = found | {"took_s": round(time.monotonic() - started, 2)} | readings
            self.save({"found": self.found, "skipped": self.skipped, "errors": self.errors})

    def settings(self, options: Mapping[str, Any] | None = None, **changes: Any) -> Settings:
        """Benchmark settings: the paper's clips on a GPU, small ones on a CPU.

        Args:
            options: Fields of `LoaderSettings` and `StepOptions`; None measures the loader alone.
        """
        step = None if options is None else StepOptions(**pick(options, StepOptions), cudnn_benchmark=self.on_gpu)
        usual = Settings(
            data=self.data,
            samples=np.arange(open_index(self.data).num_samples),
            clip=CLIP if self.on_gpu else ClipSpec(8, 2, 32, 36),
            batch_size=256 if self.on_gpu else 4,
            model=ModelConfig("res3d18", 64) if self.on_gpu else ModelConfig("res3d10", 4),
            loader=LoaderSettings(**pick(options or {}, LoaderSettings)),
            device=self.device,
            order=Order(None, 2.0 if self.on_gpu else 0.3),
            repeats=ROUNDS,
            step=step,
        )
        return replace(usual, **changes)


def pick(options: Mapping[str, Any], kind: Any) -> Found:
    """Those options that are fields of a dataclass."""
    return {name: value for name, value in options.items() if name in {one.name for one in fields(kind)}}


def make_data(stage: Stage) -> Iterator[Part]:
    """Shards of both codecs: videos that know their frames, and the demo's where no others are measured."""
    raw = stage.home / "numbered-videos" / "numbered"
    raw.mkdir(parents=True)
    for number in range(6):
        write_numbered_video(raw / f"g{number:02d}_{number}.mp4", 40 + number)
    sources = {"numbered": raw.parent}
    if stage.data.is_relative_to(stage.home):
        sources["demo"] = demo_videos(stage.home, quiet=True)

    def build(name: str, codec: Any) -> Found:
        listing = list_folder(sources[name], name=name, group_pattern=r"^(g\d+|scene[0-9]+)_")
        built = build_shards(listing, stage.home / f"{name}-{codec}", BuildSettings(codec=codec), workers=2)
        return {"num_samples": built.num_samples}

    for name in sources:
        for codec in CODECS:
            yield Part(f"{name} {codec}", partial(build, name, codec))


def first_look(stage: Stage) -> Iterator[Part]:
    """A: hardware, versions, a compiler."""

    def facts() -> Found:
        return machine() | {"compiler": shutil.which("gcc") or shutil.which("cc"), "cuda": torch.version.cuda}

    yield Part("machine", facts)


def exactness(stage: Stage) -> Iterator[Part]:
    """B: frame numbers and colored edges, engine loads, places in a batch, resizing, blank clips."""

    on_cpu = replace(stage, device=torch.device("cpu"))

    def pixels(codec: str, spec: ClipSpec) -> Found:
        clips = first_clips(stage, codec, spec=spec, num=16)
        found = difference(clips, first_clips(on_cpu, codec, spec=spec, num=16, engine="simple"))
        wrong = wrong_frames(clips, plan_of(stage, codec, spec))
        return found | {"exact": found["exact"] and not wrong, "clips_with_wrong_frames": wrong}

    def places(codec: str) -> Found:
        first, other = (first_clips(stage, codec, batch_size=size, num=24) for size in (8, 6))
        return difference(first, other) | {"exact": bool(np.array_equal(first, other))}

    def blanks(codec: str) -> Found:
        index = open_index(stage.home / f"numbered-{codec}")
        plan = EvalPlan(index, np.arange(3), CLIP, global_batch_size=4)
        with ClipLoader(index, plan, device=stage.device) as loader:
            batch = next(iter(loader))
            weights, is_finite = batch.weights.tolist(), bool(torch.isfinite(batch.clips).all())  # sync
        return {"weights": weights, "exact": is_finite and weights == [1, 1, 1, 0]}

    def loads() -> Found:
        return difference(*(first_clips(stage, "filmstrip", hw_decoder_load=load, num=24) for load in (1.0, 0.0)))

    def chroma(smooth: bool) -> Found:
        ours = first_clips(stage, "filmstrip", fancy_upsampling=smooth, num=24)
        return difference(ours, first_clips(on_cpu, "filmstrip", engine="simple", num=24))

    for codec in CODECS:
        for resize in (None, 112):  # a crop of either shows all bars
            name = f"{codec}, {'resized' if resize else 'as stored'}"
            yield Part(name, partial(pixels, codec, ClipSpec(8, 2, 112, resize)))
        yield Part(f"{codec}, other places in the batch", partial(places, codec))
        yield Part(f"{codec}, blank clips", partial(blanks, codec))
    yield Part("engine load 0 and 1", loads, needs_gpu=True)
    for smooth in (False, True):  # which of the two is nearer to what a CPU decodes
        yield Part(f"chroma {'smoothed' if smooth else 'repeated'}", partial(chroma, smooth), needs_gpu=True)


def wrong_frames(clips: np.ndarray, plan: TrainPlan) -> int:
    """How many of the first clips of a plan [n, 3, T, H, W] show other frame numbers than planned."""
    scale, size, wrong = plan.spec.scale(plan.index.size), plan.global_batch_size, 0
    for number, clip in enumerate(clips):
        batch, row = plan.batch(number // size), number % size
        frames = frame_indices(batch.start, plan.stored_spec, video_frames=plan.index.num_frames[batch.sample])
        left, flip = float(batch.left[row]) / scale, bool(batch.flip[row])
        wrong += read_numbers(clip, left=left, scale=scale, flip=flip) != frames[row].tolist()
    return wrong


def difference(ours: np.ndarray, theirs: np.ndarray) -> Found:
    """How far two sets of clips are apart, in steps of 255, and whether two correct decoders may be.

    >>> difference(np.zeros(50), np.array([0.0] * 49 + [90.0]))["exact"]
    False
    """
    apart = np.abs(ours - theirs)
    mean, far_share = float(apart.mean()), float((apart > FAR).mean())
    is_exact = mean <= MAX_MEAN_ERROR and far_share <= MAX_FAR_SHARE
    return {"exact": is_exact, "mean": mean, "max": float(apart.max()), "far_share": far_share}


def plan_of(stage: Stage, codec: str, spec: ClipSpec = CLIP, *, batch_size: int = 8) -> TrainPlan:
    """Random clips of the numbered videos."""
    index = open_index(stage.home / f"numbered-{codec}")
    return TrainPlan(index, np.arange(index.num_samples), spec, global_batch_size=batch_size, seed=0)


def first_clips(
    stage: Stage, codec: str, *, num: int, spec: ClipSpec = CLIP, batch_size: int = 8, **loader: Any
) -> np.ndarray:
    """The first clips of a plan, float32 [num, 3, T, H, W] on the host; the mean is subtracted."""
    plan = plan_of(stage, codec, spec, batch_size=batch_size)
    with ClipLoader(plan.index, plan, device=stage.device, settings=LoaderSettings(**loader)) as batches:
        clips = [batch.clips.float().cpu().numpy() for batch in islice(batches, -(-num // batch_size))]
    return np.concatenate(clips)[:num]


def alone(stage: Stage, *, data: Path | None = None, **loader: Any) -> Found:
    """The loader alone: clips/s, host cores, use of the GPU's engines, and what limits it."""
    settings = replace(stage, data=data or stage.data).settings(loader=LoaderSettings(**loader))
    result = run(settings, open_index(settings.data))
    numbers = result.lanes[LOADER]
    return {
        "clips_per_s": asdict(numbers["clips_per_s"]),
        "cores": numbers["cores"].median,
        "first_limit": first_limit(result),
        "gpu": result.rounds[-1].gpu,
    }


@contextmanager
def opened(settings: Settings, connections: int) -> Iterator[Callable[[str], Any]]:
    """A loader and a step in a process of their own, for requests.

    Answers "losses" of some steps, "record" by recording the CUDA graph again and again while the loader works, and
    a lane's name with the clips/s of a round.

    Args:
        connections: Hardware queues that CUDA uses.
    """
    os.putenv("CUDA_DEVICE_MAX_CONNECTIONS", str(connections))  # before CUDA starts in this process
    num_steps = COMPARED_STEPS[settings.device.type]
    with closing(open_lanes(settings, open_index(settings.data))) as lanes:

        def answer(request: str) -> Any:
            if request == "losses":
                with lanes.stream():
                    return lanes.losses(num_steps)
            if request != "record":
                return lanes.measure(request, settings.order).clips_per_s
            for _ in range(RECORDINGS):
                assert lanes.step is not None
                lanes.step = recorded_anew(lanes.step)
                with lanes.stream():
                    lanes.losses(num_steps)
                    lanes.real_step()  # the loader works meanwhile
            return None

        yield answer


def recorded_anew(step: TrainStep) -> TrainStep:
    """A step of the same model and optimizer that has not recorded its CUDA graph yet."""
    options = replace(step.options, compile=False, space_to_depth=False)  # the model has both already
    return TrainStep(step.model, step.optimizer, ranks=step.ranks, options=options)


def compared(
    stage: Stage, base: Found, change: Found, *, lanes: Sequence[str], rounds: int = ROUNDS, share: float = 1.0
) -> Found:
    """A change beside its base, each in a process of its own: losses of some steps, then alternating rounds.

    Args:
        lanes: Measured in each round; the speeds of the last one are compared.
        share: Of the stage's remaining time, for this comparison.

    Raises:
        BenchError: One of the two fails, or time is over.
    """
    until = time.monotonic() + share * (stage.left_s - CLOSING_S)
    rates: list[dict[str, list[float]]] = [{lane: [] for lane in lanes} for _ in "ab"]

    def ask(child: Child, request: str) -> Any:
        return child.ask(request, timeout_s=max(0.0, until - time.monotonic()))

    def start(name: str, options: Found) -> Child:
        return Child(name, opened, stage.settings(options), options.get("connections", CONNECTIONS))

    with start("base", base) as plain, start("changed", base | change) as changed:
        both = (plain, changed)
        losses = [ask(child, "losses") for child in both]
        for number in range(rounds):
            for lane in lanes:
                for which in (0, 1) if number % 2 == 0 else (1, 0):
                    rates[which][lane].append(ask(both[which], lane))
        if change.get("cuda_graph") and REAL not in lanes:
            ask(changed, "record")
    worst = relative_error(*losses)
    is_exact: bool | None = worst <= MAX_LOSS_ERROR
    if "hw_decoder_load" in change:
        is_exact = stage.earlier.get("B", {}).get("engine load 0 and 1", {}).get("exact")
    ratios = ratios_of(rates[1][lanes[-1]], rates[0][lanes[-1]])
    found: Found = {"change": change, "exact": is_exact, "speed": asdict(Spread.of(ratios))}
    found |= {"kept": is_kept(ratios, exact=is_exact), "worst_loss_error": worst, "rates": rates}
    if REAL in lanes:
        before, after = (asdict(Spread.of(ratios_of(one[REAL], one[SYNTHETIC]))) for one in rates)
        found |= {"saturation_before": before, "saturation": after}
    return found


def ratios_of(rates: Sequence[float], others: Sequence[float]) -> list[float]:
    """Quotients, one per round."""
    return [rate / other for rate, other in zip(rates, others, strict=True)]


def relative_error(losses: Sequence[float], others: Sequence[float]) -> float:
    """Largest difference of two runs' losses, step by step, as a share of the first run's."""
    return max(abs(b - a) / max(abs(a), 1e-6) for a, b in zip(losses, others, strict=True))


def is_kept(ratios: Sequence[float], *, exact: bool | None) -> bool:
    """Whether a change is exact, and faster in every round and by more than 1 % in the middle one.

    >>> is_kept((1.01, 1.03, 1.02), exact=True), is_kept((0.99, 1.3, 1.3), exact=True), is_kept((2.0,), exact=None)
    (True, False, False)
    """
    return exact is True and min(ratios) > 1 and median(ratios) > 1.01


def kept(parts: Mapping[str, Found]) -> Found:
    """The options that a stage kept."""
    options: Found = {}
    for name, part in parts.items():
        if part.get("kept") and name != LAST:
            options |= part["change"]
    return options


def climb(
    stage: Stage, base: Found, changes: Sequence[Found], lanes: Sequence[str], *, more: int = 0
) -> Iterator[Part]:
    """Try one change after another on top of those kept so far.

    Args:
        more: Parts of the stage that follow, and need as much time as one change.
    """
    runs = [change for change in changes if stage.on_gpu or change.keys() <= ON_A_CPU]
    for change in [*runs, *(change for change in changes if change not in runs)]:
        ((name, value),) = change.items()
        share = 1 / (len(runs) - runs.index(change) + more) if change in runs else 0.0
        work = partial(compared, stage, base | kept(stage.found), change, lanes=lanes, share=share)
        yield Part(f"{name} {value}", work, needs_gpu=not change.keys() <= ON_A_CPU)


def step_options(stage: Stage) -> Iterator[Part]:
    """C: the step alone, eager first, then one option after another."""
    return climb(stage, {}, [{name: True} for name in STEP_OPTIONS], (SYNTHETIC,))


def loader_alone(stage: Stage) -> Iterator[Part]:
    """D: the loader alone by the JPEG engines' share, which must take restart intervals, threads, smoothed chroma."""
    for load in (1.0, 0.0):
        for threads in THREADS:
            work = partial(alone, stage, hw_decoder_load=load, num_threads=threads)
            yield Part(f"{ALONE}, load {load:g}, {threads} threads", work, needs_gpu=load == 0)
    yield Part("chroma smoothed", partial(alone, stage, fancy_upsampling=True), needs_gpu=True)


def saturation(stage: Stage) -> Iterator[Part]:
    """E: real clips beside ready ones, one factor at a time; then the default and the best."""
    base, lanes = kept(stage.earlier.get("C", {})), (SYNTHETIC, REAL)
    changes: list[Found] = [{"hw_decoder_load": 0.0}, {"connections": 8}]
    changes += [{"num_threads": threads} for threads in THREADS if threads != LoaderSettings().num_threads]
    changes += [{name: not base.get(name, False)} for name in ("high_priority", "cuda_graph")]
    yield from climb(stage, base, changes, lanes, more=1)
    default = default_options(Ranks(device=stage.device))
    usual = {name: getattr(default, name) for name in STEP_OPTIONS}
    best = dict.fromkeys(STEP_OPTIONS, False) | base | kept(stage.found) if stage.on_gpu else {}
    rounds = LAST_ROUNDS if stage.left_s > 90 else ROUNDS
    yield Part(LAST, partial(compared, stage, usual, best, lanes=lanes, rounds=rounds))


def best_options(stage: Stage) -> Found:
    """What the stages C and E kept."""
    return kept(stage.earlier.get("C", {})) | kept(stage.earlier.get("E", {}))


def profiled(stage: Stage) -> Iterator[Part]:
    """F: where a step's time goes with the best options: the stream's idle share, the top kernels."""
    settings = stage.settings(best_options(stage))
    with closing(open_lanes(settings, open_index(settings.data))) as lanes, first_steps(lanes, stage.device):

        def profile(lane: str) -> Found:
            with lanes.stream():
                one = profile_steps(lanes.run[lane], device=stage.device, trace=stage.home / "trace.json")
            kernels = {name[:60]: ms for name, ms in list(one.kernels.items())[:10]}
            return {"ms_per_step": one.ms_per_step, "idle_share": one.idle, "kernels": kernels}

        for lane in (SYNTHETIC, REAL):
            yield Part(lane, partial(profile, lane))


def end_to_end(stage: Stage) -> Iterator[Part]:
    """G: the trainer, whole and resumed; evaluation; batch 64; H.264 alone."""
    steps, size = (60, 32) if stage.on_gpu else (4, 4)
    preset = ["--preset", "tiny", "--batch-size", str(size), "--eval-every", "0", "--eval-clips", "1", "--no-flip"]
    preset += ["--log-every", "1", "--quiet", "--device", stage.device.type]
    whole, halves = stage.home / "whole", stage.home / "halves"

    def command(script: str, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, str(CHECKOUT / script), *words], capture_output=True, text=True, timeout=stage.left_s
        )
        if done.returncode:
            raise BenchError((done.stderr.strip().splitlines() or ["no message"])[-1])

    def train_and_resume() -> Found:
        train = ["train/main.py", "--data", str(stage.data), *preset]
        command(*train, "--steps", str(steps), "--out", str(whole), "--keep-every", str(steps // 2))
        shutil.copytree(whole, halves, ignore=shutil.ignore_patterns("latest.pt", "best.pt", "step-*", "*.tfevents*"))
        middle = str(whole / f"step-{steps // 2}.pt")
        command(*train, "--steps", str(steps), "--out", str(halves), "--resume", middle)
        one, two = (read_run(folder).curve("loss").values[steps // 2 :].tolist() for folder in (whole, halves))
        worst = relative_error(one, two)
        return {"exact": worst <= MAX_LOSS_ERROR, "worst_loss_error": worst, "last_loss": one[-1]}

    def evaluate() -> Found:
        out = stage.home / "scores.json"
        words = ["--checkpoint", str(whole / "latest.pt"), "--data", str(stage.data), "--clips", "1"]
        command("tools/evaluate.py", *words, "--device", stage.device.type, "--json", str(out))
        return {"wrote_scores": out.is_file()}

    def small_batches() -> Found:
        settings = stage.settings(best_options(stage), batch_size=64)
        found = run(settings, open_index(settings.data), [SYNTHETIC, REAL]).saturation
        return {"saturation": found and asdict(found)}

    yield Part("train and resume", train_and_resume)
    yield Part("evaluate", evaluate)
    yield Part("batch 64", small_batches, needs_gpu=True)
    name = "demo" if (stage.home / "demo-h264").is_dir() else "numbered"
    for pipelines in (1, 2, 4):
        work = partial(alone, stage, data=stage.home / f"{name}-h264", num_pipelines=pipelines)
        yield Part(f"h264 alone, {pipelines} pipelines", work, needs_gpu=pipelines > 1)


STAGES: dict[str, tuple[float, Callable[[Stage], Iterator[Part]]]] = {  # name -> share of the time, parts
    "data": (10, make_data),  # every other stage needs it, and what it leaves is theirs
    "A": (1, first_look),
    "B": (3, exactness),
    "C": (10, step_options),
    "D": (3, loader_alone),
    "E": (7, saturation),
    "F": (2, profiled),
    "G": (4, end_to_end),
}
