"""Scenes whose class is only how they move. Pure numpy; `make_demo_videos.py` encodes them.

Textured shapes over a drifting textured ground. A shape's state is a point on a torus: where it is across and down, how
large, and how far turned. It is drawn uniformly, and the class says which way it moves on. So by construction

- in every frame of every class the state is uniform: one frame cannot tell the class, whatever it shows;
- a scene's frame at half time is the same in all classes, and opposite classes are time reversals;
- mirroring a clip makes right of left: train with flips off.
"""

from collections.abc import Iterator

import numpy as np

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
BLOCK = 8  # frames rendered at once, few enough to stay in the cache


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
    canvases = np.zeros((BLOCK, height + 2 * margin, width + 2 * margin, 3), np.float32)
    sights = canvases[:, margin : margin + height, margin : margin + width]
    video = np.empty((num_frames, height, width, 3), np.uint8)
    for first in range(0, num_frames, BLOCK):
        block = slice(first, first + BLOCK)
        for sight, position in zip(sights, positions[block], strict=False):
            sight[:] = window(ground, position * height, height=height, width=width)
        for k in range(NUM_SHAPES):
            for t, corner, alpha, color in render_shape(scene, k, states[block, k], height=height, width=width):
                paint(canvases[t], corner + margin, alpha, color)
        video[block] = np.clip(sights[: len(states[block])] * light + 0.5, 0, 255)
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


def render_shape(
    scene: Scene, k: int, states: np.ndarray, *, height: int, width: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Shape `k` in a square patch that follows it, in those of some frames in which it can be seen.

    Args:
        states: [F, 4] in [0, 1).

    Yields:
        Number of the frame, upper left corner (down, across) in its pixels, opacity [P, P, 1], color [P, P, 3].
    """
    bound = RADIUS[1] * height
    across = states[:, 0] * (width + 2 * bound) - bound
    down = states[:, 1] * (height + 2 * bound) - bound
    radius = height * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** states[:, 2]
    apart_across, apart_down = abs(across - width / 2) - width / 2, abs(down - height / 2) - height / 2
    seen = np.flatnonzero(np.maximum(apart_across, apart_down) < radius + 4)  # 4: the edge and the shadow
    if not len(seen):
        return
    radius, center = radius[seen], np.stack([down, across], axis=1)[seen]  # [V], [V, 2]: V frames see it
    size, angle = states[seen, 2, None, None], 2 * np.pi * states[seen, 3, None, None]
    reach = int(np.ceil(radius.max())) + 1
    corners = np.floor(center).astype(np.int64) - reach
    pixels = np.arange(2 * reach + 1)
    y = (corners[:, :1] + pixels - center[:, :1]).astype(np.float32)[:, :, None]  # [V, P, 1] from the center, pixels
    x = (corners[:, 1:] + pixels - center[:, 1:]).astype(np.float32)[:, None, :]  # [V, 1, P]
    scale = radius.astype(np.float32)[:, None, None]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    u, v = (x * cos + y * sin) / scale, (y * cos - x * sin) / scale  # [V, P, P] in the shape's own frame

    depth = np.float32(scene.lobe_depths[k])
    outline = (1 + depth * np.cos(scene.lobes[k] * np.arctan2(v, u))) / (1 + depth)
    distance = (outline - np.hypot(u, v)) * scale  # pixels to the outline, positive inside
    # The largest and the smallest are faint, so that going from one to the other is no jump.
    presence = np.clip(8 * size * (1 - size), 0, 1).astype(np.float32)
    alphas = np.clip(distance / EDGE + 0.5, 0, 1) * presence

    texel = TEXTURE_SIZE / 4  # a quarter of the texture to a radius
    row, column = scene.texture_starts[k]
    rows, columns = np.rint(v * texel).astype(np.int32) + row, np.rint(u * texel).astype(np.int32) + column
    texture = scene.shape_texture[rows % TEXTURE_SIZE, columns % TEXTURE_SIZE]
    rim = np.clip(distance / (0.35 * scale), 0, 1)  # darker towards the rim, as if round
    colors = blend(scene.shape_colors[k], texture) * (0.6 + 0.4 * rim)[..., None]
    yield from zip(seen, corners, alphas[..., None], colors, strict=True)


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


def paint(canvas: np.ndarray, corner: np.ndarray, alpha: np.ndarray, color: np.ndarray) -> None:
    """Lay a patch [P, P, 3] of opacity [P, P, 1] on the canvas, in place, after its shadow."""
    top, left = corner
    size = len(alpha)
    shadow = canvas[top + 3 : top + 3 + size, left + 2 : left + 2 + size]
    shadow *= 1 - 0.35 * alpha
    below = canvas[top : top + size, left : left + size]
    below += alpha * (color - below)
