"""A bucket and a web server on loopback, and a proxy before them that fails where it is told to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import obstore
import pytest
from obstore.store import S3Store

HOST = "127.0.0.1"
BUCKET = "faces"
_FREE_CALLS = 3
"""What moto answers before it asks for credentials: to make a user, a key and a policy."""

_REFUSALS = {
    "busy": (b"503 Slow Down", b"SlowDown"),
    "denied": (b"403 Forbidden", b"AccessDenied"),
    "moved": (b"301 Moved Permanently", b"PermanentRedirect"),
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[None]:
    """Run a server in a process of its own, from when it answers until the block ends."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, command
            assert time.monotonic() < deadline, command
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run moto's server, with one user; give the environment that reaches it."""
    import boto3

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with running(command, port, INITIAL_NO_AUTH_ACTION_COUNT=str(_FREE_CALLS)):
        made = {"region_name": "us-east-1", "endpoint_url": f"http://{HOST}:{port}"}
        anyone = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        iam = boto3.client("iam", **made, **anyone)
        iam.create_user(UserName="tester")
        key = iam.create_access_key(UserName="tester")["AccessKey"]
        iam.put_user_policy(
            UserName="tester",
            PolicyName="all",
            PolicyDocument='{"Version": "2012-10-17", "Statement": '
            '[{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}',
        )
        environment = {
            "AWS_ENDPOINT_URL": made["endpoint_url"],
            "AWS_REGION": made["region_name"],
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
        yield environment


@contextmanager
def bucket_environment() -> Iterator[pytest.MonkeyPatch]:
    """Have this process, and those that it starts, reach an empty bucket and nothing else."""
    import boto3

    with pytest.MonkeyPatch.context() as patch, s3_server() as reached:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        for name, value in reached.items():
            patch.setenv(name, value)
        # a session of its own: boto3 keeps the credentials of its first one
        session = boto3.Session()
        session.client("s3", endpoint_url=reached["AWS_ENDPOINT_URL"]).create_bucket(Bucket=BUCKET)
        yield patch


def bucket() -> S3Store:
    return S3Store(BUCKET, client_options={"allow_http": True})


def upload(folder: Path, key: str) -> str:
    """Copy a folder into the bucket; return its URL."""
    there = bucket()
    for file in folder.rglob("*"):
        if file.is_file():
            obstore.put(there, f"{key}/{file.relative_to(folder)}", file.read_bytes())
    return f"s3://{BUCKET}/{key}"


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files over HTTP; give the URL."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST]
    with running([*command, "--directory", str(folder)], port):
        yield f"http://{HOST}:{port}"


@dataclass
class Fault:
    """What goes wrong.

    Attributes
    ----------
    kind : str
        "busy", "denied", "moved", "cut", "silent", "closed", "short" or "flipped"; or "held", which
        is "busy" from when the proxy is told to go on.
    request : str
        A pattern of method and path.
    times : int
        How often.
    """

    kind: str
    request: str
    times: int = 1


@dataclass
class Proxy:
    """Passes requests on, but for those that a fault is for.

    Attributes
    ----------
    url : str
        Where it listens.
    faults : list of Fault
        What is still to go wrong.
    requests : list of str
        Method and path of every request so far.
    go_on : threading.Event
        What "held" waits for.
    """

    url: str
    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def fault(self, request: str) -> str | None:
        """Note a request, and return what is to go wrong with it."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.request, request):
                    fault.times -= 1
                    kind = fault.kind
                    break
            else:
                return None
        if kind != "held":
            return kind
        self.go_on.wait(60)
        return "busy"

    @property
    def done(self) -> bool:
        """Whether all went wrong that was to."""
        return not any(fault.times for fault in self.faults)

    def count(self, pattern: str) -> int:
        """Return how many requests there were of a kind."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """Run a proxy before the server at a URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    port_before = free_port()
    told = Proxy(f"http://{HOST}:{port_before}", (host, int(port)))

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            # or an answer that has no end: the server gave up on a client that went away
            with suppress(OSError, ValueError):
                _pass_on(self, told)

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server((HOST, port_before), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield told
        finally:
            told.stopped.set()
            server.shutdown()
            thread.join()


def _pass_on(client: StreamRequestHandler, told: Proxy) -> None:
    """Answer one request, and close."""
    first = client.rfile.readline()
    head, length = [first], 0
    while (line := client.rfile.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
        if not line.lower().startswith(b"connection:"):
            head.append(line)
    body = client.rfile.read(length)
    kind = told.fault(b" ".join(first.split()[:2]).decode())
    if kind == "closed":
        return
    if kind in _REFUSALS:
        status, code = _REFUSALS[kind]
        said = b"<Error><Code>%s</Code></Error>" % code
        client.wfile.write(b"HTTP/1.1 %s\r\nConnection: close\r\n" % status)
        client.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(said), said))
        return
    with socket.create_connection(told.upstream) as server:
        server.sendall(b"".join([*head, b"Connection: close\r\n\r\n", body]))
        answer = b"".join(iter(lambda: server.recv(1 << 16), b""))
    head_end = answer.index(b"\r\n\r\n") + 4
    header, content = answer[:head_end], answer[head_end:]
    if kind == "short":
        content = content[: len(content) // 2]
        header = re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(content), header)
    elif kind == "flipped":
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    elif kind in ("cut", "silent"):
        content = content[: len(content) // 2]
    client.wfile.write(header + content)
    if kind == "silent":
        client.wfile.flush()
        told.stopped.wait(60)
