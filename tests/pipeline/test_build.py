"""Shards: the same bytes from the same videos, whatever happened on the way."""

import json
import shutil
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from res3d_video.pipeline.clip import ClipSpec
from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.convert.plan import BuildSettings, shuffled
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.convert.samples import transcode
from res3d_video.pipeline.datasets import list_folder, list_hmdb51, list_ucf101
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.ingest.limits import Guard
from res3d_video.pipeline.ingest.probe import probe
from res3d_video.pipeline.ingest.transcode import stretched
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import TrainPlan
from res3d_video.pipeline.verify import verify
from res3d_video.tools.numbered import read_numbers, write_numbered_video, write_video
from tests.clips import stored_numbers
from tests.conftest import NUMBERED_LENGTHS, build_numbered, numbered_listing
from tests.oracle import oracle_clips


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset folder, but the lock."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_every_frame_of_every_video_is_stored_in_its_place(shards: ShardIndex) -> None:
    assert sorted(shards.num_frames) == sorted(NUMBERED_LENGTHS)
    assert {"name": shards.codec, "size": 128, "frame_step": 1}.items() <= shards.info["codec"].items()
    for sample in range(shards.num_samples):
        assert stored_numbers(shards, sample) == list(range(shards.num_frames[sample]))
        class_name, name = shards.source(sample).split("/")
        assert class_name == shards.classes[shards.labels[sample]]
        assert name.endswith(f"_{shards.num_frames[sample]}.mp4")


@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
def test_stored_pixels_are_close_to_the_source(tmp_path: Path, codec: str) -> None:
    """A smooth picture, 34 dB or better at the default quality: a codec's loss, no shift, the right colours."""
    y, x = np.mgrid[0:240, 0:320]
    picture = np.stack([128 + 80 * np.sin(x / 37), 128 + 80 * np.cos(y / 29), 128 + 60 * np.sin((x + y) / 51)], axis=2)
    (tmp_path / "raw/one").mkdir(parents=True)
    frames = np.repeat(picture.astype(np.uint8)[None], 3, axis=0)
    write_video(tmp_path / "raw/one/a.mp4", frames, vcodec="libx264rgb", crf=0)
    stored = decode_frames(built(tmp_path, codec=codec), 0)[0, :, :171].astype(float)
    rows, columns = (np.arange(128) + 0.5) * 240 / 128 - 0.5, (np.arange(171) + 0.5) * 320 / 171 - 0.5
    down = np.stack([[np.interp(rows, np.arange(240), picture[:, j, c]) for j in range(320)] for c in range(3)])
    expected = np.stack([[np.interp(columns, np.arange(320), line) for line in plane.T] for plane in down], axis=2)
    psnr = 10 * np.log10(255**2 / np.mean((stored - expected) ** 2))
    assert psnr > 34, f"{psnr:.1f} dB"


def built(tmp_path: Path, **settings: object) -> ShardIndex:
    """The shards of tmp_path/raw."""
    listing = list_folder(tmp_path / "raw", test_fraction=0.0)
    build_shards(listing, tmp_path / "out", BuildSettings(**settings), workers=1)
    return open_index(tmp_path / "out")


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each file of a dataset was written, and which it is."""
    files = (path for path in folder.rglob("*") if path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_the_number_of_workers_changes_no_byte_and_building_again_rewrites_nothing(
    shards: ShardIndex, numbered_raw: Path, tmp_path: Path
) -> None:
    listing, settings = numbered_listing(numbered_raw), BuildSettings(samples_per_shard=4, codec=shards.codec)
    build_shards(listing, tmp_path, settings, workers=1)
    assert contents(tmp_path) == contents(shards.data_dir)
    before = stamps(tmp_path)
    result = build_shards(listing, tmp_path, settings, workers=2)
    assert (result.num_shards_written, result.num_shards_kept) == (0, 3)
    assert stamps(tmp_path) == before


def test_a_damaged_tar_is_made_again_and_fewer_videos_leave_no_stale_one(
    numbered: ShardIndex, numbered_raw: Path, tmp_path: Path
) -> None:
    build_numbered(numbered_raw, tmp_path, samples_per_shard=4)
    tar = tmp_path / numbered.tars[1]
    tar.write_bytes(tar.read_bytes()[:-5000])
    listing, settings = numbered_listing(numbered_raw), BuildSettings(samples_per_shard=4)
    result = build_shards(listing, tmp_path, settings, workers=2)
    assert (result.num_shards_written, result.num_shards_kept) == (1, 2)
    assert contents(tmp_path) == contents(numbered.data_dir)
    build_shards(listing, tmp_path, settings, workers=2, limit=5)
    assert open_index(tmp_path).num_samples == 5
    assert sorted(p.name for p in tmp_path.glob("*.tar")) == open_index(tmp_path).tars


@pytest.mark.parametrize(("name", "value"), [("quality", 50), ("codec", "h264")])
def test_shards_of_other_settings_are_not_overwritten(
    numbered: ShardIndex, numbered_raw: Path, name: str, value: object
) -> None:
    before = contents(numbered.data_dir)
    with pytest.raises(ShardError, match=f"holds shards made with another {name}; choose another --out"):
        build_numbered(numbered_raw, numbered.data_dir, samples_per_shard=4, **{name: value})
    assert contents(numbered.data_dir) == before


def test_what_cannot_be_read_is_a_line_of_quarantine_and_the_rest_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "one"
    folder.mkdir(parents=True)
    (folder / "empty.mp4").write_bytes(b"")
    index = built(tmp_path)
    assert (index.num_samples, index.tars, list(index.data_dir.glob("*.tar"))) == (0, [], []), "nothing, but no crash"
    write_numbered_video(folder / "good.mp4", 20)
    (folder / "text.avi").write_text("not a video")
    listing = replace(list_folder(tmp_path / "raw", test_fraction=0.0), missing=["one/gone.mp4"])
    result = build_shards(listing, tmp_path / "out", BuildSettings(), workers=2)
    assert (result.num_samples, result.num_quarantined, result.num_missing) == (1, 2, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    stages = {"one/empty.mp4": "open", "one/text.avi": "probe", "one/gone.mp4": "missing"}
    assert {line["source"]: line["stage"] for line in lines} == stages
    assert all(line["reason"] for line in lines)
    assert open_index(tmp_path / "out").info["num_quarantined"] == 2


@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        ({"size": 64}, ClipSpec(crop_size=56)),
        ({"size": 256}, ClipSpec(crop_size=224)),
        ({"keep_aspect": True}, ClipSpec(4, 2)),
        ({"drop_odd": True}, ClipSpec(8, 4)),
    ],
    ids=str,
)
def test_shards_made_otherwise_store_their_frames_last_as_long_and_give_their_clips(
    numbered_raw: Path, tmp_path: Path, changes: dict, spec: ClipSpec, codec: str
) -> None:
    long = shutil.ignore_patterns("g09*", "g10*")
    raw = shutil.copytree(numbered_raw, tmp_path / "raw", ignore=long)
    index = build_numbered(raw, tmp_path / "out", codec=codec, **changes)
    assert index.frame_step == (2 if "drop_odd" in changes else 1)
    assert (index.content[:, 3] == changes.get("size", 128)).all()
    with tarfile.open(index.data_dir / index.tars[0]) as tar:
        for sample in range(index.num_samples):
            num_source = int(index.source(sample).rsplit("_", 1)[1].split(".")[0])
            assert stored_numbers(index, sample) == list(range(0, num_source, index.frame_step))
            if codec == "h264":
                with av.open(tar.extractfile(f"{index.key(sample)}.mp4")) as video:
                    assert video.streams.video[0].average_rate == Fraction(25, index.frame_step)
    plan = TrainPlan(index, index.samples_of("1", "train"), spec, global_batch_size=10, seed=0)
    with ClipLoader(index, plan) as loader:
        batch = next(iter(loader))
    planned = plan.batch(0)
    assert np.array_equal(batch.clips.numpy(), oracle_clips(index, planned, spec))
    if "drop_odd" in changes:  # source frames, of which the even ones are stored
        for n, clip in enumerate(batch.clips.numpy()):
            last = int(index.num_frames[planned.sample[n]] - 1) * 2
            numbers = read_numbers(clip, left=int(planned.left[n]), flip=bool(planned.flip[n]))
            assert numbers == [min(int(batch.starts[n]) + 4 * i, last) for i in range(8)]


@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
def test_kept_aspect_centres_every_picture_in_one_tile(tmp_path: Path, codec: str) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    for name, (width, height) in {"wide": (480, 240), "high": (240, 320), "square": (240, 240)}.items():
        write_numbered_video(tmp_path / f"raw/one/{name}.mp4", 9, width=width, height=height)
    index = built(tmp_path, keep_aspect=True, codec=codec)
    assert index.tile_size == (176, 256)
    sizes = {Path(index.source(s)).stem: tuple(index.content[s, 2:]) for s in range(index.num_samples)}
    assert sizes == {"wide": (256, 128), "high": (128, 171), "square": (128, 128)}
    for sample in range(index.num_samples):
        assert stored_numbers(index, sample) == list(range(9))


def test_a_video_too_wide_for_h264_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "raw/one").mkdir(parents=True)
    write_numbered_video(tmp_path / "raw/one/a.mp4", 2, width=256, height=32, pix_fmt="yuv444p")
    with pytest.raises(ShardError, match="raw: size: frames of 8192×1024 cannot be H.264"):
        built(tmp_path, keep_aspect=True, codec="h264", size=1024)


def test_the_order_of_videos_depends_on_names_and_seed_alone(numbered_raw: Path) -> None:
    records = list_folder(numbered_raw, test_fraction=0.0).records
    assert shuffled(records, seed=0) == shuffled(records[::-1], seed=0)
    assert shuffled(records, seed=0) != shuffled(records, seed=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 4}, "size must be 16 to 1,024, got 4"), ({"quality": 0}, "quality must be 1 to 100, got 0"),
        ({"fps": -1.0}, "fps must be 0.001 to 1,000, got -1.0"),
        ({"segment_s": 0.0}, "segment_s must be 0.001 to 3,600, got 0.0"),
        ({"codec": "h264", "size": 16}, "size: frames of 32×16"),
        ({"segment_s": 2.0, "fps": 10.0}, "fps: 10.0 does not go with segments"),
        ({"test_segments": 101}, "test_segments must be 1 to 100, got 101"),
        ({"codec": "av1"}, "codec must be one of filmstrip, h264, got 'av1'"),
        ({"codec": "h264", "gop_size": 1}, "gop_size must be 2 to 250, got 1"),
        ({"codec": "h264", "crf": 0}, "crf must be 1 to 51, got 0"),
        ({"codec": "h264", "crf": 52}, "crf must be 1 to 51, got 52"),
        ({"codec": "h264", "size": 32, "keep_aspect": True}, "size: frames of 32×32"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BuildSettings(**wrong)


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> dict[str, dict]:
    return {fact["path"]: fact for fact in json.loads((shared_data / "facts.json").read_text())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "limit"),
    [
        ("filmstrip", 50),
        pytest.param("filmstrip", None, marks=pytest.mark.long),
        pytest.param("h264", None, marks=pytest.mark.long),
    ],
)
def test_ucf101_every_frame_count_is_the_decoded_one(
    shared_data: Path, facts: dict, tmp_path: Path, codec: str, limit: int | None
) -> None:
    listing = list_ucf101(shared_data / "ucf101")
    result = build_shards(listing, tmp_path, BuildSettings(codec=codec), workers=2, limit=limit)
    index, faults = verify(tmp_path, decode=codec == "h264")
    assert faults == []
    assert (result.num_samples, result.num_quarantined, result.num_missing) == (limit or 243, 0, 13320 - 243)
    if limit is None:
        assert [(c["train"], c["test"]) for c in index.info["splits"].values()] == [(176, 67), (173, 70), (175, 68)]
    for sample in range(index.num_samples):
        assert index.num_frames[sample] == facts[f"ucf101/{index.source(sample)}"]["decoded_frames"]


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
def test_hmdb51_packed_b_frames_decode_to_one_frame_fewer_than_the_header_says(
    shared_data: Path, facts: dict, tmp_path: Path, codec: str
) -> None:
    build_shards(list_hmdb51(shared_data / "hmdb51"), tmp_path, BuildSettings(codec=codec), workers=2)
    index, faults = verify(tmp_path, decode=True)
    assert faults == []
    assert (index.num_samples, index.info["splits"]["1"]) == (9, {"train": 6, "test": 2})
    for sample in range(9):
        fact = facts[f"hmdb51/{index.source(sample)}"]
        assert index.num_frames[sample] == fact["decoded_frames"] == fact["header_frames"] - 1


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["filmstrip", pytest.param("h264", marks=pytest.mark.long)])
def test_every_odd_video_becomes_all_of_its_frames(shared_data: Path, facts: dict, codec: str) -> None:
    """Odd sizes, 8 to 12 bits, 4:4:4, HDR, rotation, one frame, late start, discarded keyframes, every codec."""
    settings = BuildSettings(size=64, codec=codec)
    for path, fact in facts.items():
        if path.startswith(("edge/", "kinetics/")):
            source = shared_data / path
            segment, meta = transcode(source, stretched(64), settings, facts=probe(source), guard=Guard())
            assert meta["num_frames"] == fact["decoded_frames"], path
            if codec == "h264":
                files = {name: (0, content) for name, content in segment.files.items()}
                rows = np.array([frame[1:] for frame in segment.frames], np.uint32)
                assert not list(H264Codec.new(height=64, width=96).segment_faults(files, rows, decode=True)), path
