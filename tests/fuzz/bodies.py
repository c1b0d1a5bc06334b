"""Inference requests of V2 as hypothesis draws them: whole ones, ones with a wrong part, and the bytes of both.

A `Request` knows no wire format; `as_json`, `as_binary` and `as_message` write it as REST and gRPC do.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from modelserve import pb
from modelserve.datatypes import DTYPES
from modelserve.protocols.grpc_tensors import FIELDS


def often(cases: int) -> settings:
    """The same cases in every run: whoever submits one change does not stumble over another."""
    return settings(
        max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


@dataclass(frozen=True)
class Input:
    """A tensor; `data` are bytes where its datatype is BYTES, else numbers."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]

    def raw(self) -> bytes:
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(element)) + element for element in self.data)
        return np.array(self.data).astype(DTYPES[self.datatype]).tobytes()


@dataclass(frozen=True)
class Request:
    inputs: list[Input]
    parameters: dict[str, Any]
    outputs: list[str]
    id: str = ""


_texts = st.lists(st.text(max_size=30).map(lambda text: text.encode()), min_size=1, max_size=4)


@st.composite
def _text_inputs(draw: st.DrawFn) -> list[Input]:
    texts = draw(_texts)
    shape = draw(st.sampled_from([[len(texts)], [len(texts), 1]]))
    if draw(st.booleans()):
        texts, shape = texts * 2, [len(texts), 2]
    return [Input(draw(st.sampled_from(["input-0", "texts", "ü"])), "BYTES", shape, texts)]


@st.composite
def _id_inputs(draw: st.DrawFn) -> list[Input]:
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    datatype = draw(st.sampled_from(["INT64", "INT32", "UINT8"]))
    ids = draw(st.lists(st.integers(0, 100), min_size=rows * columns, max_size=rows * columns))
    inputs = [Input("input_ids", datatype, [rows, columns], ids)]
    if draw(st.booleans()):
        lengths = draw(st.lists(st.integers(1, columns), min_size=rows, max_size=rows))
        mask = [int(column < length) for length in lengths for column in range(columns)]
        inputs.append(Input("attention_mask", "INT64", [rows, columns], mask))
    return inputs


whole = st.builds(
    Request,
    inputs=st.one_of(_text_inputs(), _id_inputs()),
    parameters=st.dictionaries(
        st.sampled_from(["return_probabilities", "return_labels", "truncation", "binary_data_output", "mine"]),
        st.booleans(),
        max_size=2,
    ),
    outputs=st.just([]),
    id=st.text(max_size=10),
)
"""Requests that a sequence classifier answers, unless their parameters ask for two kinds of answer."""

_datatypes = st.sampled_from([*DTYPES, "BYTES", "bytes", "fp32", "STRING", "", "\x00", "INT64 ", "INT128"])
_sizes = st.sampled_from([0, 1, 2, 3, -1, -2, 7, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
_odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=12), st.just("[" * 50_000)
)
_parameter_names = st.sampled_from(
    ["top_k", "targets", "truncation", "return_raw_logits", "return_offsets_mapping", "aggregation_strategy",
     "prompt_name", "normalize", "dimensions", "binary_data_output", "binary_data_size", "", "x" * 3000]
)  # fmt: skip


@st.composite
def _spoiled_input(draw: st.DrawFn, given: Input) -> Input:
    match draw(st.sampled_from(["name", "datatype", "shape", "size", "more", "less", "bytes"])):
        case "name":
            return replace(given, name=draw(st.one_of(st.just(""), st.text(max_size=5), st.just("input_ids"))))
        case "datatype":
            return replace(given, datatype=draw(_datatypes))
        case "shape":
            return replace(given, shape=draw(st.lists(_sizes, max_size=40)))
        case "size":
            at = draw(st.integers(0, len(given.shape) - 1))
            return replace(given, shape=[*given.shape[:at], draw(_sizes), *given.shape[at + 1 :]])
        case "more":
            return replace(given, data=given.data * 2)
        case "less":
            return replace(given, data=given.data[1:])
        case _ if given.datatype == "BYTES":
            return replace(given, data=[draw(st.binary(max_size=20)) for _ in given.data])
        case _:
            return replace(given, data=[draw(st.integers(0, 200)) for _ in given.data])


@st.composite
def _spoiled(draw: st.DrawFn) -> Request:
    request = draw(whole)
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(["input", "inputs", "twice", "parameters", "outputs"])):
            case "input" if request.inputs:
                first, *others = request.inputs
                request = replace(request, inputs=[draw(_spoiled_input(first)), *others])
            case "inputs":
                request = replace(request, inputs=[])
            case "twice":
                request = replace(request, inputs=request.inputs * 2)
            case "outputs":
                request = replace(request, outputs=draw(st.lists(st.sampled_from(["output-0", "logits", "", "no"]))))
            case _:
                parameters = draw(st.dictionaries(_parameter_names, _odd_values, max_size=3))
                request = replace(request, parameters=request.parameters | parameters)
    return request


requests = st.one_of(whole, _spoiled())


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to four places flipped, cut out, filled, repeated, or with their end gone."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not damaged:
            break
        at = draw(st.integers(0, len(damaged) - 1))
        to = min(len(damaged), at + draw(st.integers(1, 8)))
        match draw(st.sampled_from(["flip", "flip", "cut", "insert", "repeat", "end"])):
            case "flip":
                damaged[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del damaged[at:to]
            case "insert":
                damaged[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "repeat":
                damaged[at:at] = damaged[at:to]
            case _:
                del damaged[at:]
    return bytes(damaged)


def as_json(request: Request) -> bytes:
    """V2's JSON body; what is no UTF-8 is replaced, since JSON cannot carry it."""
    inputs = [
        {
            "name": given.name,
            "datatype": given.datatype,
            "shape": given.shape,
            "data": [one.decode(errors="replace") if isinstance(one, bytes) else one for one in given.data],
        }
        for given in request.inputs
    ]
    return json.dumps(_body(request) | {"inputs": inputs}).encode(errors="replace")


def as_binary(request: Request) -> tuple[bytes, int]:
    """V2's body with binary tensors, and how many bytes of it are JSON."""
    raws = [_raw(given) for given in request.inputs]
    inputs = [
        {
            "name": given.name,
            "datatype": given.datatype,
            "shape": given.shape,
            "parameters": {"binary_data_size": len(raw)},
        }
        for given, raw in zip(request.inputs, raws, strict=True)
    ]
    head = json.dumps(_body(request) | {"inputs": inputs}).encode(errors="replace")
    return head + b"".join(raws), len(head)


def as_message(request: Request, *, raw: bool) -> bytes:
    """gRPC's ModelInferRequest, its data in raw_input_contents or in typed contents."""
    message = pb.ModelInferRequest(model_name="m", id=_sayable(request.id))
    for given in request.inputs:
        tensor = message.inputs.add(name=_sayable(given.name), datatype=_sayable(given.datatype), shape=given.shape)
        if raw:
            message.raw_input_contents.append(_raw(given))
        else:
            field = FIELDS.get(given.datatype, "int64_contents")
            data = given.data if (field == "bytes_contents") == isinstance((given.data or [b""])[0], bytes) else []
            getattr(tensor.contents, field).extend(data)
    for name, value in request.parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}.get(type(value))
        if kind is None:
            message.parameters[_sayable(name)].SetInParent()
        else:
            setattr(message.parameters[_sayable(name)], kind, _sayable(value) if isinstance(value, str) else value)
    for name in request.outputs:
        message.outputs.add(name=name)
    encoded: bytes = message.SerializeToString()
    return encoded


def _body(request: Request) -> dict[str, Any]:
    outputs = {"outputs": [{"name": name} for name in request.outputs]} if request.outputs else {}
    return {"id": request.id, "parameters": request.parameters, **outputs}


def _raw(given: Input) -> bytes:
    """Its bytes, or those of another datatype where it has none."""
    known = given.datatype if given.datatype in DTYPES or given.datatype == "BYTES" else "INT64"
    if (known == "BYTES") != isinstance((given.data or [b""])[0], bytes):
        known = "INT64" if known == "BYTES" else "BYTES"
    return replace(given, datatype=known).raw()


def _sayable(text: str) -> str:
    return text.encode(errors="replace").decode()
