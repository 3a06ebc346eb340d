"""What is written beside the pictures: times, frame numbers, places. Pure."""

from collections.abc import Callable, Sequence
from itertools import pairwise


def seconds(frame: int, *, fps: float) -> str:
    """When a frame is shown; nothing where the source's rate is unknown.

    >>> seconds(12, fps=25.0), seconds(12, fps=0)
    ('0.48 s', '')
    """
    return f"{frame / fps:.2f} s" if fps > 0 else ""


def frames_text(frames: Sequence[int]) -> str:
    """Frame numbers of a clip, short: what goes on by equal steps is told by its ends.

    >>> frames_text([4, 6, 8, 10]), frames_text([4, 5, 6]), frames_text([4, 6]), frames_text([7])
    ('4…10 by 2', '4…6', '4, 6', '7')
    >>> frames_text([0, 2, 4, 6, 6, 6]), frames_text([0, 4, 8, 12, 13]), frames_text([0, 0, 0, 0])
    ('0…4 by 2, then 6 ×3', '0…12 by 4, then 13', '0 ×4')
    """
    last = frames[-1]
    repeats = next((n for n, frame in enumerate(reversed(frames)) if frame != last), len(frames))
    if repeats == 1 and len({b - a for a, b in pairwise(frames)}) <= 1:
        return steps_text(frames)
    before, ending = frames[: len(frames) - repeats], f"{last} ×{repeats}" if repeats > 1 else str(last)
    return f"{steps_text(before)}, then {ending}" if before else ending


def steps_text(frames: Sequence[int]) -> str:
    """Frame numbers; equal steps by their ends, others one by one.

    >>> steps_text([3, 5, 7]), steps_text([3, 5, 8])
    ('3…7 by 2', '3, 5, 8')
    """
    steps = {b - a for a, b in pairwise(frames)}
    if len(frames) < 3 or len(steps) > 1:
        return ", ".join(map(str, frames))
    step = steps.pop()
    return f"{frames[0]}…{frames[-1]}" + (f" by {step}" if step > 1 else "")


def wrapped(text: str, *, width: float, measure: Callable[[str], float]) -> list[str]:
    """Text in lines of at most `width`; a word that is wider is cut and goes on in the next line.

    >>> wrapped("one two  three", width=7, measure=len), wrapped("abcdefgh", width=3, measure=len)
    (['one two', 'three'], ['abc', 'def', 'gh'])
    """
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if measure(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while measure(word) > width and len(word) > 1:
            end = max(1, next((n for n in range(1, len(word) + 1) if measure(word[:n]) > width), len(word)) - 1)
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [*lines, line] if line else lines


def aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as lines with columns below one another, two blanks apart.

    >>> aligned([("clip", "flip"), (0, "yes"), (10, "no")])
    ['clip  flip', '0     yes', '10    no']
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
