"""The trainer: shards and a preset in, checkpoints and metrics out. Read it from top to bottom."""

import gc
import os
import platform
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.loader import Batch, ClipLoader
from res3d_video.train.checkpoint import TrainedModel, check_same_run, data_identity, load_checkpoint, load_weights
from res3d_video.train.config import TrainConfig, is_due, lr_at, to_dict, train_plan
from res3d_video.train.data_options import Data
from res3d_video.train.evaluation.video_level import VideoScores, evaluate
from res3d_video.train.metrics import MetricsLog, OutcomeQueue, StepOutcome, Tally, check_finite
from res3d_video.train.mixing import draw_mixing
from res3d_video.train.models import build_model
from res3d_video.train.presets import NEEDS_WEIGHTS
from res3d_video.train.progress import ProgressDisplay
from res3d_video.train.rank_times import RankClock, StragglerWatch, line_of
from res3d_video.train.ranks import from_torchrun, process_group
from res3d_video.train.resolve import as_trained, configure, defaults, execution, find_state
from res3d_video.train.run_folder import (
    CheckpointFiles,
    RunContext,
    check_agreement,
    last_lines,
    log_fetched,
    only_trainer,
    result,
    with_the_same_groups,
    write_config,
)
from res3d_video.train.step import TrainStep, build_optimizer, multi_hot
from res3d_video.train.stopping import StopRequest
from res3d_video.train.terminal import Failed, WrongUsage, print_json

ENGINE_NAMES = {"dali": "DALI", "simple": "libjpeg-turbo and FFmpeg (DALI is not installed, or --engine simple)"}


class Run:
    """One training run as this rank sees it."""

    def __init__(
        self,
        config: TrainConfig,
        index: ShardIndex,
        context: RunContext,
        *,
        stop: StopRequest,
        state: dict[str, Any] | None = None,
        weights: tuple[Path, dict[str, Any]] | None = None,
    ) -> None:
        """`state` is the checkpoint to resume from, `weights` the checkpoint of another run to start from."""
        self.config, self.index, self.context, self.ranks = config, index, context, context.ranks
        self.stop_request, device = stop, self.ranks.device
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, num_classes=len(index.classes)).to(device)
        if weights is not None:
            fc_kept = load_weights(self.model, *weights, classes=index.classes)
            context.note(f"weights from {weights[0]}, {'fc included' if fc_kept else 'new fc'}")
        self.optimizer = build_optimizer(self.model, config.optim, fused=device.type == "cuda")
        self.chosen_on = "val" if index.info["splits"][config.split].get("val") else "test"  # the side for best.pt
        self.plan = train_plan(index, config)
        self.lr_of = partial(lr_at, schedule=config.schedule, lr=config.optim.lr, num_steps=config.steps)
        self.loader = ClipLoader(
            index, self.plan, rank=self.ranks.rank, world_size=self.ranks.world_size, device=device,
            settings=context.loader, mean=config.mean, std=config.std,
        )  # fmt: skip
        context.note(f"decoding by {ENGINE_NAMES[self.loader.engine]}")
        validated = "the validation side" if self.chosen_on == "val" else "the test side, so report latest.pt"
        context.note(f"best.pt is chosen on {validated}")
        self.step, self.best_accuracy, self.tally = 0, -1.0, Tally()  # updates done; best clip@1 so far
        self.evaluated = 0  # the last step that was evaluated
        if state is not None:
            self.step, self.best_accuracy = state["step"], state["best_accuracy"]
            self.tally = state.get("tally", self.tally)  # old checkpoints lack this and the next one
            self.evaluated = state.get("evaluated", self.step)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.loader.load_state_dict(state["loader"])
            torch.set_rng_state(state["rng"])
        self.train_step = TrainStep(
            self.model, self.optimizer, ranks=self.ranks, options=context.step, note=context.say,
            label_smoothing=config.label_smoothing, freeze_bn=config.freeze_bn, ema=config.ema,
        )  # fmt: skip
        if config.ema and state is not None:
            self.train_step.load_average(state["ema"], num_updates=self.step)
        self.outcomes = OutcomeQueue(self.ranks)
        self.clock = RankClock(self.model, self.optimizer, ranks=self.ranks)
        self.stragglers = StragglerWatch(self.ranks.gather(platform.node()))  # collective, once
        self.progress = ProgressDisplay(
            "training", unit="steps", console=context.console(), say=context.say, quiet=context.quiet, transient=True
        )
        self.log: MetricsLog | None = None  # this and `files` on rank 0 only
        self.files: CheckpointFiles | None = None
        if self.ranks.is_main:
            warn = partial(self.progress.message, always=True)
            options: dict[str, Any] = {"total": config.steps, "tracker": context.tracker, "config": to_dict(config)}
            self.log = MetricsLog(context.out, start=self.step, say=warn, **options)
            self.files = CheckpointFiles(context.out, log=self.log, say=warn)

    def train(self) -> bool:
        """Train to the last step; False if a signal stopped it earlier. Either way latest.pt is written."""
        config, stop = self.config, self.ranks.any(self.stop_request.asked())  # collective
        batches, first = iter(self.loader), self.step + 1
        if self.is_eval_due() and not stop:  # a signal came before it was done
            stop = self.score(self.chosen_on, num_clips=1, event="eval") is None
        if stop:
            self.save("latest.pt")
        while self.step < config.steps and not stop:
            outcomes = self.update(self.clock.take(batches))
            if self.step == first:
                gc.collect()
                gc.freeze()  # excludes what stays for the whole run from garbage collection, which would pause steps
            at_end = self.step == config.steps
            eval_due = self.is_eval_due()
            save_due, keep_due = is_due(self.step, config.save_every), is_due(self.step, config.keep_every)
            stop = any(outcome.stop for outcome in outcomes)  # from a sum over ranks, so all ranks agree
            if at_end or eval_due or save_due or keep_due or stop:
                outcomes += self.outcomes.drain()  # sync: check that the loss is finite before saving anything
            for outcome in outcomes:
                self.record(outcome)
            with self.clock.pause():
                if eval_due and not stop:
                    stop = self.score(self.chosen_on, num_clips=1, event="eval") is None
                if at_end or save_due or stop:
                    self.save("latest.pt")
                if keep_due:
                    self.save(f"step-{self.step}.pt")
        return not stop

    def is_eval_due(self) -> bool:
        """Whether this step's evaluation is still to be done; after the last step only a validation side has one."""
        is_wanted = self.step < self.config.steps or self.chosen_on == "val"
        return is_wanted and self.evaluated < self.step and is_due(self.step, self.config.eval_every)

    def update(self, batch: Batch) -> list[StepOutcome]:
        """One step of SGD; returns the outcomes that are known by now."""
        loss, losses = self.train_step(
            batch.clips,
            batch.labels if self.config.loss == "ce" else multi_hot(self.index, batch),
            batch.weights,
            num_real_global=batch.num_real_global,
            lr=self.lr_of(self.step),
            mixing=draw_mixing(self.step, self.config, rows=self.loader.rows),
        )
        self.step += 1
        stop, damaged = self.stop_request.asked(), self.tally.unnamed(self.index, batch.damaged)
        reading = self.clock.read() if is_due(self.step, self.config.log_every) else None
        own: dict[str, Any] = {"stop": stop, "damaged": damaged, "reading": reading}
        return self.outcomes.push(self.step, batch, loss=loss, losses=losses, **own)  # collective

    def record(self, outcome: StepOutcome) -> None:
        """Check a step whose loss is known now, and log it if a line is due."""
        check_finite(outcome, self.index, self.ranks)
        self.tally.add(outcome)
        if outcome.num_damaged:
            for key, about in self.tally.name(self.ranks.gather(outcome.damaged)).items():  # collective, once a sample
                if self.log is not None:
                    self.log.write("damaged", step=outcome.step, key=key, **about)
        step, epoch, hosts = outcome.step, self.plan.epoch_of(outcome.step - 1), self.stragglers.hosts
        if self.config.canonical_groups and (step == self.config.steps or self.plan.epoch_of(step) > epoch):
            log_fetched(self.log, self.index, self.ranks, hosts, step=step, epoch=epoch)  # collective
        if outcome.readings is None:
            return
        numbers, batch_size = self.tally.take(), self.config.global_batch_size
        if self.log is not None:
            numbers |= line_of(outcome.readings, hosts, global_batch_size=batch_size)
            self.log.write("train", step=step, epoch=epoch, lr=self.lr_of(step - 1), **numbers)
            note = "loss {loss:.3f}, {clips_per_s:,.0f} clips/s, data wait {data_wait:.0%}".format_map(numbers)
            if self.tally.num_replaced:
                note += f", {self.tally.num_replaced:,} samples replaced"
            self.progress.update(step, self.config.steps, note)
            for one in self.stragglers.add(outcome.readings):
                self.log.write("straggler", step=step, **one._asdict())
                self.progress.message(one.warning(), always=True)

    def score(self, side: str, *, num_clips: int, event: str) -> VideoScores | None:
        """Accuracy of rank 0's model on a side; the best one on `chosen_on` becomes best.pt. None if asked to stop."""
        self.ranks.broadcast(self.train_step.scored.buffers())  # collective; each rank has its own BN statistics
        shards = self.index.info.get("settings", {})
        network, classes = self.train_step.scored, self.index.classes
        scores = evaluate(
            TrainedModel.of(network, self.config, classes, shards=shards, step=self.step),
            self.index,
            self.index.samples_of(self.config.split, side),
            num_clips=num_clips,
            global_batch_size=self.config.global_batch_size,
            ranks=self.ranks,
            settings=self.context.loader,
            interrupted=lambda: self.ranks.any(self.stop_request.asked()),  # collective, once a batch
        )
        if scores is None:
            return None
        self.evaluated = self.step
        if self.log is not None:
            self.log.write(event, step=self.step, subset=side, **scores.summary())
            self.progress.message(f"step {self.step}  clip@1 {scores.clip_at_1:.1%}  (chance {scores.chance:.1%})")
        if side == self.chosen_on and scores.quality > self.best_accuracy:
            self.best_accuracy = scores.quality
            self.save("best.pt")
        return scores

    def save(self, name: str) -> None:
        """Write a checkpoint, on rank 0."""
        if self.files is not None:
            state = {
                "step": self.step,
                "best_accuracy": self.best_accuracy,
                "evaluated": self.evaluated,
                "tally": asdict(self.tally),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "loader": self.loader.state_dict(),
                "rng": torch.get_rng_state(),
                "config": to_dict(self.config),
                "data": data_identity(self.index),
                "classes": list(self.index.classes),
                "shards": self.index.info.get("settings", {}),
            }
            if self.config.ema:
                state["ema"] = self.train_step.scored.state_dict()
            self.files.save(name, state)

    def close(self) -> None:
        """Stop the loader, finish the logs."""
        gc.unfreeze()
        self.loader.close()
        self.progress.close()
        if self.log is not None:
            self.log.close()


def train(
    *,
    stop: StopRequest,
    data: Data,
    preset: str | None,
    out: Path | None,
    resume: str,
    init_from: Path | None,
    device: str,
    collective_timeout_s: float,
    tracker: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """A whole run, from the options of the command line to the last line of output."""
    who = ""
    try:
        ranks = from_torchrun(device)
        who = "" if ranks.is_main else f"rank {ranks.rank}: "
        say = partial(click.echo, err=as_json) if ranks.is_main else lambda line: None
        num_local = ranks.world_size // ranks.num_machines
        index = data.open(say=lambda line: click.echo(f"{who}{line}", err=True), num_processes=num_local)
        loader, step = execution(options, ranks, say=say)
        if step.high_priority:
            os.environ.setdefault("TORCH_NCCL_HIGH_PRIORITY", "1")  # else gradients wait behind the step's kernels
        preset, out, line = defaults(preset, out, index=index, device=ranks.device)
        config = configure(preset, index, world_size=ranks.world_size, **options)
        context = RunContext(ranks, out, loader, step, say, quiet=quiet, to_stderr=as_json, tracker=tracker)
        if line:
            context.note(line)
        with process_group(ranks, timeout_s=collective_timeout_s, stop=stop), only_trainer(out, ranks, say=say):
            state = find_state(resume, out, say=say, note=context.note)
            check_agreement(out, ranks, state, index)
            config = with_the_same_groups(config, ranks)  # collective
            weights = (init_from, load_checkpoint(init_from)) if init_from is not None and state is None else None
            start = weights[1] if weights is not None else state
            if start is not None:
                config = as_trained(config, start, goes_on=start is state, is_based=init_from is not None, **options)
            if state is not None:
                check_same_run(state, config, index=index, say=say)
            elif preset in NEEDS_WEIGHTS and init_from is None:
                raise WrongUsage(f"--preset {preset}: starts from trained weights; add --init-from CHECKPOINT")
            if ranks.is_main:
                write_config(context, config, preset=preset, index=index)
            stop.begin(launcher=ranks.launcher)
            run = Run(config, index, context, stop=stop, state=state, weights=weights)
            with closing(run), run.train_step.on_stream():
                scores = run.score("test", num_clips=config.eval_clips, event="final") if run.train() else None
            for line in last_lines(out, scores, step=run.step, steps=config.steps, tally=run.tally):
                say(line)
            if as_json and ranks.is_main:
                print_json(result(out, scores, step=run.step, best_accuracy=run.best_accuracy, tally=run.tally))
            if run.files is not None:
                run.files.check()
    except UserError as error:
        raise Failed(f"{who}{error}") from error
