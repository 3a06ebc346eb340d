#!/usr/bin/env python3
"""Makes a small labeled set of videos whose classes differ only by motion, to try everything out."""

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # started by path
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __import__("pipeline")  # makes this checkout known as res3d_video

import click
import ffmpeg
import numpy as np

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import list_folder
from res3d_video.pipeline.errors import UserError
from res3d_video.tools.numbered import write_video
from res3d_video.train.terminal import QUIET, SEED, THREADS, Command, no_interrupts, print_json, progress

# Sign along (across, down, log size, angle). Angles grow clockwise on a screen, whose y points down.
DIRECTIONS = {
    "down": (0, 1, 0, 0),
    "grow": (0, 0, 1, 0),
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "shrink": (0, 0, -1, 0),
    "spin_ccw": (0, 0, 0, -1),
    "spin_cw": (0, 0, 0, 1),
    "up": (0, -1, 0, 0),
}
CLASSES = sorted(DIRECTIONS)

NUM_SHAPES = 10
RADIUS = (0.1, 0.32)  # smallest and largest, in frame heights
SHIFT, GROWTH, TURN = 0.028, 0.042, 0.13  # a frame: in frame heights, log size, radians
SPEED = (0.85, 1.3)  # a scene's factor to the three
GROUND_SPEED = (0.002, 0.006)  # frame heights a frame, in any direction
EDGE = 1.5  # pixels from outside to inside of a shape
TEXTURE_SIZE = 128


class Scene:
    """Everything about a video but its class, drawn by a seed; K is NUM_SHAPES, colors are RGB in [0, 1]."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        heading, shine = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        self.states = rng.uniform(size=(NUM_SHAPES, 4))  # at half time, [K, 4] in [0, 1): across, down, log size, angle
        self.lobes = rng.integers(2, 6, NUM_SHAPES)  # bulges round the outline, int [K]
        self.lobe_depths = rng.uniform(0.15, 0.4, NUM_SHAPES)  # [K]
        self.shape_texture = draw_noise(rng, roughness=1.6)  # [S, S]
        self.ground_texture = draw_noise(rng, roughness=1.4)
        self.texture_starts = rng.integers(0, TEXTURE_SIZE, (NUM_SHAPES, 2))  # [K, 2], texel in a shape's middle
        # Colors of low and high texture, [K, 2, 3] and [2, 3].
        self.shape_colors = draw_colors(rng, NUM_SHAPES, saturation=(0.35, 0.9), brightness=(0.35, 1.0))
        self.ground_colors = draw_colors(rng, 1, saturation=(0.1, 0.4), brightness=(0.3, 0.6))[0]
        self.speed = rng.uniform(*SPEED)  # factor to SHIFT, GROWTH and TURN
        self.ground_start = rng.uniform(size=2)  # (down, across), in frame heights
        self.ground_velocity = rng.uniform(*GROUND_SPEED) * np.array([np.sin(heading), np.cos(heading)])
        self.light = 0.25 * np.array([np.sin(shine), np.cos(shine)])  # brightness added per frame height


def draw_noise(rng: np.random.Generator, *, roughness: float) -> np.ndarray:
    """Periodic noise [S, S], mean 0, deviation 1; amplitudes fall as 1 / frequency^roughness, as in nature."""
    frequency = np.hypot(np.fft.fftfreq(TEXTURE_SIZE)[:, None], np.fft.rfftfreq(TEXTURE_SIZE))
    frequency[0, 0] = np.inf  # no constant part
    spectrum = np.fft.rfft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE))) / frequency**roughness
    noise = np.fft.irfft2(spectrum, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return (noise / noise.std()).astype(np.float32)


def draw_colors(
    rng: np.random.Generator, num: int, *, saturation: tuple[float, float], brightness: tuple[float, float]
) -> np.ndarray:
    """`num` pairs [num, 2, 3] of a darker and a lighter color of neighboring hues."""
    hue = rng.uniform(size=(num, 1)) + np.array([[0.0, 0.12]])
    value = rng.uniform(*brightness, size=(num, 1)) * np.array([[0.45, 1.0]])
    chroma = value * rng.uniform(*saturation, size=(num, 1))
    sixths = (hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6  # [num, 2, 3], along the wheel of HSV
    missing = 1 - np.clip(np.abs(sixths - 3) - 1, 0, 1)
    return (value[..., None] - chroma[..., None] * missing).astype(np.float32)


def render_video(class_name: str, *, seed: int, num_frames: int, height: int, width: int) -> np.ndarray:
    """The scene of `seed`, moving as the class says: uint8 RGB [num_frames, height, width, 3]."""
    scene = Scene(seed)
    states, positions = motion(class_name, scene, num_frames=num_frames, height=height, width=width)
    ground = blend(scene.ground_colors, scene.ground_texture)  # [S, S, 3]
    down, across = (np.arange(height)[:, None] - height / 2) / height, (np.arange(width) - width / 2) / height
    light = (255 * (1 + scene.light[0] * down + scene.light[1] * across)).astype(np.float32)[..., None]
    margin = 2 * int(np.ceil(RADIUS[1] * height)) + 8  # the patch of a shape in sight and its shadow lie inside
    canvas = np.zeros((height + 2 * margin, width + 2 * margin, 3), np.float32)
    sight = canvas[margin : margin + height, margin : margin + width]
    video = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        sight[:] = window(ground, positions[t] * height, height=height, width=width)
        for k in range(NUM_SHAPES):
            paint_shape(canvas, scene, k, states[t, k], margin=margin, height=height, width=width)
        video[t] = np.clip(sight * light + 0.5, 0, 255)
    return video


def motion(class_name: str, scene: Scene, *, num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where everything is; a frame depends on its row of these and on nothing else that the class decides.

    Returns:
        The shapes' states, [F, K, 4] in [0, 1); the ground's positions, [F, 2] in frame heights.
    """
    direction = np.array(DIRECTIONS[class_name])
    # Time is exactly symmetric around 0 and the ground turns round with the class: reversals are exact.
    times = np.arange(num_frames) - (num_frames - 1) / 2
    field = np.array([width, height]) / height + 2 * RADIUS[1]  # shapes leave and enter out of sight
    periods = np.array([*field, np.log(RADIUS[1] / RADIUS[0]), 2 * np.pi])
    rates = scene.speed * np.array([SHIFT, SHIFT, GROWTH, TURN]) / periods
    states = (scene.states + times[:, None, None] * direction * rates) % 1
    return states, scene.ground_start + times[:, None] * direction.sum() * scene.ground_velocity


def paint_shape(
    canvas: np.ndarray, scene: Scene, k: int, state: np.ndarray, *, margin: int, height: int, width: int
) -> None:
    """Lay shape `k` on the canvas, in place, after its shadow, if it can be seen.

    Args:
        canvas: [H + 2 margin, W + 2 margin, 3].
        state: [4] in [0, 1).
    """
    bound, size = RADIUS[1] * height, state[2]
    center = np.array([state[1] * (height + 2 * bound) - bound, state[0] * (width + 2 * bound) - bound])
    radius = height * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** size
    if max(abs(center[0] - height / 2) - height / 2, abs(center[1] - width / 2) - width / 2) >= radius + 4:
        return  # 4: the edge and the shadow
    reach = int(np.ceil(radius)) + 1  # of a square patch [P, P] that follows the shape
    corner = np.floor(center).astype(np.int64) - reach
    y, x = (corner[:, None] + np.arange(2 * reach + 1) - center[:, None]).astype(np.float32)  # [P] from the center
    angle, scale = 2 * np.pi * state[3], np.float32(radius)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = (x * cos + y[:, None] * sin) / scale  # [P, P] in the shape's own frame
    v = (y[:, None] * cos - x * sin) / scale

    depth = np.float32(scene.lobe_depths[k])
    outline = (1 + depth * np.cos(scene.lobes[k] * np.arctan2(v, u))) / (1 + depth)
    distance = (outline - np.hypot(u, v)) * scale  # pixels to the outline, positive inside
    # The largest and the smallest are faint, so that going from one to the other is no jump.
    presence = np.float32(np.clip(8 * size * (1 - size), 0, 1))
    alpha = (np.clip(distance / EDGE + 0.5, 0, 1) * presence)[..., None]

    texel = TEXTURE_SIZE / 4  # a quarter of the texture to a radius
    row, column = scene.texture_starts[k]
    rows, columns = np.rint(v * texel).astype(np.int32) + row, np.rint(u * texel).astype(np.int32) + column
    texture = scene.shape_texture[rows % TEXTURE_SIZE, columns % TEXTURE_SIZE]
    rim = np.clip(distance / (0.35 * scale), 0, 1)  # darker towards the rim, as if round
    color = blend(scene.shape_colors[k], texture) * (0.6 + 0.4 * rim)[..., None]

    (top, left), side = corner + margin, len(alpha)
    shadow = canvas[top + 3 : top + 3 + side, left + 2 : left + 2 + side]
    shadow *= 1 - 0.35 * alpha
    below = canvas[top : top + side, left : left + side]
    below += alpha * (color - below)


def blend(colors: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """From the first to the second of two colors [2, 3] as texture [...] goes from -1.5 to 1.5: [..., 3]."""
    share = np.clip(texture / 3 + 0.5, 0, 1)[..., None]
    return colors[0] + share * (colors[1] - colors[0])


def window(texture: np.ndarray, position: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """[H, W, C] of a periodic texture [S, S, C], its corner at any (down, across); linear in between."""
    whole = np.floor(position).astype(np.int64)
    down, across = (position - whole).astype(np.float32)
    rows = (whole[0] + np.arange(height + 1)) % TEXTURE_SIZE
    columns = (whole[1] + np.arange(width + 1)) % TEXTURE_SIZE
    tile = texture[rows[:, None], columns]
    tile = tile[:-1] * (1 - down) + tile[1:] * down
    return tile[:, :-1] * (1 - across) + tile[:, 1:] * across


SIZE = {"height": 96, "width": 128}
# Fine enough that coding artifacts do not show the motion in a single frame; one thread, for the same bytes every time.
ENCODER: dict[str, Any] = {"crf": 16, "preset": "veryfast", "threads": 1, "fflags": "+bitexact"}
SETTINGS_NAME = "demo.json"  # in OUT: what decides the videos
EPILOG = """\b
Examples:
  python tools/make_demo_videos.py                            # 8 classes of 40 videos in data/demo
  python tools/make_demo_videos.py --out data/big --videos-per-class 200 --seed 7

\b
Files are OUT/<class>/<scene>_<class>.mp4; each scene has one video per class. To keep a scene on one side:
  python tools/make_shards.py folder --raw data/demo --name demo --group-pattern '^(scene[0-9]+)_'
Train on them with --no-flip, because a mirrored move to the left is a move to the right.
"""


@click.command(cls=Command, go_on="run the same command again: finished videos are kept", epilog=EPILOG)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("data/demo"),
    show_default=True,
    help="Folder for the videos.",
)
@click.option(
    "--videos-per-class", type=click.IntRange(1, 999_999), default=40, show_default=True, help="Number of scenes."
)
@click.option(
    "--frames", "num_frames", type=click.IntRange(2, 1000), default=48, show_default=True, help="Frames per video."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the scenes.")
@click.option("--workers", type=THREADS, default=os.cpu_count(), show_default="all cores", help="Number of processes.")
@QUIET
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def main(out: Path, *, as_json: bool, **options: Any) -> None:
    """Make a small labeled set of videos whose classes differ only by motion.

    Textured shapes move left, right, up or down, grow, shrink or spin over a drifting background. A single frame does
    not show which; a 3D network learns it in minutes. Existing videos are kept.
    """
    num_videos, num_made = make_videos(out, **options)
    if as_json:
        print_json({"out": str(out), "classes": CLASSES, "num_videos": num_videos, "num_made": num_made})
    else:
        click.echo(f"{num_videos} videos of {len(CLASSES)} classes in {out}, {num_made} of them made now")


def make_videos(
    out: Path, *, videos_per_class: int, workers: int, quiet: bool, num_frames: int = 48, seed: int = 0
) -> tuple[int, int]:
    """Make the videos of a set that do not exist yet; returns the number of all, and of those made now."""
    decided = {"videos_per_class": videos_per_class, "num_frames": num_frames, "seed": seed} | SIZE
    settings, content = out / SETTINGS_NAME, (json.dumps(decided) + "\n").encode()
    if out.exists() and any(out.iterdir()) and not (settings.is_file() and settings.read_bytes() == content):
        raise click.UsageError(f"{out}: has other files than demo videos with these options; choose another --out")
    for class_name in CLASSES:
        (out / class_name).mkdir(parents=True, exist_ok=True)
    settings.write_bytes(content)
    names = [f"{name}/scene{scene:03d}_{name}.mp4" for scene in range(videos_per_class) for name in CLASSES]
    to_make = [out / name for name in names if not (out / name).exists()]
    context = multiprocessing.get_context("spawn")  # not forked: the progress bar has a thread
    with progress(str(out), unit="videos", quiet=quiet) as tell, ProcessPoolExecutor(workers, context) as pool:
        with no_interrupts():  # its processes begin here
            made = pool.map(partial(make_video, num_frames=num_frames, seed=seed), to_make)
        for done, _ in enumerate(made, start=1):
            tell(done, len(to_make))
    return len(names), len(to_make)


def make_video(path: Path, *, num_frames: int, seed: int) -> None:
    """Render and encode scene000_class.mp4 atomically; raises UserError if ffmpeg fails."""
    scene, _, class_name = path.stem.removeprefix("scene").partition("_")
    video = render_video(class_name, seed=seed * 1_000_000 + int(scene), num_frames=num_frames, **SIZE)
    unfinished = path.with_name(f".{path.name}")
    try:
        write_video(unfinished, video, vcodec="libx264", pix_fmt="yuv420p", **ENCODER)
    except ffmpeg.Error as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{path}: ffmpeg failed ({lines[0]}); try another ffmpeg, or none on PATH") from None
    unfinished.replace(path)


def demo_videos(folder: Path, *, quiet: bool) -> Path:
    """Make 32 videos of eight classes in `folder`/videos, for benchmarks without other data."""
    make_videos(folder / "videos", videos_per_class=4, workers=len(os.sched_getaffinity(0)), quiet=quiet)
    return folder / "videos"


def demo_shards(folder: Path, *, quiet: bool) -> Path:
    """Make shards of `demo_videos` in `folder`/shards."""
    listing = list_folder(demo_videos(folder, quiet=quiet), name="demo", group_pattern=r"^(scene[0-9]+)_")
    build_shards(listing, folder / "shards", BuildSettings(), workers=len(os.sched_getaffinity(0)))
    return folder / "shards"


if __name__ == "__main__":
    main()
