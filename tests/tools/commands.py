"""Commands as a user types them, run in this process."""

import click
from click.testing import CliRunner, Result


def run(command: click.Command, *words: object, code: int = 0) -> Result:
    """What a command line does, which ends with this exit code and without a traceback."""
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result
