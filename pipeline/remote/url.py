"""URLs of folders: told from paths, shown without secrets, with a file's name added."""

import re
from urllib.parse import quote, urlsplit, urlunsplit


def is_url(text: str) -> bool:
    """Whether this is a URL and not a path.

    >>> is_url("s3://bucket/shards"), is_url("shards/ucf101"), is_url("memory://x")
    (True, False, True)
    """
    return "://" in text and text.split("://")[0].isidentifier()


def public_url(url: str) -> str:
    """A URL without what may be a secret: user, password, and whatever follows a question mark.

    >>> public_url("https://me:pass@host/shards?token=1"), public_url("s3://bucket/shards"), public_url("/a/b?c")
    ('https://host/shards', 's3://bucket/shards', '/a/b?c')
    >>> public_url("https://me:pa/ss@host/shards")
    'https://…'
    """
    scheme, is_one, rest = url.partition("://")
    if not is_one:
        return url
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    known = re.fullmatch(r"([^:\[\]]*|\[[\da-fA-F:.]*\])(:\d*)?", host)  # a password that is not quoted cuts it
    return f"{scheme}://{host}{slash}{path}" if known else f"{scheme}://…"


def address(root: str, name: str) -> str:
    """The URL of a file in a folder; what follows a ? stays at the end, names are quoted where URLs need it.

    >>> address("https://host/shards/?token=1", "my set-000000.tar")
    'https://host/shards/my%20set-000000.tar?token=1'
    >>> address("s3://bucket/shards", "my set-000000.tar")
    's3://bucket/shards/my set-000000.tar'
    """
    if not root.startswith(("http://", "https://")):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
