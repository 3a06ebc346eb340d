"""When a run should stop before its end."""

import os
import signal
import subprocess
import sys

import pytest

from res3d_video.pipeline.errors import UserError
from res3d_video.train.stopping import STOP_SIGNALS, StopRequest
from tests.terminal import CHECKOUT


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_until_closed_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    request = StopRequest()
    request.begin(launcher=os.getppid())
    assert not request.asked()
    os.kill(os.getpid(), number)
    assert request.asked()
    request.close()
    assert signal.getsignal(number) is before


def test_a_process_whose_launcher_has_ended_does_not_go_on() -> None:
    request = StopRequest()
    request.begin(launcher=os.getpid())  # which is not its parent, nor anybody's whose launcher is gone
    with pytest.raises(UserError, match=r"^torchrun has ended, so this process does; run the same command again$"):
        request.asked()
    request.close()


def test_what_is_loaded_before_signals_count_is_small() -> None:
    code = "import sys; before = set(sys.modules); import res3d_video.train.stopping; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in loaded.stdout.split()} <= {*sys.stdlib_module_names, "train", "res3d_video"}
