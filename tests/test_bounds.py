"""Every numeric option of every command has two ends, and refuses what is no number of this world in one line."""

import importlib
import math
from collections.abc import Iterator

import click
import pytest
from click.core import ParameterSource

from tests.test_structure import COMMANDS, dotted

IMPOSSIBLE = ("inf", "-inf", "nan", "-1e400", "1e400", str(10**30), str(-(10**30)), "9" * 5000)
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)
# Options that set a field of a dataclass have their bounds there: what they set in the trainer and in a build.
OF_DATACLASSES = {"train.main", "tools.predict", "tools.make_shards", "tools.bench_loader", "tools.play"}
ELSEWHERE = {"scale_to_steps", "collective_timeout_s"}  # tests/train/test_options.py


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and those in it."""
    yield name, command
    if isinstance(command, click.Group):
        for part, child in command.commands.items():
            yield from commands(child, f"{name} {part}")


NUMERIC = [
    (name, option)
    for path in COMMANDS
    for name, command in commands(importlib.import_module(dotted(path)).main, dotted(path))
    for option in command.params
    if isinstance(option, click.Option) and isinstance(option.type, NUMBERS) and option.name not in ELSEWHERE
]


@pytest.mark.parametrize(("name", "option"), NUMERIC, ids=lambda value: getattr(value, "name", value))
def test_a_numeric_option_refuses_what_is_no_number_of_this_world_and_has_a_possible_default(
    name: str, option: click.Option
) -> None:
    is_range = isinstance(option.type, click.IntRange | click.FloatRange)
    if name.split()[0].removeprefix("res3d_video.") in OF_DATACLASSES and not is_range:
        return
    context = click.Context(click.Command(name))
    for text in IMPOSSIBLE:
        words = (text,) * option.nargs if option.nargs > 1 else text
        given = (words,) if option.multiple else words
        with pytest.raises(click.UsageError) as caught:
            option.type_cast_value(context, given)
        assert ("\n" in caught.value.format_message(), caught.value.exit_code) == (False, 2)
    value, source = option.consume_value(context, {})
    if source is ParameterSource.DEFAULT and value is not None and not isinstance(value, click.core.UNSET.__class__):
        cast = option.type_cast_value(context, value)
        assert all(map(math.isfinite, cast)) if isinstance(cast, tuple) else math.isfinite(cast)
