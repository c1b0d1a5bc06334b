"""The client: which request each call makes, and what is said when it fails. Models answer in deploy/test_run.py."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modelserve import Client, ConfigError, InvokeError
from modelserve.client import _is_loopback


@dataclass
class Echo:
    """A server that answers as it is told, and keeps what it was asked."""

    url: str = ""
    status: int = 200
    answer: bytes = b'{"predictions": ["a", "b"]}'
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    also: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Path -> status and answer, where they are others."""
    delay: threading.Event | None = None

    @property
    def instances(self) -> Any:
        return json.loads(self.asked[-1][2])["instances"]


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            echo.asked.append((self.command, self.path, body))
            if echo.delay is not None:
                echo.delay.wait(10)
            status, answer = echo.also.get(self.path, (echo.status, echo.answer))
            with contextlib.suppress(ConnectionError):  # whoever asked did not wait
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        echo.url = f"127.0.0.1:{server.server_port}"
        yield echo
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("request_", "method", "path"),
    [
        ({}, "GET", "/v2/models/bert/infer"),
        ({"json": {}}, "POST", "/v2/models/bert/infer"),
        ({"json": {}, "model_name": "other"}, "POST", "/v2/models/other/infer"),
        ({"path": "/v1/models"}, "GET", "/v1/models"),
        ({"path": "v1/models", "params": {"a": "b"}}, "GET", "/v1/models?a=b"),
        ({"path": "/x", "data": "text"}, "POST", "/x"),
        ({"path": "/x", "data": {"a": "b"}}, "POST", "/x"),
        ({"path": "/x", "content": b"text"}, "POST", "/x"),
        ({"path": "/x", "files": {"a": b"text"}}, "POST", "/x"),
        ({"path": "/x", "json": {}, "method": "PUT"}, "PUT", "/x"),
        ({"path": "/x", "method": "POST"}, "POST", "/x"),
    ],
)
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_invoke(echo: Echo, scheme: str, request_: dict[str, Any], method: str, path: str) -> None:
    response = Client(scheme + echo.url, "bert").invoke(**request_)
    assert response.json() == {"predictions": ["a", "b"]}
    assert echo.asked[0][:2] == (method, path)


def test_the_body_of_each_kind(echo: Echo) -> None:
    client = Client(echo.url)
    client.invoke(data="a text")
    client.invoke(data=b"bytes")
    client.invoke(data={"a": "b"})
    client.invoke(files={"file": b"content"})
    assert [body for *_, body in echo.asked[:3]] == [b"a text", b"bytes", b"a=b"]
    assert b"content" in echo.asked[3][2]


@pytest.mark.parametrize("behind", ["", "/v2/models/m", "/v2?a=b", "?a=b"])
@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
def test_a_url_of_the_server(echo: Echo, scheme: str, behind: str) -> None:
    Client(echo.url).invoke(url=scheme + echo.url + behind)
    assert echo.asked[0][1] == (behind if behind.startswith("/") else "/" + behind)


def test_a_url_of_another(echo: Echo) -> None:
    host, _, port = echo.url.partition(":")
    for url in ("http://example.org/", f"{echo.url}0/", f"{echo.url}@example.org/", f"http://a@{host}:{port}/", ""):
        with pytest.raises(InvokeError) as found:
            Client(echo.url).invoke(url=url)
        assert found.value.message == f"{url!r} is no URL of this server, whose URLs begin with http://{echo.url}"
    assert echo.asked == []


@pytest.mark.parametrize(
    ("inputs", "instances", "alone"),
    [
        ("a", ["a"], True),
        (("a", "b"), [{"text": "a", "text_pair": "b"}], True),
        ({"text": "a"}, [{"text": "a"}], True),
        (["a", "b"], ["a", "b"], False),
        (("a", "b", "c"), ["a", "b", "c"], False),
        ([("a", "b"), "c"], [{"text": "a", "text_pair": "b"}, "c"], False),
        ((text for text in "ab"), ["a", "b"], False),
        ([[1.0, 2.0]], [[1.0, 2.0]], False),
        (np.array([[1.0, 2.0]]), [[1.0, 2.0]], False),
        (pd.Series(["a", "b"]), ["a", "b"], False),
        (pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}), [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}], False),
    ],
)
def test_predict(echo: Echo, inputs: Any, instances: list[Any], alone: bool) -> None:
    answer = Client(echo.url, "bert").predict(inputs, top_k=2)
    assert answer == ("a" if alone else ["a", "b"])
    assert echo.asked[0][:2] == ("POST", "/v1/models/bert:predict")
    assert echo.instances == instances
    assert json.loads(echo.asked[0][2])["parameters"] == {"top_k": 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_kk": 3}, "unknown parameter top_kk; did you mean top_k?"),
        (
            {"top_k": 3, "aggregation_stategy": "max"},
            "unknown parameter aggregation_stategy; did you mean aggregation_",
        ),
        ({"Normalize": True}, "unknown parameter Normalize; did you mean normalize?"),
        ({"xyzzy": 1}, "unknown parameter xyzzy; a request has return_probabilities, return_raw_logits, return_off"),
    ],
)
def test_an_unknown_parameter_is_not_sent(echo: Echo, given: dict[str, Any], message: str) -> None:
    echo.answer = b'{"model_name": "bert", "task": "fill_mask", "backend": "huggingface"}'
    client = Client(echo.url, "bert")
    for _ in range(2):
        with pytest.raises(ConfigError) as found:
            client.predict("a", **given)
        assert found.value.message.startswith(message)
    assert [path for _, path, _ in echo.asked] == ["/info"], "asked once whether the model has parameters of its own"


@pytest.mark.parametrize(("status", "described"), [(200, b'{"backend": "mlflow"}'), (404, b"there is no /info")])
def test_a_parameter_of_the_models_own_is_sent(echo: Echo, status: int, described: bytes) -> None:
    """An MLflow model's, and whatever a server that is not ours may take."""
    echo.also["/info"] = status, described
    assert Client(echo.url, "m").predict([[1.0]], top_kk=3) == ["a", "b"]
    assert json.loads(echo.asked[-1][2])["parameters"] == {"top_kk": 3}


async def test_async_twins(echo: Echo) -> None:
    client = Client(echo.url)
    assert await client.apredict("x") == "a"
    assert (await client.ainvoke(path="/v2")).status_code == 200


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"error": "no mask in input 0"}', "400: no mask in input 0"),
        (b'{"error": {"message": "no mask", "type": "invalid_request_error"}}', "400: no mask"),
        (b"<html>" + b"a" * 1000, "400: <html>" + "a" * 494),
        (b'{"detail": 1}', '400: {"detail": 1}'),
    ],
)
def test_an_error_has_the_servers_words(echo: Echo, answer: bytes, message: str) -> None:
    echo.status, echo.answer = 400, answer
    client = Client(echo.url)
    for ask in (lambda: client.predict("a"), client.info, client.metrics):
        with pytest.raises(InvokeError) as found:
            ask()
        assert (found.value.message, found.value.status) == (message, 400)
    assert client.invoke(path="/x").status_code == 400, "a response is handed on as it is"


def test_nobody_answers(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InvokeError, match=f"^http://127.0.0.1:{port} cannot be asked: ") as found:
        Client(f"127.0.0.1:{port}").ready()
    assert found.value.status == 0
    with pytest.raises(InvokeError, match="cannot be asked"):
        Client("http://[").ready()
    echo.delay = threading.Event()
    with pytest.raises(InvokeError, match=r"did not answer within 0.05 s$"):
        Client(echo.url, timeout=0.05).ready()
    with pytest.raises(InvokeError, match=r"did not answer within 0.04 s$"):
        Client(echo.url).invoke(path="/x", timeout=0.04)
    echo.delay.set()


def test_metrics(echo: Echo) -> None:
    echo.answer = b'# HELP a b\n# TYPE a counter\na{x="y z"} 1.0\nb 2e-05\n\n'
    assert Client(echo.url).metrics() == {'a{x="y z"}': 1.0, "b": 2e-05}


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Client(echo.url).predict(["x"]) == ["a", "b"]


@pytest.mark.parametrize("url", ["http://localhost", "localhost:80", "http://127.0.0.1/", "[::1]:80", "http://[::1]"])
def test_what_is_this_machine(url: str) -> None:
    assert _is_loopback(Client(url).url)
    assert not _is_loopback(Client("example.org:80").url)


def test_a_slash_at_the_end_of_the_url(echo: Echo) -> None:
    one = Client(f"http://{echo.url}/")
    assert one.url == f"http://{echo.url}"
    assert one.invoke(url=f"http://{echo.url}/v1/models").status_code == 200


def test_connections_go_with_the_client(echo: Echo) -> None:
    """A socket that is left open is a warning, and warnings are errors here."""
    Client(echo.url).predict("a")
    gc.collect()
    client = Client(echo.url)
    client.predict("a")
    client.close()
    client.close()
    assert client.predict("a") == "a", "opened again when it is needed"
