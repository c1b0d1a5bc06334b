"""Label and field selectors of lists and watches. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.deploy.kubernetes.fake import status
from tests.deploy.kubernetes.fake.kinds import Kind, Object

Test = Callable[[Object], bool]

_SET = re.compile(r"^\s*([^\s,()=!]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
_FIELDS = {
    "Pod": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase"),
    "Event": (
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type",
    ),
    "Secret": ("type",),
    "Namespace": ("status.phase",),
    "ReplicaSet": ("status.replicas",),
}  # fmt: skip


def of(kind: Kind, labels: str, fields: str) -> Test:
    """Whether an object is meant. Raises what the server says of a selector that it does not take."""
    tests = [*_label_tests(labels), *_field_tests(kind, fields)]
    return lambda found: all(test(found) for test in tests)


def matches(selector: Object | None, labels: Object) -> bool:
    """A LabelSelector of an object."""
    if selector is None:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or []:
        has, values = one["key"] in labels, one.get("values", [])
        right = {
            "In": has and labels.get(one["key"]) in values,
            "NotIn": not has or labels[one["key"]] not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }[one["operator"]]
        if not right:
            return False
    return True


def _split(text: str) -> list[str]:
    """At commas that are in no parentheses."""
    return [one for one in re.split(r",(?![^(]*\))", text) if one.strip()]


def _label_tests(text: str) -> list[Test]:
    found: list[Test] = []
    for one in _split(text):
        found.append(_label_test(one))
    return found


def _label_test(text: str) -> Test:
    if match := _SET.match(text):
        key, word, values = match.group(1), match.group(2), {one.strip() for one in match.group(3).split(",")}
        if word == "in":
            return lambda found: _labels(found).get(key) in values
        return lambda found: _labels(found).get(key) not in values
    for sign in ("!=", "==", "="):
        if sign in text:
            key, _, value = (part.strip() for part in text.partition(sign))
            if sign == "!=":
                return lambda found: _labels(found).get(key) != value
            return lambda found: _labels(found).get(key) == value
    name = text.strip()
    if not re.match(r"^!?\s*[A-Za-z0-9][-A-Za-z0-9_./]*$", name):
        raise status.bad_request(f"unable to parse requirement: found '{name}', expected: identifier")
    if name.startswith("!"):
        absent = name[1:].strip()
        return lambda found: absent not in _labels(found)
    return lambda found: name in _labels(found)


def _labels(found: Object) -> Object:
    labels: Object = found["metadata"].get("labels") or {}
    return labels


def _field_tests(kind: Kind, text: str) -> list[Test]:
    found: list[Test] = []
    known = ("metadata.name", "metadata.namespace", *_FIELDS.get(kind.name, ()))
    for one in _split(text):
        sign = "!=" if "!=" in one else "==" if "==" in one else "="
        key, _, value = one.partition(sign)
        if key not in known:
            words = ", ".join(f'"{name}"' for name in known)
            raise status.bad_request(f'"{key}" is not a known field selector: only {words}')
        found.append(_field_test(key, value, sign == "!="))
    return found


def _field_test(path: str, value: str, other: bool) -> Test:
    def test(found: Object) -> bool:
        at: object = found
        for name in path.split("."):
            at = at.get(name) if isinstance(at, dict) else None
        return (str(at if at is not None else "") == value) != other

    return test
