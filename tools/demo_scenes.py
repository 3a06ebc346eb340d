"""Scenes whose class is only how they move. Pure numpy; `make_demo_videos.py` encodes them.

Textured shapes over a drifting textured ground. A shape's state is a point on a torus: where it is across and
down, how large, and how far turned. It is drawn uniformly, and the class says which way it moves on: left or
right, up or down, smaller or larger, counter-clockwise or clockwise. So by construction

- in every frame of every class the state is uniform: one frame cannot tell the class, whatever it shows;
- a scene's frame at half time is the same in all classes, and opposite classes are time reversals;
- mirroring a clip makes right of left: train with flips off.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from res3d_video.pipeline.errors import UserError

# Upper left corner (down, across) in frame pixels, opacity [P, P, 1], colour [P, P, 3].
Patch = tuple[np.ndarray, np.ndarray, np.ndarray]

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
BLOCK = 8


@dataclass(frozen=True)
class Scene:
    """Everything about a video but its class; K is NUM_SHAPES, colours are RGB in [0, 1].

    Attributes:
        states: Of the shapes at half time, [K, 4] in [0, 1): across, down, log size, angle.
        lobes: Bulges round the outline, int [K], and their depth, [K].
        shape_texture, ground_texture: Periodic noise of mean 0 and deviation 1, [S, S].
        texture_starts: The texel in the middle of each shape, int [K, 2] (down, across).
        shape_colours, ground_colours: Of low and high texture, [K, 2, 3] and [2, 3].
        speed: Factor to SHIFT, GROWTH and TURN.
        ground_start, ground_velocity: (down, across) in frame heights, and a frame.
        light: Brightness added per frame height (down, across).
    """

    states: np.ndarray
    lobes: np.ndarray
    lobe_depths: np.ndarray
    shape_texture: np.ndarray
    ground_texture: np.ndarray
    texture_starts: np.ndarray
    shape_colours: np.ndarray
    ground_colours: np.ndarray
    speed: float
    ground_start: np.ndarray
    ground_velocity: np.ndarray
    light: np.ndarray


def draw_scene(seed: int) -> Scene:
    """The scene of a seed."""
    rng = np.random.default_rng(seed)
    heading = rng.uniform(0, 2 * np.pi)
    shine = rng.uniform(0, 2 * np.pi)
    return Scene(
        states=rng.uniform(size=(NUM_SHAPES, 4)),
        lobes=rng.integers(2, 6, NUM_SHAPES),
        lobe_depths=rng.uniform(0.15, 0.4, NUM_SHAPES),
        shape_texture=draw_noise(rng, roughness=1.6),
        ground_texture=draw_noise(rng, roughness=1.4),
        texture_starts=rng.integers(0, TEXTURE_SIZE, (NUM_SHAPES, 2)),
        shape_colours=draw_colours(rng, NUM_SHAPES, saturation=(0.35, 0.9), brightness=(0.35, 1.0)),
        ground_colours=draw_colours(rng, 1, saturation=(0.1, 0.4), brightness=(0.3, 0.6))[0],
        speed=rng.uniform(*SPEED),
        ground_start=rng.uniform(size=2),
        ground_velocity=rng.uniform(*GROUND_SPEED) * np.array([np.sin(heading), np.cos(heading)]),
        light=0.25 * np.array([np.sin(shine), np.cos(shine)]),
    )


def draw_noise(rng: np.random.Generator, *, roughness: float) -> np.ndarray:
    """Periodic noise [S, S] whose amplitude falls as 1 / frequency^roughness, as in natural pictures."""
    down = np.fft.fftfreq(TEXTURE_SIZE)[:, None]
    across = np.fft.rfftfreq(TEXTURE_SIZE)[None, :]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf  # no constant part
    spectrum = np.fft.rfft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE))) / frequency**roughness
    noise = np.fft.irfft2(spectrum, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return (noise / noise.std()).astype(np.float32)


def draw_colours(
    rng: np.random.Generator, num: int, *, saturation: tuple[float, float], brightness: tuple[float, float]
) -> np.ndarray:
    """`num` pairs [num, 2, 3] of a darker and a lighter colour of neighbouring hues."""
    hue = rng.uniform(size=(num, 1)) + np.array([[0.0, 0.12]])
    value = rng.uniform(*brightness, size=(num, 1)) * np.array([[0.45, 1.0]])
    chroma = value * rng.uniform(*saturation, size=(num, 1))
    sixths = (hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6  # [num, 2, 3], along the wheel of HSV
    missing = 1 - np.clip(np.abs(sixths - 3) - 1, 0, 1)
    return (value[..., None] - chroma[..., None] * missing).astype(np.float32)


def render_video(class_name: str, *, seed: int, num_frames: int, height: int, width: int) -> np.ndarray:
    """The scene of `seed`, moving as the class says.

    Returns:
        uint8 [num_frames, height, width, 3], RGB.

    Raises:
        ValueError: The class does not exist.
    """
    scene = draw_scene(seed)
    states, positions = motion(class_name, scene, num_frames=num_frames, height=height, width=width)
    layers: list[list[Patch]] = [[] for _ in range(num_frames)]
    for first in range(0, num_frames, BLOCK):  # few enough frames at once to stay in the cache
        for k in range(NUM_SHAPES):
            block = states[first : first + BLOCK, k]
            for t, patch in render_shape(scene, k, block, height=height, width=width):
                layers[first + t].append(patch)

    ground = blend(scene.ground_colours, scene.ground_texture)  # [S, S, 3]
    light = lighting(scene.light, height=height, width=width)
    margin = 2 * int(np.ceil(RADIUS[1] * height)) + 8  # the patch of a shape in sight and its shadow lie inside
    canvas = np.zeros((height + 2 * margin, width + 2 * margin, 3), np.float32)
    sight = canvas[margin : margin + height, margin : margin + width]
    video = np.empty((num_frames, height, width, 3), np.uint8)
    for t, patches in enumerate(layers):
        sight[:] = window(ground, positions[t] * height, height=height, width=width)
        for corner, alpha, colour in patches:
            paint(canvas, corner + margin, alpha, colour)
        video[t] = np.clip(sight * light + 0.5, 0, 255)
    return video


def motion(class_name: str, scene: Scene, *, num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where everything is; a frame depends on its row of these and on nothing else that the class decides.

    Returns:
        The shapes' states, [F, K, 4] in [0, 1); the ground's positions, [F, 2] in frame heights.

    Raises:
        ValueError: The class does not exist.
    """
    if class_name not in DIRECTIONS:
        raise UserError(f"class_name: {class_name!r} does not exist; choose one of {', '.join(CLASSES)}")
    direction = np.array(DIRECTIONS[class_name])
    # Time is exactly symmetric around 0 and the ground turns round with the class: reversals are exact.
    times = np.arange(num_frames) - (num_frames - 1) / 2
    field = np.array([width, height]) / height + 2 * RADIUS[1]  # shapes leave and enter out of sight
    periods = np.array([*field, np.log(RADIUS[1] / RADIUS[0]), 2 * np.pi])
    rates = scene.speed * np.array([SHIFT, SHIFT, GROWTH, TURN]) / periods
    states = (scene.states + times[:, None, None] * direction * rates) % 1
    return states, scene.ground_start + times[:, None] * direction.sum() * scene.ground_velocity


def render_shape(scene: Scene, k: int, states: np.ndarray, *, height: int, width: int) -> Iterator[tuple[int, Patch]]:
    """Shape `k` in a square patch that follows it, in the frames that it can be seen in.

    Args:
        states: [F, 4] in [0, 1).

    Yields:
        Frame number and patch; V below is the number of frames.
    """
    bound = RADIUS[1] * height
    across = states[:, 0] * (width + 2 * bound) - bound
    down = states[:, 1] * (height + 2 * bound) - bound
    radius = height * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** states[:, 2]
    apart_across, apart_down = abs(across - width / 2) - width / 2, abs(down - height / 2) - height / 2
    seen = np.flatnonzero(np.maximum(apart_across, apart_down) < radius + 4)  # 4: the edge and the shadow
    if not len(seen):
        return
    states, across, down, radius = states[seen], across[seen], down[seen], radius[seen]
    angle = 2 * np.pi * states[:, 3]
    reach = int(np.ceil(radius.max())) + 1
    centre = np.stack([down, across], axis=1)  # [V, 2]
    corners = np.floor(centre).astype(np.int64) - reach

    pixels = np.arange(2 * reach + 1)
    y = (corners[:, :1] + pixels - centre[:, :1]).astype(np.float32)[:, :, None]  # [V, P, 1] from the centre, pixels
    x = (corners[:, 1:] + pixels - centre[:, 1:]).astype(np.float32)[:, None, :]  # [V, 1, P]
    scale = radius.astype(np.float32)[:, None, None]
    cos, sin = (
        np.cos(angle).astype(np.float32)[:, None, None],
        np.sin(angle).astype(np.float32)[:, None, None],
    )
    u, v = (x * cos + y * sin) / scale, (y * cos - x * sin) / scale  # [V, P, P] in the shape's own frame

    depth = np.float32(scene.lobe_depths[k])
    outline = (1 + depth * np.cos(scene.lobes[k] * np.arctan2(v, u))) / (1 + depth)
    distance = (outline - np.hypot(u, v)) * scale  # pixels to the outline, positive inside
    # The largest and the smallest are faint, so that going from one to the other is no jump.
    presence = np.clip(8 * states[:, 2] * (1 - states[:, 2]), 0, 1).astype(np.float32)[:, None, None]
    alphas = np.clip(distance / EDGE + 0.5, 0, 1) * presence

    texel = TEXTURE_SIZE / 4  # a quarter of the texture to a radius
    row, column = scene.texture_starts[k]
    rows, columns = np.rint(v * texel).astype(np.int32) + row, np.rint(u * texel).astype(np.int32) + column
    texture = scene.shape_texture[rows % TEXTURE_SIZE, columns % TEXTURE_SIZE]
    rim = np.clip(distance / (0.35 * scale), 0, 1)  # darker towards the rim, as if round
    colours = blend(scene.shape_colours[k], texture) * (0.6 + 0.4 * rim)[..., None]
    yield from zip(seen, zip(corners, alphas[..., None], colours, strict=True), strict=True)


def lighting(light: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """From colours in [0, 1] to lit pixel values: [H, W, 1], 255 in the middle of the frame."""
    down = (np.arange(height)[:, None] - height / 2) / height
    across = (np.arange(width)[None, :] - width / 2) / height
    return (255 * (1 + light[0] * down + light[1] * across)).astype(np.float32)[..., None]


def blend(colours: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """From the first to the second of two colours [2, 3] as texture [...] goes from -1.5 to 1.5: [..., 3]."""
    share = np.clip(texture / 3 + 0.5, 0, 1)[..., None]
    return colours[0] + share * (colours[1] - colours[0])


def window(texture: np.ndarray, position: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """[H, W, C] of a periodic texture [S, S, C], its corner at any (down, across); linear in between."""
    whole = np.floor(position).astype(np.int64)
    down, across = (position - whole).astype(np.float32)
    rows = (whole[0] + np.arange(height + 1)) % TEXTURE_SIZE
    columns = (whole[1] + np.arange(width + 1)) % TEXTURE_SIZE
    tile = texture[rows[:, None], columns]
    tile = tile[:-1] * (1 - down) + tile[1:] * down
    return tile[:, :-1] * (1 - across) + tile[:, 1:] * across


def paint(canvas: np.ndarray, corner: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Lay a patch [P, P, 3] of opacity [P, P, 1] on the canvas, in place, after its shadow."""
    top, left = corner
    size = len(alpha)
    shadow = canvas[top + 3 : top + 3 + size, left + 2 : left + 2 + size]
    shadow *= 1 - 0.35 * alpha
    below = canvas[top : top + size, left : left + size]
    below += alpha * (colour - below)
