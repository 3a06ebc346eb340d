"""The exceptions that turn an input into a line of quarantine.jsonl."""


class VideoFailure(Exception):
    """This video cannot become a sample.

    Attributes:
        stage: Where it failed: "missing", "open", "probe", "decode", "encode" or "count"; or "limit".
        reason: One line for a person.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


class TooLargeError(Exception):
    """A segment that would become larger than its encoder was allowed to make it."""
