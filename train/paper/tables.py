"""Tables 3 to 7 of arXiv:1708.05038: the networks and clips they compare, their numbers, what they are said to show."""

from dataclasses import dataclass, field

from res3d_video.train.models import MODELS

# Table 5's 46.1 % at 112 pixels is the entry of Table 4 for stride 4, so SR18 has that stride where none is named.
SR18_STRIDE = 4
RES3D_STRIDE = 2


@dataclass(frozen=True)
class Row:
    """One network on one kind of clip.

    Attributes:
        name: As the table has it.
        model: Key of MODELS.
        frame_stride: Source frames from one taken frame to the next.
        paper: Clip accuracy on UCF101 split 1 that the paper prints, per cent; None where it is not known to us.
    """

    name: str
    model: str
    frame_stride: int = RES3D_STRIDE
    paper: float | None = None

    @property
    def num_frames(self) -> int:
        return MODELS[self.model].num_frames

    @property
    def crop_size(self) -> int:
        """Pixels, in the paper."""
        return MODELS[self.model].crop_size


@dataclass(frozen=True)
class Claim:
    """What a table is said to show, and when that counts as seen.

    Attributes:
        text: In our words.
        above: (row, rival): the row must be more accurate.
        not_below: (row, rival): the rival must not be more accurate.
    """

    text: str
    above: tuple[tuple[str, str], ...]
    not_below: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        factor: What its rows differ in.
        note: What a reader must know of it.
    """

    number: int
    factor: str
    rows: tuple[Row, ...]
    claim: Claim
    note: str = field(default="")


def _pairs(better: tuple[str, ...], rivals: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((row, rival) for row in better for rival in rivals)


MIXED = tuple(f"{kind}{n}" for kind in ("MC", "rMC") for n in (2, 3, 4, 5))

TABLES: dict[int, Table] = {
    table.number: table
    for table in (
        Table(
            3,
            "kind and depth of the network",
            (
                Row("2D-Res18", "res2d18", 1, 42.2),
                Row("2D-Res34", "res2d34", 1, 42.2),
                Row("3D-Res18", "res3d18", paper=45.6),
                Row("3D-Res34", "res3d34", paper=45.9),
            ),
            Claim(
                "3D networks beat 2D networks of the same depth",
                above=(("3D-Res18", "2D-Res18"), ("3D-Res34", "2D-Res34")),
            ),
        ),
        Table(
            4,
            "frame stride of SR18",
            tuple(
                Row(str(stride), "sr18", stride, accuracy)
                for stride, accuracy in ((1, 43.8), (2, 46.3), (4, 46.1), (8, 38.8), (16, 38.1), (32, 36.9))
            ),
            Claim("taking one of every 2 to 4 frames is best", above=_pairs(("2", "4"), ("1", "8", "16", "32"))),
            note="The paper skips videos shorter than a clip; here their last frame repeats.",
        ),
        Table(
            5,
            "resolution of SR18",
            (
                Row("56", "sr18-56", SR18_STRIDE, 37.6),
                Row("112", "sr18", SR18_STRIDE, 46.1),
                Row("224", "sr18-224", SR18_STRIDE, 44.0),
            ),
            Claim("112 pixels are best", above=_pairs(("112",), ("56", "224"))),
            note="Stems as the text has them. The stride is not named; 46.1 % is Table 4's entry for stride 4.",
        ),
        Table(
            6,
            "kind of convolution",
            (
                Row("2D", "res2d18-33m", 1),
                *(Row(name, name.lower()) for name in MIXED),
                Row("2.5D", "r2plus1d18"),
                Row("3D", "res3d18"),
            ),
            Claim("3D convolutions in all layers are best", above=_pairs(("3D",), ("2D", *MIXED, "2.5D"))),
            note="Widths fitted to the parameters of 3D. The paper's widths and numbers are not known to us.",
        ),
        Table(
            7,
            "depth of SR18",
            tuple(
                Row(str(depth), "sr18" if depth == 18 else f"sr{depth}-33m", SR18_STRIDE)
                for depth in (10, 16, 18, 26, 34)
            ),
            Claim(
                "depth 18 is the best trade-off: better than shallower networks, and deeper ones are no better",
                above=_pairs(("18",), ("10", "16")),
                not_below=_pairs(("18",), ("26", "34")),
            ),
            note="Widths fitted to the parameters of depth 18. The paper's widths and numbers are not known to us.",
        ),
    )
}
