"""Sections of a dataset's page, each with a sentence that says what it means: classes, balance, lengths, leaks."""

import numpy as np

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.data.charts import MAX_BARS, class_chart, class_table, histogram, sizes_chart
from res3d_video.tools.pages.data.facts import quantiles
from res3d_video.tools.pages.data.found import Found
from res3d_video.tools.pages.data.leaks import NAMES, Leak, verdict
from res3d_video.tools.pages.data.origin import codec, left_out
from res3d_video.tools.pages.data.texts import plural
from res3d_video.tools.pages.page import Markup, Number, Section, render, table

MAX_NAMED = 12  # classes named in a sentence
MAX_RATES = 8  # or heights, that have a bar each; of more, ranges
MAX_SOURCE_SIZES = 20  # in the table


def sections(index: ShardIndex, found: Found) -> tuple[list[Section], list[Section]]:
    """What stands before the gallery, and after it."""
    before = [class_counts(index, found), class_balance(index, found), lengths(index, found), codec(index)]
    return [*before, left_out(index, found)], [leakage(index, found)]


def class_counts(index: ShardIndex, found: Found) -> Section:
    """Samples of every class on every side."""
    present = np.flatnonzero(found.counts.sum(axis=1))
    train, test, unused = found.counts.sum(axis=0).tolist()
    lead = (
        f"{plural(index.num_samples, 'sample')} of {plural(len(present), 'class', 'classes')}: "
        f"{train:,} to train on and {test:,} to test with in split {found.split}"
        + (f", {unused:,} used for neither" if unused else "")
        + (". Of several labels the first counts." if index.label_lists is not None else ".")
    )
    names = [index.classes[i] for i in present]
    if len(present) <= MAX_BARS:
        body = class_chart(names, found.counts[present], split=found.split) if len(present) else Markup("")
    else:
        body = sizes_chart(found.counts[present], split=found.split)
        body += class_table(names, found.counts[present], is_tall=True)
    splits = Markup("")
    if len(index.split_names) > 1:
        rows = [
            [name, *(int((index.subsets[:, i] == value).sum()) for value in (1, 2, 0))]
            for i, name in enumerate(index.split_names)
        ]
        splits = table(["split", "train", "test", "not used"], rows, caption="Samples of every split")
    return Section("classes", "Classes", lead, render("side_by_side.html", left=body, right=splits))


def class_balance(index: ShardIndex, found: Found) -> Section:
    """How evenly samples are spread over classes, and which lack some."""
    even = found.balance
    if even is None:
        return Section("balance", "Balance", "No class has a sample.", Markup(""))
    if even.num_classes == 1:
        lead = "All samples are of one class."
    else:
        lead = (
            f"The largest class has {even.largest:,} samples, {even.ratio:.3g} times the smallest's {even.smallest:,}; "
            f"the {even.num_classes:,} classes count as {even.num_effective:.4g} of equal size (exponential of the "
            "entropy)."
        )
    return Section("balance", "Balance", lead, render("lacking.html", lacking=found.lacking, most=MAX_NAMED))


def lengths(index: ShardIndex, found: Found) -> Section:
    """Histograms of lengths, durations and rates, and of picture sizes where they differ."""
    shortest, median, longest = quantiles(found.lengths, found.length_counts)
    lead = (
        f"Half of the samples have at least {median:,.0f} stored frames; the shortest has {shortest:,.0f}, the longest "
        f"{longest:,.0f}."
    )
    looked = found.looked_at
    which = f"{'All' if looked.is_all else 'A random'} {plural(len(looked.rows), 'sample')}, from their key.json."
    charts, alike = [], []
    heights = [float(height) for (_, height), count in looked.source_sizes.items() for _ in range(count)]
    for name, title, unit, values, counts, caption in (
        ("frames", "Frames of a sample", "stored frames", found.lengths, found.length_counts, "All samples."),
        ("duration", "Duration of a sample", "seconds", *counted(looked.duration_s), which),
        ("fps", "Frames a second of the source", "frames/s", *counted(looked.fps), which),
        ("height", "Height of the source", "pixels", *counted(heights), which),
        ("bytes", "Stored pictures of a sample", "kB", *counted(looked.kilobytes), which),
    ):
        if len(values) == 1:
            alike.append(f"{title}: {values[0]:.6g} in each.")
        elif len(values):
            one_each = name in ("fps", "height") and len(values) <= MAX_RATES
            chart = histogram(
                name, title=title, values=values, counts=counts, unit=unit, caption=caption, one_each=one_each
            )
            charts.append(chart)
    named, others = found.sizes
    sizes = []
    if len(named) > 1:
        sizes.append(size_table(named, others, caption="Stored picture sizes, pixels"))
        size_text = "With --keep-aspect pictures keep the shape of their source."
    else:
        ((width, height),) = named
        size_text = f"Every picture is scaled to {width}×{height} pixels."
    common = looked.source_sizes.most_common(MAX_SOURCE_SIZES)
    if common:
        rest = looked.source_sizes.total() - sum(count for _, count in common)
        sizes.append(
            size_table(dict(common), rest, caption=f"Sizes of the sources as players show them, pixels. {which}")
        )
    else:
        size_text += " The size of its source is not stored; shards made by this version have it."
    body = render("lengths.html", charts=charts, alike=alike, sizes=sizes, size_text=size_text, looked=looked)
    return Section("lengths", "Lengths, rates and sizes", lead, body)


def size_table(named: dict[tuple[int, int], int], others: int, *, caption: str) -> Markup:
    """How many samples have which width and height."""
    rows = [[f"{width}×{height}", Number(count, f"{count:,}")] for (width, height), count in named.items()]
    rows += [["others", Number(others, f"{others:,}")]] if others else []
    return table(["width×height", "samples"], rows, caption=caption, is_sorted_by_click=True)


def counted(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Different values, rising, rounded to thousandths, and how often each occurs; NaN is left out.

    >>> [part.tolist() for part in counted([25.0, 29.97003, 25.0, float("nan")])]
    [[25.0, 29.97], [2, 1]]
    """
    known = np.array(values, np.float64)
    different, counts = np.unique(known[~np.isnan(known)].round(3), return_counts=True)
    return different, counts


def leakage(index: ShardIndex, found: Found) -> Section:
    """What lies on both sides of a split."""
    bad = [leak for leak in found.leaks if leak.count]
    known = [leak for leak in found.leaks if leak.num_things]
    if bad:
        lead = "Some test samples show what was trained on, so accuracies come out too high."
    elif known:
        lead = "No group, no source video and no identical segment was found on both sides of any split."
    else:
        lead = "The index names neither groups nor sources, so nothing can be said."
    groups = next((leak.num_things for leak in found.leaks if leak.kind == "group"), 0)
    each_alone = groups > 0 and groups == found.num_sources
    rows = []
    for split in index.split_names:
        own = {leak.kind: leak for leak in found.leaks if leak.split == split}
        rows.append([split, *(leak_cell(own[kind]) for kind in NAMES)])
    columns = ["split", *(f"{several} on both sides" for several in ("groups", "source videos", "identical segments"))]
    overview = table(columns, rows, caption="What lies on both sides of each split")
    body = render("leaks.html", leaks=known, table=overview, verdict=verdict, each_alone=each_alone)
    return Section("leaks", "Leaks between sides", lead, body)


def leak_cell(leak: Leak) -> Markup:
    """How many of what there is lie on both sides."""
    if not leak.num_things:
        return Markup("not known")
    if not leak.count:
        return Markup('<span class="good">none</span> of {}').format(f"{leak.num_things:,}")
    return Markup('<span class="bad">{}</span> of {}').format(f"{leak.count:,}", f"{leak.num_things:,}")
