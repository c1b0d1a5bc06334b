"""Random requests to one route, made by schemathesis from our own OpenAPI document, and what it found.

Run in processes of a pool: making a request takes ten times as long as answering it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import requests
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup

from tests.fuzz.bodies import often

MASK = "[MASK]"
TIMEOUT_S = 30
"""For one answer; far more than any takes, so that it ends a hang and nothing else."""
_ALL_MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
_KNOWN_FAULTS = 5
"""Complaints to collect before a route is given up."""

_refusals = ["2xx", "4xx"]
_CONFIG = {
    "checks": {
        "not_a_server_error": {"expected-statuses": _refusals},
        # A schema cannot say that a text must hold a mask, or that a shape must fit its data.
        "positive_data_acceptance": {"expected-statuses": _refusals},
    },
    "operations": [
        {
            "include-path": "/v1/models/{model}:explain",
            "checks": {
                "not_a_server_error": {"expected-statuses": [*_refusals, "501"]},
                "positive_data_acceptance": {"expected-statuses": ["501"]},
            },
        }
    ],
}

_word = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["accept", "accept-encoding", "x-request-id", "user-agent", "cookie", "if-none-match", "range", "te"]
    ),
    st.one_of(
        _word, st.sampled_from(["gzip", "gzip;q=0", "*", "*/*;q=x", "application/openmetrics-text", "text/html"])
    ),
    max_size=3,
)
_QUERY = st.dictionaries(_word, _word, max_size=2)


@dataclass
class Report:
    """What happened to one route. complaints: what schemathesis found, with the request to repeat it."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    connections: int = 0
    complaints: list[str] = field(default_factory=list)


@cache
def _schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=schemathesis.Config.from_dict(_CONFIG))


def fuzz(url: str, route: str, cases: int, knows: Sequence[str]) -> Report:
    """Send what the document's edges suggest, and then `cases` random requests, half of them valid.

    route: as schemathesis calls it, "POST /v1/models/{model}:predict". knows: request parameters that mean something
    to the model's task.
    """
    operation = _schema(url).find_operation_by_label(route)
    report = Report()
    with requests.Session() as session:
        session.headers.clear()  # they would win over those that are drawn

        def send(case: Case, **more: Any) -> None:
            report.cases += 1
            try:
                answer = case.call_and_validate(session=session, timeout=TIMEOUT_S, **more)
            except FailureGroup as failures:
                report.complaints.append(str(failures))
            except requests.RequestException as error:
                report.complaints.append(f"{error}\n{case.as_curl_command()}")
            else:
                report.statuses[answer.status_code] += 1

        @often(cases)
        @given(
            case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in _ALL_MODES]),
            sensible=st.booleans(),
            headers=_HEADERS,
            query=_QUERY,
        )
        def run(case: Case, sensible: bool, headers: dict[str, str], query: dict[str, str]) -> None:
            if len(report.complaints) >= _KNOWN_FAULTS:
                return
            if sensible and case.meta.generation.mode.is_positive and isinstance(case.body, dict):
                make_sensible(case.body, knows)
            send(case, headers=headers, params=query)

        for case in operation.schema.iter_coverage_cases(
            operation, generation_modes=_ALL_MODES, generation_config=operation.schema.config.generation
        ):
            send(case)
        run()
        report.connections = sum(
            pool.num_connections for pool in session.get_adapter(url).poolmanager.pools._container.values()
        )
    return report


def make_sensible(body: dict[str, Any], knows: Sequence[str]) -> None:
    """Let a valid body mean something, in place, so that it is not refused for what the document cannot say."""
    if isinstance(parameters := body.get("parameters"), dict):
        body["parameters"] = {name: value for name, value in parameters.items() if name in knows}
    for name in ("instances", "inputs"):
        match body.get(name):
            case str(text):
                body[name] = f"{text} {MASK}"
            case [{"datatype": _} as tensor, *_]:
                texts = [f"{element} {MASK}" for element in tensor.get("data", ["a text"])]
                body[name] = [tensor | {"datatype": "BYTES", "shape": [len(texts)], "data": texts, "parameters": None}]
            case list(instances):
                body[name] = [f"{one} {MASK}" if isinstance(one, str) else one for one in instances]
