"""`--data` of the commands that read shards: a folder, or a URL and the settings of its cache."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.remote import RemoteSettings, open_remote, parse_size
from res3d_video.pipeline.remote_store import is_url, public_url
from res3d_video.train.terminal import Number, OneLine, with_options

DEFAULT = RemoteSettings()
to_stderr = functools.partial(click.echo, err=True)


@dataclass(frozen=True)
class Data:
    """The dataset that the command line names: a folder, or a URL with its settings."""

    place: Path | str
    remote: RemoteSettings = DEFAULT

    @property
    def is_remote(self) -> bool:
        return isinstance(self.place, str)

    def open(self, *, say: Callable[[str], None] = to_stderr, num_processes: int = 1) -> ShardIndex:
        """Open the dataset, for `num_processes` of this machine; `say` is called with lines about its server.

        Raises:
            ShardError: It cannot be used.
        """
        if isinstance(self.place, Path):
            return open_index(self.place)
        return open_remote(self.place, replace(self.remote, num_processes=num_processes), say=say)

    def __str__(self) -> str:
        return public_url(str(self.place))


class DataType(OneLine, click.ParamType):
    """An existing folder, or a URL."""

    name = "folder|url"

    def __init__(self, *, urls: bool = True) -> None:
        self._urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if isinstance(value, str) and is_url(value):
            if not self._urls:
                self.fail(f"{public_url(value)}: reads folders only; tools/sync_shards.py brings shards", param, ctx)
            return value
        if not Path(value).is_dir():
            self.fail(f"{value} is no folder; make shards with python tools/make_shards.py", param, ctx)
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir")]


def start_multiple_of(index: ShardIndex, *, snap_to_keyframe: bool) -> int:
    """Stored frames from one possible start of a clip to the next; UserError for filmstrips without keyframes."""
    if snap_to_keyframe and index.codec != "h264":
        raise UserError(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    return index.gop_size if snap_to_keyframe else 1


class SizeType(click.ParamType):  # bytes, as people write them
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DATA = DataType()
LOCAL_DATA = DataType(urls=False)
SIZE = SizeType()
REMOTE_TIMEOUT = Number(0, 604_800)  # seconds: a week

# fmt: off
REMOTE_OPTIONS = [
    click.option("--cache", type=click.Path(file_okay=False, path_type=Path),
                 help="Of a URL: keep what is fetched in this folder.  [default: in the user's cache folder]"),
    click.option("--cache-limit", type=SIZE,
                 help="Of a URL: tars kept there at most, like 50GB; the least recently used give way.  "
                 "[default: the disk]"),
    click.option("--remote-timeout", default=DEFAULT.timeout_s, type=REMOTE_TIMEOUT,
                 show_default=True, help="Of a URL: seconds that its server may be gone, or too slow."),
    click.option("--fetch-ahead", default=DEFAULT.fetch_ahead, type=click.IntRange(0, 10**6),
                 show_default=True, help="Of a URL: steps whose tars are fetched before they are needed."),
]
# fmt: on
REMOTE = ["cache", "cache_limit", "remote_timeout", "fetch_ahead"]  # as RemoteSettings has them


def remote_options(command: Callable) -> Callable:
    """Add the options of remote data; the command receives them in its parameter `data`, a `Data`."""

    @functools.wraps(command)
    def with_data(*, data: Path | str, **options: Any) -> Any:
        remote = RemoteSettings(*(options.pop(name) for name in REMOTE))
        return command(data=Data(data, remote), **options)

    return with_options(*REMOTE_OPTIONS)(with_data)
