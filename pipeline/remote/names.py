"""The files of a dataset by its dataset.json, and how large each may be."""

from dataclasses import dataclass
from typing import Any

from pipeline.schema import specs_of

OPTIONAL = ("quarantine.jsonl", "manifest.jsonl")
# Of all arrays together, and of each file that dataset.json does not bound: Sports-1M's take a tenth.
MAX_INDEX_BYTES = 2**32


@dataclass(frozen=True)
class DatasetFile:
    """A file to copy: its name in the dataset, and what dataset.json says of it.

    Attributes:
        at_most: Bytes that it may have.
        num_bytes, sha256: Of a tar; None for others.
    """

    name: str
    at_most: int
    num_bytes: int | None = None
    sha256: str | None = None


def dataset_files(info: dict[str, Any]) -> list[DatasetFile]:
    """The files of a dataset but dataset.json, tars first; `info` has been checked."""
    tars = [DatasetFile(tar["tar"], tar["num_bytes"], tar["num_bytes"], tar["sha256"]) for tar in info["shards"]]
    idx = [DatasetFile(tar.name.removesuffix(".tar") + ".idx", tar.at_most) for tar in tars]  # shorter than its tar
    return tars + idx + index_files(info) + [DatasetFile(name, MAX_INDEX_BYTES) for name in OPTIONAL]


def index_files(info: dict[str, Any]) -> list[DatasetFile]:
    """The arrays that a checked dataset.json calls for."""
    return [
        DatasetFile(f"index/{name}.npy", min(MAX_INDEX_BYTES, spec.max_bytes)) for name, spec in specs_of(info).items()
    ]
