"""tools/bench/peers.py: every peer gives the planned frames, crops and flips, from files of any rate and size."""

import gc
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import webdataset

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.bench.measure import BenchError
from res3d_video.tools.bench.peers import GOP, OURS, PEERS, Peer, PeerConfig, make_files, requests
from res3d_video.tools.numbered import read_numbers, write_numbered_video, write_video
from tests.clips import shown
from tests.conftest import build_numbered
from tests.tools.bench.made import peer_config

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(autouse=True)
def _no_pipeline_left() -> None:
    """A DALI pipeline that is garbage when a DataLoader forks is ended in the child, and waits there for ever."""
    gc.collect()


def skip_unless_it_runs(peer: Peer) -> None:
    """Its package, or the FFmpeg that this needs, may not be installed."""
    if peer.version is None:
        pytest.skip(f"{peer.decoder} is not installed")
    try:
        if peer.decoder == "torchcodec":
            import torchcodec.decoders  # noqa: F401
        if peer.decoder == "SPDL":
            import spdl.io

            spdl.io.demux_config()  # loads FFmpeg
    except RuntimeError as error:
        pytest.skip(f"{peer.decoder} does not load: {str(error).splitlines()[0]}")


def changed(config: PeerConfig, **changes: object) -> PeerConfig:
    """With other `Settings`."""
    return replace(config, settings=replace(config.settings, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(
    numbered: ShardIndex, numbered_h264: ShardIndex, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PeerConfig]:
    """Codec -> what is read: copies encoded from filmstrips, and the files of h264 shards."""
    found = {}
    for index in (numbered, numbered_h264):
        found[index.codec] = peer_config(index, tmp_path_factory.mktemp(index.codec))
        make_files(found[index.codec])
    return found


def planned_numbers(config: PeerConfig, step: int) -> list[list[int]]:
    plan = config.plan()
    clips = plan.batch(step)
    return frame_indices(clips.start, config.settings.clip, video_frames=plan.index.num_frames[clips.sample]).tolist()


def shows_the_plan(peer: Peer, config: PeerConfig, *, steps: int = 2) -> None:
    settings = config.settings
    with closing(peer.source(config)) as batches:
        for step in range(steps):
            batch, size = next(batches), settings.clip.crop_size
            assert batch.shape == (settings.batch_size, 3, settings.clip.num_frames, size, size)
            assert batch.dtype == (torch.float16 if settings.on_gpu else torch.float32)
            assert batch.is_contiguous(memory_format=torch.channels_last_3d)
            assert shown(SimpleNamespace(clips=batch), config.plan(), step) == planned_numbers(config, step)


ON_CPU = {name: peer for name, peer in (OURS | PEERS).items() if not peer.needs_gpu}


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(
    ("codec", "spec"),
    [("filmstrip", ClipSpec(8, 3)), ("h264", ClipSpec()), ("h264", ClipSpec(4, 8, 56, 64))],
    ids=lambda value: str(value) if isinstance(value, str) else f"T{value.num_frames}-{value.crop_size}",
)
def test_batches_are_the_planned_frames_crops_and_flips(
    files: dict[str, PeerConfig], codec: str, spec: ClipSpec, name: str
) -> None:
    skip_unless_it_runs(ON_CPU[name])
    shows_the_plan(ON_CPU[name], changed(files[codec], clip=spec))


@pytest.mark.parametrize("name", [pytest.param(n, marks=GPU) for n, peer in PEERS.items() if peer.needs_gpu])
def test_on_a_gpu_batches_are_the_planned_frames_crops_and_flips(files: dict[str, PeerConfig], name: str) -> None:
    skip_unless_it_runs(PEERS[name])
    shows_the_plan(PEERS[name], changed(files["h264"], device=torch.device("cuda", 0)))


def test_dalis_video_graph_shows_the_plan_of_files_that_a_cpu_decodes(numbered: ShardIndex, tmp_path: Path) -> None:
    config = peer_config(numbered, tmp_path)
    for request in {request.path: request for step in range(4) for request in requests(config, config.plan(), step)}:
        (sample,) = [n for n in range(numbered.num_samples) if numbered.key(n) == request.stem]
        write_video(request, decode_frames(numbered, sample), vcodec="mjpeg", pix_fmt="yuvj420p", **{"q:v": 2})
    shows_the_plan(PEERS["DALI video"], config)


@pytest.fixture(scope="module", params=[10, 30000 / 1001, 50], ids=lambda fps: f"{fps:.0f}")
def of_a_rate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PeerConfig:
    """Clips of one video of 120 frames, stored as H.264 at its own rate."""
    folder = tmp_path_factory.mktemp("rate")
    (folder / "raw" / "a").mkdir(parents=True)
    write_numbered_video(folder / "raw" / "a" / "g00_a.mp4", 120, fps=request.param)
    config = peer_config(build_numbered(folder / "raw", folder / "shards", codec="h264"), folder)
    make_files(config)
    return config


@pytest.mark.parametrize("name", ["SPDL", "torchcodec", "PyAV threads"])
def test_frames_are_found_in_stored_files_of_any_rate(of_a_rate: PeerConfig, name: str) -> None:
    skip_unless_it_runs(PEERS[name])
    shows_the_plan(PEERS[name], of_a_rate)


@pytest.mark.parametrize("name", ON_CPU)
def test_short_videos_repeat_their_last_frame(files: dict[str, PeerConfig], name: str) -> None:
    skip_unless_it_runs(ON_CPU[name])
    config = changed(files["filmstrip"], clip=ClipSpec(8, 8), batch_size=2)
    config = changed(config, samples=np.array([config.plan().index.num_frames.argmin()]))
    assert planned_numbers(config, 0)[0][-2] == planned_numbers(config, 0)[0][-1]
    shows_the_plan(ON_CPU[name], config, steps=1)


def test_snapped_to_keyframes_clips_begin_there(files: dict[str, PeerConfig]) -> None:
    config = changed(files["h264"], start_multiple=8)
    starts = [request.frames[0] for step in range(4) for request in requests(config, config.plan(), step)]
    assert {start % 8 for start in starts} == {0}
    shows_the_plan(PEERS["PyAV threads"], config)


@pytest.mark.parametrize("name", ["PyAV threads", "PyAV DataLoader", "SPDL"])
def test_an_error_in_a_thread_or_a_process_reaches_the_one_who_takes_batches(
    files: dict[str, PeerConfig], name: str
) -> None:
    skip_unless_it_runs(PEERS[name])
    config = replace(files["filmstrip"], files=Path("gone"), num_workers=1)
    with closing(PEERS[name].source(config)) as batches, pytest.raises(Exception, match=r"gone|No such file"):
        next(batches)


def test_a_copy_shows_every_stored_frame_once_in_closed_gops(
    files: dict[str, PeerConfig], numbered: ShardIndex
) -> None:
    config = files["filmstrip"]
    for sample in range(numbered.num_samples):
        with av.open(str(config.files / f"{numbered.key(sample)}.mp4")) as container:
            frames = list(container.decode(video=0))
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        assert read_numbers(pictures.transpose(3, 0, 1, 2).astype(np.float32) - 128) == list(range(len(frames)))
        assert len(frames) == numbered.num_frames[sample]
        assert [i for i, frame in enumerate(frames) if frame.key_frame] == list(range(0, len(frames), GOP))


def test_of_h264_shards_the_very_files_are_read(files: dict[str, PeerConfig], numbered_h264: ShardIndex) -> None:
    config = files["h264"]
    tars = [str(path) for path in sorted(numbered_h264.data_dir.glob("*.tar"))]
    stored = {s["__key__"]: s["mp4"] for s in webdataset.WebDataset(tars, shardshuffle=False)}
    assert {path.stem: path.read_bytes() for path in config.files.glob("*.mp4")} == stored


def test_a_damaged_tar_is_one_line(numbered_h264: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(numbered_h264), "tars", ["gone.tar"] * 99)
    with pytest.raises(BenchError, match=r"gone\.tar.*; run tools/check_shards\.py"):
        make_files(peer_config(numbered_h264, tmp_path))
    assert not list(tmp_path.glob("*.mp4"))
