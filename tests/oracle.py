"""What a loader should give, clip by clip, in plain steps: the oracle of the tests."""

import numpy as np
from numpy.typing import ArrayLike

from res3d_video.pipeline.clip import ClipSpec, frame_indices
from res3d_video.pipeline.frames import cut_clip, decode_frames
from res3d_video.pipeline.index import ShardIndex
from res3d_video.pipeline.plan import PlannedClips, stored_clip


def oracle_clips(
    index: ShardIndex, clips: PlannedClips, spec: ClipSpec, *, mean: ArrayLike = 128.0, std: ArrayLike = 1.0
) -> np.ndarray:
    """Some planned clips: float32 NCTHW [N, 3, T, crop, crop], RGB, (value - mean) / std."""
    stored, out = stored_clip(spec, frame_step=index.frame_step), []
    for n in range(len(clips)):
        clip = clips[n : n + 1]
        sample = int(clip.sample[0])
        frames = frame_indices(int(clip.start[0]), stored, video_frames=int(index.num_frames[sample]))
        pixels = cut_clip(decode_frames(index, sample, frames), clip, spec, index).astype(np.float32)
        out.append((pixels - np.array(mean, np.float32)) / np.array(std, np.float32))
    return np.stack(out).transpose(0, 4, 1, 2, 3)
