"""Completion in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import CHECKOUT, Terminal

BIN = Path(sys.executable).parent


@pytest.mark.skipif(not (BIN / "res3d-make-shards").exists(), reason="the commands are not installed")
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_tab_completes_a_dataset_in_bash() -> None:
    with Terminal(["bash", "--norc", "-i"], variables={"PATH": f"{BIN}:{os.environ['PATH']}"}) as terminal:
        terminal.press(b'eval "$(_RES3D_MAKE_SHARDS_COMPLETE=bash_source res3d-make-shards)"; echo REA""DY\n')
        terminal.wait_for("READY")
        terminal.press(b"res3d-make-shards u\t")
        terminal.wait_for("res3d-make-shards ucf101")


def test_data_completes_to_folders() -> None:
    typed = {"COMP_WORDS": "res3d-check-shards sh", "COMP_CWORD": "1"}
    variables = os.environ | {"_RES3D_CHECK_SHARDS_COMPLETE": "bash_complete"} | typed
    code = "from res3d_video.tools.check_shards import main; main(prog_name='res3d-check-shards')"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=variables, capture_output=True, text=True)
    assert done.stdout == "dir,sh\n", done.stderr
