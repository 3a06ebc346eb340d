"""Real clips, where they lie beside the checkout: counts, lists, odd files."""

import json
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.codecs.h264 import H264Codec
from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.convert.samples import transcode
from res3d_video.pipeline.datasets import list_hmdb51, list_ucf101
from res3d_video.pipeline.errors import VideoFailure
from res3d_video.pipeline.frames import decode_frames
from res3d_video.pipeline.ingest.limits import Guard
from res3d_video.pipeline.ingest.probe import probe
from res3d_video.pipeline.ingest.transcode import stretched
from res3d_video.pipeline.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> dict[str, dict]:
    return {fact["path"]: fact for fact in json.loads((shared_data / "facts.json").read_text())}


@pytest.mark.parametrize("codec", ["filmstrip", pytest.param("h264", marks=pytest.mark.long)])
def test_ucf101_every_frame_count_is_the_decoded_one(
    shared_data: Path, facts: dict, tmp_path: Path, codec: str
) -> None:
    listing = list_ucf101(shared_data / "ucf101")
    result = build_shards(listing, tmp_path, BuildSettings(codec=codec), workers=2)
    index, faults = verify(tmp_path, decode=codec == "h264")
    assert faults == []
    assert (result.num_samples, result.num_quarantined, result.num_missing) == (243, 0, 13320 - 243)
    assert [(c["train"], c["test"]) for c in index.info["splits"].values()] == [(176, 67), (173, 70), (175, 68)]
    for sample in range(243):
        assert index.num_frames[sample] == facts[f"ucf101/{index.source(sample)}"]["decoded_frames"]


@pytest.mark.parametrize("codec", ["filmstrip", "h264"])
def test_hmdb51_packed_b_frames_decode_to_one_frame_fewer_than_the_header_says(
    shared_data: Path, facts: dict, tmp_path: Path, codec: str
) -> None:
    build_shards(list_hmdb51(shared_data / "hmdb51"), tmp_path, BuildSettings(codec=codec), workers=2)
    index, faults = verify(tmp_path, decode=True)
    assert faults == []
    assert index.num_samples == 9
    assert index.info["splits"]["1"] == {"train": 6, "test": 2}
    for sample in range(9):
        fact = facts[f"hmdb51/{index.source(sample)}"]
        assert index.num_frames[sample] == fact["decoded_frames"] == fact["header_frames"] - 1
        assert len(decode_frames(index, sample)) == fact["decoded_frames"]


@pytest.mark.parametrize("codec", ["filmstrip", pytest.param("h264", marks=pytest.mark.long)])
def test_every_odd_video_becomes_all_of_its_frames(shared_data: Path, facts: dict, codec: str) -> None:
    """Odd sizes, 8 to 12 bits, 4:4:4, HDR, rotation, one frame, late start, discarded keyframes, every codec."""
    settings, wrong = BuildSettings(size=64, codec=codec), []
    for path, fact in facts.items():
        if not path.startswith(("edge/", "kinetics/")):
            continue
        source = shared_data / path
        try:
            segment, meta = transcode(source, stretched(64), settings, facts=probe(source), guard=Guard())
        except VideoFailure as failure:
            wrong.append(f"{path}: {failure.reason}")
            continue
        if meta["num_frames"] != fact["decoded_frames"]:
            wrong.append(f"{path}: {meta['num_frames']} frames, not {fact['decoded_frames']}")
        if codec == "h264":
            files = {name: (0, content) for name, content in segment.files.items()}
            rows = np.array([frame[1:] for frame in segment.frames], np.uint32)
            faults = H264Codec.new(height=64, width=96).segment_faults(files, rows, decode=True)
            wrong += [f"{path}: {fault}" for fault in faults]
    assert not wrong, "\n".join(wrong)
