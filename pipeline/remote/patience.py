"""Trying again while a server is gone: pauses that grow, up to a time, and two lines about it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.remote.errors import RemoteError
from pipeline.remote.files import pause

Result = TypeVar("Result")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 15.0
# No time heals these: the answer is no, or nobody asked properly.
REFUSALS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, RemoteError)
REFUSAL_NAMES = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound")
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
    if isinstance(error, REFUSALS) or type(error).__name__ in REFUSAL_NAMES:
        return False
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.split(".")[0] in NETWORK_PACKAGES


class Patience:
    """Repeats requests to one server; all threads share it, so that its two lines come once for an outage.

    Args:
        say: Takes a line for a person.
    """

    def __init__(self, *, timeout_s: float, say: Callable[[str], None]) -> None:
        self._timeout_s, self._say = timeout_s, say
        self._lock = threading.Lock()
        self._gone_since: float | None = None

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
                if not may_pass(error):
                    if isinstance(error, OSError) or type(error).__name__ in REFUSAL_NAMES:
                        raise RemoteError(f"{what}: refused ({reason(error)}); look at the credentials") from None
                    raise
                since = since or time.monotonic()
                if time.monotonic() - since >= self._timeout_s:
                    raise RemoteError(
                        f"{what}: no answer for {self._timeout_s:.0f} s ({reason(error)}); look at the server, "
                        "or give a longer --remote-timeout"
                    ) from None
                self._tell_gone(what, error)
            else:
                self._tell_back()
                return result
            pause(stop, min(next(waits), max(0.0, since + self._timeout_s - time.monotonic())))

    def _tell_gone(self, what: str, error: Exception) -> None:
        with self._lock:
            if self._gone_since is not None:
                return
            self._gone_since = time.monotonic()
        self._say(f"{what}: no answer ({reason(error)}); trying again for up to {self._timeout_s:.0f} s")

    def _tell_back(self) -> None:
        if self._gone_since is None:  # nearly always, so without the lock
            return
        with self._lock:
            since, self._gone_since = self._gone_since, None
        if since is not None:
            self._say(f"the server answers again after {time.monotonic() - since:.0f} s; going on")


def reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
