"""The one exception that turns an input into a line of quarantine.jsonl."""


class VideoFailure(Exception):
    """This video cannot become a sample.

    Attributes:
        stage: Where it failed: "missing", "probe", "decode", "encode" or "count".
        reason: One line for a person.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
