"""Any labelled set of videos: root/<class>/<video>, with a split file or a split drawn by group."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.datasets.listing import DatasetError, Listing, VideoRecord, group_warnings, is_video_name
from pipeline.datasets.splits import class_of, draw_test_groups, read_split_file
from pipeline.nearest import did_you_mean

WANTED = "put <class>/<video>, one folder a class, there"


def list_folder(
    root: Path,
    *,
    name: str | None = None,
    split_file: Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    group_pattern: str | None = None,
    test_groups: Sequence[str] = (),
) -> Listing:
    """Records of root/<class>/**/<video>; classes are the folder names, sorted.

    A split file is CSV with a header. `path` is relative to the root and may stand in any column, `group` may
    be left out, and then comes either `subset`, which makes split "1", or one column a split: `split1`,
    `split2`, … make the splits "1", "2", …. Subsets are train, test or empty (not used). Videos that the file
    does not name are `unlisted`:

        path,group,split1,split2
        wave/ann_01.mp4,ann,train,test

    Without a split file the videos are split by group: `test_groups` are held out if given, else
    `test_fraction` of each class's groups are drawn with `seed`; see `draw_test_groups`.

    Args:
        root: Linked folders in it are not followed; a warning names them. Linked videos are a matter of the build.
        name: The dataset's name; the root folder's by default.
        group_pattern: Regular expression searched in the file's stem; its first group names the video's
            group, over all classes. None makes each video its own group.
        test_groups: For Weizmann, `^([a-z]+)_` and ("daria", "denis", "eli") hold three actors out.

    Raises:
        DatasetError: The root, the split file (with its line) or an option cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; {WANTED}")
    if split_file is not None and test_groups:
        raise DatasetError(f"test_groups: {test_groups[0]!r} is given beside a split file; choose one of the two")
    sources, classes, unlisted, warnings = find_videos(root)
    if not sources:
        if unlisted:
            raise DatasetError(f"{root}: {unlisted[0]} lies in no class folder; {WANTED}")
        raise DatasetError(f"{root}: no video found; {WANTED}")

    groups = {source: group_of(source, pattern=group_pattern) for source in sources}
    if split_file is not None:
        split_names, subsets, stated_groups = read_split_file(split_file, sources=sources)
        groups |= stated_groups
        unlisted = sorted([*unlisted, *(source for source in sources if source not in subsets)])
    else:
        split_names = ["1"]
        held_out = chosen_groups(groups, test_groups=test_groups) if test_groups else None
        if held_out is None:
            held_out = draw_test_groups(groups, test_fraction=test_fraction, seed=seed)
        subsets = {source: ("test" if group in held_out else "train",) for source, group in groups.items()}

    labels = {class_name: label for label, class_name in enumerate(classes)}
    records = [
        VideoRecord(root / source, source, class_of(source), labels[class_of(source)], groups[source], subsets[source])
        for source in sorted(subsets)
    ]
    warnings += group_warnings(records, split_names) + side_warnings(records, split_names=split_names, classes=classes)
    return Listing(name or root.resolve().name, classes, split_names, records, [], unlisted, warnings)


def find_videos(root: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Walks the root, but no linked folders.

    Returns:
        Sources of the videos, sorted; classes, sorted; videos beside the class folders; warnings.
    """

    def source_of(path: Path) -> str:
        return path.relative_to(root).as_posix()

    sources: list[str] = []
    classes: list[str] = []
    beside: list[str] = []
    warnings: list[str] = []
    for parent, children, files in os.walk(root):
        folder = Path(parent)
        shown = sorted(child for child in children if not child.startswith("."))
        linked = [child for child in shown if (folder / child).is_symlink()]
        children[:] = [child for child in shown if child not in linked and is_utf8(child)]
        warnings += [f"{source_of(folder / child)}: a linked folder is not followed" for child in linked]
        if folder == root:
            classes = list(children)
        for file in sorted(file for file in files if is_video_name(file)):
            if is_utf8(file):
                (beside if folder == root else sources).append(source_of(folder / file))
        unreadable = [file for file in [*shown, *filter(is_video_name, files)] if not is_utf8(file)]
        warnings += [f"{file!a}: the name is not UTF-8; rename it" for file in sorted(unreadable)]
    filled = {class_of(source) for source in sources}
    warnings += [f"{class_name}: the class folder holds no video" for class_name in classes if class_name not in filled]
    return sorted(sources), classes, beside, warnings


def is_utf8(name: str) -> bool:
    """Whether a file name's bytes are UTF-8; others reach us as lone surrogates, which JSON cannot hold."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def group_of(source: str, *, pattern: str | None) -> str:
    """The pattern's first group in the file's stem; without a pattern the source itself, which is unique.

    Raises:
        DatasetError: The pattern is not one, has no group or does not match.
    """
    if pattern is None:
        return source
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"group_pattern: {pattern!r} is not a regular expression ({error}); correct it") from None
    if compiled.groups < 1:
        raise DatasetError(f"group_pattern: {pattern!r} has no group; put the part that names the group in ()")
    match = compiled.search(Path(source).stem)
    if match is None or match[1] is None:
        raise DatasetError(f"group_pattern: {pattern!r} finds no group in {Path(source).stem!r} of {source}; widen it")
    return match[1]


def chosen_groups(groups: Mapping[str, str], *, test_groups: Sequence[str]) -> set[str]:
    """`test_groups` as a set, each of which must exist."""
    known = sorted(set(groups.values()))
    for group in test_groups:
        if group not in known:
            some = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            meant = did_you_mean(group, known) or ";"
            raise DatasetError(f"test_groups: {group!r} is no group here{meant} choose from {some}")
    return set(test_groups)


def side_warnings(records: Sequence[VideoRecord], *, split_names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """One line for each split and subset in which some class with videos has none."""
    present = {record.class_name for record in records}
    lines = []
    for position, split in enumerate(split_names):
        for subset in ("train", "test"):
            there = {record.class_name for record in records if record.subsets[position] == subset}
            absent = [class_name for class_name in classes if class_name in present - there]
            if absent:
                lines.append(
                    f"split {split}: {len(absent)} of {len(classes)} classes have no {subset} video, "
                    f"first {absent[0]!r}"
                )
    return lines
