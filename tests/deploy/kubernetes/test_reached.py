"""A run in a cluster is asked from here: through a forwarded port, by a real client, with a real model behind it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

import modelserve as ms
from modelserve.errors import InvokeError, TargetError, TargetRefused
from tests.deploy.kubernetes.fake import Fake, fates
from tests.models import tiny
from tests.process import Server, serve

TEXT = "The capital of France is [MASK]."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """What runs in every pod."""
    with serve("--model_dir", str(tiny("bert", "fill_mask")), "--model_name", "model") as found:
        yield found


def running(function: ms.Function, **given: object) -> ms.Run:
    return function.run("serve", target="kubernetes", wait=True, timeout=30, log_info=False, **given)


def threads() -> int:
    return sum("forward" in one.name for one in threading.enumerate())


@pytest.mark.slow
def test_asked_from_here(fake: Fake, bert: ms.Function, server: Server) -> None:
    fake.backends = {8080: ("127.0.0.1", server.http_port)}
    run = running(bert, replicas=2)
    before = threads()
    answer = run.predict(TEXT, top_k=1)
    assert answer == run.predict(TEXT, top_k=1)
    assert run.invoke(path="/v2/health/ready").status_code == 200
    assert run.metrics()
    assert run.url.endswith(".default.svc:8080"), "the url is the cluster's"
    for pod in fake.objects("Pod"):
        fake.remove("Pod", pod["metadata"]["name"])
    fake.cut_watches(reset=True)
    fake.wait(lambda: len(fake.objects("Pod")) == 2)
    run.wait(timeout=30, log_info=False)
    assert run.predict(TEXT, top_k=1) == answer, "another pod answers"
    with pytest.raises(InvokeError) as found:
        run.predict(TEXT, top_k="many")
    assert found.value.status in (400, 422)
    run.stop()
    assert threads() <= before
    with pytest.raises(InvokeError, match="the run is STOPPED"):
        run.predict(TEXT)


def test_a_port_that_nobody_listens_on(fake: Fake, bert: ms.Function) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        fake.backends = {8080: free.getsockname()}
    run = running(bert)
    with pytest.raises(TargetError, match=r"the port 8080 of the pod bert-.* cannot be reached: .*refused"):
        run.invoke(path="/v2/health/ready")
    run.stop()


def test_no_pod_that_answers(fake: Fake, bert: ms.Function) -> None:
    fake.fate = fates.unready()
    run = bert.run("serve", target="kubernetes")
    with pytest.raises(InvokeError, match="the run is PENDING and has no service yet; wait until it is RUNNING"):
        run.predict("x")


def test_no_right_to_forward(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    fake.deny("*", "pods/portforward")
    with pytest.raises(TargetRefused, match="portforward"):
        run.predict("x")
    run.stop()
