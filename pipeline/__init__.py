"""From a shard to a batch: shards, clips, plans, the DALI graph and the loader. Knows nothing of models."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__version__ = "0.1.0"


def make_checkout_known() -> None:
    """Make `res3d_video` the packages beside this one, whether they are installed or not."""
    checkout = ModuleType("res3d_video")
    checkout.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["res3d_video"] = checkout
    if find_spec("click") is None:
        sys.exit('error: packages are missing; run make env, or pip install -c constraints.txt -e ".[cuda13]"')


if __name__ == "pipeline":  # imported by a command that was started by its path, or by a test
    make_checkout_known()
