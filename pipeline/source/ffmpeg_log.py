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
            source, _, text = line.rpartition("] ")
            name = source.strip("[").split(" @")[0]
            told[f"{name}: {text}" if name else text] = None
    return list(told)[:5]
