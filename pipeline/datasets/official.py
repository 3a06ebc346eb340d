"""What the adapters of published lists share: find the folders, read the lists, match names with files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from res3d_video.pipeline.datasets.listing import DatasetError, Listing, VideoRecord, find_videos, group_warnings
from res3d_video.pipeline.errors import UserError, nearest
from res3d_video.pipeline.files import read_text

SPLIT_NAMES = ["1", "2", "3"]  # of UCF101 and of HMDB51
MAX_LIST_BYTES = 10**9  # the largest, Sports-1M's, has 60 MB


def list_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a list with their 1-based numbers; byte order mark, CRLF, outer blanks and empty lines gone.

    Raises:
        DatasetError: As `list_text`.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(list_text(path).splitlines(), start=1))
    return [(number, line) for number, line in numbered if line]


def list_text(path: Path) -> str:
    """A list's content.

    Raises:
        DatasetError: It cannot be read, is far too long or not UTF-8.
    """
    try:
        return read_text(path, max_bytes=MAX_LIST_BYTES)
    except UserError as error:
        raise DatasetError(f"{error}; unpack the official lists again") from None


def list_folder_of(raw: Path, *, candidates: Sequence[str], probe: str, wanted: str) -> Path:
    """The first of raw/candidates that holds a file matching the glob `probe`.

    Raises:
        DatasetError: None does; the message ends with `wanted`, which says what belongs there.
    """
    if not raw.is_dir():
        raise DatasetError(f"{raw}: no such folder; {wanted}")
    for candidate in candidates:
        if next((raw / candidate).glob(probe), None) is not None:
            return raw / candidate
    raise DatasetError(f"{raw}: no {probe} found{packed_hint(raw)}; {wanted}")


def video_folder_of(raw: Path, *, candidates: Sequence[str], classes: Collection[str], wanted: str) -> Path:
    """The first of raw/candidates that holds a folder named like a class, in any case.

    Raises:
        DatasetError: None does.
    """
    lowered = {name.lower() for name in classes}
    alike = ""
    for candidate in candidates:
        folder = raw / candidate
        names = sorted(child.name for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
        if any(name.lower() in lowered for name in names):
            return folder
        for name in names:
            meant = nearest(name, classes)
            if meant and not alike:
                alike = f", but {(Path(candidate) / name).as_posix()} is there: rename it to {meant}"
    raise DatasetError(f"{raw}: no class folder found{packed_hint(raw) or alike}; {wanted}")


def packed_hint(raw: Path) -> str:
    """Names an archive that still waits to be unpacked, for error messages; empty when there is none."""
    packed = sorted(child.name for child in raw.iterdir() if child.suffix.lower() in {".rar", ".zip"})
    return f", but {packed[0]} is still packed" if packed else ""


def check_class_folders(raw: Path, files: "ClassFiles", *, classes: Collection[str]) -> None:
    """No folder of videos may be named almost, but not quite, like a class that has no folder.

    Raises:
        DatasetError: One is; its videos would silently be left out.
    """
    there = files.class_folders()
    absent = {name.lower(): name for name in classes}
    for folder in there:
        absent.pop(folder.lower(), None)
    lowered = {name.lower() for name in classes}
    for folder in there:
        meant = None if folder.lower() in lowered else nearest(folder, absent.values())
        if meant:
            raise DatasetError(
                f"{raw}: no class of the lists is called {folder!r}; rename that folder to {meant}, or move it away"
            )


class ClassFiles:
    """The videos below <folder>/<class>/, found by class and file name: exactly, else in any case.

    UCF101 writes one class HandstandPushups and HandStandPushups, and copies differ in which is where.

    Attributes:
        warnings: Of what is left out.
    """

    def __init__(self, folder: Path) -> None:
        exact: dict[tuple[str, str], Path] = {}
        self.warnings: list[str] = []
        # A class folder may be a link to another disk; links below it are not followed.
        for class_folder in sorted(folder.iterdir()):
            if class_folder.name.startswith(".") or not class_folder.is_dir():
                continue
            tree = find_videos(class_folder)
            for path in (class_folder / video for video in tree.videos):
                exact.setdefault((class_folder.name, path.name), path)
            self.warnings += [f"{class_folder.name}/{line}" for line in tree.warnings]
        self._exact = exact
        self._any_case: dict[tuple[str, str], Path] = {}
        for (class_name, name), path in exact.items():
            self._any_case.setdefault((class_name.lower(), name.lower()), path)

    def find(self, class_name: str, name: str) -> Path | None:
        """The file, or None when it is not on disk."""
        exact = self._exact.get((class_name, name))
        return exact if exact is not None else self._any_case.get((class_name.lower(), name.lower()))

    def class_folders(self) -> list[str]:
        """Names of the class folders that hold a video, sorted."""
        return sorted({class_name for class_name, _ in self._exact})

    def paths(self) -> list[Path]:
        """All videos found, in a fixed order."""
        return sorted(self._exact.values())


def listing_of(
    name: str,
    raw: Path,
    subsets: Mapping[tuple[str, str], Sequence[str]],
    *,
    files: ClassFiles,
    labels: Mapping[str, int],
    group_of: Callable[[str, str], str],
    wanted: str,
) -> Listing:
    """Match what the lists name with what is on disk.

    Args:
        subsets: For each (class, file name) of the lists "train", "test" or "" in each split.
        labels: Every class of the dataset with its label, in label order.
        group_of: Group of a (class, file name) within its class.

    Raises:
        DatasetError: Nothing of the lists is on disk, or a class folder's name is misspelt.
    """
    records, missing = [], []
    for (class_name, file), words in sorted(subsets.items()):
        path = files.find(class_name, file)
        if path is None:
            missing.append(f"{class_name}/{file}")
            continue
        group = f"{class_name}/{group_of(class_name, file)}"
        source = path.relative_to(raw).as_posix()
        records.append(VideoRecord(path, source, class_name, labels[class_name], group, tuple(words)))
    if not records:
        raise DatasetError(f"{raw}: none of the {len(subsets)} listed clips is there; {wanted}")
    check_class_folders(raw, files, classes=labels)
    records.sort(key=lambda record: record.source)
    used = {record.path for record in records}
    unlisted = [path.relative_to(raw).as_posix() for path in files.paths() if path not in used]
    warnings = files.warnings + group_warnings(records, SPLIT_NAMES)
    return Listing(name, list(labels), list(SPLIT_NAMES), records, missing, unlisted, warnings)
