"""Videos of two classes laid out as published datasets are."""

import shutil
from pathlib import Path


def small_hmdb51(raw: Path, videos: Path) -> None:
    """A HMDB51 of the classes and videos of a folder; of each class the first video is for testing, but in split 3 for
    nothing."""
    lists = raw / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    for folder in sorted(videos.iterdir()):
        shutil.copytree(folder, raw / folder.name)
        for split in (1, 2, 3):
            first = 0 if split == 3 else 2
            lines = "".join(f"{p.name} {1 if i else first} \n" for i, p in enumerate(sorted(folder.iterdir())))
            (lists / f"{folder.name}_test_split{split}.txt").write_text(lines)


def small_sports1m(raw: Path, videos: Path) -> None:
    """A Sports-1M of the same classes, a video of each for training and one for testing."""
    (raw / "original").mkdir(parents=True)
    (raw / "videos").mkdir()
    folders = sorted(videos.iterdir())
    (raw / "labels.txt").write_text("".join(f"{folder.name}\n" for folder in folders))
    for label, folder in enumerate(folders):
        longest = sorted(folder.iterdir(), key=lambda path: path.stat().st_size)[-2:]
        for subset, path in zip(("train", "test"), longest, strict=True):
            key = f"{label}-{subset}".ljust(11, "x")
            shutil.copy2(path, raw / "videos" / f"{key}{path.suffix}")
            with (raw / "original" / f"{subset}_partition.txt").open("a") as lists:
                lists.write(f"https://www.youtube.com/watch?v={key} {label}\n")
