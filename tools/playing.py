"""For tools/play.py: finds a sample, and the clips that training or an evaluation takes of it; draws them (Pillow)."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from res3d_video.pipeline.augment import COLOR
from res3d_video.pipeline.clip import frame_indices, per_channel
from res3d_video.pipeline.errors import UserError, did_you_mean
from res3d_video.pipeline.frames import damaged
from res3d_video.pipeline.index import SUBSETS, ShardIndex
from res3d_video.pipeline.loader import ClipLoader
from res3d_video.pipeline.plan import EvalPlan, PlannedClips, drawn_labels, stored_clip
from res3d_video.tools.samples import encode_mp4, read_key_json, stored_frames
from res3d_video.train.config import TrainConfig, train_plan
from res3d_video.train.evaluation.video_level import videos_of, views_per_sample

PANELS = "stored frame, the crop in yellow; crop; network input"
PANELS_WIDTH, PANEL_HEIGHT = 580, 256  # of an animation: all pictures and one of them, at most, pixels
CELL_HEIGHT, MAX_COLUMNS = 112, 8  # of a sheet: a picture, pixels, and frames in a row
TEXT_WIDTH, MARGIN, GAP = 420, 10, 8  # pixels
PAPER, INK, YELLOW = (255, 255, 255), (40, 40, 40), (255, 221, 0)


# Samples


def find_sample(index: ShardIndex, name: str) -> int:
    """The sample with this key or video name, or with this part of either; raises UserError unless it is one sample."""
    part = name.encode()
    found = np.flatnonzero(index.keys == part)
    if not len(found):
        found = np.flatnonzero(contains(index.keys, part) | contains(index.sources, part))
        named = found[contains(np.char.add(b"/", index.sources[found]), b"/" + part + b".")]  # clip1, not clip10
        found = named if len(named) == 1 else found
    if len(found) == 1:
        return int(found[0])
    if not len(found):
        raise UserError(f"{name}: no sample of {index.name} has it in its key or source; use --random for any sample")
    first = ", ".join(f"{index.key(row)} ({index.source(row)})" for row in found[:3].tolist())
    raise UserError(f"{name}: {len(found)} samples have it in their key or source: {first}, …; give one's key")


def contains(names: np.ndarray, part: bytes) -> np.ndarray:
    """Which byte strings contain a part: bool [N]."""
    return np.char.find(names, part) >= 0


def random_sample(
    index: ShardIndex, config: TrainConfig, *, side: str | None, class_name: str | None, step: int | None
) -> int:
    """A random sample of a split that is on a side, of a class, and in a training step; raises UserError if none is.

    With augmentation it is a training sample, unless a side is given.
    """
    side = side or ("train" if config.augment.is_on else None)
    used = index.subsets[:, index.split_names.index(config.split)]
    rows = np.flatnonzero(used == SUBSETS[side] if side else used)
    if class_name is not None:
        if class_name not in index.classes:
            hint = did_you_mean(class_name, index.classes) or f"; {index.data_dir}/dataset.json names all"
            raise UserError(f"--class: {class_name} does not exist{hint}")
        rows = rows[(index.all_labels(rows) == index.classes.index(class_name)).any(axis=1)]
    if step is not None:
        rows = np.intersect1d(rows, train_plan(index, config).batch(step).sample)
    if not len(rows):
        raise UserError(f"{index.name}: split {config.split} has no such sample; leave out --side, --class or --step")
    return int(np.random.default_rng().choice(rows))


def sample_metadata(index: ShardIndex, sample: int) -> dict[str, Any]:
    """The sample in the JSON file; docs/json.md has the meaning of the keys."""
    key_json = read_key_json(index, sample)
    return {
        "key": index.key(sample),
        "source": index.source(sample),
        "classes": [index.classes[label] for label in index.all_labels(np.array([sample]))[0] if label >= 0],
        "num_frames": int(index.num_frames[sample]),
        "fps": key_json["fps"] if key_json else 0.0,
        "width": int(index.content[sample, 2]),
        "height": int(index.content[sample, 3]),
    }


# Clips


def select_clips(
    index: ShardIndex, config: TrainConfig, sample: int, *, step: int | None = None, num_clips: int = 1
) -> PlannedClips:
    """The clips that training or an evaluation takes of a sample; raises UserError if split or step does not use it.

    Args:
        step: Take all clips of this training step; None takes one of each epoch, from the first on.
        num_clips: Number of epochs, or number of clips per video in an evaluation.
    """
    if step is not None:
        batch = train_plan(index, config).batch(step)
        if sample not in batch.sample:
            raise UserError(f"--step: {step} does not train on {index.key(sample)}; leave out --step, or take --random")
        return batch[batch.sample == sample]
    if not is_trained(index, config, sample):
        videos = videos_of(index, index.samples_of(config.split, "test"))
        views = views_per_sample(videos, num_clips=num_clips)
        return EvalPlan(index, np.array([sample]), config.clip, global_batch_size=views, num_views=views).batch(0)
    plan, parts = train_plan(index, config), []
    for epoch in range(num_clips):
        stream = np.arange(plan.samples_per_epoch) + epoch * plan.samples_per_epoch
        position = int(stream[plan.samples_at(stream) == sample][0])
        batch = plan.batch(position // plan.global_batch_size)
        parts.append(vars(batch[batch.position == position]))
    return PlannedClips(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def is_trained(index: ShardIndex, config: TrainConfig, sample: int) -> bool:
    """Whether a sample is on the training side of the split; raises UserError if the split does not use it."""
    subset, key = index.subsets[sample, index.split_names.index(config.split)], index.key(sample)
    if not subset:
        raise UserError(f"{key}: split {config.split} does not use it; choose another --split, or --segment")
    return bool(subset == SUBSETS["train"])


def describe_clips(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> list[dict[str, Any]]:
    """The clips in the JSON file: frame numbers of the source, crops in pixels after resizing."""
    frames, labels = clip_frames(index, config, clips) * index.frame_step, drawn_labels(index, clips)
    described: list[dict[str, Any]] = []
    for n, position in enumerate(clips.position.tolist()):
        if is_trained(index, config, clips.sample[n]):
            epoch = position // len(index.samples_of(config.split, "train"))
            described.append({"step": position // config.global_batch_size, "epoch": epoch})
        else:
            described.append({"view": int(clips.view[n])})
        drawn, side = clips.augmented[n], config.clip.crop_size
        height, width = (drawn["height"], drawn["width"]) if drawn["height"] else (side, side)
        crop = {"left": clips.left[n], "top": clips.top[n], "height": height, "width": width}
        flip, name = bool(clips.flip[n]), index.classes[labels[n]]
        described[n] |= {"frames": frames[n].tolist(), "crop": {name: int(value) for name, value in crop.items()}}
        described[n] |= {"flip": flip, "class": name}
        if drawn["height"]:  # else the plan augments nothing
            color = dict(zip(COLOR, drawn["color"].round(4).tolist(), strict=True))
            described[n] |= {"color": color, "erased": drawn["erased"].tolist()}
    return described


def clip_frames(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> np.ndarray:
    """Numbers of the stored frames in each clip: int64 [N, T]."""
    spec = stored_clip(config.clip, frame_step=index.frame_step)
    return frame_indices(clips.start, spec, video_frames=index.num_frames[clips.sample])


class FixedPlan(EvalPlan):
    """A plan with a single step, of the given clips."""

    def __init__(self, index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> None:
        super().__init__(index, clips.sample, config.clip, global_batch_size=len(clips))
        self._clips = clips
        if clips.augmented["height"].any():
            self.augmentation = config.augment

    def batch(self, step: int) -> PlannedClips:
        """The given clips."""
        return self._clips


def network_input(index: ShardIndex, config: TrainConfig, clips: PlannedClips) -> np.ndarray:
    """Clips as the loader gives them to the network, without normalization: uint8 RGB [N, T, H, W, 3].

    Raises:
        ShardError: A clip is damaged.
        LoaderError: DALI fails.
    """
    with ClipLoader(index, FixedPlan(index, config, clips), mean=config.mean, std=config.std) as loader:
        batch = next(iter(loader))
        for sample, reason in batch.damaged.items():
            raise damaged(index, sample, reason)
        values = batch.clips.permute(0, 2, 3, 4, 1).numpy()  # [N, T, H, W, 3]
        pixels = values * np.array(per_channel(config.std)) + np.array(per_channel(config.mean))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


# Pictures


class Frame(NamedTuple):
    """A frame with its pictures, uint8 RGB [h, w, 3]: the stored frame alone, or three as in PANELS.

    `box` is left, top, right and bottom of the crop in the first picture, pixels.
    """

    caption: str
    pictures: list[np.ndarray]
    box: tuple[float, ...] = ()


class FrameGroup(NamedTuple):
    """The frames of a clip or segment with a title; all groups have pictures of the same sizes."""

    title: str
    frames: list[Frame]


def segment_group(index: ShardIndex, sample: int, frames: np.ndarray) -> FrameGroup:
    """Stored frames of a sample, by their numbers [F]."""
    shown = zip(frames * index.frame_step, stored_frames(index, sample, frames), strict=True)
    title = f"{len(frames)} of {index.num_frames[sample]} stored frames"
    return FrameGroup(title, [Frame(f"frame {number}", [picture]) for number, picture in shown])


def clip_groups(
    index: ShardIndex, config: TrainConfig, clips: PlannedClips, described: Sequence[dict[str, Any]]
) -> list[FrameGroup]:
    """Clips as stored, cropped, and as the network gets them; raises ShardError if one is damaged.

    Args:
        described: From `describe_clips`.
    """
    numbers, given = clip_frames(index, config, clips), network_input(index, config, clips)
    scale, groups = config.clip.scale(index.size), []
    for n, clip in enumerate(described):
        stored = stored_frames(index, int(clips.sample[n]), numbers[n])
        left, top, height, width = (clip["crop"][name] / scale for name in ("left", "top", "height", "width"))
        box = left, top, left + width, top + height
        rows, columns = slice(round(top), round(top + height)), slice(round(left), round(left + width))
        side = round(config.clip.crop_size / scale)
        frames = [
            Frame(f"frame {frame}", [stored[t], square(stored[t, rows, columns], side), given[n, t]], box)
            for t, frame in enumerate(clip["frames"])
        ]
        title = ", ".join(f"{name} {clip[name]}" for name in ("step", "epoch", "view") if name in clip)
        title += f": frames {clip['frames'][0]} to {clip['frames'][-1]}" + ", mirrored" * clip["flip"]
        if config.augment.colors:
            title += "".join(f", {name} {value:.3g}" for name, value in clip.get("color", {}).items())
        groups.append(FrameGroup(title, frames))
    return groups


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture resized to uint8 RGB [side, side, 3]."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def draw(kind: str, title: str, groups: Sequence[FrameGroup]) -> list[Image.Image]:
    """An image per frame, with its pictures side by side; for ".png", a sheet of all frames."""
    if kind == ".png":
        blocks = []
        for group in groups:
            cells = [labeled([frame.caption], grid([[own] for own in pictures_of(frame, CELL_HEIGHT)]))
                     for frame in group.frames]  # fmt: skip
            columns = -(-len(cells) // -(-len(cells) // MAX_COLUMNS))  # so that all rows are about equally long
            rows = [cells[first : first + columns] for first in range(0, len(cells), columns)]
            blocks.append([labeled([group.title], grid(rows))])
        return [labeled([title], grid(blocks), margin=MARGIN)]
    shares = [picture.shape[1] / picture.shape[0] for picture in groups[0].frames[0].pictures]
    height = min(PANEL_HEIGHT, round((PANELS_WIDTH - GAP * (len(shares) - 1)) / sum(shares)))
    return [
        labeled([title, f"{group.title}; {frame.caption}", *[PANELS] * (len(shares) > 1)],
                grid([pictures_of(frame, height)]), margin=MARGIN)
        for group in groups
        for frame in group.frames
    ]  # fmt: skip


def pictures_of(frame: Frame, height: int) -> list[Image.Image]:
    """The pictures of a frame, scaled to a height in pixels, with the crop drawn into the first."""
    images = []
    for picture in frame.pictures:
        width = round(picture.shape[1] * height / picture.shape[0])
        images.append(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    if frame.box:
        left, top, right, bottom = (round(side * height / len(frame.pictures[0])) for side in frame.box)
        ImageDraw.Draw(images[0]).rectangle((left, top, right - 1, bottom - 1), outline=YELLOW, width=2)
    return images


def labeled(lines: Sequence[str], image: Image.Image, *, margin: int = 0) -> Image.Image:
    """Lines of text above an image; width and height are even, because H.264 needs that."""
    font, line_height = ImageFont.load_default(12), 17
    width = max(image.width, TEXT_WIDTH if margin else 0) + 2 * margin
    height = image.height + line_height * len(lines) + 2 * margin
    paper = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    for n, line in enumerate(lines):
        ImageDraw.Draw(paper).text((margin, margin + n * line_height), line, font=font, fill=INK)
    paper.paste(image, (margin, margin + line_height * len(lines)))
    return paper


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of images with gaps between them."""
    width = max(sum(image.width + GAP for image in row) for row in rows) - GAP
    height = sum(max(image.height for image in row) + GAP for row in rows) - GAP
    paper, top = Image.new("RGB", (width, height), PAPER), 0
    for row in rows:
        left = 0
        for image in row:
            paper.paste(image, (left, top))
            left += image.width + GAP
        top += max(image.height for image in row) + GAP
    return paper


def encode(kind: str, images: Sequence[Image.Image], *, frame_s: float) -> bytes:
    """The first image as a PNG, or all images as a GIF or MP4, with `frame_s` seconds for each."""
    if kind == ".mp4":
        return encode_mp4(np.stack([np.asarray(image) for image in images]), fps=1 / frame_s, crf=12)
    buffer = io.BytesIO()
    if kind == ".png":
        images[0].save(buffer, "PNG", optimize=True)
    else:  # the same 256 colors for all images, so that the parts that do not move are stored once
        palette = grid([images[:: -(-len(images) // 8)]]).quantize(256)
        first, *others = [image.quantize(palette=palette) for image in images]
        time_ms = 10 * max(2, round(100 * frame_s))  # GIF times are in 10 ms; players show a frame of 10 ms for 100 ms
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=time_ms, loop=0)
    return buffer.getvalue()
