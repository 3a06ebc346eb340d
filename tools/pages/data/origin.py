"""Sections of a dataset's page: how the shards were made, what was left out, what they look like."""

from typing import Any

from res3d_video.pipeline.index import ShardIndex
from res3d_video.tools.pages.clips import Strips
from res3d_video.tools.pages.data import gallery as clips
from res3d_video.tools.pages.data.found import Found, Wanted
from res3d_video.tools.pages.data.reasons import Kind
from res3d_video.tools.pages.data.texts import bytes_text, plural, value_text
from res3d_video.tools.pages.page import Markup, Number, Section, render, table

MAX_SHARDS = 200  # in the table of tars


def codec(index: ShardIndex) -> Section:
    """Everything that made the shards what they are."""
    info = index.info
    if index.codec == "filmstrip":
        strip_frames, phase_stride = info["codec"]["strip_frames"], info["codec"]["phase_stride"]
        kind = f"Filmstrips: a JPEG holds {strip_frames} frames, one below the other"
        if phase_stride > 1:
            kind += f", one in {phase_stride} of a block of {strip_frames * phase_stride}"
    else:
        kind = f"A sample is one H.264 video with a keyframe every {index.gop_size} frames"
    dropped = "" if index.frame_step == 1 else "; every second frame of the source was dropped"
    groups: list[tuple[str, dict[str, Any]]] = [
        ("Codec", info["codec"]),
        ("Settings of the build", info.get("settings", {})),
        ("Versions", info.get("tools", {})),
        ("Dataset", {name: info[name] for name in ("format_version", "fps_policy", "fingerprint") if name in info}),
    ]
    tables = [
        table(["name", "value"], [[name, value_text(value)] for name, value in sorted(values.items())], caption=title)
        for title, values in groups
        if isinstance(values, dict) and values
    ]
    shards = info["shards"]
    rows = [
        [
            one["tar"],
            one.get("num_samples", ""),
            Number(one["num_bytes"], bytes_text(one["num_bytes"])),
            Markup("<code>{}</code>").format(one.get("sha256", "")),
        ]
        for one in shards[:MAX_SHARDS]
    ]
    left = f", the first {MAX_SHARDS} of {len(shards):,}" if len(shards) > MAX_SHARDS else ""
    tars = table(["tar", "samples", "size", "sha256"], rows, caption=f"Tars{left}", is_tall=True)
    body = render("codec.html", tables=tables, tars=tars, num_tars=len(shards))
    return Section("codec", "Codec and settings", f"{kind}{dropped}.", body)


def left_out(index: ShardIndex, found: Found) -> Section:
    """Inputs that did not become samples, by reason."""
    quarantine = found.quarantine
    if quarantine is None:
        lead = "There is no quarantine.jsonl here to say what failed." + (
            " It stays with the folder that was built." if index.store is not None else ""
        )
        kinds = list[Kind]()
    elif not quarantine.num_lines:
        lead, kinds = "Every input became a sample.", []
    else:
        kinds = quarantine.kinds
        cut = " at least" if quarantine.is_cut else ""
        lead = (
            f"{plural(quarantine.num_lines, 'input')}{cut} did not become samples; "
            + (f"{plural(len(kinds), 'kind')} of reason, " if len(kinds) > 1 else "")
            + f"most often “{kinds[0].pattern}”."
            if kinds
            else f"quarantine.jsonl has {plural(quarantine.num_lines, 'line')}, none of which can be read."
        )
    manifest = Markup("")
    if found.manifest:
        sides = sorted({side for own in found.manifest.values() for side in own})
        rows = [[state, *(own[side] for side in sides)] for state, own in sorted(found.manifest.items())]
        manifest = table(["state", *sides], rows, caption="Videos that the official lists name (manifest.jsonl)")
    body = render("left_out.html", kinds=kinds, quarantine=quarantine, manifest=manifest)
    return Section("left-out", "Left out", lead, body)


def gallery_section(index: ShardIndex, found: clips.Gallery, wanted: Wanted, *, is_partial: bool) -> Section:
    """Segments that play, with the frames that the plans take."""
    shown = found.shown
    spec = wanted.clip
    if not shown:
        return Section("gallery", "Gallery", "No segment was asked for; ask with --classes.", Markup(""))
    lead = (
        f"{plural(len(shown), 'random segment')} of {len(found.classes):,} of "
        f"{plural(found.num_with_samples, 'class', 'classes')}. Bars are the clips of {spec.num_frames} frames, each "
        f"{plural(spec.frame_stride, 'source frame')} after the one before, that the plans take with seed "
        f"{wanted.seed}: the training clip of epoch 0, or the {plural(wanted.num_views, 'view')} of an evaluation."
    )
    notes = []
    if len(shown) < found.num_asked:
        notes.append(f"{found.num_asked - len(shown):,} more had no room on the page; a larger --max-mb shows them.")
    if len(found.classes) < found.num_with_samples:
        notes.append("--classes and --per-class show more, or others with another --seed.")
    notes += pictures_note([one.strips for one in shown if one.strips], index, max_mb=wanted.max_mb)
    if index.frame_step > 1:
        notes.append("Frames are counted as stored: every second one of the source.")
    if is_partial:
        notes.append("Only a few tars were fetched; what lies in others is not shown.")
    faults = sum(one.strips is None for one in shown)
    if faults:
        notes.append(f"{faults:,} of {len(shown):,} could not be read.")
    body = render("gallery_notes.html", notes=notes, gallery=clips.html(found, index.classes))
    return Section("gallery", "Gallery", lead, body)


def pictures_note(shown: list[Strips], index: ShardIndex, *, max_mb: float) -> list[str]:
    """What was done to the pictures of the gallery."""
    as_stored = sum(strips.as_stored for strips in shown)
    if as_stored == len(shown):
        return ["Pictures are the shards' own, byte for byte."] if shown else []
    if index.codec == "h264":
        return [f"Pictures were decoded and encoded as JPEG to keep the page below {max_mb:g} MB."]
    return [
        f"{len(shown) - as_stored:,} of {len(shown):,} were encoded again, smaller, to keep the page below {max_mb:g} "
        "MB; with fewer segments, pictures are the shards' own."
    ]
