"""Requests are repeated while a server is gone: with growing pauses, up to a time without progress."""

import errno
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.remote.errors import Interrupted, RemoteError
from pipeline.remote.streams import GONE
from pipeline.remote.url import public_url

Result = TypeVar("Result")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0
MAX_REASON = 300  # characters
STALL_S = 30.0  # in which a server must answer, and bring some bytes: see streams.py
NO_TIME_HEALS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
FULL_OR_LOCKED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a folder that is written to
CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound")
BAD_URLS = {
    "TooManyRedirects", "InvalidURL", "InvalidUrlClientError", "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError", "NonHttpUrlRedirectClientError", "ClientConnectorCertificateError",
}  # fmt: skip
NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "requests", "urllib3")


class RetryPolicy:
    """Repeats requests to one server; all threads share it, so that an outage takes two lines.

    Args:
        timeout_s: Without progress, before a request is given up.
        say: Takes a line for a person.
    """

    def __init__(self, *, timeout_s: float, say: Callable[[str], None]) -> None:
        self._timeout_s, self._say = timeout_s, say
        self._is_gone = False
        self.wait_s = min(STALL_S, max(1.0, timeout_s))  # for an answer, and for some bytes each time

    def call(
        self,
        request: Callable[[], Result],
        *,
        what: str,
        stop: threading.Event,
        progress: Callable[[], int] = lambda: 0,
    ) -> Result:
        """The result of a request, repeated while the server is gone.

        Args:
            what: The URL, for messages.
            progress: How far the request has come so far; the time begins anew when that is further than before.

        Raises:
            RemoteError: It is gone for longer than the timeout, or refuses.
            FileNotFoundError: There is no such file.
            Interrupted: `stop` was set meanwhile.
        """
        furthest, since_s, pause_s = -1, 0.0, FIRST_PAUSE_S
        while True:
            try:
                result = request()
            except (FileNotFoundError, RemoteError):
                raise
            except Exception as error:
                raise_if_final(error, what)
                if progress() > furthest:
                    furthest, since_s, pause_s = progress(), time.monotonic(), FIRST_PAUSE_S
                left_s = since_s + self._timeout_s - time.monotonic()
                if left_s <= 0:
                    raise RemoteError(
                        f"{what}: no answer for {self._timeout_s:.0f} s ({reason(error)}); look at the server, "
                        "or give a longer --remote-timeout"
                    ) from None
                if not self._is_gone:
                    self._is_gone = True
                    self._say(f"{what}: no answer ({reason(error)}); trying again for up to {self._timeout_s:.0f} s")
            else:
                if self._is_gone:
                    self._is_gone = False
                    self._say(f"{what}: answers again; going on")
                return result
            if stop.wait(min(pause_s, left_s)):
                raise Interrupted
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def raise_if_final(error: Exception, what: str) -> None:
    """Raise what the same request would meet again, as the error it is for a person; a bug as itself."""
    if isinstance(error, PermissionError) or type(error).__name__ in CREDENTIALS or http_status(error) in (401, 403):
        raise RemoteError(f"{what}: refused ({reason(error)}); look at the credentials") from None
    if http_status(error) in GONE:
        raise FileNotFoundError(what) from None
    if type(error).__name__ in BAD_URLS:
        raise RemoteError(f"{what}: leads to no file ({reason(error)}); look at the URL") from None
    if isinstance(error, OSError):
        if isinstance(error, NO_TIME_HEALS) or error.errno in FULL_OR_LOCKED:
            raise RemoteError(f"{what}: {error.strerror or error}; look at that folder") from None
    elif type(error).__module__.split(".")[0] not in NETWORK_PACKAGES:
        raise error


def http_status(error: BaseException | None) -> int | None:
    """The answer that an error of S3's or Google's client is about; None where it is about none."""
    if error is None:
        return None
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    return status or vars(error).get("code") or http_status(error.__cause__)


def reason(error: Exception) -> str:
    """An exception in one line, without secrets: what a server made of it may hold anything.

    >>> reason(OSError("no\\x1b[2J way to https://me:pw@host/a?token=1"))
    'OSError: no[2J way to https://host/a'
    """
    text = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:MAX_REASON]
    text = re.sub(r"\w+://[^\s'\"]+", lambda url: public_url(url[0]), text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
