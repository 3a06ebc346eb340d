"""The peers of the loader: those that follow the plan show its very frames, the others plausible ones."""

import gc
import json
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from pipeline.clip import ClipSpec, frame_indices
from pipeline.loader import LoaderSettings
from pipeline.reference import decode_sample
from pipeline.shard import ShardIndex
from pipeline.step_reader import ReadWork
from tests.conftest import build_numbered
from tests.numbered import BAND_LEFT, read_numbers, write_numbered_video, write_video
from tools.bench.measure import Way
from tools.bench.peers.clip_readers import pyav_pictures, torchcodec_missing
from tools.bench.peers.compare import worst_psnr
from tools.bench.peers.contest import Contest, our_cost, our_loader
from tools.bench.peers.copies import GOP, copy_path, make_copies, make_tar, tar_path
from tools.bench.peers.streams import ClipDrawer, webdataset_cost
from tools.bench.peers.table import PEERS, peers_named

no_torchcodec = pytest.mark.skipif(torchcodec_missing() is not None, reason=str(torchcodec_missing()))
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
STRIDE = ClipSpec().frame_stride


@pytest.fixture(autouse=True)
def _no_pipeline_left() -> None:
    """A DALI pipeline that is garbage when a DataLoader forks is ended in the child, and waits there for ever."""
    gc.collect()


def contest_of(index: ShardIndex, copies: Path, *, spec: ClipSpec | None = None, device: str = "cpu") -> Contest:
    return Contest(
        data_dir=index.data_dir,
        samples=np.arange(index.num_samples),
        spec=spec or ClipSpec(),
        batch_size=16,
        seed=0,
        device=device,
        loader=LoaderSettings(num_threads=1),
        copies=copies,
        num_workers=1,
    )


def copies_of(index: ShardIndex, folder: Path) -> Path:
    """H.264 files of all segments, and the tar of them."""
    make_copies(index, range(index.num_samples), folder, workers=2)
    make_tar(index, np.arange(index.num_samples), folder)
    return folder


@pytest.fixture(scope="module")
def copies(numbered: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded from filmstrips."""
    return copies_of(numbered, tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def stored_copies(numbered_h264: ShardIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taken out of shards of h264."""
    return copies_of(numbered_h264, tmp_path_factory.mktemp("stored"))


def shows_a_clip_of(
    clip: np.ndarray, lengths: set[int], *, stride: int = STRIDE, starts: Collection[int] = range(512)
) -> bool:
    """Whether a clip CTHW, cropped and flipped who knows how, is one of a video with one of these numbers of frames."""
    rows = clip.mean(axis=0)[:, clip.shape[2] // 4 : -clip.shape[2] // 4].mean(axis=1)  # [T, W]
    bars = np.abs(rows).mean(axis=0) > 40  # [W], not grey; a bar may be black in some frames and white in others
    readings = []
    for flip, columns in ((False, clip), (True, clip[..., ::-1])):
        left = BAND_LEFT - int(np.flatnonzero(bars[::-1] if flip else bars)[0])
        readings.append(read_numbers(columns, left=left))
    spec = ClipSpec(clip.shape[1], stride)
    return any(
        numbers[0] < length
        and numbers[0] in starts
        and numbers == frame_indices(numbers[0], spec, video_frames=length).tolist()
        for numbers in readings
        for length in lengths
    )


WAYS = [
    pytest.param(our_loader, "cpu", id="ours"),
    pytest.param(PEERS["PyAV threads"].way, "cpu", id="PyAV"),
    pytest.param(PEERS["torchcodec threads"].way, "cpu", id="torchcodec", marks=no_torchcodec),
    pytest.param(PEERS["torchcodec CUDA"].way, "cuda", id="torchcodec CUDA", marks=[*gpu, no_torchcodec]),
]


@pytest.mark.parametrize("spec", [ClipSpec(), ClipSpec(8, 3), ClipSpec(4, 8, 56, 64)], ids=str)
@pytest.mark.parametrize(("way", "device"), WAYS)
@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
def test_every_way_delivers_the_planned_frames_crops_and_flips(
    request: pytest.FixtureRequest, codec: str, spec: ClipSpec, way: Way, device: str
) -> None:
    names = {"filmstrip": ("numbered", "copies"), "h264": ("numbered_h264", "stored_copies")}[codec]
    index, folder = (request.getfixturevalue(name) for name in names)
    contest = contest_of(index, folder, spec=spec, device=device)
    scale = (spec.resize or 128) / 128
    with way(contest) as batches:
        for step in range(2):
            planned, clips = contest.plan().batch(step), next(batches)
            assert clips.shape == (16, 3, spec.num_frames, spec.crop_size, spec.crop_size)
            assert clips.device.type == device
            wanted = frame_indices(planned.start, spec, video_frames=index.num_frames[planned.sample])
            shown = [
                read_numbers(clip, left=left / scale, scale=scale, flip=flip)
                for clip, left, flip in zip(clips.float().cpu().numpy(), planned.left, planned.flip, strict=True)
            ]
            assert shown == wanted.tolist()


@pytest.mark.parametrize("library", ["PyAV", pytest.param("torchcodec", marks=no_torchcodec)])
def test_the_dataloader_delivers_what_the_threads_do(numbered: ShardIndex, copies: Path, library: str) -> None:
    contest = contest_of(numbered, copies)
    threads, processes = PEERS[f"{library} threads"], PEERS[f"{library} DataLoader"]
    with threads.way(contest) as one, processes.way(contest) as other:
        for _ in range(3):
            assert torch.equal(next(one), next(other))


@no_torchcodec
def test_seeking_approximately_finds_the_frames_that_seeking_exactly_does(numbered: ShardIndex, copies: Path) -> None:
    from torchcodec.decoders import VideoDecoder

    for sample in range(numbered.num_samples):
        path, last = str(copy_path(copies, numbered, sample)), int(numbered.num_frames[sample]) - 1
        wanted = sorted({last * i // 7 for i in range(8)})
        exact, approximate = (VideoDecoder(path, seek_mode=mode) for mode in ("exact", "approximate"))
        assert torch.equal(exact.get_frames_at(wanted).data, approximate.get_frames_at(wanted).data)


def test_pyav_decodes_from_the_keyframe_to_the_last_frame(numbered: ShardIndex, copies: Path) -> None:
    contest = contest_of(numbered, copies)
    plan = contest.plan()
    clips = plan.batch(0)
    for n in range(len(clips)):
        start, num_frames = int(clips.start[n]), int(numbered.num_frames[clips.sample[n]])
        _, num_decoded, num_bytes = pyav_pictures(contest, plan, clips, n)
        assert num_decoded == min(start + 14, num_frames - 1) - start // GOP * GOP + 1
        assert 0 < num_bytes < copy_path(copies, numbered, int(clips.sample[n])).stat().st_size


def test_our_cost_counts_the_tiles_and_the_bytes_that_are_read(numbered: ShardIndex, copies: Path) -> None:
    cost = our_cost(contest_of(numbered, copies), range(2))
    assert (cost.num_clips, cost.num_frames) == (32, 32 * 8)
    assert cost.num_frames_decoded <= cost.num_frames  # never more at stride 2; less where the last frame is repeated
    assert 0 < cost.num_bytes <= 2 * 32 * numbered.pictures.size.max()


@pytest.mark.parametrize("name", ["PyAV threads", pytest.param("torchcodec threads", marks=no_torchcodec)])
def test_of_h264_shards_a_peer_decodes_our_very_pixels(
    numbered_h264: ShardIndex, stored_copies: Path, name: str
) -> None:
    assert worst_psnr(PEERS[name], contest_of(numbered_h264, stored_copies)) > 60


@pytest.mark.parametrize("fps", [10, 30000 / 1001, 50])
def test_frames_are_found_in_stored_files_of_any_rate(tmp_path: Path, fps: float) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    write_numbered_video(tmp_path / "raw" / "a" / "g00_a.mp4", 300, fps=fps)
    index = build_numbered(tmp_path / "raw", tmp_path / "shards", codec="h264")
    contest = replace(contest_of(index, copies_of(index, tmp_path / "copies")), batch_size=32)
    plan = contest.plan()
    clips = plan.batch(0)
    for n in range(len(clips)):
        pictures, num_decoded, _ = pyav_pictures(contest, plan, clips, n)
        start = int(clips.start[n])
        shown = read_numbers(pictures.transpose(3, 0, 1, 2).astype(np.float32) - 128)
        assert shown == list(range(start, start + 16, 2))
        assert num_decoded == start % 8 + 15


def test_snapped_to_keyframes_all_ways_begin_there(numbered_h264: ShardIndex, stored_copies: Path) -> None:
    contest = replace(contest_of(numbered_h264, stored_copies), start_step=8)
    assert set((contest.plan().batch(0).start % 8).tolist()) == {0}
    draw, lengths = ClipDrawer(contest, seed=1), set(numbered_h264.num_frames.tolist())
    tar = str(tar_path(stored_copies, contest.samples))
    clips = [
        draw(s).transpose(3, 0, 1, 2).astype(np.float32) - 128 for s in webdataset.WebDataset(tar, shardshuffle=False)
    ]
    assert all(shows_a_clip_of(clip, lengths, starts=range(0, 512, 8)) for clip in clips)


def test_webdataset_shows_clips_of_consecutive_stride_drawn_anew(numbered: ShardIndex, copies: Path) -> None:
    lengths = set(numbered.num_frames.tolist())
    with PEERS["webdataset PyAV"].way(contest_of(numbered, copies)) as batches:
        clips = torch.cat([next(batches) for _ in range(3)])
    assert clips.shape == (48, 3, 8, 112, 112)
    assert clips.dtype == torch.float32
    assert -128 <= clips.min() < -80 < 80 < clips.max() <= 127
    assert all(shows_a_clip_of(clip, lengths) for clip in clips.numpy())
    assert len({tuple(clip[0, 0, 56, ::4].tolist()) for clip in clips}) > numbered.num_samples, "places are drawn too"


def test_two_workers_of_webdataset_draw_different_clips(numbered: ShardIndex, copies: Path) -> None:
    contest = replace(contest_of(numbered, copies), num_workers=2, batch_size=4)
    with PEERS["webdataset PyAV"].way(contest) as batches:
        one, other = next(batches), next(batches)
    assert not torch.equal(one, other)


def test_a_drawn_clip_is_cropped_inside_the_picture_everywhere_and_flipped_half_of_the_time(
    numbered: ShardIndex, copies: Path
) -> None:
    contest = contest_of(numbered, copies)
    sample = int(np.flatnonzero(numbered.num_frames == 33)[0])
    draw = ClipDrawer(contest, seed=1)
    facts = {"num_frames": 33, "label": 0, "content": numbered.content[sample].tolist()}
    parts = {"mp4": copy_path(copies, numbered, sample).read_bytes(), "json": json.dumps(facts).encode()}
    clips = [draw(parts).transpose(3, 0, 1, 2).astype(np.float32) - 128 for _ in range(40)]
    assert all(clip.shape == (3, 8, 112, 112) and shows_a_clip_of(clip, {33}) for clip in clips)
    edges = {int(np.flatnonzero(np.abs(clip[0, 0, 56]) > 40)[0]) for clip in clips}
    assert len(edges) > 15  # places of the crop
    assert draw.cost.num_clips == 40
    assert draw.cost.num_bytes == 40 * len(parts["mp4"])


def test_webdataset_costs_whole_files(numbered: ShardIndex, copies: Path) -> None:
    contest = contest_of(numbered, copies)
    sizes = [len(s["mp4"]) for s in webdataset.WebDataset(str(tar_path(copies, contest.samples)), shardshuffle=False)]
    cost = webdataset_cost(replace(contest, batch_size=numbered.num_samples), range(2))
    assert cost.num_bytes == 2 * sum(sizes)  # twice through the tar, in its order
    assert cost.num_clips == 2 * numbered.num_samples
    assert cost.num_frames_decoded >= cost.num_frames * 0.5


@pytest.mark.parametrize("start_step", [1, 8])
def test_dali_video_shows_clips_of_consecutive_stride_drawn_anew(
    numbered: ShardIndex, tmp_path: Path, start_step: int
) -> None:
    samples = np.flatnonzero(numbered.num_frames >= 15)
    for sample in samples.tolist():  # in MJPEG, which DALI decodes on a CPU too
        path = copy_path(tmp_path, numbered, sample)
        write_video(path, decode_sample(numbered, sample), vcodec="mjpeg", pix_fmt="yuvj420p", **{"q:v": 2})
    make_tar(numbered, samples, tmp_path)
    contest = replace(contest_of(numbered, tmp_path), samples=samples, start_step=start_step)
    with PEERS["DALI video"].way(contest) as batches:
        clips = torch.cat([next(batches).clone() for _ in range(3)])
    assert clips.shape == (48, 3, 8, 112, 112)
    assert clips.dtype == torch.float32
    assert -128 <= clips.min() < -80 < 80 < clips.max() <= 128
    lengths, starts = set(numbered.num_frames[samples].tolist()), range(0, 512, start_step)
    assert all(shows_a_clip_of(clip, lengths, starts=starts) for clip in clips.numpy())
    assert len({tuple(clip[0, 0, 56, ::4].tolist()) for clip in clips}) > numbered.num_samples, "places are drawn too"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_dali_video_shows_clips_of_consecutive_stride_on_a_gpu(numbered: ShardIndex, copies: Path) -> None:
    samples = np.flatnonzero(numbered.num_frames >= 15)
    make_tar(numbered, samples, copies)
    contest = replace(contest_of(numbered, copies, device="cuda"), samples=samples)
    with PEERS["DALI video"].way(contest) as batches:
        clips = torch.cat([next(batches).clone() for _ in range(3)])
    assert clips.shape == (48, 3, 8, 112, 112)
    assert clips.dtype == torch.float16
    lengths = set(numbered.num_frames[samples].tolist())
    assert all(shows_a_clip_of(clip, lengths) for clip in clips.float().cpu().numpy())


def test_what_needs_a_gpu_says_so_on_a_cpu(numbered: ShardIndex, tmp_path: Path) -> None:
    contest = contest_of(numbered, tmp_path)
    missing = {name: peer.missing(contest) for name, peer in PEERS.items()}
    assert missing["DALI video"] == "decodes H.264 on a GPU only; on a CPU DALI knows VP8, VP9 and MJPEG"
    assert missing["torchcodec CUDA"] == "decodes on a GPU, and this run is on the CPU"
    assert missing["PyAV threads"] is None


def test_without_torchcodec_its_peers_are_missing_in_one_line(
    numbered: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    reason = PEERS["torchcodec DataLoader"].missing(contest_of(numbered, tmp_path))
    assert reason
    assert reason.startswith("torchcodec is not installed; pip install torchcodec")
    assert "\n" not in reason


def test_names_choose_peers_and_a_wrong_one_is_told_the_others() -> None:
    assert [peer.name for peer in peers_named("all")] == list(PEERS)
    assert [peer.name for peer in peers_named("webdataset pyav, PyAV threads")] == ["webdataset PyAV", "PyAV threads"]
    with pytest.raises(ValueError, match=r"peer 'decord' does not exist; choose all, or with commas PyAV threads, "):
        peers_named("decord")


def test_costs_add_up() -> None:
    total = ReadWork(1, 8, 12, 12, 100) + ReadWork(3, 24, 20, 20, 500)
    assert total == ReadWork(4, 32, 32, 32, 600)
    assert (total.decoded_to_used, total.bytes_per_clip) == (1.0, 150.0)


def test_a_peer_that_cannot_be_checked_against_the_plan_says_that_it_draws_its_own_clips() -> None:
    own_order = {name: peer.tuned for name, peer in PEERS.items() if peer.read is None}
    assert set(own_order) == {"webdataset PyAV", "DALI video"}
    assert all("draws its own clips" in tuned for tuned in own_order.values())
