"""The surest mistakes of a run as clips that play, out of the shards that it was trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from res3d_video.pipeline.clip import ClipSpec, frame_indices, uniform_starts
from res3d_video.pipeline.index import ShardError, ShardIndex, open_index
from res3d_video.pipeline.plan import stored_clip
from res3d_video.pipeline.reader import FrameFiles
from res3d_video.tools.pages.clips import strips_of
from res3d_video.tools.pages.page import Markup, Number, render, table
from res3d_video.tools.pages.player import player, timeline
from res3d_video.tools.pages.run.facts import Run
from res3d_video.tools.pages.run.scores import Mistake

CLIP_BYTES = 60_000  # of a clip's pictures; a page needs a third more
FPS = 8  # at which clips play; the slider says where a frame stands in its video


def shards_of(run: Run, given: Sequence[ShardIndex]) -> tuple[ShardIndex | None, str]:
    """The shards that a run was trained on, among those given, else where its config.json says; and what to say of it.

    Returns:
        The index, or None, and one line for people about what is not as it should be, else "".
    """
    about = run.about.get("data")
    about = about if isinstance(about, dict) else {}
    for index in given:
        if index.fingerprint == about.get("fingerprint"):
            return index, ""
    for index in given:
        if index.name == about.get("name"):
            return index, f"The shards given are another build of {index.name}; a clip may not be what was scored."
    folder = about.get("folder")
    if not folder:
        return None, "Clips can be shown when the shards are given with --data."
    try:
        index = open_index(Path(folder))
    except (ShardError, OSError):
        return None, f"The shards are no longer in {folder}; give them with --data to see the clips."
    if index.fingerprint != about.get("fingerprint"):
        return index, f"The shards in {folder} have been built anew since; a clip may not be what was scored."
    return index, ""


def rows_of(index: ShardIndex, keys: Sequence[str]) -> dict[str, int]:
    """Row of the index of each key that it has."""
    wanted = np.array([key.encode() for key in keys])
    rows = np.flatnonzero(np.isin(np.asarray(index.keys), wanted))
    return {index.key(int(row)): int(row) for row in rows}


def mistake_players(
    index: ShardIndex, mistakes: Sequence[Mistake], spec: ClipSpec, *, name: str, max_bytes: int = CLIP_BYTES
) -> list[Markup]:
    """A player for each mistake whose clip can be read: the frames of the centre clip.

    Args:
        spec: The clips of the run.
        name: Of the run, for those who hear the page.
        max_bytes: Of a clip's pictures.
    """
    rows, files = rows_of(index, [mistake.key for mistake in mistakes]), FrameFiles(index)
    stored, players = stored_clip(spec, frame_step=index.frame_step), []
    for place, mistake in enumerate(mistakes, start=1):
        if mistake.key not in rows:
            continue
        row = rows[mistake.key]
        num_frames = int(index.num_frames[row])
        start = int(uniform_starts(1, stored, video_frames=num_frames)[0])
        frames = frame_indices(start, stored, video_frames=num_frames)
        try:
            strips = strips_of(index, row, files=files, max_bytes=max_bytes, frames=frames)
        except ShardError:
            continue
        players.append(
            player(
                strips.sprites,
                strips.frames,
                size=strips.size,
                name=f"mistake {place} of {name}, {mistake.key}",
                text=f"A clip of {mistake.label}, taken for {mistake.predicted}.",
                caption=render("mistake.html", mistake=mistake, percent=percent),
                frame_names=[f"frame {frame} of {num_frames}" for frame in strips.shown],
                fps=FPS,
                below=timeline(num_frames, [("clip", frames.tolist())], shown=strips.shown.tolist()),
            )
        )
    return players


def mistake_table(mistakes: Sequence[Mistake]) -> Markup:
    """The mistakes in words."""
    rows = []
    for mistake in mistakes:
        true = mistake.true_confidence
        shares: list[Number] = [Number(mistake.confidence, percent(mistake.confidence))]
        shares += [Number(-1, "–") if true is None else Number(true, percent(true))]
        rows.append([mistake.source, mistake.label, mistake.predicted, *shares])
    columns = ["video", "true class", "predicted", "its probability", "of the true class"]
    return table(columns, rows, caption="The most confident mistakes", is_sorted_by_click=True)


def percent(share: float) -> str:
    """
    >>> percent(0.98765)
    '98.8 %'
    """
    return f"{100 * share:.1f} %"
