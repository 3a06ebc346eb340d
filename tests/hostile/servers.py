"""Ways in which a web server can misbehave, and what comes of reading a dataset there; run as a process of its own.

python -m tests.hostile.servers FOLDER SCRATCH STEP

It prints a line of JSON for every STEP-th way, and at the end one with the memory that all together took.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import re
import socketserver
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from res3d_video.pipeline.index import ShardError
from res3d_video.pipeline.remote import RemoteSettings, open_remote
from tests.hostile.tampering import peak_memory

TIMEOUT_S, LONG_S = 2.5, 60.0  # the second for ways that end by themselves, whatever else this machine has to do
BY_THEMSELVES = (", once", "status 40", "status 410", "JSON of", "huge length", "to itself", "to a file")
NUM_AT_ONCE = 32
USER, SECRET = "someone", "hunter2"
SERVED = ("dataset.json", "checksums.json", "index/label.npy", "index/key.npy", "numbered-000001.tar")
STATUSES = (204, 206, 300, 304, 400, 401, 403, 404, 410, 416, 418, 429, 500, 503, 999)
Write = Callable[[bytes], object]


@dataclass(frozen=True)
class Request:
    """What a server is asked, and what it has there."""

    method: str
    content: bytes
    start: int  # of the part that is asked for
    count: int  # how often this file was asked for, with this request


@dataclass(frozen=True)
class Way:
    """One way to misbehave.

    Attributes:
        answer: Writes an answer; whatever it does not write is never written.
        times: How often; after that the server answers as it should. None for always.
    """

    name: str
    file: str
    answer: Callable[[Request, Write], object]
    times: int | None = None

    @property
    def timeout_s(self) -> float:
        return LONG_S if any(words in self.name for words in BY_THEMSELVES) else TIMEOUT_S


def head(status: int, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Fine\x1b[2J", *fields, "", ""]).encode("latin-1")


def of_length(body: bytes, *fields: str, status: int = 200, length: int | None = None) -> bytes:
    return head(status, *fields, f"Content-Length: {len(body) if length is None else length}") + body


def right(request: Request, write: Write) -> None:
    """As a good server does."""
    stamp = f'ETag: "{hashlib.sha256(request.content).hexdigest()}"'
    part = request.content[request.start :]
    answer = of_length(part, stamp)
    if request.start:
        span = f"bytes {request.start}-{len(request.content) - 1}/{len(request.content)}"
        answer = of_length(part, stamp, f"Content-Range: {span}", status=206)
    write(answer if request.method == "GET" else answer[: len(answer) - len(part)])


def endless(write: Write, begin: bytes, piece: bytes, *, pause_s: float = 0.0) -> None:
    """Until the other side hangs up, which ends this with an OSError, or is very patient."""
    write(begin)
    for _ in range(10**5):
        write(piece)
        time.sleep(pause_s)


def statuses() -> Iterator[tuple[str, Callable[[Request, Write], object]]]:
    """Every status, with a body that ends and with one that does not."""
    for status in STATUSES:
        yield f"status {status}", lambda request, write, status=status: write(of_length(b"no", status=status))
        yield (
            f"status {status} without an end",
            lambda request, write, status=status: endless(write, head(status), bytes(2**16)),
        )


def heads() -> Iterator[tuple[str, Callable[[Request, Write], object]]]:
    """Beginnings of an answer that are none."""
    whole = {
        "hangs up": b"",
        "noise": random.Random(0).randbytes(3000),
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "a negative length": head(200, "Content-Length: -1"),
        "a length in words": head(200, "Content-Length: many"),
        "two lengths": head(200, "Content-Length: 5", "Content-Length: 6") + b"123456",
        "a length and chunks": head(200, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        "a bad chunk": head(200, "Transfer-Encoding: chunked") + b"zz\r\n",
        "a huge chunk": head(200, "Transfer-Encoding: chunked") + b"ffffffffffffffff\r\nx",
        "an unknown encoding": of_length(b"xx", "Content-Encoding: \x1b[2Jrot13"),
        "a part of another place": of_length(b"xx", "Content-Range: bytes 7-8/9", status=206),
        "a part of a part": of_length(b"xx", "Content-Range: bytes 0-1/x", status=206),
        "a huge length": head(200, f"Content-Length: {10**15}") + b"x",
        "a length of a thousand digits": head(200, f"Content-Length: {'9' * 1000}") + b"x",
    }
    for name, answer in whole.items():
        yield name, lambda request, write, answer=answer: write(answer)
    yield "headers without an end", lambda request, write: endless(write, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 5000)
    yield "a header without an end", lambda request, write: endless(write, b"HTTP/1.1 200 OK\r\nX: ", b"y" * 2**16)
    yield "100 for ever", lambda request, write: endless(write, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def redirects() -> Iterator[tuple[str, Callable[[Request, Write], object]]]:
    places = {
        "itself": "?again",
        "a file": "file:///etc/passwd",
        "no host": "http://",
        "no port": "http://a:b/",
        "": "",
    }
    places |= {
        "nobody": "http://127.0.0.1:9/x",
        "long": "/" + "x" * 7000,
        "secrets": f"ftp://{USER}:{SECRET}@127.0.0.1/",
    }
    for status, (name, place) in itertools.product((301, 307), places.items()):
        answer = of_length(b"", f"Location: {place}", status=status)
        yield f"redirect {status} to {name or 'nowhere'}", lambda request, write, answer=answer: write(answer)


def bodies() -> Iterator[tuple[str, Callable[[Request, Write], object]]]:
    """Answers that begin well."""

    def say(make: Callable[[bytes], bytes]) -> Callable[[Request, Write], object]:
        return lambda request, write: write(make(request.content))

    yield "an empty body", say(lambda content: of_length(b""))
    yield "half of it", say(lambda content: of_length(content[: len(content) // 2]))
    yield "half of what it says", say(lambda content: of_length(content[:50], length=len(content)))
    yield "one byte more", say(lambda content: of_length(content + b"x"))
    yield "more than it says", say(lambda content: of_length(content + b"x" * 5000, length=len(content)))
    yield "noise of that length", say(lambda content: of_length(random.Random(0).randbytes(len(content))))
    yield "gzip", say(lambda content: of_length(gzip.compress(content), "Content-Encoding: gzip"))
    yield "a bomb", say(lambda content: of_length(gzip.compress(bytes(2**26)), "Content-Encoding: gzip"))
    for kind, field in (("a body", "X: y"), ("chunks", "Transfer-Encoding: chunked")):
        piece = bytes(2**16) if kind == "a body" else b"10000\r\n" + bytes(2**16) + b"\r\n"
        yield (
            f"{kind} without an end",
            lambda request, write, field=field, piece=piece: endless(write, head(200, field), piece),
        )
    texts: dict[str, bytes] = {
        "deep": b"[" * 10**5,
        "deep objects": b'{"a":' * 10**5,
        "lists": b"[" + b"[[]]," * (2**23 // 5) + b"0]",
        "words": b'{"a":[' + b'"xy",' * (2**24 // 5) + b"0]}",
        "keys": b"{" + b",".join(b'"%x":0' % i for i in range(2**20)) + b"}",
        "a long number": b'{"files": 1' + b"0" * 5000 + b"}",
        "null": b"null",
        "a list": b"[]",
        "no Unicode": b'{"files": "\xff"}',
        "UTF-16": '{"files": {"\udc00": 5}}'.encode("utf-16", "surrogatepass"),
        "odd nesting": b'{"name":' + b"[" * 980 + b"]" * 980 + b"}",
    }
    for value in ("5", "null", "[]", '"x"', "{}", "true", "1e999", '{"sha256": 5}', '{"num_bytes": -1, "sha256": "x"}'):
        texts[f"files of {value}"] = f'{{"files": {{"dataset.json": {value}}}}}'.encode()
    for name, text in texts.items():
        yield f"JSON of {name}", lambda request, write, text=text: write(of_length(text))


def times() -> Iterator[tuple[str, Callable[[Request, Write], object]]]:
    """Servers that are slow, or silent."""

    def silent(request: Request, write: Write) -> None:
        time.sleep(2 * TIMEOUT_S + 1)

    def half(request: Request, write: Write) -> None:
        write(of_length(request.content[:40], length=len(request.content)))
        silent(request, write)

    yield "silence", silent
    yield "silence after half", half
    yield "a head byte by byte", lambda request, write: endless(write, b"HTTP/1.1 200 OK\r\nX: ", b"y", pause_s=0.05)
    yield "a byte, and a byte", lambda request, write: endless(write, head(200), b"{", pause_s=0.05)
    yield (
        "a chunk, and a chunk",
        lambda request, write: endless(write, head(200, "Transfer-Encoding: chunked"), b"1\r\n{\r\n", pause_s=0.05),
    )


def all_ways() -> list[Way]:
    """Every answer for every file; and those that time heals, for a while."""
    answers = [*statuses(), *heads(), *redirects(), *bodies(), *times()]
    found = [
        Way(f"{file}: {name}", file, answer)
        for (name, answer), file in itertools.product(answers, SERVED)
        if not name.startswith("JSON") or file.endswith(".json")
    ]
    heal = (
        "status 429",
        "status 500",
        "status 503",
        "hangs up",
        "half of what it says",
        "silence",
        "silence after half",
    )
    return found + [
        Way(f"{file}: {name}, once", file, answer, times=1)
        for (name, answer), file in itertools.product(answers, SERVED)
        if name in heal
    ]


class Server(socketserver.ThreadingTCPServer):
    """All ways at once: the first part of a path says which."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, folder: Path, ways: list[Way]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ways = folder, ways
        self.asked: Counter[tuple[int, str, str]] = Counter()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up all the time here."""


class Handler(socketserver.StreamRequestHandler):
    server: Server
    timeout = 60

    def handle(self) -> None:
        while line := self.rfile.readline():
            method, target = line.decode().split()[:2]
            fields = "".join(iter(lambda: self.rfile.readline().decode("latin-1").rstrip(), ""))
            number, _, file = target.split("?")[0].removeprefix("/").removeprefix("ways/").partition("/")
            path, way = self.server.folder / file, self.server.ways[int(number)]
            if not path.is_file():
                self.wfile.write(of_length(b"", status=404))
                continue
            key = int(number), method, file
            self.server.asked[key] += 1
            part = re.search(r"bytes=(\d+)-", fields)
            request = Request(method, path.read_bytes(), int(part[1]) if part else 0, self.server.asked[key])
            if file == way.file and (way.times is None or request.count <= way.times):
                way.answer(request, self.wfile.write)
                return
            right(request, self.wfile.write)


def outcome(url: str, cache: Path, folder: Path, *, timeout_s: float) -> dict[str, Any]:
    """What comes of opening a dataset and reading its tars, and how long that takes."""
    said: list[str] = []
    started, found = time.monotonic(), dict[str, Any]()
    try:
        index = open_remote(url, RemoteSettings(cache=cache, timeout_s=timeout_s), say=said.append)
        found["whole"] = 0
        for number, name in enumerate(index.tars):
            assert index.store is not None
            tar = index.store.open(number, stop=threading.Event())
            with tar or contextlib.nullcontext(io.BytesIO()) as file:
                found["whole"] += file.read() == (folder / name).read_bytes()
    except ShardError as error:
        found["refused"] = str(error)
    except Exception:
        found["crashed"] = traceback.format_exc()
    found |= {"said": said, "seconds": time.monotonic() - started}
    return found | {"disk": sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())}


def main(folder: Path, scratch: Path, step: int) -> None:
    ways = all_ways()[::step]
    web, s3 = range(len(ways)), range(0, len(ways), 7)  # some of them again as S3
    with Server(folder, ways) as server, ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        os.environ |= {"AWS_ENDPOINT_URL": f"http://{host}", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": SECRET}
        before, alone = peak_memory(), threading.Lock()

        def run(number: int, kind: str) -> None:
            way = ways[number]
            url = f"http://{USER}:{SECRET}@{host}/{number}?token={SECRET}" if kind == "web" else f"s3://ways/{number}"
            with alone if "JSON of" in way.name else contextlib.nullcontext():  # those take most memory
                found = outcome(
                    url, scratch / f"{kind}-{number}", folder, timeout_s=way.timeout_s if kind == "web" else TIMEOUT_S
                )
            name = way.name if kind == "web" else f"{kind} {way.name}"
            sys.stdout.write(json.dumps({"name": name, **found}) + "\n")

        list(pool.map(run, web, itertools.repeat("web")))
        list(pool.map(run, s3, itertools.repeat("s3")))
        server.shutdown()
    sys.stdout.write(json.dumps({"memory": peak_memory() - before}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
