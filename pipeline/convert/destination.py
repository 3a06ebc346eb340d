"""Where a build puts its shards: a folder, or a URL to which whoever makes a tar uploads it."""

import contextlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from res3d_video.pipeline.convert.plan import ShardTask
from res3d_video.pipeline.convert.shard import finished, is_finished
from res3d_video.pipeline.files import is_plain_name
from res3d_video.pipeline.remote import CHECKSUMS, ListedFile, index_files, read_checksums
from res3d_video.pipeline.remote_store import ContentError, RemoteStore
from res3d_video.pipeline.shard_writer import sha256_of, to_json
from res3d_video.pipeline.sync import OPTIONAL


class Destination:
    """The folder of a build, or a URL.

    A URL has everything that a later run needs. `folder` is then a scratch folder: `look` downloads dataset.json and
    parts/ to it, the index is written to it, and `publish` uploads it.

    Attributes:
        store: Of the URL; None for a folder.
        sizes: Bytes of each file at the URL, as of the last `look`; None for a folder.
    """

    def __init__(self, folder: Path, store: RemoteStore | None = None) -> None:
        self.folder, self.store = folder, store
        self.sizes: dict[str, int] | None = None

    def __str__(self) -> str:
        return self.store.shown if self.store is not None else str(self.folder)

    def look(self, pool: ThreadPoolExecutor, tasks: Iterable[ShardTask] | None = None) -> None:
        """List the URL and download the parts of the tasks that were not finished; the parts of all tars if None."""
        if self.store is None:
            return
        self.sizes = self.store.sizes()
        (self.folder / "parts").mkdir(exist_ok=True)
        if tasks is None:
            found = (name.removeprefix("parts/") for name in self.sizes if name.startswith("parts/"))
            names = [f"parts/{name}" for name in found if is_plain_name(name)] + ["dataset.json"]
        else:
            names = [f"parts/{task.name}.json" for task in tasks if not self.is_finished(task)]

        def fetch(name: str, num_bytes: int, store: RemoteStore = self.store) -> None:
            with contextlib.suppress(FileNotFoundError):  # another task has just begun to change the dataset
                store.download_to(name, self.folder / name, at_most=num_bytes)

        there = [name for name in names if name in self.sizes]
        list(pool.map(fetch, there, [self.sizes[name] for name in there]))

    def is_finished(self, task: ShardTask) -> bool:
        """Whether a tar is complete and made from the task's inputs; at a URL only its size is checked."""
        return is_finished(self.folder, task, sizes=self.sizes)

    def num_finished(self, tasks: list[ShardTask]) -> int:
        """How many tars of a build are finished, whichever process made them."""
        return finished(self.folder, tasks, sizes=self.sizes)

    def remove(self, *names: str) -> None:
        """Remove files if they exist."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            if self.store is not None:
                self.store.remove(name)

    def publish(self) -> None:
        """Upload the index, quarantine.jsonl, manifest.jsonl, checksums.json and, last, dataset.json, unless they exist
        already."""
        if self.store is None or self.sizes is None:
            return
        content = (self.folder / "dataset.json").read_bytes()
        info = json.loads(content)
        files = {tar["tar"]: ListedFile(num_bytes=tar["num_bytes"], sha256=tar["sha256"]) for tar in info["shards"]}
        names = [name for name in (*index_files(info), *OPTIONAL) if (self.folder / name).is_file()]
        for name in (*names, "dataset.json"):
            path = self.folder / name
            files[name] = ListedFile(num_bytes=path.stat().st_size, sha256=sha256_of(path))
        with contextlib.suppress(FileNotFoundError, ContentError):
            is_there = all(self.sizes.get(name) == file["num_bytes"] for name, file in files.items())
            if is_there and read_checksums(self.store) == files and self.store.read("dataset.json") == content:
                return
        self.store.remove("dataset.json")  # readers must not see a mix of two datasets
        self.store.remove(CHECKSUMS)
        (self.folder / CHECKSUMS).write_bytes(to_json({"files": files}))
        for name in (*names, CHECKSUMS, "dataset.json"):
            self.store.upload(self.folder / name, name)
