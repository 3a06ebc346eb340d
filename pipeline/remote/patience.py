"""Trying again while a server is gone: pauses that grow, up to a time, and two lines about it."""

import errno
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.remote.body import GONE
from pipeline.remote.errors import RemoteError
from pipeline.remote.files import pause
from pipeline.remote.place import public_url

Result = TypeVar("Result")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0
MAX_REASON = 300  # characters
STALL_S = 30.0  # in which a server must answer, and bring some bytes: see body.py
NO_TIME_HEALS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, RemoteError)
FULL_OR_LOCKED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of a folder that is written to
CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound")
BAD_URLS = {
    "TooManyRedirects", "InvalidURL", "InvalidUrlClientError", "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError", "NonHttpUrlRedirectClientError", "ClientConnectorCertificateError",
}  # fmt: skip
NETWORK_PACKAGES = ("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "requests", "urllib3")


def pauses() -> Iterator[float]:
    """Seconds between attempts, without end.

    >>> list(itertools.islice(pauses(), 8))
    [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    """
    return (min(FIRST_PAUSE_S * 2.0**i, LONGEST_PAUSE_S) for i in itertools.count())


def may_pass(error: Exception) -> bool:
    """Whether the same request may go well later.

    >>> may_pass(ConnectionRefusedError()), may_pass(PermissionError()), may_pass(KeyError("x"))
    (True, False, False)
    """
    if isinstance(error, NO_TIME_HEALS) or is_refusal(error) or type(error).__name__ in BAD_URLS:
        return False
    if isinstance(error, OSError):
        return error.errno not in FULL_OR_LOCKED
    return type(error).__module__.split(".")[0] in NETWORK_PACKAGES


def is_refusal(error: Exception) -> bool:
    """Whether this says that somebody may not read here, or has not said who he is."""
    return isinstance(error, PermissionError) or type(error).__name__ in CREDENTIALS or http_status(error) in (401, 403)


def http_status(error: BaseException | None) -> int | None:
    """The answer that an error of S3's or Google's client is about; None where it is about none."""
    if error is None:
        return None
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    return status or vars(error).get("code") or http_status(error.__cause__)


class Patience:
    """Repeats requests to one server; all threads share it, so that its two lines come once for an outage.

    Args:
        say: Takes a line for a person.
    """

    def __init__(self, *, timeout_s: float, say: Callable[[str], None]) -> None:
        self._timeout_s, self._say = timeout_s, say
        self._lock = threading.Lock()
        self._gone_since: float | None = None

    @property
    def wait_s(self) -> float:
        """Within which a server must answer, and bring some bytes, before it is asked again."""
        return min(STALL_S, max(1.0, self._timeout_s))

    def until_done(self, request: Callable[[], Result], *, what: str, stop: threading.Event) -> Result:
        """The result of a request, repeated while the server is gone.

        Args:
            what: The URL, for messages.

        Raises:
            RemoteError: It is gone for longer than the timeout, or refuses.
            FileNotFoundError: There is no such file.
            Interrupted: `stop` was set meanwhile.
        """
        waits, since = pauses(), None
        while True:
            try:
                result = request()
            except (FileNotFoundError, RemoteError):
                raise
            except Exception as error:
                if is_refusal(error):
                    raise RemoteError(f"{what}: refused ({reason(error)}); look at the credentials") from None
                if http_status(error) in GONE:
                    raise FileNotFoundError(what) from None
                if not may_pass(error):
                    if type(error).__name__ in BAD_URLS:
                        raise RemoteError(f"{what}: leads to no file ({reason(error)}); look at the URL") from None
                    if isinstance(error, OSError):
                        raise RemoteError(f"{what}: {error.strerror or error}; look at that folder") from None
                    raise
                since = since or time.monotonic()
                if time.monotonic() - since >= self._timeout_s:
                    raise RemoteError(
                        f"{what}: no answer for {self._timeout_s:.0f} s ({reason(error)}); look at the server, "
                        "or give a longer --remote-timeout"
                    ) from None
                self._tell_gone(what, error)
            else:
                self._tell_back(what)
                return result
            pause(stop, min(next(waits), max(0.0, since + self._timeout_s - time.monotonic())))

    def _tell_gone(self, what: str, error: Exception) -> None:
        with self._lock:
            if self._gone_since is not None:
                return
            self._gone_since = time.monotonic()
        self._say(f"{what}: no answer ({reason(error)}); trying again for up to {self._timeout_s:.0f} s")

    def _tell_back(self, what: str) -> None:
        if self._gone_since is None:  # nearly always, so without the lock
            return
        with self._lock:
            since, self._gone_since = self._gone_since, None
        if since is not None:
            self._say(f"{what}: answers again after {time.monotonic() - since:.0f} s; going on")


def reason(error: Exception) -> str:
    """An exception in one line, without secrets: what a server made of it may hold anything.

    >>> reason(OSError("no\\x1b[2J way to https://me:pw@host/a?token=1"))
    'OSError: no[2J way to https://host/a'
    """
    text = "".join(c for c in " ".join(str(error).split()) if c.isprintable())[:MAX_REASON]
    text = re.sub(r"\w+://[^\s'\"]+", lambda url: public_url(url[0]), text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
