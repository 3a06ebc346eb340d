"""The files of a dataset by its dataset.json, which somebody else may have written: no name may leave the folder."""

from dataclasses import dataclass
from typing import Any

from pipeline.remote.errors import RemoteError
from pipeline.shard import PICTURE_ARRAYS, PICTURE_NAMES, SAMPLE_ARRAYS
from pipeline.source.plain_file import is_plain_name

OPTIONAL = ("quarantine.jsonl", "manifest.jsonl")


def check_shard_list(url: str, shards: Any) -> list[dict[str, Any]]:
    """The tars that a dataset.json from elsewhere names, if their names stay in the folder they are put into.

    Raises:
        RemoteError: A name is no plain file name of a tar, comes twice, or its size or checksum is missing.
    """
    if not isinstance(shards, list):
        raise RemoteError(f"{url}/dataset.json: has no list of shards; build the shards again")
    seen = set()
    for shard in shards:
        name = shard.get("tar") if isinstance(shard, dict) else None
        if not is_plain_name(name) or not str(name).endswith(".tar") or name in seen:
            raise RemoteError(f"{url}/dataset.json: {name!r} is no plain name of a tar; build the shards again")
        seen.add(name)
        size, sha256 = shard.get("num_bytes"), shard.get("sha256")
        if not isinstance(size, int) or size < 1 or not isinstance(sha256, str):
            raise RemoteError(f"{url}/dataset.json: {name} has no size or sha256; build the shards again")
    return shards


@dataclass(frozen=True)
class DatasetFile:
    """A file to copy: its name in the dataset, and what dataset.json says of it; only tars have both."""

    name: str
    num_bytes: int | None = None
    sha256: str | None = None


def dataset_files(info: dict[str, Any]) -> list[DatasetFile]:
    """The files of a dataset but dataset.json, tars first."""
    tars = [DatasetFile(shard["tar"], shard["num_bytes"], shard["sha256"]) for shard in info["shards"]]
    others = [tar.name.removesuffix(".tar") + ".idx" for tar in tars] + index_files(info) + list(OPTIONAL)
    return tars + [DatasetFile(name) for name in others]


def index_files(info: dict[str, Any]) -> list[str]:
    """Names in the dataset's folder of the arrays that its dataset.json calls for."""
    picture = PICTURE_NAMES[info["codec"]["name"]]
    names = [*SAMPLE_ARRAYS, f"first_{picture}", *(f"{picture}_{name}" for name in PICTURE_ARRAYS)]
    if picture == "packet":
        names.append("packet_keyframe")
    if "num_labels" in info:
        names += ["first_label", "labels"]
    return [f"index/{name}.npy" for name in names]
