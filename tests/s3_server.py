"""A real S3 server in a process of its own, on this machine: moto's, with a folder's files in it from the start.

    python -m tests.s3_server PORT FOLDER

serves every file below FOLDER as s3://shards/NAME, and writes a line for each request to standard error.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "shards"
START_S = 60.0


class S3Server:
    """The process, as a test sees it. A server that is started again has the files that its folder has then."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self._log = folder, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "tests.s3_server", str(self.port), str(self.folder)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def requests(self, method: str = "GET", name: str = "") -> list[str]:
        """Paths of the requests so far, of one method, whose path contains `name`."""
        return [path for path in re.findall(rf"^{method} (\S+)", self._log.read_text(), re.MULTILINE) if name in path]

    def forget_requests(self) -> None:
        """Count from here."""
        os.truncate(self._log, 0)


@contextmanager
def s3_server(folder: Path, log: Path) -> Iterator[S3Server]:
    """A running server; AWS's own variables lead every client of this process, and its children, to it."""
    server = S3Server(folder, log)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        server.start()
        forget_clients()
        try:
            yield server
        finally:
            server.stop()
    forget_clients()


def forget_clients() -> None:
    """Clients keep the address that they began with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def main() -> None:
    """The server."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple
    from werkzeug.test import Client

    class Handler(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            os.write(2, f"{self.command} {self.path}\n".encode())  # in one piece: requests come in several threads

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    app = DomainDispatcherApplication(create_backend_app)
    client = Client(app)
    url = f"http://127.0.0.1:{port}"
    assert client.put(f"/{BUCKET}", base_url=url).status_code == 200
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        assert client.put(f"/{BUCKET}/{name}", data=path.read_bytes(), base_url=url).status_code == 200
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=Handler)


if __name__ == "__main__":
    main()
