"""Groups of the index's arrays: where pictures lie, and labels of samples that may have several."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pictures:
    """Where the compressed pictures of a dataset lie: strips, or packets of H.264, one a frame. Arrays, memory-mapped.

    Attributes:
        first: int64 [num_samples + 1]; sample i has the pictures first[i] … first[i + 1] - 1.
        tar, offset, size, crc32: int32, int64, int32, uint32 [num_pictures]; in which tar a picture lies, where, bytes,
            and its checksum.
        keyframe: bool [num_pictures]; None for strips, which need no other.
    """

    first: np.ndarray
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    crc32: np.ndarray
    keyframe: np.ndarray | None

    def __len__(self) -> int:
        return len(self.tar)


@dataclass(frozen=True)
class LabelLists:
    """All labels of samples that may have several. Memory-mapped.

    Attributes:
        first: int64 [num_samples + 1]; sample i has the labels values[first[i]] … values[first[i + 1] - 1].
        values: int32 [num_labels]; a sample's first one is in `ShardIndex.labels` too.
    """

    first: np.ndarray
    values: np.ndarray
