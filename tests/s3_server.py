"""A real S3 server in a thread, on this machine: moto's, with a folder's files in its bucket from the start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

BUCKET = "shards"


class S3Server:
    """As a test sees it: every file below `folder` is s3://shards/NAME from the start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._port = folder, 0
        self._requests: list[tuple[str, str]] = []
        self._server: Any = None
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server
        from werkzeug.test import Client

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.0"  # no connection outlives a stop

        app = DomainDispatcherApplication(create_backend_app)

        def recorded(environ: dict[str, Any], respond: Callable) -> Any:
            self._requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
            return app(environ, respond)

        self._server = make_server("127.0.0.1", self._port, recorded, threaded=True, request_handler=Handler)
        self._port = self._server.server_port
        Thread(target=self._server.serve_forever, daemon=True).start()
        self._client = Client(app)
        self._client.put(f"/{BUCKET}", base_url=self.endpoint)
        self.put(self.folder, "")

    def put(self, folder: Path, name: str) -> None:
        """Have all files below a folder in the bucket, below `name`."""
        for path in sorted(filter(Path.is_file, folder.rglob("*"))):
            key = f"{name}/{path.relative_to(folder).as_posix()}".lstrip("/")
            answer = self._client.put(f"/{BUCKET}/{key}", base_url=self.endpoint, data=path.read_bytes())
            assert answer.status_code in (200, 403)  # it is there: all servers of a process have one memory

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()

    def requests(self, method: str = "GET", name: str = "") -> list[str]:
        """Paths of the requests so far, of one method, whose path contains `name`."""
        return [path for asked, path in self._requests if asked == method and name in path]

    def forget_requests(self) -> None:
        """Count from here."""
        self._requests.clear()


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server; AWS's own variables lead every client of this process, and its children, to it."""
    import s3fs

    server = S3Server(folder)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # clients keep the address that they began with
        try:
            yield server
        finally:
            server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
