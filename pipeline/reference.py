"""The same clips with no DALI: whole strips or videos, plain loops. Slow and obvious; the oracle of the tests."""

import io
import tarfile

import av
import numpy as np
import simplejpeg

from pipeline.clip import ClipSpec, frame_indices
from pipeline.filmstrip import locate
from pipeline.picture_reader import PictureReader
from pipeline.plan import PlannedClips, stored_clip
from pipeline.shard import ShardError, ShardIndex


def reference_clips(
    index: ShardIndex,
    clips: PlannedClips,
    spec: ClipSpec,
    *,
    mean: float | tuple[float, ...] = 128.0,
    std: float | tuple[float, ...] = 1.0,
) -> np.ndarray:
    """What the loader should give for some planned clips: float32 NCTHW [N, 3, T, crop, crop], RGB.

    Args:
        mean, std: One value, or three (RGB); clips are (value - mean) / std.
    """
    stored_spec = stored_clip(spec, frame_step=index.frame_step)
    decoded = {int(sample): decode_sample(index, int(sample)) for sample in np.unique(clips.sample)}
    out = []
    for n in range(len(clips)):
        sample = int(clips.sample[n])
        frames = decoded[sample]  # [F, tile_height, tile_width, 3]
        left, top = (int(v) for v in index.content[sample, :2])
        picked = frames[frame_indices(int(clips.start[n]), stored_spec, video_frames=len(frames))]
        if spec.resize is None or spec.resize == index.size:
            y, x = top + int(clips.top[n]), left + int(clips.left[n])
            clip = picked[:, y : y + spec.crop_size, x : x + spec.crop_size].astype(np.float32)
        else:
            scale = spec.resize / index.size
            down = resize_weights(top + clips.top[n] / scale, scale, inputs=picked.shape[1], outputs=spec.crop_size)
            across = resize_weights(left + clips.left[n] / scale, scale, inputs=picked.shape[2], outputs=spec.crop_size)
            clip = np.einsum("yh,thwc,xw->tyxc", down, picked.astype(np.float64), across, optimize=True).astype(
                np.float32
            )
        if clips.flip[n]:
            clip = clip[:, :, ::-1]
        out.append((clip - np.array(mean, np.float32)) / np.array(std, np.float32))
    return np.stack(out).transpose(0, 4, 1, 2, 3).astype(np.float32)


def decode_sample(index: ShardIndex, sample: int) -> np.ndarray:
    """Every stored frame of a sample, in order: uint8 FHWC [F, tile_height, tile_width, 3], RGB."""
    return decode_video(index, sample) if index.codec == "h264" else decode_strips(index, sample)


def decode_video(index: ShardIndex, sample: int) -> np.ndarray:
    """Every frame of an H.264 sample: its whole file, found by its name in the tar."""
    tar_path = index.data_dir / index.tars[int(index.tar_of(np.array([sample]))[0])]
    with tarfile.open(tar_path, "r:") as tar:
        file = tar.extractfile(f"{index.key(sample)}.mp4")
        assert file is not None
        video = file.read()
    with av.open(io.BytesIO(video), "r", format="mp4") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_strips(index: ShardIndex, sample: int) -> np.ndarray:
    """Every frame of a sample of filmstrips, put in order."""
    layout, reader = index.layout, PictureReader(index)
    strips = []
    for strip in range(int(index.pictures.first[sample]), int(index.pictures.first[sample + 1])):
        (jpeg,) = reader.read_or_fault(np.array([strip]))
        if isinstance(jpeg, str):
            raise ShardError(f"{index.key(sample)}: strip {strip} {jpeg}; run tools/check_shards.py")
        picture = simplejpeg.decode_jpeg(jpeg, strict=False)  # DALI is not strict either
        strips.append(picture.reshape(layout.strip_frames, layout.tile_height, layout.tile_width, 3))
    place = [locate(np.array(f), layout) for f in range(int(index.num_frames[sample]))]
    return np.stack([strips[int(strip)][int(tile)] for strip, tile in place])


def resize_weights(first: float, scale: float, *, inputs: int, outputs: int) -> np.ndarray:
    """Antialiased bilinear resampling of one axis as a matrix [outputs, inputs]; edges are replicated.

    Output pixel i lies at first + (i + 0.5) / scale in the input; a triangle as wide as an output pixel weighs inputs.
    """
    radius = max(1.0, 1.0 / scale)
    weights = np.zeros((outputs, inputs))
    for i in range(outputs):
        centre = first + (i + 0.5) / scale
        for j in range(int(np.floor(centre - radius)), int(np.ceil(centre + radius)) + 1):
            weight = max(0.0, 1.0 - abs(j + 0.5 - centre) / radius)
            weights[i, min(max(j, 0), inputs - 1)] += weight
    return weights / weights.sum(axis=1, keepdims=True)
