"""The suite always ends: whatever dies or hangs, `make test` fails soon."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
OTHERS = "import pytest\n\n@pytest.mark.parametrize('n', range(8))\ndef test_other(n):\n    pass\n"
BAD = {
    "dies": "os.kill(os.getpid(), signal.SIGKILL)",
    "dies while a process that it forked lives": (
        "if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)\n    os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "hangs in a lock": "lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()",
}


@pytest.mark.parametrize("name", BAD)
def test_a_test_that_dies_or_hangs_fails_the_run_soon(name: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure  # noqa: F401\n")
    (tmp_path / "test_bad.py").write_text(f"import os, signal, threading, time\n\ndef test_bad():\n    {BAD[name]}\n")
    (tmp_path / "test_others.py").write_text(OTHERS)
    chosen = f"-c {CHECKOUT / 'setup.cfg'} --rootdir {tmp_path} --timeout 5 -p no:cacheprovider {tmp_path}"
    words = ["make", "--no-print-directory", "-n", "test", f"PY={sys.executable}", "READY=", f"TESTS={chosen}"]
    printed = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    (command,) = (line for line in printed.splitlines() if " -m pytest " in line)
    log = tmp_path / "log"  # no pipe, which a process that is left would keep open
    with log.open("w") as file:
        done = subprocess.run(shlex.split(command), cwd=CHECKOUT, stdout=file, stderr=file, timeout=50)
    assert done.returncode == 1, log.read_text()
    assert "crashed while running" in log.read_text()
    assert "test_bad.py::test_bad" in log.read_text()
