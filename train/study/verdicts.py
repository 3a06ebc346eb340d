"""Whether runs show what a table of the paper is said to show."""

from collections.abc import Mapping
from dataclasses import dataclass

from train.study.results import Difference, RowScores, difference
from train.study.tables import Claim

SEEN, NOT_SEEN, UNDECIDED = "seen", "not seen", "undecided"


@dataclass(frozen=True)
class Verdict:
    """Of one claim.

    Attributes:
        word: "seen", "not seen" or "undecided".
        reasons: Which comparisons speak against it, or leave it open; one line each.
    """

    word: str
    reasons: tuple[str, ...] = ()


def judge(claim: Claim, rows: Mapping[str, RowScores]) -> Verdict:
    """Seen when every comparison of the claim is clear, not seen when one is clearly the other way round.

    Clear means that the 95 % interval of the difference leaves out zero; it is not widened for the number of
    comparisons.

    Args:
        rows: Rows of the table that have runs.
    """
    against, unclear = [], []
    for names, wanted in [(pair, True) for pair in claim.above] + [(pair, False) for pair in claim.not_below]:
        if lacking := [name for name in names if name not in rows]:
            unclear.append(f"{' and '.join(lacking)} not run")
            continue
        found = difference(rows[names[0]], rows[names[1]])
        line = comparison(*names, found)
        if found.is_below:
            against.append(line)
        elif found.interval is None or (wanted and not found.is_above):
            unclear.append(line)
    if against:
        return Verdict(NOT_SEEN, tuple(against))
    if unclear:
        return Verdict(UNDECIDED, tuple(dict.fromkeys(unclear)))
    return Verdict(SEEN)


def comparison(name: str, rival: str, found: Difference) -> str:
    """
    >>> comparison("18", "10", Difference(0.021, (-0.01, 0.052)))
    '18 against 10: +2.1 points, between -1.0 and +5.2'
    """
    line = f"{name} against {rival}: {100 * found.mean:+.1f} points"
    if found.interval is None:
        return f"{line}, one seed"
    return f"{line}, between {100 * found.interval[0]:+.1f} and {100 * found.interval[1]:+.1f}"
