"""`--data` of the commands that read shards: a folder, or a URL and how its tars are kept here."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from res3d_video.pipeline.errors import UserError
from res3d_video.pipeline.index import ShardIndex, open_index
from res3d_video.pipeline.remote import RemoteSettings, open_remote, parse_size
from res3d_video.pipeline.remote_store import is_url, public_url
from res3d_video.train.terminal import Number, WrongUsage

DEFAULT = RemoteSettings()
OFFICIAL = ("ucf101", "hmdb51", "sports1m")  # datasets that make_shards.py knows by name
to_stderr = functools.partial(click.echo, err=True)


@dataclass(frozen=True)
class Data:
    """What the command line says of the data.

    Attributes:
        place: A folder, or a URL.
    """

    place: Path | str
    remote: RemoteSettings = DEFAULT

    @property
    def is_remote(self) -> bool:
        return isinstance(self.place, str)

    def open(self, *, say: Callable[[str], None] = to_stderr) -> ShardIndex:
        """The dataset; `say` takes lines about its server. Raises ShardError."""
        return open_remote(self.place, self.remote, say=say) if isinstance(self.place, str) else open_index(self.place)

    def __str__(self) -> str:
        return public_url(str(self.place))


class DataType(click.ParamType):
    """A folder that exists, or a URL."""

    name = "folder|url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if isinstance(value, str) and is_url(value):
            return value
        path = Path(value)
        if not path.is_dir():
            what = f"{path} is a file; give a folder of shards" if path.exists() else missing(path)
            raise WrongUsage((f"{param.opts[0]}: " if isinstance(param, click.Option) else "") + what, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Folders."""
        return [CompletionItem(incomplete, type="dir")]


class LocalDataType(DataType):
    """A folder that exists."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        place = super().convert(value, param, ctx)
        if isinstance(place, str):
            name = (param.opts[0] if param else "") or "--data"
            raise WrongUsage(
                f"{name}: {public_url(place)}: shards are read here from a folder; {fetch(place)} brings them", ctx
            )
        return place


def start_multiple_of(index: ShardIndex, *, snap_to_keyframe: bool) -> int:
    """Stored frames from one possible start of a clip to the next, as --snap-to-keyframe has it.

    Raises:
        UserError: Clips cannot begin at keyframes of filmstrips.
    """
    if snap_to_keyframe and index.codec != "h264":
        raise UserError(f"--snap-to-keyframe: {index.data_dir} holds filmstrips, which have none; leave it out")
    return index.gop_size if snap_to_keyframe else 1


def fetch(url: str) -> str:
    """The command that copies a dataset here; secrets of the URL are left out.

    >>> fetch("s3://bucket/shards/ucf101/")
    'python tools/sync_shards.py s3://bucket/shards/ucf101/ shards/ucf101'
    """
    url = public_url(url)
    return f"python tools/sync_shards.py {url} shards/{url.rstrip('/').rsplit('/', 1)[-1]}"


def missing(folder: Path) -> str:
    """What makes the shards that are not there, by the name of the folder.

    >>> missing(Path("shards/ucf101"))
    'shards/ucf101 is not there: make it with python tools/make_shards.py ucf101'
    >>> missing(Path("/d/hmdb51-h264"))
    '/d/hmdb51-h264 is not there: make it with python tools/make_shards.py hmdb51 --codec h264 --out /d/hmdb51-h264'
    >>> missing(Path("shards/mine"))
    'shards/mine is not there: make it with python tools/make_shards.py folder --raw VIDEOS --out shards/mine'
    """
    name, _, codec = folder.name.partition("-")
    words = [name] if name in OFFICIAL else ["folder --raw VIDEOS"]
    words += ["--codec h264"] if codec == "h264" else []
    words += [f"--out {folder}"] if folder != Path("shards") / name or len(words) > 1 or " " in words[0] else []
    return f"{folder} is not there: make it with python tools/make_shards.py {' '.join(words)}"


class SizeType(click.ParamType):
    """Bytes, as people write them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DATA = DataType()
LOCAL_DATA = LocalDataType()
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
REMOTE = ["cache", "cache_limit", "remote_timeout", "fetch_ahead"]


def remote_options(command: Callable) -> Callable:
    """Add the options of remote data, and give them to the command within its parameter `data`, as `Data`."""

    @functools.wraps(command)
    def with_data(
        *,
        data: Path | str,
        cache: Path | None,
        cache_limit: int | None,
        remote_timeout: float,
        fetch_ahead: int,
        **others: Any,
    ) -> Any:
        remote = RemoteSettings(cache, cache_limit, remote_timeout, fetch_ahead)
        return command(data=Data(data, remote), **others)

    with_options: Callable = with_data
    for option in reversed(REMOTE_OPTIONS):
        with_options = option(with_options)
    return with_options
