"""Tables as lines of text. Pure."""

from collections.abc import Collection, Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table, as wide as its widest cells wherever it is shown.

    Args:
        left: Columns of words; the others are numbers, and to the right.

    >>> text_table(["way", "clips/s"], [["a", "9"], ["long", "10"]])
    ['way   clips/s', 'a           9', 'long       10']
    >>> text_table(["", "n", "why"], [["a", "10", "x"], ["b", "9", ""]], left=(0, 2))
    ['    n  why', 'a  10  x', 'b   9']
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
