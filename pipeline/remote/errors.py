"""What can go wrong between here and a server."""

from res3d_video.pipeline.index import ShardError


class RemoteError(ShardError):
    """A remote dataset cannot be used, in one line."""


class Interrupted(RemoteError):
    """Whoever waited for a server does not want to any more."""

    def __init__(self) -> None:
        super().__init__("interrupted while waiting for a remote dataset")


class StallError(OSError):
    """A server keeps a line open and brings next to nothing; it may do better later."""


class ContentError(RemoteError):
    """What the server has is not what dataset.json says; asking again may or may not help."""
