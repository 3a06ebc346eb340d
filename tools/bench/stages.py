"""What tools/check_gpu.py asks of a GPU, stage by stage; each runs in a process of its own and tells what it finds."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import kind_and_line
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.loader import ClipLoader, LoaderSettings
from res3d_video.pipeline.plan import EvalPlan, Plan, TrainPlan
from res3d_video.pipeline.typed_json import read_json
from res3d_video.tools.bench.gpu import GpuMeter, gpu_uuid
from res3d_video.tools.bench.lanes import LOADER, REAL, SYNTHETIC
from res3d_video.tools.bench.machine import machine
from res3d_video.tools.bench.measure import BenchError, Child, Order, Spread
from res3d_video.tools.bench.run import FIRST_STEPS, PROFILED_STEPS, Settings, open_lanes, profile_steps
from res3d_video.tools.make_demo_videos import demo_videos
from res3d_video.tools.numbered import read_numbers, write_numbered_video
from res3d_video.train.models import ModelConfig
from res3d_video.train.ranks import Ranks
from res3d_video.train.step import StepOptions, TrainStep, default_options

CODECS = ("filmstrip", "h264")
CHECKOUT = Path(__file__).resolve().parents[2]
MAX_MEAN_ERROR, FAR, MAX_FAR_SHARE = 2.0, 32, 0.01  # of 255: nvJPEG does not smooth chroma, libjpeg-turbo does
MAX_LOSS_ERROR = 0.02  # relative, over 20 steps in bfloat16 at a small rate
COMPARED_STEPS, ROUNDS, RECORDINGS = 20, 3, 20
STEP_OPTIONS = ("compile", "space_to_depth", "cuda_graph", "high_priority")
CLOSING_S = 12.0  # until a process that does not listen is ended
CONNECTIONS = 32  # hardware queues of CUDA: what train/main.py asks for
THREADS = (2, 4)  # of the loader
PLAIN = StepOptions()  # eager, channels-last


@dataclass
class Stage:
    """One stage at work.

    Attributes:
        home: Folder of what the stages share: the shards made, the runs.
        data: Shards that speed is measured on.
        earlier: Findings of the stages before, by stage.
        until: time.monotonic() at which the stage is killed.
        save: Writes `found`, `skipped` and `errors`, so that they outlive the stage.
    """

    device: torch.device
    home: Path
    data: Path
    earlier: Mapping[str, Any]
    until: float
    save: Callable[[dict[str, Any]], None]
    found: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    def tell(self) -> None:
        """Save what is known by now."""
        self.save({"found": self.found, "skipped": self.skipped, "errors": self.errors})

    @contextmanager
    def part(self, name: str, *, needs_gpu: bool = False) -> Iterator[dict[str, Any] | None]:
        """A dict for the findings of a part, None where it cannot run; a failure is noted and ends the part alone."""
        if needs_gpu and not self.on_gpu:
            self.skipped[name] = "needs a GPU"
            self.tell()
            yield None
            return
        meter, before = self.meter(), time.monotonic()
        try:
            yield self.found.setdefault(name, {})
        except Exception as error:  # whatever a library raises is a line of the result
            self.errors[name] = kind_and_line(error)
        self.found[name]["wall_s"] = round(time.monotonic() - before, 2)
        if meter is not None:
            self.found[name]["gpu_after"] = meter.sample()
        self.tell()

    def meter(self) -> GpuMeter | None:
        """Of the GPU, if there is one."""
        return GpuMeter(gpu_uuid(self.device)) if self.on_gpu else None

    def settings(self, *, loader: LoaderSettings | None = None, step: StepOptions | None = PLAIN) -> Settings:
        """What is measured: the paper's clips on a GPU, small ones on a CPU."""
        index = open_index(self.data)
        return Settings(
            data=self.data,
            samples=np.arange(index.num_samples),
            clip=ClipSpec(8, 2, 112) if self.on_gpu else ClipSpec(8, 2, 32, 36),
            batch_size=256 if self.on_gpu else 4,
            model=ModelConfig("res3d18", 64) if self.on_gpu else ModelConfig("res3d10", 4),
            loader=loader or LoaderSettings(),
            step=step,
            device=self.device,
            num_cpus=len(os.sched_getaffinity(0)),
            repeats=ROUNDS,
            seconds=2.0 if self.on_gpu else 0.3,
            batches=None,
            seed=0,
        )


@dataclass(frozen=True)
class Trial:
    """One change to some options, measured in rounds that alternate.

    Attributes:
        change: The options tried, and their values.
        exact: Whether it computes the same; None where that was not found out.
        ratios: Speed with the change to that without, round by round.
        error: Why it did not run to its end.
        more: Numbers for the page.
    """

    change: dict[str, Any]
    exact: bool | None = None
    ratios: tuple[float, ...] = ()
    error: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def is_faster(self) -> bool:
        """In every round, and by more than 1 % in the middle one.

        >>> Trial({}, ratios=(1.01, 1.03, 1.02)).is_faster, Trial({}, ratios=(0.99, 1.3, 1.3)).is_faster
        (True, False)
        """
        return bool(self.ratios) and min(self.ratios) > 1 and median(self.ratios) > 1.01

    @property
    def is_kept(self) -> bool:
        return self.error is None and self.exact is True and self.is_faster

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"is_faster": self.is_faster, "is_kept": self.is_kept}


def climb(
    base: dict[str, Any],
    changes: list[dict[str, Any]],
    compare: Callable[[dict[str, Any], dict[str, Any]], Trial],
    *,
    report: Callable[[list[Trial], dict[str, Any]], None] = lambda trials, base: None,
) -> dict[str, Any]:
    """Try one change after another on top of those kept so far; keep what is exact and faster.

    Returns:
        The options, all changes that were kept included.
    """
    trials: list[Trial] = []
    for change in changes:
        trials.append(compare(base, change))
        if trials[-1].is_kept:
            base = base | change
        report(trials, base)
    return base


def make_data(stage: Stage) -> None:
    """Shards of both codecs: videos that know their frames, and the demo's where no others are measured."""
    raw = stage.home / "numbered-videos" / "numbered"
    raw.mkdir(parents=True)
    for number in range(6):
        write_numbered_video(raw / f"g{number:02d}_{number}.mp4", 40 + number)
    sources = {"numbered": raw.parent}
    if stage.data.is_relative_to(stage.home):
        sources["demo"] = demo_videos(stage.home, quiet=True)
    for name, videos in sources.items():
        listing = list_folder(videos, name=name, group_pattern=r"^(g\d+|scene[0-9]+)_")
        for codec in CODECS:
            with stage.part(f"{name} {codec}"):
                build_shards(listing, stage.home / f"{name}-{codec}", BuildSettings(codec=codec), workers=2)


def first_look(stage: Stage) -> None:
    """A: versions, clocks, a compiler; one batch of each codec; the JPEG engines and restart intervals."""
    with stage.part("machine") as found:
        assert found is not None
        found |= machine("torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy", "av", "simplejpeg")
        found["compiler"] = shutil.which("gcc") or shutil.which("cc")
        found["cuda"] = torch.version.cuda
        if (meter := stage.meter()) is not None:
            found |= {"gpu": torch.cuda.get_device_name(stage.device), "driver": meter.driver} | meter.num_engines()
            found |= {"nvml_missing": meter.missing}
    for codec in CODECS:
        with stage.part(f"one batch of {codec}") as found:
            assert found is not None
            clips = first_clips(stage, codec, LoaderSettings())
            found |= {"shape": list(clips.shape), "mean": float(clips.mean())}
    for load in (1.0, 0.0):
        with stage.part(f"restart intervals, engine load {load:g}", needs_gpu=True) as found:
            if found is not None:
                found |= alone(stage, LoaderSettings(hw_decoder_load=load))


def exactness(stage: Stage) -> None:
    """B: frame numbers and colored edges, engine loads, places in a batch, resizing, blank clips."""
    for codec in CODECS:
        for resize in (None, 112):  # a crop of either shows all bars
            with stage.part(f"{codec}, {'resized' if resize else 'as stored'}") as found:
                if found is not None:
                    found |= pixels_of(stage, codec, ClipSpec(8, 2, 112, resize))
        with stage.part(f"{codec}, other places in the batch") as found:
            assert found is not None
            first, other = (first_clips(stage, codec, LoaderSettings(), batch_size=n, num=24) for n in (8, 6))
            found |= difference(first, other) | {"exact": bool(np.array_equal(first, other))}
        with stage.part(f"{codec}, blank clips") as found:
            assert found is not None
            index = open_index(stage.home / f"numbered-{codec}")
            plan = EvalPlan(index, np.arange(3), ClipSpec(8, 2, 112), global_batch_size=4)
            with ClipLoader(index, plan, device=stage.device) as loader:
                batch = next(iter(loader))
                weights = batch.weights.tolist()
                finite = bool(torch.isfinite(batch.clips).all())  # sync
            found |= {"weights": weights, "exact": finite and weights == [1, 1, 1, 0]}
    with stage.part("engine load 0 and 1", needs_gpu=True) as found:
        if found is not None:
            all_on_engine, none = (
                first_clips(stage, "filmstrip", LoaderSettings(hw_decoder_load=load), num=24) for load in (1.0, 0.0)
            )
            found |= within_bound(difference(all_on_engine, none))
    for smooth in (False, True):  # which of the two is nearer to what a CPU decodes
        with stage.part(f"chroma {'smoothed' if smooth else 'repeated'}", needs_gpu=True) as found:
            if found is not None:
                ours = first_clips(stage, "filmstrip", LoaderSettings(fancy_upsampling=smooth), num=24)
                cpu = replace(stage, device=torch.device("cpu"))
                found |= within_bound(
                    difference(ours, first_clips(cpu, "filmstrip", LoaderSettings(engine="simple"), num=24))
                )


def pixels_of(stage: Stage, codec: str, spec: ClipSpec) -> dict[str, Any]:
    """Clips of the device beside those of the simple engine on the CPU, and the frame numbers that they show."""
    index = open_index(stage.home / f"numbered-{codec}")
    plan = TrainPlan(index, np.arange(index.num_samples), spec, global_batch_size=8, seed=0)
    clips = loaded(index, plan, LoaderSettings(), device=stage.device, num=16)
    plain = loaded(index, plan, LoaderSettings(engine="simple"), device=torch.device("cpu"), num=16)
    scale, wrong, planned = spec.scale(index.size), 0, [plan.batch(step) for step in range(2)]
    for clip, (batch, row) in zip(clips, ((b, n) for b in planned for n in range(8)), strict=True):
        left, flip = float(batch.left[row]) / scale, bool(batch.flip[row])
        last = int(index.num_frames[batch.sample[row]]) - 1
        wanted = [min(int(batch.start[row]) + 2 * t, last) for t in range(spec.num_frames)]
        wrong += read_numbers(clip, left=left, scale=scale, flip=flip) != wanted
    found = within_bound(difference(clips, plain)) | {"clips_with_wrong_frames": wrong}
    return found | {"exact": found["exact"] and not wrong}


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """How far two sets of clips are apart, in steps of 255."""
    apart = np.abs(ours - theirs)
    return {"mean": float(apart.mean()), "max": float(apart.max()), "far_share": float((apart > FAR).mean())}


def within_bound(found: dict[str, Any]) -> dict[str, Any]:
    """With whether that is what two correct decoders may differ by.

    >>> within_bound({"mean": 0.4, "max": 90.0, "far_share": 0.02})["exact"]
    False
    """
    is_exact = found["mean"] <= MAX_MEAN_ERROR and found["far_share"] <= MAX_FAR_SHARE
    return found | {"exact": is_exact, "bound": f"mean <= {MAX_MEAN_ERROR}, <= {MAX_FAR_SHARE:.0%} off by > {FAR}"}


def first_clips(stage: Stage, codec: str, settings: LoaderSettings, *, batch_size: int = 8, num: int = 8) -> np.ndarray:
    """The first clips of the numbered videos, whatever the batch."""
    index = open_index(stage.home / f"numbered-{codec}")
    plan = TrainPlan(index, np.arange(index.num_samples), ClipSpec(8, 2, 112), global_batch_size=batch_size, seed=0)
    return loaded(index, plan, settings, device=stage.device, num=num)


def loaded(index: ShardIndex, plan: Plan, settings: LoaderSettings, *, device: torch.device, num: int) -> np.ndarray:
    """The first `num` clips of a plan, float32 [num, 3, T, H, W] on the host; the mean is subtracted."""
    with ClipLoader(index, plan, device=device, settings=settings) as loader:
        batches = [batch.clips.float().cpu().numpy() for batch in islice(loader, -(-num // plan.global_batch_size))]
    return np.concatenate(batches)[:num]


def alone(stage: Stage, loader: LoaderSettings, *, data: Path | None = None) -> dict[str, Any]:
    """The loader alone: clips/s, host cores, use of the GPU's engines."""
    settings = replace(stage.settings(loader=loader, step=None), data=data or stage.data)
    index = open_index(settings.data)
    settings = replace(settings, samples=np.arange(index.num_samples))
    with closing(open_lanes(settings, index, meter=stage.meter())) as lanes:
        order = Order(None, settings.seconds, lanes.warmup_batches)
        turns = [lanes.take_turn(LOADER, order, repeat=repeat) for repeat in range(ROUNDS)]
    return {
        "clips_per_s": asdict(Spread.of([turn.clips_per_s for turn in turns])),
        "cores": median(turn.cores for turn in turns),
        "gpu": turns[-1].gpu and asdict(turns[-1].gpu),
    }


def serve(connection: Connection, settings: Settings, connections: int) -> None:
    """A loader and a step in a process of their own: ("losses", n), ("turn", lane) or ("record", n) until told None.

    Args:
        connections: Hardware queues that CUDA uses.
    """
    os.putenv("CUDA_DEVICE_MAX_CONNECTIONS", str(connections))  # before CUDA starts in this process
    try:
        with closing(open_lanes(settings, open_index(settings.data))) as lanes:
            connection.send("ready")
            while (request := connection.recv()) is not None:
                what, value = request
                if what == "record":
                    for _ in range(value):
                        assert lanes.step is not None
                        lanes.step = recorded_anew(lanes.step)
                        with lanes.stream():
                            lanes.losses(COMPARED_STEPS)
                            lanes.real_step()  # the loader works meanwhile
                    answer: Any = value
                elif what == "losses":
                    with lanes.stream():
                        answer = lanes.losses(value)
                else:
                    ready = 2 if value == SYNTHETIC else lanes.warmup_batches
                    answer = lanes.take_turn(value, Order(None, settings.seconds, ready), repeat=0).clips_per_s
                connection.send(answer)
    except EOFError:
        return  # the parent is gone
    except Exception as error:  # a line of the result
        connection.send(BenchError(kind_and_line(error)))


def recorded_anew(step: TrainStep) -> TrainStep:
    """The same model and optimizer, as they are, in a step that has recorded nothing yet."""
    options = replace(step.options, compile=False, space_to_depth=False)  # the model has both already
    return TrainStep(step.model, step.optimizer, ranks=step.ranks, options=options)


def options_of(options: Mapping[str, Any]) -> tuple[LoaderSettings, StepOptions]:
    """Options as `climb` has them as the loader's and the step's."""
    step = {name: value for name, value in options.items() if name in STEP_OPTIONS}
    loader = {name: value for name, value in options.items() if name in LoaderSettings.__dataclass_fields__}
    return LoaderSettings(**loader), replace(PLAIN, **step)


def compared(
    stage: Stage,
    base: dict[str, Any],
    change: dict[str, Any],
    *,
    lanes: tuple[str, ...],
    rounds: int = ROUNDS,
    share: float = 1.0,
) -> Trial:
    """A change beside its base: losses of 20 steps, then rounds that alternate; each in a process of its own.

    Args:
        lanes: Measured in each round; speed is that of the last.
        share: Of the stage's time that is left, for this.
    """
    if not stage.on_gpu and not change.keys() <= {"compile", "space_to_depth"}:
        return Trial(change, error="needs a GPU")
    both: list[tuple[Settings, int]] = []
    for options in (base, base | change):
        loader, step = options_of(options)
        if stage.on_gpu:
            step = replace(step, cudnn_benchmark=True)
        both.append((stage.settings(loader=loader, step=step), options.get("connections", CONNECTIONS)))
    until = time.monotonic() + share * (stage.left_s - CLOSING_S)

    def left_s() -> float:
        return max(0.0, until - time.monotonic())

    rates: list[dict[str, list[float]]] = [{lane: [] for lane in lanes} for _ in both]
    try:
        with (
            Child("base", serve, *both[0]) as plain,
            Child("change", serve, *both[1]) as changed,
        ):
            for child in (plain, changed):
                child.receive(timeout_s=left_s())
            steps = COMPARED_STEPS if stage.on_gpu else 5
            losses = [child.ask(("losses", steps), timeout_s=left_s()) for child in (plain, changed)]
            worst = max(abs(b - a) / max(abs(a), 1e-6) for a, b in zip(*losses, strict=True))
            for number in range(rounds):
                order = (0, 1) if number % 2 == 0 else (1, 0)
                for lane in lanes:
                    for which in order:
                        child = (plain, changed)[which]
                        rates[which][lane].append(child.ask(("turn", lane), timeout_s=left_s()))
            if change.get("cuda_graph") and lanes == (SYNTHETIC,):
                changed.ask(("record", RECORDINGS), timeout_s=left_s())
    except BenchError as error:
        return Trial(change, error=str(error))
    ratios = tuple(b / a for a, b in zip(rates[0][lanes[-1]], rates[1][lanes[-1]], strict=True))
    more: dict[str, Any] = {"worst_loss_error": worst, "rates": rates}
    if REAL in lanes:
        more["saturation"] = [
            asdict(Spread.of([real / ready for real, ready in zip(one[REAL], one[SYNTHETIC], strict=True)]))
            for one in rates
        ]
    is_exact = bool(worst <= MAX_LOSS_ERROR)
    if "hw_decoder_load" in change:
        loads = stage.earlier.get("B", {}).get("found", {}).get("engine load 0 and 1", {})
        return Trial(change, loads.get("exact"), ratios, more=more)
    return Trial(change, is_exact, ratios, more=more)


def step_options(stage: Stage) -> None:
    """C: the step alone, eager first, then one option after another."""
    names = STEP_OPTIONS if stage.on_gpu else ("space_to_depth", "compile")  # compiling takes long on a CPU
    changes: list[dict[str, Any]] = [{name: True} for name in names]

    def compare(base: dict[str, Any], change: dict[str, Any]) -> Trial:
        return compared(stage, base, change, lanes=(SYNTHETIC,), share=1 / (len(changes) - changes.index(change)))

    def report(trials: list[Trial], base: dict[str, Any]) -> None:
        stage.found |= {"trials": [trial.summary() for trial in trials], "options": base}
        stage.tell()

    report([], {})
    climb({}, changes, compare, report=report)
    if not stage.on_gpu:
        stage.skipped |= dict.fromkeys(("cuda_graph", "high_priority"), "needs a GPU")


def loader_alone(stage: Stage) -> None:
    """D: the loader alone by the JPEG engines' share, threads, and whether chroma is smoothed."""
    for load in (1.0, 0.0) if stage.on_gpu else (1.0,):
        for threads in THREADS:
            with stage.part(f"load {load:g}, {threads} threads") as found:
                assert found is not None
                found |= alone(stage, LoaderSettings(hw_decoder_load=load, num_threads=threads))
    with stage.part("chroma smoothed", needs_gpu=True) as found:
        if found is not None:
            found |= alone(stage, LoaderSettings(fancy_upsampling=True))
    if not stage.on_gpu:
        stage.skipped["load 0"] = "needs a GPU"


def saturation(stage: Stage) -> None:
    """E: real clips beside ready ones, one factor at a time; then the best and the default in turns."""
    base = dict(stage.earlier.get("C", {}).get("found", {}).get("options", {}))
    changes: list[dict[str, Any]] = [{"hw_decoder_load": 0.0}, {"connections": 8}]  # 32 is what the trainer has
    changes += [{"num_threads": threads} for threads in THREADS if threads != LoaderSettings().num_threads]
    changes += [{name: not base.get(name, False)} for name in ("high_priority", "cuda_graph")]

    def compare(base: dict[str, Any], change: dict[str, Any]) -> Trial:
        share = 1 / (len(changes) - changes.index(change) + 1)  # the last part is the best beside the default
        return compared(stage, base, change, lanes=(SYNTHETIC, REAL), share=share)

    def report(trials: list[Trial], best: dict[str, Any]) -> None:
        stage.found |= {"trials": [trial.summary() for trial in trials], "options": best}
        stage.tell()

    report([], base)
    if stage.on_gpu:
        base = climb(base, changes, compare, report=report)
    else:
        stage.skipped |= {next(iter(change)): "needs a GPU" for change in changes}
    default = default_options(Ranks(device=stage.device))
    usual = {name: getattr(default, name) for name in STEP_OPTIONS}
    best = dict.fromkeys(STEP_OPTIONS, False) | base if stage.on_gpu else {}
    rounds = 7 if stage.left_s > 90 else ROUNDS
    final = compared(stage, usual, best, lanes=(SYNTHETIC, REAL), rounds=rounds)
    stage.found |= {"default_and_best": final.summary(), "rounds": rounds}
    if final.error:
        stage.errors["default and best"] = final.error
    stage.tell()


def profiled(stage: Stage) -> None:
    """F: where a step's time goes with the best options: the stream's idle share, the top kernels."""
    options = stage.earlier.get("E", {}).get("found", {}).get("options", {})
    loader, step = options_of(options)
    settings = stage.settings(loader=loader, step=step)
    with closing(open_lanes(settings, open_index(settings.data))) as lanes, lanes.stream():
        for _ in range(FIRST_STEPS[stage.device.type]):
            lanes.synthetic_step()
        for lane in (SYNTHETIC, REAL):
            with stage.part(lane) as found:
                assert found is not None
                trace = stage.home / f"{lane.replace(' ', '-')}.json"
                steps = PROFILED_STEPS[stage.device.type]
                one = profile_steps(lane, lanes.run[lane], num_steps=steps, device=stage.device, trace=trace)
                found |= {"ms_a_step": 1e3 * one.wall_s / steps, "idle_share": one.gap}
                found["kernels"] = {k.name[:100]: 1e3 * k.total_s / steps for k in one.kernels[:10]}
    if not stage.on_gpu:
        stage.skipped["idle share"] = "needs a GPU"


def end_to_end(stage: Stage) -> None:
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

    with stage.part("train and resume") as found:
        assert found is not None
        train = ["train/main.py", "--data", str(stage.data), *preset]
        command(*train, "--steps", str(steps), "--out", str(whole), "--keep-every", str(steps // 2))
        shutil.copytree(whole, halves, ignore=shutil.ignore_patterns("latest.pt", "best.pt", "step-*", "*.tfevents*"))
        middle = str(whole / f"step-{steps // 2}.pt")
        command(*train, "--steps", str(steps), "--out", str(halves), "--resume", middle)
        one, two = (losses_of(folder / "metrics.jsonl") for folder in (whole, halves))
        after = sorted(one)[steps // 2 :]
        worst = max(abs(one[step] - two[step]) / max(abs(one[step]), 1e-6) for step in after)
        found |= {"last_loss": one[steps], "worst_loss_error": worst, "exact": worst <= MAX_LOSS_ERROR}
    with stage.part("evaluate") as found:
        if found is not None:
            out = stage.home / "scores.json"
            words = ["--checkpoint", str(whole / "latest.pt"), "--data", str(stage.data), "--clips", "1"]
            command("tools/evaluate.py", *words, "--device", stage.device.type, "--json", str(out))
            found["wrote_scores"] = out.is_file()
    with stage.part("batch 64", needs_gpu=True) as found:
        if found is not None:
            loader, step = options_of(stage.earlier.get("E", {}).get("found", {}).get("options", {}))
            settings = replace(stage.settings(loader=loader, step=step), batch_size=64)
            with Child("batch 64", serve, settings, CONNECTIONS) as child:
                child.receive(timeout_s=stage.left_s)
                child.ask(("losses", FIRST_STEPS["cuda"]), timeout_s=stage.left_s)
                pairs = [
                    [child.ask(("turn", lane), timeout_s=stage.left_s) for lane in (SYNTHETIC, REAL)] for _ in "123"
                ]
            found["saturation"] = asdict(Spread.of([real / ready for ready, real in pairs]))
    for pipelines in (1, 2, 4) if stage.on_gpu else (1,):
        with stage.part(f"h264 alone, {pipelines} pipelines") as found:
            assert found is not None
            name = "demo" if (stage.home / "demo-h264").is_dir() else "numbered"
            found |= alone(stage, LoaderSettings(num_pipelines=pipelines), data=stage.home / f"{name}-h264")


def losses_of(path: Path) -> dict[int, float]:
    """Step -> loss, of a run's metrics.jsonl; of a step that comes twice the last counts."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line.get("event") == "train"}


STAGES: dict[str, tuple[float, Callable[[Stage], None]]] = {  # name -> share of the time, work
    "data": (4, make_data),
    "A": (2, first_look),
    "B": (3, exactness),
    "C": (10, step_options),
    "D": (3, loader_alone),
    "E": (7, saturation),
    "F": (2, profiled),
    "G": (4, end_to_end),
}


def read_result(path: Path) -> dict[str, Any]:
    """What stages have found so far; nothing where there is no file yet."""
    if not path.is_file():
        return {}
    return read_json(path, dict[str, Any], what="results", way_out="run tools/check_gpu.py again")
