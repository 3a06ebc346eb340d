"""tools/draw_figures.py and what it draws with: filters, bars, curves, tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from res3d_video.pipeline.errors import UserError
from res3d_video.tools.bench.measure import Spread
from res3d_video.tools.draw_figures import as_colors, draw_filters, first_convolution, main, read_filters
from res3d_video.tools.plots import draw, draw_curves, draw_table, read_curves, what_differs
from res3d_video.train.checkpoint import save_checkpoint
from res3d_video.train.config import TrainConfig, override, to_dict
from res3d_video.train.models import build_model
from tests.checkpoints import tiny_state
from tests.tools.commands import run
from tests.tools.pages.made_runs import scored_line, write_run


def write_checkpoint(path: Path, *, model: str, width: int = 4, weight: torch.Tensor | None = None) -> Path:
    """A checkpoint of a fresh narrow network; `weight` takes the place of conv1's."""
    num_frames = {"num_frames": 1} if model.startswith("res2d") else {"num_frames": 16} if model == "c3d" else {}
    config = override(TrainConfig(), model=model, width=width, **num_frames)
    weights = build_model(config.model, num_classes=3).state_dict()
    if weight is not None:
        weights["stem.conv.weight"].copy_(weight)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, tiny_state(1_500, model=weights, optimizer={}, loader={}, config=to_dict(config)))
    return path


def pixels_of(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a picture."""
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """matplotlib's figures in the order in which the test makes them."""
    figure_module = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    made, found = figure_module.Figure.__init__, []

    def remember(self: object, *args: object, **options: object) -> None:
        made(self, *args, **options)
        found.append(self)

    monkeypatch.setattr(figure_module.Figure, "__init__", remember)
    return found


def test_filters_and_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    three, two = (write_checkpoint(tmp_path / f"{model}.pt", model=model) for model in ("res3d10", "res2d18"))
    runs = [some_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    for words, width in ((["filters", "--checkpoint", three, "--checkpoint", two], 1200), (["curves", *runs], 1400)):
        assert run(main, *words, "--out", tmp_path / "f.png").stdout == f"picture {tmp_path / 'f.png'}\n"
        assert pixels_of(tmp_path / "f.png").shape[1] == width


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["curves", "--out", "c.png"], 2, "RUN"),
        (["curves", "a", "--out", "c.pdf"], 2, "c.pdf must end in .png"),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, message: str) -> None:
    assert message in run(main, *words, code=code).stderr
    assert not Path("x.png").exists()


def test_a_filter_is_normalised_over_all_of_its_slices_together() -> None:
    weight = np.zeros((2, 3, 2, 1, 1), np.float32)
    weight[0, 0, 0], weight[0, 1, 1] = 4.0, -1.0  # red in the first slice; a quarter of it, less green, in the second
    weight[1, 2, 1] = -0.01  # the other filter has its own largest weight
    assert as_colors(weight)[:, :, 0, 0].tolist() == [[[255, 128, 128], [128, 96, 128]], [[128] * 3, [128, 128, 0]]]
    assert (as_colors(0 * weight) == 128).all()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("res3d10", (4, 3, 3, 7, 7)), ("res2d18", (4, 3, 1, 7, 7)), ("rmc3", (4, 3, 1, 7, 7)),
        ("r2plus1d18", (11, 3, 1, 7, 7)), ("c3d", (4, 3, 3, 3, 3)), ("sr18-56", (4, 3, 3, 5, 5)),
    ],
)  # fmt: skip
def test_the_first_convolution_of_every_family_is_found(tmp_path: Path, model: str, shape: tuple) -> None:
    width = 16 if model == "r2plus1d18" else 4
    filters = read_filters(write_checkpoint(tmp_path / "run" / "latest.pt", model=model, width=width))
    count, _, *size = shape
    assert filters.weight.shape == shape
    network = f"{model}, width {width}, step 1,500, demo (run/latest.pt)"
    assert filters.text == f"{network}: {count} filters {size[0]}×{size[1]}×{size[2]}"


def test_networks_that_do_not_begin_with_filters_on_colours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^f.pt: c takes 2 channels; only filters on RGB can be shown$"):
        first_convolution({"c": torch.zeros(4, 2, 3, 3)}, where="f.pt")
    with pytest.raises(ValueError, match=r"^f.pt: the network has no convolution"):
        first_convolution({"fc": torch.zeros(4, 2)}, where="f.pt")


def test_the_tile_of_a_known_filter_has_the_known_colors_on_the_page(tmp_path: Path) -> None:
    weight = torch.zeros(4, 3, 3, 7, 7)
    weight[2, 0, 0], weight[2, 1, 2] = 0.5, 0.5  # the third is red, then nothing, then green
    three = read_filters(write_checkpoint(tmp_path / "3d.pt", model="res3d10", weight=weight))
    two = read_filters(write_checkpoint(tmp_path / "2d.pt", model="res2d18"))
    draw_filters(tmp_path / "new" / "f.png", [three, two])
    page = pixels_of(tmp_path / "new" / "f.png")
    assert page.shape[1] == 1200
    for color in ([255, 128, 128], [128, 255, 128]):  # one slice each, and text is grey
        rows, columns = np.nonzero((page == color).all(axis=2))
        assert len(rows) > 0.8 * 42 * 42 * 0.5
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


OURS = {"loader alone": Spread(15_000, 14_200, 15_100), "real step": Spread(2_500, 2_480, 2_520)}
PEERS = {"PyAV DataLoader": Spread(19.7, 19.0, 21.0)}


def test_a_bar_is_as_long_as_its_median_and_its_number_stands_beside_it(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path / "new" / "bench.png", "title", OURS, PEERS)
    assert pixels_of(tmp_path / "new" / "bench.png").shape == (700, 1200, 3)
    (axes,) = figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == [15_000, 2_500, 19.7]
    assert [text.get_text() for text in axes.texts] == ["15,000", "2,500", "19.7"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*OURS, *PEERS]


def some_run(folder: Path, **options: Any) -> Path:
    """A run of a loss every ten steps, evaluated twice."""
    lines = [{"event": "train", "step": step, "loss": 2.0 - step / 100, "lr": 0.01} for step in range(10, 101, 10)]
    return write_run(folder, [*lines, scored_line("eval", 50, 0.25), scored_line("eval", 100, 0.5)], **options)


def test_raw_and_smoothed_losses_and_accuracies_in_per_cent_are_drawn(tmp_path: Path, figures: list[Any]) -> None:
    draw_curves(tmp_path / "new" / "c.png", [read_curves(some_run(tmp_path / "a"))])
    left, right = figures[0].axes
    raw, mean, *_ = left.lines
    assert raw.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])
    assert mean.get_ydata()[:3] == pytest.approx([1.9, 1.8, 1.7])  # a window of 2 steps holds one point
    assert right.lines[0].get_xdata().tolist() == [50, 100]
    assert right.lines[0].get_ydata().tolist() == [25, 50]
    assert right.lines[-1].get_ydata() == [25, 25]  # chance


def test_what_differs_names_every_field_in_which_not_all_agree_but_no_bookkeeping(tmp_path: Path) -> None:
    different = ({"lr": 0.01, "log_every": 5}, {"lr": 0.02, "save_every": 9}, {"model": "res3d34"}, {"data": "other"})
    *runs, other = [read_curves(some_run(tmp_path / str(i), **options)) for i, options in enumerate(different)]
    assert what_differs(runs) == ["lr 0.01, model res3d18", "lr 0.02, model res3d18", "lr 0.01, model res3d34"]
    assert what_differs(runs[:1]) == [""]
    assert what_differs([runs[0], other]) == ["data demo", "data other"]


def test_curves_need_a_training_loss_and_a_config_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"empty: no training step in metrics.jsonl yet; wait for --log-every"):
        read_curves(write_run(tmp_path / "empty", []))
    (some_run(tmp_path / "run") / "config.json").write_text('{"config": {"model": {"name": "res9"}}}')
    with pytest.raises(UserError, match=r"config.json: model: res9 does not exist.*; repair the file"):
        read_curves(tmp_path / "run")


def test_a_table_shows_ours_beside_the_papers_and_leaves_out_the_rest(tmp_path: Path, figures: list[Any]) -> None:
    ours, paper = {"a": [48.0, 52.0], "c": [60.0]}, {"a": 42.2, "b": 45.6, "c": None}
    draw_table(tmp_path / "t.png", ours, paper, title="", factor="depth", chance=25.0)
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["50.0", "60.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    (printed,) = [c for c in axes.collections if c.get_label() == "the paper, all of UCF101"]
    assert [tuple(place) for place in printed.get_offsets().tolist()[:2]] == [(0, 42.2), (1, 45.6)]
