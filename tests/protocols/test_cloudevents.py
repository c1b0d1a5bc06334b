"""CloudEvents around predict: both modes as KServe has them, and its three settings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.protocols.rest import StandIn, client

PREDICT = "/v1/models/m:predict"
HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "36077800-0c23-4f38-a0b4-01f4369f670a",
    "ce-source": "https://example.com/event-producer",
    "ce-type": "com.example.sampletype1",
    "ce-time": "2021-01-28T21:04:43.144141+00:00",
    "content-type": "application/json",
}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "36077800",
    "source": "https://example.com",
    "type": "com.example",
    "time": "2021-01-28T21:04:43.144141+00:00",
    "data": {"instances": ["bad"]},
}
BODY = {"instances": ["bad"]}


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


async def test_binary_mode() -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=BODY, headers=HEADERS)
    assert answer.json() == {"predictions": [3]}
    headers = answer.headers
    assert headers["content-type"] == "application/json"
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-source"] == "io.kserve.inference.m"
    assert headers["ce-type"] == "io.kserve.inference.response"
    assert headers["ce-id"] != HEADERS["ce-id"]
    assert datetime.fromisoformat(headers["ce-time"]).tzinfo is not None


async def test_binary_mode_needs_no_content_type_and_no_time() -> None:
    headers = without(without(HEADERS, "content-type"), "ce-time")
    async with client() as http:
        answer = await http.post(PREDICT, content=b'{"instances":["bad"]}', headers=headers)
    assert answer.json() == {"predictions": [3]}
    assert answer.headers["ce-specversion"] == "1.0"


@pytest.mark.parametrize("name", ["ce-specversion", "ce-id", "ce-source", "ce-type"])
async def test_with_a_header_missing_it_is_plain_json(name: str) -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=BODY, headers=without(HEADERS, name))
    assert answer.content == b'{"predictions":[3]}'
    assert not [header for header in answer.headers if header.startswith("ce-")]


@pytest.mark.parametrize("event", [EVENT, without(EVENT, "time")])
async def test_structured_mode(event: dict[str, Any]) -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=event, headers={"content-type": "application/cloudevents+json"})
    assert answer.headers["content-type"] == "application/cloudevents+json"
    body = answer.json()
    assert list(body) == ["specversion", "id", "source", "type", "time", "data"]
    assert body["id"] != EVENT["id"]
    assert (body["specversion"], body["data"]) == ("1.0", {"predictions": [3]})
    assert (body["source"], body["type"]) == ("io.kserve.inference.m", "io.kserve.inference.response")


async def test_a_structured_event_that_says_json_is_answered_plainly() -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=EVENT)
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'{"predictions":[3]}'


async def test_a_plain_body_that_says_event_is_answered_by_an_event() -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=BODY, headers={"content-type": "application/cloudevents+json"})
    assert answer.json()["data"] == {"predictions": [3]}


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type", "data"])
async def test_an_event_without_a_required_attribute_is_refused(name: str) -> None:
    async with client() as http:
        headers = {"content-type": "application/cloudevents+json"}
        answer = await http.post(PREDICT, json=without(EVENT, name), headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("data", [{}, [], "text", None, {"instances": 1}, {"instances": []}])
async def test_bad_data_in_an_event_is_the_callers_mistake(data: Any) -> None:
    async with client() as http:
        headers = {"content-type": "application/cloudevents+json"}
        answer = await http.post(PREDICT, json=EVENT | {"data": data}, headers=headers)
    assert answer.status_code == 400


async def test_bad_json_in_a_binary_event_is_the_callers_mistake() -> None:
    async with client() as http:
        answer = await http.post(PREDICT, content=b'{"instances": [', headers=HEADERS)
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["error"]


async def test_type_and_source_are_settings() -> None:
    async with client(StandIn(), ce_type="my.type", ce_source="my.source") as http:
        binary = await http.post(PREDICT, json=BODY, headers=HEADERS)
        structured = await http.post(PREDICT, json=EVENT, headers={"content-type": "application/cloudevents+json"})
    assert (binary.headers["ce-type"], binary.headers["ce-source"]) == ("my.type", "my.source")
    assert (structured.json()["type"], structured.json()["source"]) == ("my.type", "my.source")


async def test_merge_carries_the_requests_attributes_but_not_the_answers_own() -> None:
    async with client(StandIn(), ce_merge=True) as http:
        extra = {"ce-subject": "s-1", "ce-myextension": "e", "ce-datacontenttype": "application/json"}
        binary = await http.post(PREDICT, json=BODY, headers=HEADERS | extra)
        event = EVENT | {"subject": "s-1", "myextension": 5}
        structured = await http.post(PREDICT, json=event, headers={"content-type": "application/cloudevents+json"})
    assert (binary.headers["ce-subject"], binary.headers["ce-myextension"]) == ("s-1", "e")
    assert "ce-datacontenttype" not in binary.headers
    assert binary.headers["ce-id"] != HEADERS["ce-id"]
    assert binary.headers["ce-time"] != HEADERS["ce-time"]
    assert binary.headers["ce-source"] == "io.kserve.inference.m"
    body = structured.json()
    assert (body["subject"], body["myextension"], body["data"]) == ("s-1", 5, {"predictions": [3]})
    assert (body["id"] != EVENT["id"], body["type"]) == (True, "io.kserve.inference.response")


async def test_attributes_beyond_ascii_are_percent_encoded_in_headers() -> None:
    async with client(StandIn(name="modèle"), ce_merge=True) as http:
        extra = {"ce-subject": "caf%C3%A9 %22x%22"}
        answer = await http.post("/v1/models/modèle:predict", json=BODY, headers=HEADERS | extra)
    assert answer.headers["ce-source"] == "io.kserve.inference.mod%C3%A8le"
    assert answer.headers["ce-subject"] == "caf%C3%A9%20%22x%22"


async def test_without_merge_nothing_is_carried() -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=BODY, headers=HEADERS | {"ce-subject": "s-1"})
    assert "ce-subject" not in answer.headers
