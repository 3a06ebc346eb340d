"""Colours that colour-blind readers tell apart."""

# Okabe and Ito (2008): blue, vermilion, green, purple, orange, sky blue, black; yellow is too faint on white.
MANY = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8c8c8c"


def look_of(place: int) -> tuple[str, str, str]:
    """Colour, dashes and marker of one of many lines; 28 lines differ in colour or dashes.

    >>> look_of(1), look_of(8)
    (('#d55e00', '-', 's'), ('#d55e00', '--', 's'))
    """
    return MANY[place % len(MANY)], DASHES[place // len(MANY) % len(DASHES)], MARKERS[place % len(MARKERS)]
