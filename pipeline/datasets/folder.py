"""Any labelled folder of videos: root/<class>/<video> with a split file or a split drawn by group; or with subsets as
folders, root/train/<class>/<video>.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePath

from res3d_video.pipeline.datasets.listing import (
    SUBSETS,
    DatasetError,
    Listing,
    Row,
    csv_lines,
    find_videos,
    listing_of_rows,
)
from res3d_video.pipeline.errors import did_you_mean

WAY_OUT = "put <class>/<video>, one folder a class, there"
SUBSET_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SUBSET_FOLDERS |= dict.fromkeys(("val", "valid", "validation"), "val")


def list_folder(
    root: Path,
    *,
    name: str | None = None,
    split_file: Path | None = None,
    test_fraction: float | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    group_pattern: str | None = None,
    test_groups: Sequence[str] = (),
) -> Listing:
    """Records of root/<class>/**/<video>; classes are the folder names, sorted.

    A split file is CSV with a header and columns in any order: `path`, relative to the root; optionally `group`;
    and either `subset`, which makes split "1", or one column per split: `split1`, `split2`, … make the splits
    "1", "2", …. Subsets are train, val, test or empty (not used). Videos that the file does not name are left
    out:

        path,group,split1,split2
        wave/ann_01.mp4,ann,train,test

    Without a split file the videos are split by group: `test_groups` are held out if given, else
    `test_fraction` of each class's groups are drawn with `seed`; see `draw_test_groups`.

    Folders root/train/<class>/**/<video> and root/test/<class>/**/<video> are a split, too: see `subset_folders`. A
    folder val, valid or validation is the validation side, or without a folder test the test side.

    Args:
        root: Linked folders in it are not followed; a warning names them.
        name: The dataset's name; by default that of the root folder.
        test_fraction: 0.2 by default.
        val_fraction: Of the groups that are not held out for testing, for a validation side.
        group_pattern: Regular expression searched in the file's stem; its first group is the video's group,
            across all classes. None makes each video its own group.
        test_groups: For Weizmann, `^([a-z]+)_` and ("daria", "denis", "eli") hold three actors out.

    Raises:
        DatasetError: The root, the split file (with its line) or an option cannot be used.
        OSError: A folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; {WAY_OUT}")
    tree = find_videos(root)
    sources = [video for video in tree.videos if "/" in video]
    if not tree.videos:
        raise DatasetError(f"{root}: no video found; {WAY_OUT}")
    if not sources:
        raise DatasetError(f"{root}: {tree.videos[0]} lies in no class folder; {WAY_OUT}")
    subset_of = subset_folders(root, sources, is_split=split_file is not None)
    if val_fraction and (subset_of or split_file is not None):
        raise DatasetError("val_fraction: folders or a split file already say what each video is for; leave it out")
    ways = {
        "folders": subset_of or None,
        "split_file": split_file,
        "test_groups": test_groups or None,
        "test_fraction": test_fraction,
    }
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise DatasetError(f"{given[0]} and {given[1]} both say which videos of {root} are tested; choose one")

    groups = {source: group_of(source, pattern=group_pattern) for source in sources}
    if subset_of:
        tested = "test" if "test" in subset_of.values() else "val"  # without a test folder, val is tested
        kinds = {source: subset_of[class_of(source)] for source in sources}
        split_names = ["1"]
        subsets: dict[str, tuple[str, ...]] = {s: ("test" if kind == tested else kind,) for s, kind in kinds.items()}
    elif split_file is not None:
        split_names, subsets, stated_groups = read_split_file(split_file, sources=sources)
        groups |= stated_groups
    else:
        fraction = 0.2 if test_fraction is None else test_fraction
        pairs, known = [(class_of(source), group) for source, group in groups.items()], set(groups.values())
        held_out = set(test_groups) or draw_test_groups(pairs, test_fraction=fraction, seed=seed)
        for group in held_out - known:
            meant = did_you_mean(group, known) or ";"
            some = ", ".join(sorted(known)[:10])
            raise DatasetError(f"test_groups: {group!r} is no group here{meant} choose from {some}, …")
        side_of = draw_sides(pairs, held_out, val_fraction=val_fraction, seed=seed)
        split_names, subsets = ["1"], {source: (side_of[group],) for source, group in groups.items()}

    depth = 1 if subset_of else 0  # of the folder that names the class
    folders = [folder for folder in tree.folders if not subset_of or ("/" in folder and class_of(folder) in subset_of)]
    classes = sorted({folder.split("/")[depth] for folder in folders})
    class_names = {source: source.split("/")[depth] for source in sources}
    rows = [Row(s, (class_names[s],), subsets[s], group=groups[s]) for s in sources if s in subsets]
    name = name or root.resolve().name
    listing = listing_of_rows(root, tree, rows, name=name, split_names=split_names, classes=classes)
    empty = sorted(set(classes) - set(class_names.values()))
    warnings = listing.warnings + [f"{name}: the class folder holds no video" for name in empty]
    return replace(listing, warnings=warnings, is_drawn=not subset_of and split_file is None)


def class_of(source: str) -> str:
    """The top folder that a source `<class>/…` lies in."""
    return source.split("/", maxsplit=1)[0]


def subset_folders(root: Path, sources: Sequence[str], *, is_split: bool) -> dict[str, str]:
    """Top folders that are subsets, not classes -> "train", "test" or "val"; empty if all are classes.

    They are subsets if they have such names and contain class folders: one for train, and one for test or val or each.
    With a split file, a folder named train without class folders is a class of trains.
    """
    tops = sorted({class_of(source) for source in sources})
    named = {top: SUBSET_FOLDERS[top.lower()] for top in tops if top.lower() in SUBSET_FOLDERS}
    is_deep = any(class_of(source) in named and source.count("/") > 1 for source in sources)
    if not named or (not is_deep and (is_split or len(named) < len(tops))):
        return {}
    stray = next((s for s in sources if class_of(s) not in named or s.count("/") == 1), None)
    kinds = sorted(named.values())
    if stray is not None or "train" not in kinds or len(kinds) < 2 or len(set(kinds)) < len(kinds):
        raise DatasetError(
            f"{root}: {', '.join(named)} may be subsets, but there must be one train/ and one test/ or val/ with class "
            f"folders and nothing beside them{f', such as {stray}' if stray else ''}; move what does not fit, or "
            "rename them if they are classes"
        )
    return named


def group_of(source: str, *, pattern: str | None) -> str:
    """The pattern's first group in the file's stem; without a pattern the source itself, which is unique."""
    if pattern is None:
        return source
    try:
        match = re.search(pattern, PurePath(source).stem)
        group = match and match[1]
    except (re.error, OverflowError, RecursionError, IndexError) as error:
        raise DatasetError(
            f"group_pattern: {pattern!r} is no regular expression with a group in () ({error}); correct it"
        ) from None
    if not group:
        raise DatasetError(f"group_pattern: {pattern!r} finds no group in the name of {source}; widen it")
    return group


def draw_sides(
    pairs: Collection[tuple[str, str]], held_out: Collection[str], *, val_fraction: float, seed: int
) -> dict[str, str]:
    """The side of each group: "test" for those held out, "val" for a part of the others, else "train".

    Args:
        pairs: Class and group of each video.
    """
    others = [(class_name, group) for class_name, group in pairs if group not in held_out]
    validated = draw_test_groups(others, test_fraction=val_fraction, seed=seed) if val_fraction else ()
    sides = {group: "val" if group in validated else "train" for _, group in others}
    return sides | dict.fromkeys(held_out, "test")


def draw_test_groups(pairs: Collection[tuple[str, str]], *, test_fraction: float, seed: int) -> set[str]:
    """Groups to hold out: `test_fraction` of each class's groups, at least one, leaving at least one for train.

    A class with a single group stays in train. Groups are taken in the order of a hash of seed and name, so the
    draw does not depend on the file system's order. If groups span classes, classes with the fewest groups choose
    first, and avoid groups that would exceed another class's share where they can; so a class may get more than
    its share, or none.

    Args:
        pairs: Class and group of each video.
    """
    if not 0 <= test_fraction < 1:
        raise DatasetError(f"test_fraction must be >= 0 and < 1, got {test_fraction}")
    groups_of_class: dict[str, set[str]] = defaultdict(set)
    classes_of_group: dict[str, set[str]] = defaultdict(set)
    for class_name, group in pairs:
        groups_of_class[class_name].add(group)
        classes_of_group[group].add(class_name)
    most = {c: len(members) - 1 if test_fraction else 0 for c, members in groups_of_class.items()}
    share = {c: min(max(round(test_fraction * len(members)), 1), most[c]) for c, members in groups_of_class.items()}

    drawn: set[str] = set()
    taken = dict.fromkeys(groups_of_class, 0)
    for class_name in sorted(groups_of_class, key=lambda c: (len(groups_of_class[c]), c)):
        members = groups_of_class[class_name]
        in_order = sorted(members, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        for limit in (share, most):
            for group in in_order:
                fits = all(taken[c] < limit[c] for c in classes_of_group[group])
                if taken[class_name] < share[class_name] and group not in drawn and fits:
                    drawn.add(group)
                    for c in classes_of_group[group]:
                        taken[c] += 1
    return drawn


def read_split_file(
    path: Path, *, sources: Collection[str]
) -> tuple[list[str], dict[str, tuple[str, ...]], dict[str, str]]:
    """Read the file that `list_folder` describes: split names, source -> subsets, source -> group if it has one."""
    lines = csv_lines(path)
    header = [cell.lower() for _, cells in islice(lines, 1) for cell in cells]
    columns = {
        match[1] or "1": match[0] for match in map(re.compile(r"subset|split_?(\w+)").fullmatch, header) if match
    }
    if set(header) - {"group"} != {"path", *columns.values()} or not columns or len(set(header)) < len(header):
        raise DatasetError(
            f"{path}: the header {','.join(header)!r} is not that of a split file; begin with a line such as "
            "`path,subset` or `path,group,split1,split2`"
        )
    known = set(sources)
    subsets: dict[str, tuple[str, ...]] = {}
    groups: dict[str, str] = {}
    for number, cells in lines:
        row = dict(zip(header, cells, strict=False))
        source = row["path"].removeprefix("./") if len(cells) == len(header) else ""
        words = tuple(row.get(column, "").lower() for column in columns.values())
        if not source or source in subsets or not set(words) <= set(SUBSETS):
            raise DatasetError(
                f"{path}:{number}: {','.join(cells)!r} does not go; give a cell for each of {','.join(header)}, a path "
                "once, and train, val, test or nothing for a split"
            )
        if source not in known:
            meant = did_you_mean(source, sources) or ";"
            raise DatasetError(
                f"{path}:{number}: {source!r} is no video below the root{meant} correct or remove the line"
            )
        subsets[source] = words
        if row.get("group"):
            groups[source] = row["group"]
    return list(columns), subsets, groups
