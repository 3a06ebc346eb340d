"""Any labelled set of videos: root/<class>/<video>, with a split file or a split drawn by group; or with the subsets
as folders, root/train/<class>/<video>.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from res3d_video.pipeline.datasets.listing import DatasetError, Listing, VideoRecord, find_videos, group_warnings
from res3d_video.pipeline.datasets.splits import class_of, draw_test_groups, read_split_file
from res3d_video.pipeline.errors import did_you_mean

WANTED = "put <class>/<video>, one folder a class, there"
SUBSET_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SUBSET_FOLDERS |= dict.fromkeys(("val", "valid", "validation"), "val")
# Which side each subset is of, split by split. With all three there are two splits: tested on test, and on val.
SPLITS_OF_SUBSETS = {
    frozenset({"train", "test"}): {"1": {"train": "train", "test": "test"}},
    frozenset({"train", "val"}): {"1": {"train": "train", "val": "test"}},
    frozenset({"train", "val", "test"}): {
        "1": {"train": "train", "test": "test", "val": ""},
        "val": {"train": "train", "val": "test", "test": ""},
    },
}


def list_folder(
    root: Path,
    *,
    name: str | None = None,
    split_file: Path | None = None,
    test_fraction: float | None = None,
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

    In root/train/<class>/**/<video> and root/test/<class>/**/<video> the folders say it: see `subset_folders`. Where
    there are val, valid or validation too, split "1" tests on test, and split "val" on val; without test, split "1"
    tests on val.

    Args:
        root: Linked folders in it are not followed; a warning names them. Linked videos are a matter of the build.
        name: The dataset's name; the root folder's by default.
        test_fraction: 0.2 by default.
        group_pattern: Regular expression searched in the file's stem; its first group names the video's
            group, over all classes. None makes each video its own group.
        test_groups: For Weizmann, `^([a-z]+)_` and ("daria", "denis", "eli") hold three actors out.

    Raises:
        DatasetError: The root, the split file (with its line) or an option cannot be used.
        OSError: A folder cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; {WANTED}")
    if split_file is not None and test_groups:
        raise DatasetError(f"test_groups: {test_groups[0]!r} is given beside a split file; choose one of the two")
    tree = find_videos(root)
    sources = [video for video in tree.videos if "/" in video]
    unlisted = [video for video in tree.videos if "/" not in video]
    if not sources:
        if unlisted:
            raise DatasetError(f"{root}: {unlisted[0]} lies in no class folder; {WANTED}")
        raise DatasetError(f"{root}: no video found; {WANTED}")
    subset_of, warnings = subset_folders(root, sources, is_split=split_file is not None)
    depth = 1 if subset_of else 0  # of the folder that names the class
    if subset_of and (split_file is not None or test_groups or test_fraction is not None):
        given = "split_file" if split_file is not None else "test_groups" if test_groups else "test_fraction"
        raise DatasetError(
            f"{given}: is given, but the folders {folders_of(subset_of)} of {root} already say who is tested; "
            "leave it out, or move the class folders up into one folder"
        )

    groups = {source: group_of(source, pattern=group_pattern) for source in sources}
    if subset_of:
        splits = SPLITS_OF_SUBSETS[frozenset(subset_of.values())]
        split_names = list(splits)
        subsets = {
            source: tuple(side_of[subset_of[class_of(source)]] for side_of in splits.values()) for source in sources
        }
    elif split_file is not None:
        split_names, subsets, stated_groups = read_split_file(split_file, sources=sources)
        groups |= stated_groups
        unlisted = sorted([*unlisted, *(source for source in sources if source not in subsets)])
    else:
        split_names = ["1"]
        held_out = chosen_groups(groups, test_groups=test_groups) if test_groups else None
        if held_out is None:
            fraction = 0.2 if test_fraction is None else test_fraction
            held_out = draw_test_groups(groups, test_fraction=fraction, seed=seed)
        subsets = {source: ("test" if group in held_out else "train",) for source, group in groups.items()}

    folders = [folder for folder in tree.folders if folder.count("/") >= depth]
    classes = sorted({f.split("/")[depth] for f in folders if not subset_of or class_of(f) in subset_of})
    labels = {class_name: label for label, class_name in enumerate(classes)}
    records = [
        VideoRecord(root / source, source, class_name, labels[class_name], groups[source], subsets[source])
        for source in sorted(subsets)
        for class_name in [source.split("/")[depth]]
    ]
    filled = {source.split("/")[depth] for source in sources}
    warnings += tree.warnings
    warnings += [f"{class_name}: the class folder holds no video" for class_name in classes if class_name not in filled]
    warnings += group_warnings(records, split_names)
    return Listing(name or root.resolve().name, classes, split_names, records, [], unlisted, warnings)


def subset_folders(root: Path, sources: Sequence[str], *, is_split: bool) -> tuple[dict[str, str], list[str]]:
    """Top folders that are subsets, not classes, with "train", "test" or "val" of each; none where all are classes.

    They are subsets if all folders with videos have such names and hold class folders: train, and test or val or both.

    Args:
        sources: Videos `<folder>/…`.
        is_split: A split file says who is tested, so a folder named train may be a class of trains.

    Returns:
        The folders, and warnings of what a user may not expect.

    Raises:
        DatasetError: They may be meant either way, or one of them is missing.
    """
    tops = sorted({class_of(source) for source in sources})
    named = {top: SUBSET_FOLDERS[top.lower()] for top in tops if top.lower() in SUBSET_FOLDERS}
    others = [top for top in tops if top not in named]
    inside = {class_of(source): source for source in sources if source.count("/") == 1}  # a video in no deeper folder
    deeper = {class_of(source) for source in sources if source.count("/") > 1}
    if not named or (named.keys().isdisjoint(deeper) and is_split):
        return {}, []
    some = folders_of(named)
    if others:
        if len(named) > 1 or not named.keys().isdisjoint(deeper):
            raise DatasetError(
                f"{root}: {some} may be subsets, but {others[0]}/ lies beside them; move it away, or rename {some} if "
                "they are classes"
            )
        return {}, [f"{some} is taken for a class, not for a subset: it holds videos, and {others[0]}/ is beside it"]
    for top in named:
        if top in inside:
            raise DatasetError(
                f"{root}: {inside[top]} lies in no class folder; put {top}/<class>/<video> there, or rename {some} if "
                "they are classes"
            )
    kinds = sorted(named.values())
    twice = [kind for kind in set(kinds) if kinds.count(kind) > 1]
    if twice:
        same = folders_of([top for top in named if named[top] == twice[0]])
        raise DatasetError(f"{root}: {same} mean the same; put their class folders into one of them")
    if frozenset(kinds) not in SPLITS_OF_SUBSETS:
        lacking = "test/ or val/" if "train" in kinds else "train/"
        raise DatasetError(
            f"{root}: {some} may be subsets, but there is no {lacking} with videos; add it, or take the class folders "
            f"in {next(iter(named))}/ alone: --raw {root / next(iter(named))}"
        )
    spelt: dict[str, str] = {}
    for source in sources:
        class_name = source.split("/")[1]
        if spelt.setdefault(class_name.lower(), class_name) != class_name:
            raise DatasetError(
                f"{root}: {spelt[class_name.lower()]}/ and {class_name}/ are class folders that differ only in case; "
                "give both the same name"
            )
    val = next((top for top in named if named[top] == "val"), None)
    if val is None:
        return named, []
    if "test" in kinds:
        return named, [f"{val}/ is the test side of split val alone: --split val trains and tests on it"]
    return named, [f"{val}/ is the test side, for there is no test/"]


def folders_of(names: Iterable[str]) -> str:
    """Folders, for a person.

    >>> folders_of(["test", "train", "val"])
    'test/, train/ and val/'
    """
    *first, last = [f"{name}/" for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def group_of(source: str, *, pattern: str | None) -> str:
    """The pattern's first group in the file's stem; without a pattern the source itself, which is unique.

    Raises:
        DatasetError: The pattern is not one, has no group or does not match.
    """
    if pattern is None:
        return source
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
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
