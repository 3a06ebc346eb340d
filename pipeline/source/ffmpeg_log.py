"""What ffmpeg says while it decodes."""


def damage(lines: list[str]) -> list[str]:
    """Lines of ffmpeg's log that speak of damage, not of taste, each once and without its memory addresses.

    >>> damage(["[mpeg4 @ 0x55] ac-tex damaged at 3 4", "[swscaler @ 0x7] deprecated pixel format used"])
    ['mpeg4: ac-tex damaged at 3 4']
    """
    words = (
        "damag",
        "error",
        "invalid",
        "corrupt",
        "missing",
        "truncat",
        "conceal",
        "could not",
        "non-existing",
    )
    told: dict[str, None] = {}
    for line in lines:
        if any(word in line.lower() for word in words):
            told[without_address(line)] = None
    return list(told)[:5]


def without_address(line: str) -> str:
    """A line that is the same in every run.

    >>> without_address("[mov,mp4 @ 0x55] moov atom not found"), without_address("No such filter: 'a'")
    ('mov,mp4: moov atom not found', "No such filter: 'a'")
    """
    source, _, text = line.rpartition("] ")
    name = source.strip("[").split(" @")[0]
    return f"{name}: {text}" if name else text
