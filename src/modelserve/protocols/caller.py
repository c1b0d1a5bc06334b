"""Who asks: the request's id and its trace context, for whoever is asked further. Pure; knows no API.

W3C Trace Context, https://www.w3.org/TR/trace-context/: what is not well formed is not passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from modelserve.types import Caller

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
_TRACESTATE = re.compile(r"[ -~\t]{1,512}")


def caller(request_id: str, header: Callable[[str], str]) -> Caller:
    """header: the value of a header by its lower-case name, "" when absent."""
    traceparent = header("traceparent").strip()
    if not _TRACEPARENT.fullmatch(traceparent):
        return Caller(request_id)
    tracestate = header("tracestate").strip()
    return Caller(request_id, traceparent, tracestate if _TRACESTATE.fullmatch(tracestate) else "")
