"""Every recorded exchange, sent again over HTTP in the same order to a fresh fake, whose answers are compared.

The fake is set up as the recorded cluster was: the image `lab.local/absent:1` is in no registry, `crash` ends with 7,
`oom` is killed, `unready` answers no probe; its time passes only between requests, as far as it had there.

Made the same before two answers are compared, since no two clusters have it in common: uids, resourceVersions, times,
container ids, pods' addresses, the hashes and random ends of names (ReplicaSets, pods, events, token volumes), and the
order of events, which is that of these names. A page's token is compared by where the next page starts. Not sent as
recorded: names of pods, page tokens and the version that a watch starts from, which are the fake's own.
`EXCEPT` is all else.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.deploy.kubernetes import recorded
from tests.deploy.kubernetes.fake import ADMIN, LIMITED, Fake, cluster, fates
from tests.deploy.kubernetes.recorded import Exchange

EXCEPT: dict[str, str] = {
    ".managedFields": "the recorder has left them out of every answer but two, where they are compared",
    ".count": "how often an event was told depends on how often the kubelet looked",
    "pods of crash .items[0].status.resources": "the kubelet read a limit of 2^63 from a control group that had gone",
}
"""What is not compared, by the end of its path (after the title, where it is of one exchange only), and why."""
_KEPT = ("apply creates (201)", "apply again (200)")
_TOKENS = {
    "no credentials": "",
    "wrong token": "wrong",
    "token without rights": LIMITED,
    "token without rights: can I?": LIMITED,
}


class Replay:
    """One pass over the recording."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self._link = http.client.HTTPConnection("127.0.0.1", int(fake.url.rpartition(":")[2]), timeout=20)
        self._page = ""
        self._version = ""
        fake.node.absent = {"lab.local/absent:1"}
        fake.fates = {
            "web": fates.ready("one", "two"),
            "crash": fates.crash("boom", code=7, after=0.1),
            "oom": fates.oom(after=0.9),
            "unready": fates.unready("one", "two"),
        }
        # What happens in the cluster before a request, so that it finds what it found there.
        self._before: dict[str, Callable[[], None]] = {
            "deployment available": lambda: fake.advance(2),
            "get to replace": fake.once,
            "after its deadline: deployment noimage": lambda: fake.advance(11),
            "watch from now, 2 s": lambda: fake.advance(1.5),
        }

    def close(self) -> None:
        self._link.close()

    def send(self, exchange: Exchange) -> tuple[int, str, Any]:
        """Status, content type, body."""
        self._before.get(exchange.title, lambda: None)()
        headers = {"Content-Type": exchange.content} if exchange.content else {}
        if token := _TOKENS.get(exchange.title, ADMIN):
            headers["Authorization"] = f"Bearer {token}"
        body = json.dumps(exchange.request) if exchange.request is not None else None
        path = self._path(exchange.path)
        if "watch=true" not in path:
            return self._exchange(exchange.method, path, body, headers)
        found: list[tuple[int, str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(self._exchange("GET", path, body, headers)))
        thread.start()
        self._fake.wait(lambda: self._fake.streams)
        self._fake.advance(2)
        thread.join(20)
        code, content, text = found[0]
        events = [json.loads(line) for line in str(text).splitlines()] if isinstance(text, str) else [text]
        return code, content, events

    def _exchange(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, str, Any]:
        self._link.request(method, path, body, headers)
        with self._link.getresponse() as response:
            text = response.read().decode()
            content = response.headers.get("Content-Type", "")
        try:
            found = json.loads(text)
        except ValueError:
            return response.status, content, text
        metadata = found.get("metadata", {}) if isinstance(found, dict) else {}
        self._page = metadata.get("continue", self._page)
        self._version = metadata.get("resourceVersion", self._version) if "items" in found else self._version
        return response.status, content, found

    def _path(self, path: str) -> str:
        """With the fake's own names, page and version."""
        if "continue=zzz" not in path:
            path = re.sub(r"continue=[^&]+", lambda _: f"continue={quote(self._page)}", path)
        path = path.replace("resourceVersion=2194", f"resourceVersion={self._version}")
        return recorded.NAMES.sub(self._own, path)

    def _own(self, match: re.Match[str]) -> str:
        pods = sorted(self._fake.objects("Pod", "tr"), key=lambda one: one["metadata"]["creationTimestamp"])
        mine = [one for one in pods if one["metadata"]["labels"].get("app") == match.group(1)]
        return str(mine[0]["metadata"]["name"])


@pytest.fixture(scope="module")
def answers() -> Iterator[list[tuple[int, str, Any]]]:
    """Of the whole pass."""
    with cluster(held=True, namespaces=()) as fake:
        replay = Replay(fake)
        yield [replay.send(exchange) for exchange in recorded.exchanges()]
        replay.close()


@pytest.mark.parametrize("index", range(len(recorded.exchanges())), ids=lambda index: recorded.exchanges()[index].title)
def test_answers_as_recorded(index: int, answers: list[tuple[int, str, Any]]) -> None:
    exchange = recorded.exchanges()[index]
    code, content, body = answers[index]
    response = exchange.response
    if "watch=true" in exchange.path and not isinstance(response, list):
        response = [response]  # the recorder read one line as one object
    if not isinstance(body, (dict, list)):
        response, body = recorded.comparable(response), recorded.comparable(body)
        # A log that is empty was recorded as text, and so was an answer without a body.
        assert (code, content, body) == (exchange.status, exchange.answer, response)
        return
    found = recorded.differences(recorded.comparable(response), recorded.comparable(body))
    kept = exchange.title in _KEPT
    assert (code, content) == (exchange.status, exchange.answer)
    assert [line for line in found if not _excepted(exchange.title, line, kept=kept)] == []


def _excepted(title: str, line: str, *, kept: bool) -> bool:
    path = line.partition(": ")[0]
    for one in EXCEPT:
        if one == ".managedFields" and kept:
            continue
        ends, _, below = one.rpartition(" ")
        if (path.endswith(below) or below + "." in path) and (not ends or title.endswith(ends)):
            return True
    return False


def test_every_exception_is_needed(answers: list[tuple[int, str, Any]]) -> None:
    """One that no longer is goes."""
    needed = set()
    for exchange, (_, _, body) in zip(recorded.exchanges(), answers, strict=True):
        for line in recorded.differences(recorded.comparable(exchange.response), recorded.comparable(body)):
            needed |= {one for one in EXCEPT if one.rpartition(" ")[2] in line}
    assert needed == set(EXCEPT)
