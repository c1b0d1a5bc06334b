"""The recorded exchanges with a real Kubernetes 1.36.2, and how two answers are made comparable.

`recorded.jsonl.gz` is the whole recording, a JSON object per line: title, method, path, contentType, request, status,
headers, response. Only test objects are in it: no secret, no token, nobody's name. What it has of Kubernetes
(Apache-2.0) are answers of a program.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "recorded.jsonl.gz"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ADDRESS = re.compile(r"\b10\.89\.\d+\.\d+")
_ACCESS = re.compile(r"kube-api-access-\w{5}")
_POD = re.compile(r"\b(web|noimage|crash|toobig|nosecret|unready|oom|nopvc)-[a-z0-9]{6,11}(-[a-z0-9]{5})?(?![a-z0-9])")
_EVENT = re.compile(r"\.[0-9a-f]{16}$")
_BOX = re.compile(r"containerd://[0-9a-f]{64}")
NAMES = _POD


@dataclass(frozen=True, slots=True)
class Exchange:
    title: str
    method: str
    path: str
    content: str
    request: Any
    status: int
    answer: str
    """The content type of the answer."""
    response: Any


@cache
def exchanges() -> tuple[Exchange, ...]:
    found = []
    for line in gzip.decompress(_FILE.read_bytes()).decode().splitlines():
        one = json.loads(line)
        found.append(
            Exchange(
                one["title"], one["method"], one["path"], one["contentType"] or "", one["request"], one["status"],
                one["headers"].get("Content-Type", ""), one["response"],
            )
        )  # fmt: skip
    return tuple(found)


def comparable(value: Any, key: str = "") -> Any:
    """Without what differs from one cluster, or one second, to the next."""
    if isinstance(value, dict):
        return {name: comparable(one, name) for name, one in value.items()}
    if isinstance(value, list):
        found = [comparable(one) for one in value]
        # Events are listed by their names, which end in a time.
        if found and isinstance(found[0], dict) and "involvedObject" in found[0]:
            found.sort(key=lambda one: (one["involvedObject"]["name"], one["reason"]))
        return found
    if not isinstance(value, str):
        return value
    if key == "resourceVersion" and value:
        return "VERSION"
    if key == "continue":
        return json.loads(base64.urlsafe_b64decode(value + "=="))["start"]
    if key == "pod-template-hash":
        return "HASH"
    for pattern, said in (
        (_UUID, "UID"),
        (_WHEN, "TIME"),
        (_ADDRESS, "ADDRESS"),
        (_BOX, "CONTAINER"),
        (_EVENT, ".EVENT"),
    ):
        value = pattern.sub(said, value)
    return _POD.sub(_named, _ACCESS.sub("kube-api-access-XXXXX", value))


def _named(match: re.Match[str]) -> str:
    return f"{match.group(1)}-HASH" + ("-XXXXX" if match.group(2) else "")


def differences(recorded: Any, found: Any, path: str = "") -> list[str]:
    """Where two comparable values are not the same, by path."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        return [
            line
            for name in {**recorded, **found}
            for line in (
                differences(recorded[name], found[name], f"{path}.{name}")
                if name in recorded and name in found
                else [f"{path}.{name}: {'only recorded' if name in recorded else 'only here'}"]
            )
        ]
    if isinstance(recorded, list) and isinstance(found, list):
        if len(recorded) != len(found):
            return [f"{path}: {len(recorded)} recorded, {len(found)} here"]
        return [
            line
            for index, (one, other) in enumerate(zip(recorded, found, strict=True))
            for line in differences(one, other, f"{path}[{index}]")
        ]
    return [] if recorded == found else [f"{path}: {recorded!r} recorded, {found!r} here"]
