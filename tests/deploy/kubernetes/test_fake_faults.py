"""The ways in which a test puts the fake out of order, seen from a client: 410, cut streams, silence, refusals."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.asking import ask
from tests.deploy.kubernetes.fake import ADMIN, Fake, cluster, fates

_PODS = "/api/v1/namespaces/default/pods"
_DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with cluster() as found:
        yield found


class _Stream:
    """A watch or a log that is read line by line."""

    def __init__(self, fake: Fake, path: str) -> None:
        self._link = http.client.HTTPConnection("127.0.0.1", int(fake.url.rpartition(":")[2]), timeout=10)
        self._link.request("GET", path, headers={"Authorization": f"Bearer {ADMIN}"})
        self._response = self._link.getresponse()

    def line(self) -> str:
        """ "" at the end. Raises IncompleteRead or OSError where it was cut."""
        return self._response.readline().decode()

    def event(self) -> Any:
        return json.loads(self.line())

    def rest(self) -> list[str]:
        return self._response.read().decode().splitlines()

    def close(self) -> None:
        self._response.close()
        self._link.close()


@pytest.fixture
def streams(fake: Fake) -> Iterator[Any]:
    opened: list[_Stream] = []

    def _open(path: str) -> _Stream:
        opened.append(_Stream(fake, path))
        return opened[-1]

    yield _open
    for one in opened:
        one.close()


def _version(fake: Fake) -> str:
    return str(ask(fake, "GET", _DEPLOYMENTS)[1]["metadata"]["resourceVersion"])


def test_a_watch_shows_what_comes_changes_and_goes_for_its_selector(fake: Fake, streams: Any) -> None:
    watch = streams(f"{_DEPLOYMENTS}?watch=1&resourceVersion={_version(fake)}&labelSelector=team%3Da")
    fake.add(manifests.deployment("other"))
    mine = manifests.deployment("mine")
    mine["metadata"]["labels"] = {"team": "a"}
    fake.add(mine)
    found = watch.event()
    assert (found["type"], found["object"]["metadata"]["name"]) == ("ADDED", "mine")
    change = {"metadata": {"labels": {"team": "b"}}}
    ask(fake, "PATCH", f"{_DEPLOYMENTS}/mine", change, "application/merge-patch+json")
    types: list[str] = []
    while not types or types[-1] != "DELETED":
        types.append(watch.event()["type"])
    assert set(types[:-1]) <= {"MODIFIED"}


def test_an_expired_history_is_410_for_old_and_new_watches(fake: Fake, streams: Any) -> None:
    version = _version(fake)
    watch = streams(f"{_PODS}?watch=true&resourceVersion={version}")
    fake.wait(lambda: fake.streams)
    fake.expire()
    for found in (watch.event(), streams(f"{_PODS}?watch=true&resourceVersion={version}").event()):
        assert found["type"] == "ERROR"
        assert (found["object"]["code"], found["object"]["reason"]) == (410, "Expired")
        assert found["object"]["message"].startswith(f"too old resource version: {version} (")
    assert watch.line() == "", "and the watch ends"
    fresh = streams(f"{_DEPLOYMENTS}?watch=true&resourceVersion={_version(fake)}")
    fake.add(manifests.deployment())
    assert fresh.event()["type"] == "ADDED"


def test_an_expired_page_is_410(fake: Fake) -> None:
    for name in ("a", "b"):
        fake.add(manifests.secret(name, k="v"))
    path = "/api/v1/namespaces/default/secrets?limit=1"
    first = ask(fake, "GET", path)[1]["metadata"]["continue"]
    assert [one["metadata"]["name"] for one in ask(fake, "GET", f"{path}&continue={first}")[1]["items"]] == ["b"]
    fake.expire()
    code, found = ask(fake, "GET", f"{path}&continue={first}")
    assert (code, found["reason"]) == (410, "Expired")


def test_bookmarks_tell_the_version(streams: Any, fake: Fake) -> None:
    fake.seconds = 0.001
    watch = streams(f"{_PODS}?watch=true&resourceVersion={_version(fake)}&allowWatchBookmarks=true")
    found = watch.event()
    assert found["type"] == "BOOKMARK"
    assert found["object"]["metadata"]["resourceVersion"] == _version(fake)


@pytest.mark.parametrize("reset", [False, True])
def test_watches_are_cut_in_the_midst(fake: Fake, streams: Any, reset: bool) -> None:
    watch = streams(f"{_PODS}?watch=true")
    fake.wait(lambda: fake.streams)
    assert fake.cut_watches(reset=reset) == 1
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watch.rest()
    assert ask(fake, "GET", _PODS)[0] == 200


def test_every_stream_is_cut_after_so_many_lines(fake: Fake, streams: Any) -> None:
    for name in "abc":
        fake.add(manifests.secret(name, k="v"))
    fake.cut_every(2)
    watch = streams("/api/v1/namespaces/default/secrets?watch=true")
    assert [watch.event()["object"]["metadata"]["name"] for _ in range(2)] == ["a", "b"]
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watch.rest()


def test_a_followed_log_ends_with_its_container(fake: Fake, streams: Any) -> None:
    fake.fate = fates.crash("one", after=30)
    fake.add(manifests.deployment())
    fake.wait(lambda: any(one["status"].get("phase") == "Running" for one in fake.objects("Pod")))
    name = fake.objects("Pod")[0]["metadata"]["name"]
    log = streams(f"{_PODS}/{name}/log?follow=true&timestamps=true")
    assert log.line().endswith("Z one\n")
    fake.log("two", pod=name)
    assert log.line().endswith("Z two\n")
    assert log.line() == ""


def test_a_server_that_has_vanished_refuses_and_comes_back(fake: Fake, streams: Any) -> None:
    watch = streams(f"{_PODS}?watch=true")
    fake.wait(lambda: fake.streams)
    fake.vanish()
    with pytest.raises(ConnectionRefusedError):
        ask(fake, "GET", _PODS)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watch.rest()
    fake.come_back()
    assert ask(fake, "GET", _PODS)[0] == 200


def test_a_server_that_hangs_answers_when_it_goes_on(fake: Fake) -> None:
    fake.hang()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(ask(fake, "GET", _PODS)[0]))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    fake.resume()
    thread.join(10)
    assert found == [200]


def test_a_server_that_hangs_can_be_left(fake: Fake) -> None:
    """Its end does not wait for an answer."""
    fake.hang()
    link = socket.create_connection(("127.0.0.1", int(fake.url.rpartition(":")[2])))
    link.sendall(b"GET /version HTTP/1.1\r\n\r\n")
    fake.close()
    with link, contextlib.suppress(ConnectionResetError):
        assert link.recv(100) == b""


@pytest.mark.parametrize("code", [429, 500, 503, 504])
def test_the_next_requests_fail_as_ordered(fake: Fake, code: int) -> None:
    fake.fail(code, 2)
    for _ in range(2):
        found, body = ask(fake, "GET", _PODS)
        assert found == code
        assert body.startswith("Too many requests") if code == 429 else body["code"] == code
    assert ask(fake, "GET", _PODS)[0] == 200
    fake.fail(code, method="PATCH")
    assert ask(fake, "GET", _PODS)[0] == 200


def test_what_is_denied_is_403_and_may_be_asked(fake: Fake) -> None:
    fake.deny("write", "deployments")
    code, found = ask(fake, "POST", _DEPLOYMENTS, manifests.deployment())
    assert (code, found["reason"]) == (403, "Forbidden")
    assert ask(fake, "GET", _DEPLOYMENTS)[0] == 200
    wanted = {"namespace": "default", "verb": "create", "group": "apps", "resource": "deployments"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    for verb, allowed in (("create", False), ("get", True)):
        spec = {"resourceAttributes": wanted | {"verb": verb}}
        assert ask(fake, "POST", path, review | {"spec": spec})[1]["status"] == {"allowed": allowed}


def test_requests_are_kept(fake: Fake) -> None:
    ask(fake, "GET", f"{_PODS}?limit=1")
    assert fake.requests == [("GET", f"{_PODS}?limit=1")]
