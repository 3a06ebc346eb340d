"""Tables of videos and pieces, and the official lists of Kinetics, Something-Something and Diving48."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from res3d_video.pipeline.convert.plan import BuildSettings
from res3d_video.pipeline.convert.run import build_shards
from res3d_video.pipeline.datasets import DatasetError, list_diving48, list_kinetics, list_ssv2, list_table
from res3d_video.pipeline.datasets.listing import Span
from res3d_video.pipeline.index import open_index
from res3d_video.tools.numbered import write_numbered_video
from tests.clips import stored_numbers
from tests.pipeline.datasets.test_folder import write_videos


def write_table(folder: Path, text: str) -> Path:
    (folder / "clips.csv").write_text(text)
    return folder / "clips.csv"


TABLE = """\
path,start_s,end_s,labels,subset,group
a.mp4,0.5,1,run;jump,train,
a.mp4,2,,jump,val,
deep/b.mp4,,,run,test,ann
gone.mp4,,,run,train,
"""


def test_a_row_is_a_video_or_a_piece_with_its_labels(tmp_path: Path) -> None:
    listing = list_table(write_videos(tmp_path, "a.mp4", "deep/b.mp4", "c.mp4"), table=write_table(tmp_path, TABLE))
    assert (listing.name, listing.classes, listing.missing) == ("clips", ["jump", "run"], ["gone.mp4"])
    assert [(r.source, r.labels, r.subsets, r.group, r.span) for r in listing.records] == [
        ("a.mp4#0.5-1", (1, 0), ("train",), "a.mp4", Span(0.5, 1)),
        ("a.mp4#2-", (0,), ("val",), "a.mp4", Span(2, float("inf"))),
        ("deep/b.mp4", (1,), ("test",), "ann", None),
    ]
    assert listing.warnings == [
        "1 videos are in no list and left out, first c.mp4",
        "split 1: 1 of 2 groups have videos in train and in val, first 'a.mp4'; accuracy on it is measured partly on "
        "scenes seen in training",
    ]


def test_a_label_counts_once_and_a_key_names_pieces_only(tmp_path: Path) -> None:
    text = "path,start_s,end_s,labels,key\na.mp4,,,run; run;jump,all\nb.mp4,1,2,jump,x#1/y\n"
    listing = list_table(write_videos(tmp_path, "a.mp4", "b.mp4"), table=write_table(tmp_path, text))
    assert [(r.source, r.labels, r.path.name) for r in listing.records] == [
        ("a.mp4", (1, 0), "a.mp4"),
        ("b.mp4#x_1_y", (0,), "b.mp4"),
    ]


def test_without_subsets_groups_are_drawn(tmp_path: Path) -> None:
    raw = write_videos(tmp_path, *(f"{n}.mp4" for n in range(20)))
    table = write_table(tmp_path, "path,label,group\n" + "".join(f"{n}.mp4,x,g{n // 2}\n" for n in range(20)))
    listing = list_table(raw, table=table, test_fraction=0.2, val_fraction=0.25)
    sides = [record.subsets for record in listing.records]
    assert [sides.count((side,)) for side in ("train", "val", "test")] == [12, 4, 4]
    assert listing.warnings == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,labl\na.mp4,x\n", "column 'labl' is unknown; did you mean label? choose path, label"),
        ("path,subset\na.mp4,train\n", "the header must name path and either label or labels, each once"),
        ("path,label\na.mp4,x,y\n", ":2: 3 cells, the header has 2; correct the line"),
        ("path,label\n../a.mp4,x\n", ":2: give a path below the raw folder and a label"),
        ("path,label,subset\na.mp4,x,dev\n", ":2: dev is no subset; choose train, val, test or nothing"),
        ("path,label,start_s,end_s\na.mp4,x,3,2\n", ":2: 3 to 2 is no piece of a video; give a start and a later end"),
        ("path,label\na.mp4,x\na.mp4,y\n", "a.mp4 is there twice; give each piece of a video a key of its own"),
        ("path,label\nb.mp4,x\n", "none of the 1 listed videos is there, such as 'b.mp4'"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_the_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(reason)):
        list_table(write_videos(tmp_path, "a.mp4"), table=write_table(tmp_path, text))


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"g": 20}), ("a.avi", {"vcodec": "mpeg4", "bf": 2})])
def test_pieces_are_cut_by_exact_frames(tmp_path: Path, name: str, options: dict) -> None:
    write_numbered_video(tmp_path / name, 120, height=64, width=96, **options)
    rows = [f"{name},x,1,2,,", f"{name},x,,,30,34", f"{name},x,4.6,9,,", f"{name},x,7,8,,"]
    table = write_table(tmp_path, "path,label,start_s,end_s,start_frame,end_frame\n" + "\n".join(rows))
    listing = list_table(tmp_path, table=table, test_fraction=0)
    result = build_shards(listing, tmp_path / "shards", BuildSettings(size=64), workers=1)
    index = open_index(tmp_path / "shards")
    found = {index.source(sample): stored_numbers(index, sample) for sample in range(index.num_samples)}
    expected = {"1-2": range(25, 50), "30-34": range(30, 34), "4.6-9": range(115, 120)}
    assert found == {f"{name}#{key}": list(frames) for key, frames in expected.items()}
    assert list(result.failures) == ["none of its … frames is in its piece"]


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"g": 20}), ("a.avi", {"vcodec": "mpeg4", "bf": 2})])
def test_at_another_rate_a_piece_ends_where_it_ends(tmp_path: Path, name: str, options: dict) -> None:
    write_numbered_video(tmp_path / name, 120, height=64, width=96, **options)
    table = write_table(tmp_path, f"path,label,start_frame,end_frame\n{name},x,24,50\n{name},x,110,120\n")
    listing, settings = list_table(tmp_path, table=table, test_fraction=0), BuildSettings(size=64, fps=12.5)
    build_shards(listing, tmp_path / "shards", settings, workers=1)
    index = open_index(tmp_path / "shards")
    found = {index.source(sample).rpartition("#")[2]: stored_numbers(index, sample) for sample in range(2)}
    assert {key: len(frames) for key, frames in found.items()} == {"24-50": 13, "110-120": 5}
    for key, frames in found.items():
        start, end = map(int, key.split("-"))
        assert np.abs(np.array(frames) - np.arange(start, end, 2)).max() <= 1


def test_kinetics_takes_trimmed_clips_or_cuts_whole_videos(tmp_path: Path) -> None:
    write_videos(tmp_path, "train/abseiling/0wR5jVB-WPk_000417_000427.mp4", "val/3caPS4FHFF8.mkv")
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "kinetics400_train.csv").write_text(head + "abseiling,0wR5jVB-WPk,417,427,train\n")
    lines = "air drumming,3caPS4FHFF8,36,46,validate\nyoga,nowhere,0,10,validate\n"
    (tmp_path / "kinetics400_val.csv").write_text(head + lines)
    listing = list_kinetics(tmp_path)
    assert listing.classes == ["abseiling", "air drumming", "yoga"]
    assert [(r.source, r.class_name, r.subsets, r.span) for r in listing.records] == [
        ("train/abseiling/0wR5jVB-WPk_000417_000427.mp4", "abseiling", ("train",), None),
        ("val/3caPS4FHFF8.mkv#36-46", "air drumming", ("test",), Span(36, 46)),  # without a test list, val is tested
    ]
    assert listing.missing == ["nowhere_000000_000010"]


def test_rows_of_kinetics_share_what_is_equal(tmp_path: Path) -> None:  # 650,000 of them are planned in 410 MB
    write_videos(tmp_path, *(f"v{n}_000000_000010.mp4" for n in range(3)))
    lines = "".join(f"yoga,v{n},0,10,train\n" for n in range(3))
    (tmp_path / "train.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{lines}")
    records = list_kinetics(tmp_path).records
    assert len(records) == 3
    assert len({id(record.subsets) for record in records}) == len({id(record.class_name) for record in records}) == 1


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_takes_labels_without_brackets(tmp_path: Path, prefix: str) -> None:
    write_videos(tmp_path, "20bn-something-something-v2/78687.webm", "20bn-something-something-v2/42326.webm")
    (tmp_path / f"{prefix}labels.json").write_text(
        json.dumps({"Holding something next to something": "1", "Pushing it": "0"})
    )
    line = {"label": "holding a potato", "template": "Holding [something] next to [something]", "placeholders": ["a"]}
    (tmp_path / f"{prefix}train.json").write_text(json.dumps([{"id": "78687", **line}]))
    (tmp_path / f"{prefix}validation.json").write_text(json.dumps([{"id": "42326", **line}, {"id": "1", **line}]))
    listing = list_ssv2(tmp_path)
    assert listing.classes == ["Pushing it", "Holding something next to something"]
    found = {Path(r.source).stem: (r.label, r.subsets) for r in listing.records}
    assert found == {"42326": (1, ("test",)), "78687": (1, ("train",))}
    assert listing.missing == ["1.webm"]


def test_diving48_names_its_classes_by_the_vocabulary(tmp_path: Path) -> None:
    write_videos(tmp_path, "rgb/3ORcPUzFGaQ_00000.mp4", "rgb/3ORcPUzFGaQ_00001.mp4")
    (tmp_path / "Diving48_vocab.json").write_text('[["Back", "15som", "05Twis", "FREE"], ["Forward", "PIKE"]]')
    for side, number in (("train", 0), ("test", 1)):
        line = {"vid_name": f"3ORcPUzFGaQ_0000{number}", "label": number, "start_frame": 0, "end_frame": 140}
        (tmp_path / f"Diving48_V2_{side}.json").write_text(json.dumps([line]))
    listing = list_diving48(tmp_path)
    assert listing.classes == ["Back-15som-05Twis-FREE", "Forward-PIKE"]
    found = [(r.label, r.subsets, r.group) for r in listing.records]
    assert found == [(0, ("train",), "3ORcPUzFGaQ"), (1, ("test",), "3ORcPUzFGaQ")]


def test_lists_of_another_form_are_one_line(tmp_path: Path) -> None:
    write_videos(tmp_path, "a.mp4")
    with pytest.raises(DatasetError, match=r"no \*train\*.csv"):
        list_kinetics(tmp_path)
    with pytest.raises(DatasetError, match=r"0 files \*labels.json, must be one"):
        list_ssv2(tmp_path)
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end\n" + "x" * 200_000 + ",v,0,inf\n")
    with pytest.raises(DatasetError, match=r"train.csv: cannot be read \(field larger"):
        list_kinetics(tmp_path)
    (tmp_path / "vocab.json").write_text("[]")
    (tmp_path / "train.json").write_text('[{"vid_name": "a", "label": 3}]')
    with pytest.raises(DatasetError, match="its lists are not those of diving48"):
        list_diving48(tmp_path)
