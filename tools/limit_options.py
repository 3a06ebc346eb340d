"""The options that say what one raw video may be and use."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from res3d_video.pipeline.ingest.limits import Limits

HELP = {
    "max_pixels": "Of a frame; a video that has more is quarantined, as with the limits below.",
    "max_frames": "Of a video.",
    "max_duration_s": "That a video claims.",
    "max_wall_s": "For all that is done with a video.",
    "max_cpu_s": "Of each process that reads a video.",
    "max_memory_mb": "Of each process that reads a video.",
    "max_output_mb": "Stored of a video, a segment at a time.",
    "follow_links": "Read videos outside the raw folder, where a link leads there.",
}


def limit_options(command: Callable) -> Callable:
    """Add the options of a video's limits."""
    for field in reversed(fields(Limits)):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            option = click.option(name, is_flag=True, help=HELP[field.name])
        else:
            option = click.option(name, default=default, show_default=True, help=HELP[field.name])
        command = option(command)
    return command


def take_limits(options: dict[str, Any]) -> Limits:
    """The limits, taken out of a command's options.

    Raises:
        ValueError: One is not possible.
    """
    return Limits(**{name: options.pop(name) for name in HELP})
