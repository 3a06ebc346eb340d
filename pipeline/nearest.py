"""A name that was meant, for one that does not exist. Pure."""

import difflib
from collections.abc import Iterable

ALIKE = 0.75  # of difflib's 0…1: `ucf101-serach` is 0.92 to `ucf101-search`, `walk` 0.5 to `run_walk_jump`


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, whatever the case, blanks and punctuation; None if none is similar.

    >>> nearest("Basketball shooting", ["Basketball", "BasketballShooting", "Biking"])
    'BasketballShooting'
    >>> nearest("Swing", ["Diving", "Archery"]) is None
    True
    """
    of_plain: dict[str, str] = {}
    for candidate in names:
        of_plain.setdefault(plain(candidate), candidate)
    close = difflib.get_close_matches(plain(name), of_plain, n=1, cutoff=ALIKE)
    return of_plain[close[0]] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message: `; did you mean X?`, or nothing.

    >>> did_you_mean("tinny", ["tiny", "modern"]), did_you_mean("resnet", ["tiny", "modern"])
    ('; did you mean tiny?', '')
    """
    found = nearest(name, names)
    return f"; did you mean {found}?" if found else ""


def plain(name: str) -> str:
    """
    >>> plain("Basketball_shooting")
    'basketballshooting'
    """
    return "".join(character for character in name.lower() if character.isalnum())
