"""How a folder without official lists is split: a drawn set of groups, or a CSV file. The first is pure."""

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from res3d_video.pipeline.datasets.listing import SUBSETS, DatasetError
from res3d_video.pipeline.errors import did_you_mean


def class_of(source: str) -> str:
    """The class folder that a source `<class>/…` lies in."""
    return source.split("/", maxsplit=1)[0]


def draw_test_groups(groups: Mapping[str, str], *, test_fraction: float, seed: int) -> set[str]:
    """Groups to hold out: `test_fraction` of each class's, at least one, with at least one left for train.

    A class with a single group stays in train. Groups are taken in the order of a hash of seed and name, so
    the draw does not depend on the file system's order. Where groups span classes, those with the fewest
    groups choose first, and a group that would give another class too many is the last choice; so a class may
    get more than its share, and none where its groups are the last of others.

    Args:
        groups: The group of each source `<class>/…`.
    """
    if not 0 <= test_fraction < 1:
        raise DatasetError(f"test_fraction: {test_fraction} is not possible; choose 0 to less than 1")
    groups_of_class: dict[str, set[str]] = defaultdict(set)
    classes_of_group: dict[str, set[str]] = defaultdict(set)
    for source, group in groups.items():
        groups_of_class[class_of(source)].add(group)
        classes_of_group[group].add(class_of(source))
    share = {c: num_test_groups(len(members), test_fraction=test_fraction) for c, members in groups_of_class.items()}
    most = {c: len(members) - 1 if test_fraction else 0 for c, members in groups_of_class.items()}

    drawn: set[str] = set()
    taken = dict.fromkeys(groups_of_class, 0)
    for class_name in sorted(groups_of_class, key=lambda c: (len(groups_of_class[c]), c)):
        in_order = sorted(
            groups_of_class[class_name], key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest()
        )
        for limit in (share, most):
            for group in in_order:
                fits = all(taken[c] < limit[c] for c in classes_of_group[group])
                if taken[class_name] < share[class_name] and group not in drawn and fits:
                    drawn.add(group)
                    for c in classes_of_group[group]:
                        taken[c] += 1
    return drawn


def num_test_groups(num_groups: int, *, test_fraction: float) -> int:
    """How many of a class's groups go to test.

    >>> [num_test_groups(n, test_fraction=0.2) for n in (1, 2, 9, 10)]
    [0, 1, 2, 2]
    """
    if test_fraction == 0:
        return 0
    return min(max(round(test_fraction * num_groups), 1), num_groups - 1)


def read_split_file(
    path: Path, *, sources: Sequence[str]
) -> tuple[list[str], dict[str, tuple[str, ...]], dict[str, str]]:
    """The split file that `list_folder` describes.

    Returns:
        Split names; the subsets of each source named; the group of each source with one.

    Raises:
        DatasetError: No such file, or a line that cannot be used.
    """
    try:
        rows = list(numbered_rows(path))
    except OSError as error:
        raise DatasetError(f"split_file: {path} cannot be read ({error.strerror}); name a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"split_file: {path} is not CSV in UTF-8 ({error}); write it again") from None
    if not rows:
        raise DatasetError(f"split_file: {path} is empty; begin it with the line `path,subset`")
    header = [cell.lower() for cell in rows[0][1]]
    columns = split_columns(header, path=path)

    known = set(sources)
    subsets: dict[str, tuple[str, ...]] = {}
    groups: dict[str, str] = {}
    for number, cells in rows[1:]:
        where = f"{path}:{number}"
        if len(cells) != len(header):
            raise DatasetError(f"{where}: {len(cells)} cells under a header of {len(header)}; correct the line")
        row = dict(zip(header, cells, strict=True))
        source = row["path"].removeprefix("./")
        if source not in known:
            meant = did_you_mean(source, known) or ";"
            raise DatasetError(f"{where}: {row['path']!r} is no video below the root{meant} correct or remove the line")
        if source in subsets:
            raise DatasetError(f"{where}: {row['path']!r} is named a second time; remove one of the two lines")
        words = tuple(row[column].lower() for column in columns.values())
        for word in words:
            if word not in SUBSETS:
                raise DatasetError(f"{where}: subset {word!r} does not exist; choose train, test or leave it empty")
        subsets[source] = words
        if row.get("group"):
            groups[source] = row["group"]
    if not subsets:
        raise DatasetError(f"split_file: {path} names no video; add lines below the header")
    return list(columns), subsets, groups


def numbered_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Cells of each line that is not empty, with its 1-based line number; outer blanks removed."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]


def split_columns(header: Sequence[str], *, path: Path) -> dict[str, str]:
    """Split names with the column of each: "1" for `subset`, what follows `split` for the others."""
    columns: dict[str, str] = {}
    for column in header:
        match = re.fullmatch(r"split_?(\w+)", column)
        if column == "subset":
            columns["1"] = column
        elif match:
            columns[match[1]] = column
        elif column not in {"path", "group"}:
            raise DatasetError(
                f"{path}:1: column {column!r} is unknown; use path, group, and subset or split1, split2, …"
            )
    num_named = sum(column not in {"path", "group"} for column in header)
    twice = len(set(header)) < len(header) or len(columns) < num_named
    if twice or ("subset" in header and num_named > 1):
        raise DatasetError(
            f"{path}:1: {','.join(header)!r} names a split or column twice; use subset or split1, split2, …"
        )
    if "path" not in header or not columns:
        raise DatasetError(f"{path}:1: {','.join(header)!r} is no header; begin the file with the line `path,subset`")
    return columns
