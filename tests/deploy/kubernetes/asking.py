"""One request to the fake, without a client library in between."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.deploy.kubernetes.fake import ADMIN, Fake


def ask(fake: Fake, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, Any]:
    """body: text as it is, anything else as JSON."""
    link = http.client.HTTPConnection("127.0.0.1", int(fake.url.rpartition(":")[2]), timeout=20)
    text = body if isinstance(body, str) or body is None else json.dumps(body)
    headers = {"Authorization": f"Bearer {ADMIN}", "User-Agent": "tests/1"} | (
        {"Content-Type": content} if body else {}
    )
    try:
        link.request(method, path, text, headers)
        with link.getresponse() as response:
            found = response.read().decode()
    finally:
        link.close()
    return response.status, json.loads(found) if found.startswith("{") else found
