"""What of a request's trace context is passed on."""

from __future__ import annotations

import pytest

from modelserve.protocols.caller import caller
from modelserve.types import Caller

GOOD = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize("traceparent", [GOOD, f" {GOOD} ", f"cc-{'a' * 32}-{'b' * 16}-01-what-comes-later"])
def test_a_trace_goes_on(traceparent: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": "vendor=1"}
    assert caller("7", lambda name: headers.get(name, "")) == Caller("7", traceparent.strip(), "vendor=1")


@pytest.mark.parametrize(
    "traceparent",
    ["", "00", GOOD.upper(), f"ff{GOOD[2:]}", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01"],
)
def test_what_is_no_trace_does_not(traceparent: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": "vendor=1"}
    assert caller("7", lambda name: headers.get(name, "")) == Caller("7")


@pytest.mark.parametrize("tracestate", ["", "größe", "x" * 513, "a\x00b"])
def test_a_state_that_no_header_can_carry_is_left_out(tracestate: str) -> None:
    headers = {"traceparent": GOOD, "tracestate": tracestate}
    assert caller("7", lambda name: headers.get(name, "")) == Caller("7", GOOD)
