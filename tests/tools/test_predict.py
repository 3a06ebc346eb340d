"""Classes of raw videos: those that evaluate finds in shards of them, and where they change along a video."""

import csv
import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor, nn

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.annotate import annotate
from res3d_video.tools.numbered import numbered_frame, read_numbers
from res3d_video.tools.predict import main
from res3d_video.train.checkpoint import TrainedModel, load_model, save_checkpoint
from res3d_video.train.evaluation.prediction import predict, settings_of
from res3d_video.train.evaluation.video_level import score_checkpoint
from res3d_video.train.models import ModelConfig, build_model
from res3d_video.train.ranks import Ranks
from tests.checkpoints import tiny_state
from tests.hostile.test_hostile_videos import LIMITS
from tests.hostile.videos import ALL, NONE, Hostile, add_cut, add_no_videos, add_playlists, add_whole, originals
from tests.schemas import check_schema
from tests.tools.commands import run


class Clock(nn.Module):
    """Reads the number of a clip's middle frame: class 1 from frame 250 on."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, clips: Tensor) -> Tensor:
        numbers = [read_numbers(clip.numpy(), left=29)[clip.shape[1] // 2] for clip in clips]  # the crop is centered
        return 9 * nn.functional.one_hot(torch.tensor([number >= 250 for number in numbers]).long(), 2).float()


def run_predict(checkpoint: Path | str, *words: object, code: int = 0) -> Result:
    return run(main, "--checkpoint", checkpoint, *words, "--device", "cpu", "--quiet", code=code)


def checkpoint_of(folder: Path, index: ShardIndex) -> Path:
    path = folder / "latest.pt"
    torch.manual_seed(1)
    save_checkpoint(path, tiny_state(classes=["even", "odd", "none"], shards=index.info["settings"]))
    return path


def test_predictions_of_raw_videos_are_those_that_evaluate_finds_in_shards(
    shards: ShardIndex, numbered_raw: Path, tmp_path: Path
) -> None:
    path = checkpoint_of(tmp_path, shards)
    model = load_model(path)
    index = replace(shards, info=shards.info | {"classes": model.classes})
    scored, _ = score_checkpoint(path, index, ranks=Ranks(), subset="train", num_clips=3, quiet=True)
    videos = [numbered_raw / source for source in scored.videos]
    found = list(predict(model, videos, num_clips=3, workers=2))
    assert [video.path for video in found] == videos
    assert np.allclose([video.probabilities for video in found], scored.probabilities, atol=1e-6)
    assert [next(iter(video.top5())) for video in found] == [model.classes[k] for k in scored.ranking[:, 0]]


def test_a_timeline_tells_when_a_video_changes(numbered_raw: Path) -> None:
    model = TrainedModel(
        Clock(), ["early", "late"], ClipSpec(num_frames=5, frame_stride=2), 128.0, 1.0, {"size": 128}, step=1
    )
    (video,) = predict(model, [numbered_raw / "even/g10_505.mp4"], every_s=0.5, workers=1)
    assert len(video.timeline) == 41  # 505 frames of 25 a second, a clip spans nine of them
    assert [row.start_s for row in video.timeline[1:]] == [row.end_s for row in video.timeline[:-1]]
    early, late = video.spans()
    assert (early.start_s, early.name, late.name, late.end_s) == (0.0, "early", "late", pytest.approx(505 / 25))
    assert early.end_s == late.start_s == pytest.approx(250 / 25, abs=0.5)


def test_a_timeline_has_the_videos_own_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.stack([numbered_frame(number, height=240, width=320) for number in range(400)])
    with av.open(str(tmp_path / "varying.mp4"), "w") as container:  # 250 frames of 50 a second, then 150 of 25
        stream = container.add_stream("libx264", rate=50, options={"crf": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = min(number, 250) + 2 * max(number - 250, 0), Fraction(1, 50)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    model = TrainedModel(
        Clock(), ["early", "late"], ClipSpec(num_frames=5, frame_stride=2), 128.0, 1.0, {"size": 128}, step=1
    )
    (video,) = predict(model, [tmp_path / "varying.mp4"], every_s=0.5, workers=1)
    early, late = video.spans()
    assert (early.name, late.name) == ("early", "late")
    assert early.end_s == late.start_s == pytest.approx(250 / 50, abs=0.5)
    assert late.end_s == pytest.approx(250 / 50 + 150 / 25, abs=0.05)

    def grey(classes: list[str], probabilities: np.ndarray, height: int) -> Image.Image:
        return Image.new("L", (40, 40), 250 * int(probabilities.argmax())).convert("RGBA")

    monkeypatch.setattr("res3d_video.tools.annotate.label", grey)
    annotate(video, tmp_path / "out/seen.mp4")
    with av.open(str(tmp_path / "out/seen.mp4")) as container:
        is_late = [frame.to_ndarray(format="gray")[:40, :40].mean() > 128 for frame in container.decode(video=0)]
    assert (is_late.index(True), len(is_late)) == (pytest.approx(250, abs=25), 400)
    assert all(is_late[is_late.index(True) :])


def test_of_imported_weights_pictures_are_stretched_as_in_the_paper() -> None:
    model = TrainedModel(Clock(), ["a"], ClipSpec(crop_size=224, num_frames=4), 128.0, 1.0, {}, step=0)
    assert settings_of(model).size == 256
    assert settings_of(replace(model, clip=ClipSpec())) == BuildSettings()


def test_the_command_names_classes_and_writes_what_it_is_asked_for(
    numbered: ShardIndex, numbered_raw: Path, tmp_path: Path
) -> None:
    checkpoint, video = checkpoint_of(tmp_path, numbered), numbered_raw / "even/g08_64.mp4"
    files = {name: tmp_path / f"out/found.{name}" for name in ("json", "csv", "png", "mp4")}
    (tmp_path / "out").mkdir()
    options = {"every": 1, "json": files["json"], "csv": files["csv"], "plot": files["png"], "annotate": files["mp4"]}
    done = run_predict(checkpoint, video, *(word for name, value in options.items() for word in (f"--{name}", value)))
    assert done.stdout.startswith(f"{video}: ")
    everything = json.loads(files["json"].read_text())
    check_schema("predict", everything)
    (found,) = everything["videos"]
    assert sum(found["top5"].values()) == pytest.approx(1, abs=1e-5)
    rows = list(csv.DictReader(files["csv"].open()))
    assert [float(row["end_s"]) for row in rows][-1] == pytest.approx(64 / 25)
    assert len(rows) == len(found["timeline"]) == 2
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    with av.open(str(files["mp4"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 64


def test_a_broken_video_is_a_line_and_the_others_go_on(
    numbered: ShardIndex, numbered_raw: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "videos/broken.mp4"
    broken.parent.mkdir()
    broken.write_bytes(b"no video")
    (broken.parent / "good.mp4").symlink_to(numbered_raw / "even/g08_64.mp4")
    checkpoint = checkpoint_of(tmp_path, numbered)
    done = run_predict(checkpoint, broken.parent, "--follow-links")
    assert (done.stdout.count("\n"), done.stderr.startswith(f"failed: {broken}: ")) == (1, True)
    done = run_predict(checkpoint, broken.parent, code=1)
    assert f"left out: {broken.parent}/good.mp4: a link leads out of" in done.stderr
    alone = run_predict(checkpoint, broken, code=1)
    assert alone.stderr.splitlines()[-1] == "error: none of 1 videos could be read"


def test_a_name_that_is_not_utf8_is_a_line_too(numbered: ShardIndex, numbered_raw: Path, tmp_path: Path) -> None:
    checkpoint, odd = checkpoint_of(tmp_path, numbered), tmp_path / os.fsdecode(b"videos/b\xff.mp4")
    odd.parent.mkdir()
    odd.symlink_to(numbered_raw / "even/g08_64.mp4")
    done = run_predict(checkpoint, odd, numbered_raw / "even/g08_64.mp4", "--json", tmp_path / "found.json")
    line = f"{odd.parent}/b\\udcff.mp4: the name is not UTF-8; rename it"
    assert (done.stdout.count("g08_64.mp4: "), done.stderr) == (1, f"failed: {line}\n")
    broken, good = json.loads((tmp_path / "found.json").read_text())["videos"]
    assert (broken["video"], "error" in broken, "error" in good) == (str(odd), True, False)
    assert run_predict(checkpoint, odd, code=1).stderr.endswith("error: none of 1 videos could be read\n")
    left_out = f"left out: {odd.parent}: 'b\\udcff.mp4': the name is not UTF-8; rename it"
    assert run_predict(checkpoint, odd.parent, code=2).stderr.startswith(left_out)


def test_options_that_do_not_fit_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path(f"{name}.mp4").touch()
    for arguments, reason in (
        (["nowhere/*.mp4"], "VIDEO: nowhere/*.mp4: no video is there; name a file, a folder with videos or a pattern"),
        (["a.mp4", "--csv", "t.csv"], "--csv needs a timeline; add --every SECONDS"),
        (["a.mp4", "b.mp4", "--annotate", "x.mp4"], "--annotate takes one video, got 2"),
    ):
        assert run_predict("x.pt", *arguments, code=2).stderr == f"error: {reason}\n"


@pytest.mark.slow
def test_hostile_videos_are_predictions_or_lines(tmp_path: Path) -> None:
    for name in ("raw", "outside", "originals"):
        (tmp_path / name).mkdir()
    hostile = Hostile(tmp_path / "raw")
    videos = originals(tmp_path / "originals")
    add_whole(hostile, videos, some=True)
    add_cut(hostile, videos, some=True)
    add_playlists(hostile, ["/etc/passwd"], some=True)
    add_no_videos(hostile, videos, tmp_path / "outside")
    torch.manual_seed(0)
    network = build_model(ModelConfig("res3d10", width=2), num_classes=3).eval()
    model = TrainedModel(network, ["a", "b", "c"], ClipSpec(), 128.0, 1.0, {"keep_aspect": True}, step=1)
    paths = [tmp_path / "raw" / name for name in sorted(hostile.expected)]
    found = list(predict(model, paths, num_clips=2, limits=LIMITS, workers=2))
    assert [video.path for video in found] == paths
    for video in found:
        expected = hostile.expected[video.path.name]
        assert (video.probabilities is None) == bool(video.error)
        assert "\n" not in video.error
        if expected == ALL:
            assert not video.error
        elif expected == NONE and not video.path.is_symlink():
            assert video.error
