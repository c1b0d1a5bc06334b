"""A watch: what has changed since a version, line by line, until its time is over.

Recorded: with and without a version, one of the future, the timeout. From the documentation: 410 and bookmarks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.deploy.kubernetes.fake import selectors, status
from tests.deploy.kubernetes.fake.clock import Clock
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.logs import Line
from tests.deploy.kubernetes.fake.objects import Change, Objects
from tests.deploy.kubernetes.fake.paths import Asked, Place
from tests.deploy.kubernetes.fake.selectors import Test

_LONGEST_S = 1800.0
_BOOKMARK_S = 60.0


def lines(objects: Objects, clock: Clock, asked: Asked, where: Place, line: Line) -> Iterator[bytes]:
    """timeoutSeconds are the cluster's."""
    kind = where.kind
    test = selectors.of(kind, asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))
    end = clock.now() + float(asked.query.get("timeoutSeconds", _LONGEST_S))
    said = asked.query.get("resourceVersion", "")
    return _lines(objects, clock, end, said, kind, where.namespace, test, line, marks=asked.told("allowWatchBookmarks"))


def _lines(
    objects: Objects, clock: Clock, end: float, said: str, kind: Kind, namespace: str, test: Test, line: Line, *,
    marks: bool,
) -> Iterator[bytes]:  # fmt: skip
    with objects.lock:
        if said in ("", "0"):
            first = [("ADDED", one) for one in objects.all(kind, namespace, test)]
            last = objects.version
        else:
            first, last = [], int(said)
    for type_, found in first:
        yield _encoded(type_, found)
    mark = clock.now() + _BOOKMARK_S
    while True:
        with objects.lock:
            while True:
                if last < objects.oldest:
                    too_old, oldest, changes = True, objects.oldest, []
                    break
                too_old, oldest = False, 0
                changes = _since(objects, last)
                now = clock.now()
                if changes or now >= end or not line.alive() or (marks and now >= mark):
                    break
                until = min(end, mark if marks else end)
                objects.changed.wait(0.2 if clock.held else min(0.2, max(0.001, (until - now) * clock.seconds)))
        if too_old:
            yield _encoded("ERROR", status.expired(last, oldest).body or {})
            return
        for change in changes:
            last = change.version
            shown = _shown(change, kind, namespace, test)
            if shown is not None:
                yield _encoded(*shown)
        now = clock.now()
        if now >= end or not line.alive():
            return
        if marks and now >= mark:
            mark = now + _BOOKMARK_S
            version = {"resourceVersion": str(last), "creationTimestamp": None}
            yield _encoded("BOOKMARK", {"kind": kind.name, "apiVersion": kind.api_version, "metadata": version})


def _since(objects: Objects, version: int) -> list[Change]:
    found: list[Change] = []
    for change in reversed(objects.history):
        if change.version <= version:
            break
        found.append(change)
    found.reverse()
    return found


def _shown(change: Change, kind: Kind, namespace: str, test: Test) -> tuple[str, Object] | None:
    """As a watch with this selector sees it: what no longer matches has gone for it."""
    if change.kind is not kind or (namespace and change.object["metadata"].get("namespace") != namespace):
        return None
    was = change.before is not None and test(change.before)
    is_ = change.type != "DELETED" and test(change.object)
    if was and is_:
        return "MODIFIED", change.object
    if is_:
        return "ADDED", change.object
    return ("DELETED", change.object) if was else None


def _encoded(type_: str, found: Object) -> bytes:
    return json.dumps({"type": type_, "object": found}, separators=(",", ":")).encode() + b"\n"
