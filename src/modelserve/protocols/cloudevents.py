"""CloudEvents 1.0 around V1's predict, binary and structured, with KServe's CE_MERGE, CE_TYPE and CE_SOURCE.

Knows no V1 body: what an event carries is bytes here. Pure functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from modelserve.config import Config
from modelserve.protocols.exchange import Reply, decode, encode

STRUCTURED = "application/cloudevents+json"
REQUIRED = ("id", "source", "specversion", "type")
_PREFIX = b"ce-"
_PRINTABLE = "".join(set(map(chr, range(0x21, 0x7F))) - {'"', "%"})
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Event:
    """What a request's event says besides its data; the answer is an event of the same mode."""

    attributes: dict[str, Any]
    structured: bool


class StructuredEvent(msgspec.Struct):
    """An event with its data in one JSON object."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: dict[str, Any]


def of_headers(headers: Mapping[bytes, bytes]) -> Event | None:
    """The binary mode's event. One of the required headers missing: no event, as KServe reads it."""
    if b"ce-id" not in headers:
        return None
    attributes = {
        name.removeprefix(_PREFIX).decode("latin-1"): unquote(value.decode("latin-1"))
        for name, value in headers.items()
        if name.startswith(_PREFIX)
    }
    return Event(attributes, structured=False) if all(name in attributes for name in REQUIRED) else None


def of_body(body: bytes) -> tuple[dict[str, Any], bytes] | None:
    """Attributes and data of the structured mode's event, whatever its content type; None when it is none.

    `time` is optional, as the specification has it (KServe wants it).
    """
    fields: dict[str, Any] = decode(body, _object)
    if "data" not in fields or not all(name in fields for name in REQUIRED):
        return None
    return fields, bytes(fields.pop("data"))


def reply(event: Event, data: bytes, model_name: str, config: Config) -> Reply:
    """The answer as an event of the request's mode. `data`: JSON.

    --ce_merge carries the request's attributes over, but for those that are the answer's own.
    """
    own: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": config.ce_source or f"io.kserve.inference.{model_name}",
        "type": config.ce_type,
        "time": datetime.now(UTC).isoformat(),
    }
    carried = event.attributes if config.ce_merge else {}
    if event.structured:
        answer = own | {name: value for name, value in carried.items() if name not in own}
        return Reply(encode(answer | {"data": msgspec.Raw(data)}), content_type=STRUCTURED.encode())
    answer = own | {name: value for name, value in carried.items() if name not in own and name != "datacontenttype"}
    return Reply(data, headers=tuple((_PREFIX + k.encode("latin-1"), _quoted(v)) for k, v in answer.items()))


def _quoted(value: str) -> bytes:
    """A header's value: CloudEvents wants what is not printable ASCII percent-encoded, and `"` and `%`."""
    return quote(value, safe=_PRINTABLE).encode()
