"""docs/troubleshooting.md explains messages that exist, and all that a user can meet."""

import re

import pytest

from tests.docs.messages import GAP, documented, pattern_of, raised, texts_of_the_code

OURS = {
    "DatasetError", "ShardError", "OtherInputsError", "RemoteError", "ContentError", "LoaderError", "CheckpointError",
    "FeatureError", "SvmError", "BenchError", "VideoFailure", "exceeded", "Failed", "WrongUsage",
    "UsageError", "ClickException", "BadParameter", "fail", "Interrupted",
}  # fmt: skip

# What the page leaves out: (path, its text or the beginning of it) -> why.
LEFT_OUT = {
    ("pipeline/codecs/h264.py", "x264 gave it parameter sets of its own"): "a fault of x264 that was never seen",
    ("tools/bench/comparison.py", ""): "of ways to read clips that are not ours; a line below the table, not an end",
    ("tools/bench/measure.py", ""): "likewise",
    ("tools/bench/peers.py", "torchcodec decodes"): "likewise",
    ("tools/bench/peers.py", f"{GAP}: frame"): "likewise",
}


@pytest.mark.parametrize("message", documented())
def test_a_message_of_the_page_is_one_of_the_code(message: str) -> None:
    assert len(re.sub(r"\W", "", message)) >= 7, "too few words to tell it from others"
    pattern = pattern_of(message)
    assert any(pattern.fullmatch(text) for text in texts_of_the_code())


def test_every_message_that_a_user_can_meet_is_on_the_page() -> None:
    assert len(documented()) == len(set(documented())), "explained twice"
    patterns = [pattern_of(message) for message in documented()]
    asked = [one for one in raised() if one.kind in OURS or one.path.startswith("tools/")]
    assert len(asked) > 150
    kept = [one for one in asked if not any(one.path.startswith(a) and one.text.startswith(b) for a, b in LEFT_OUT)]
    absent = [str(one) for one in kept if not any(pattern.fullmatch(one.text) for pattern in patterns)]
    assert not absent, "\n" + "\n".join(absent)


@pytest.mark.parametrize(("start", "words"), LEFT_OUT)
def test_what_is_left_out_exists(start: str, words: str) -> None:
    assert any(one.path.startswith(start) and one.text.startswith(words) for one in raised())
