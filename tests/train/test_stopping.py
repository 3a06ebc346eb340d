"""When a run should stop before its end."""

import os
import signal

import pytest

from train.ranks import RanksError
from train.stopping import STOP_SIGNALS, StopRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_remembered_until_closed_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    request = StopRequest(launcher=os.getppid())
    assert not request.asked()
    os.kill(os.getpid(), number)
    assert request.asked()
    request.close()
    assert signal.getsignal(number) is before


def test_a_process_whose_launcher_has_ended_does_not_go_on() -> None:
    request = StopRequest(launcher=os.getpid())  # which is not its parent, nor anybody's whose launcher is gone
    with pytest.raises(RanksError, match=r"^torchrun has ended, so this process does; start again with --resume auto$"):
        request.asked()
    request.close()
