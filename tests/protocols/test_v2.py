"""V2 over REST: metadata, JSON and binary tensors both ways, what is refused, the model repository."""

from __future__ import annotations

import json
import random
import struct
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from modelserve.protocols import tensors
from modelserve.types import InferRequest, InferResponse, Params, Tensor, TextPair, TokenIds
from tests.protocols.rest import StandIn, client, v2_body

INFER = "/v2/models/m/infer"
LENGTH = "inference-header-content-length"


def tensor(**fields: Any) -> dict[str, Any]:
    return {"name": "input-0", "shape": [1], "datatype": "BYTES", "data": ["a"]} | fields


async def understood(body: dict[str, Any]) -> InferRequest:
    """What the model is asked for a body."""
    model = StandIn()
    async with client(model) as http:
        answer = await http.post(INFER, json=body)
    assert answer.status_code == 200, answer.text
    return model.requests[0]


async def refused(body: Any, **headers: str) -> str:
    """The sentence with which a body is refused."""
    async with client() as http:
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await http.post(INFER, headers={k.replace("_", "-"): v for k, v in headers.items()}, **given)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


def binary(described: dict[str, Any], *raw: bytes, length: str | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with binary tensors."""
    head = json.dumps(described).encode()
    return b"".join((head, *raw)), {LENGTH: str(len(head)) if length is None else length}


def of_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.mark.parametrize(
    ("fields", "instances"),
    [
        ({}, ["a"]),
        ({"shape": [2], "data": ["a", "b"]}, ["a", "b"]),
        ({"shape": [2, 1], "data": [["a"], ["b"]]}, ["a", "b"]),
        ({"shape": [2, 1], "data": ["a", "b"]}, ["a", "b"]),
        ({"shape": [-1], "data": ["a", "b"]}, ["a", "b"]),
        ({"shape": [-1, 2], "data": ["a", "b"]}, [TextPair("a", "b")]),
        ({"shape": [2, 2], "data": [["a", "b"], ["c", "d"]]}, [TextPair("a", "b"), TextPair("c", "d")]),
        ({"datatype": "bytes"}, ["a"]),
        ({"name": "anything"}, ["a"]),
        ({"data": ["日本語 🙂 \u0000 é"]}, ["日本語 🙂 \u0000 é"]),
    ],
)
async def test_the_texts_of_a_request(fields: dict[str, Any], instances: list[Any]) -> None:
    request = await understood({"inputs": [tensor(**fields)]})
    assert request.instances == instances
    assert (request.api, request.form, request.raw) == ("v2", "tensors", False)


async def test_only_the_first_text_input_is_read() -> None:
    second = tensor(name="b", data=["second"])
    assert (await understood({"inputs": [tensor(), second]})).instances == ["a"]


async def test_token_ids_ask_for_the_networks_own_answer() -> None:
    ids = {"name": "input_ids", "shape": [2, 3], "datatype": "INT64", "data": [[101, 7592, 102], [101, 102, 0]]}
    mask = {"name": "attention_mask", "shape": [2, 3], "datatype": "INT32", "data": [1, 1, 1, 1, 1, 0]}
    types = {"name": "token_type_ids", "shape": [2, 3], "datatype": "int64", "data": [0, 0, 1, 0, 0, 0]}
    request = await understood({"inputs": [mask, ids, types]})
    assert request.raw
    assert request.raw_length == 3
    assert request.instances == [TokenIds([101, 7592, 102], [0, 0, 1]), TokenIds([101, 102], [0, 0])]


async def test_parameters_may_be_strings() -> None:
    parameters = {"targets": '["a", "b"]', "top_k": "3", "return_labels": "true", "truncation": False, "priority": 1}
    request = await understood(v2_body(["a"], parameters=parameters))
    assert request.params == Params(targets=["a", "b"], top_k=3, return_labels=True, truncation=False)


async def test_the_answer_has_kserves_keys_in_their_order() -> None:
    async with client() as http:
        answer = await http.post(INFER, json=v2_body(["Hello", "you"], id="req-1"))
        given = await http.post("/v2/models/m/versions/1/infer", json=v2_body(["a"], id="r"))
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (
        b'{"model_name":"m","model_version":null,"id":"req-1","parameters":null,"outputs":['
        b'{"name":"output-0","shape":[2],"datatype":"INT64","parameters":null,"data":[5,3]}]}'
    )
    assert given.json()["model_version"] == "1"


async def test_without_an_id_the_requests_is_taken() -> None:
    async with client() as http:
        made = await http.post(INFER, json=v2_body(["a"]))
        null = await http.post(INFER, json=v2_body(["a"], id=None), headers={"x-request-id": "abc"})
    assert made.json()["id"] == made.headers["x-request-id"]
    assert null.json()["id"] == "abc"


async def several(request: InferRequest) -> InferResponse:
    outputs = [
        Tensor("output-0", "FP32", (1, 2), np.array([[0.1, -2]], np.float32)),
        Tensor("labels", "BYTES", (2,), [b"caf\xc3\xa9", b"b"]),
        Tensor("flags", "BOOL", (2,), np.array([True, False])),
    ]
    return InferResponse("m", request.id, outputs=outputs, tokens=[3], tokens_dropped=4)


async def test_every_kind_of_output_as_json_and_dropped_tokens() -> None:
    async with client(StandIn(several)) as http:
        answer = (await http.post(INFER, json=v2_body(["a"]))).json()
    assert answer["parameters"] == {"tokens_dropped": 4}
    assert [output["data"] for output in answer["outputs"]] == [
        [0.10000000149011612, -2.0],
        ["café", "b"],
        [True, False],
    ]


async def test_outputs_are_chosen_by_name() -> None:
    async with client(StandIn(several)) as http:
        chosen = await http.post(INFER, json=v2_body(["a"], outputs=[{"name": "flags"}, {"name": "output-0"}]))
        unknown = await http.post(INFER, json=v2_body(["a"], outputs=[{"name": "embeddings"}]))
        none = await http.post(INFER, json=v2_body(["a"], outputs=[]))
    assert [output["name"] for output in chosen.json()["outputs"]] == ["flags", "output-0"]
    assert unknown.status_code == 400
    assert unknown.json()["error"].startswith("Unexpected inference output 'embeddings' for model 'm'")
    assert len(none.json()["outputs"]) == 3


async def test_a_binary_answer_to_a_request_for_all() -> None:
    body = v2_body(["a"], id="r", parameters={"binary_data_output": True})
    async with client(StandIn(several)) as http:
        answer = await http.post(INFER, json=body)
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[LENGTH])
    head, rest = json.loads(answer.content[:size]), answer.content[size:]
    assert list(head) == ["id", "model_name", "model_version", "parameters", "outputs"]
    assert head["parameters"] == {"tokens_dropped": 4}
    assert [list(output) for output in head["outputs"]] == [["name", "shape", "datatype", "parameters"]] * 3
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes == [8, 4 + 5 + 4 + 1, 2]
    assert rest == struct.pack("<ff", 0.1, -2) + of_bytes("café".encode(), b"b") + b"\x01\x00"


async def test_a_binary_answer_is_chosen_per_output() -> None:
    outputs = [{"name": "flags", "parameters": {"binary_data": True}}, {"name": "output-0"}]
    against = [{"name": "flags", "parameters": {"binary_data": False}}, {"name": "output-0"}]
    async with client(StandIn(several)) as http:
        some = await http.post(INFER, json=v2_body(["a"], outputs=outputs))
        others = await http.post(INFER, json=v2_body(["a"], outputs=against, parameters={"binary_data_output": True}))
        plain = await http.post(INFER, json=v2_body(["a"], outputs=against))
    head = json.loads(some.content[: int(some.headers[LENGTH])])
    assert "data" not in head["outputs"][0]
    assert head["outputs"][1]["data"] == [0.10000000149011612, -2.0]
    head = json.loads(others.content[: int(others.headers[LENGTH])])
    assert head["outputs"][0]["data"] == [True, False]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert plain.headers["content-type"] == "application/json"


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/json", "anything/else"])
async def test_binary_inputs(content_type: str | None) -> None:
    model = StandIn()
    texts = of_bytes("café".encode(), b"")
    ids = {"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}
    described = {"inputs": [tensor(shape=[2], parameters={"binary_data_size": len(texts)}), ids]}
    del described["inputs"][0]["data"]
    body, headers = binary(described, texts)
    async with client(model) as http:
        answer = await http.post(
            INFER, content=body, headers=headers | ({"content-type": content_type} if content_type else {})
        )
    assert answer.status_code == 200, answer.text
    assert model.requests[0].instances == ["café", ""]


async def test_binary_token_ids() -> None:
    model = StandIn()
    ids, mask = np.array([[5, 6, 7]], "<i8"), np.array([[1, 1, 0]], "<i4")
    described = {
        "inputs": [
            {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "parameters": {"binary_data_size": 24}},
            {"name": "attention_mask", "shape": [1, 3], "datatype": "INT32", "parameters": {"binary_data_size": 12}},
        ]
    }
    body, headers = binary(described, ids.tobytes(), mask.tobytes())
    async with client(model) as http:
        answer = await http.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert model.requests[0].instances == [TokenIds([5, 6])]


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/vnd.api+json"])
async def test_json_under_another_or_no_content_type(content_type: str | None) -> None:
    async with client() as http:
        content = json.dumps(v2_body(["a"])).encode()
        answer = await http.post(INFER, content=content, headers={"content-type": content_type} if content_type else {})
    assert answer.json()["outputs"][0]["data"] == [1]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor()], "id": 5}, "id"),
        ({"inputs": [tensor()], "parameters": []}, "parameters"),
        ({"inputs": [tensor()], "parameters": {"top_k": "many"}}, "top_k"),
        ({"inputs": [tensor()], "parameters": {"targets": '["a"'}}, "targets"),
        ({"inputs": [{"name": "a", "shape": [1], "data": ["x"]}]}, "datatype"),
        ({"inputs": [tensor(datatype="STRING")]}, "STRING"),
        ({"inputs": [tensor(datatype=None)]}, "datatype"),
        ({"inputs": [tensor(datatype="FP32")]}, "FP32"),
        ({"inputs": [tensor(datatype="FP32", data=[1.0])]}, "FP32"),
        ({"inputs": [tensor(datatype="FP16", data=[1.0])]}, "FP16"),
        ({"inputs": [tensor(datatype="INT64", shape=[1, 3], data=[101, 7592, 102])]}, "input_ids"),
        ({"inputs": [tensor(data=[1])]}, "string"),
        ({"inputs": [tensor(data=[None])]}, "string"),
        ({"inputs": [tensor(data=[{"a": 1}])]}, "string"),
        ({"inputs": [tensor(data=["a", ["b"]], shape=[2])]}, "string"),
        ({"inputs": [tensor(data=[["a"], "b"], shape=[2])]}, "lists"),
        ({"inputs": [tensor(data="a")]}, "data"),
        ({"inputs": [tensor(data=[], shape=[0])]}, "is empty"),
        ({"inputs": [tensor(data=[], shape=[-1])]}, "is empty"),
        ({"inputs": [tensor(shape=[5], data=["a", "b"])]}, "[5]"),
        ({"inputs": [tensor(shape=[-1, 2], data=["a", "b", "c"])]}, "[-1, 2]"),
        ({"inputs": [tensor(shape=[-1, -1])]}, "[-1, -1]"),
        ({"inputs": [tensor(shape=[-2])]}, "shape"),
        ({"inputs": [tensor(shape=[1, 3], data=["a", "b", "c"])]}, "[1, 3]"),
        ({"inputs": [tensor(shape=[])]}, "[]"),
        ({"inputs": [tensor(shape=[1, 1, 1])]}, "[1, 1, 1]"),
        ({"inputs": [tensor(shape=[2**70])]}, "shape"),
        ({"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES"}]}, "neither data nor binary_data_size"),
        ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, "binary_data_size"),
        ([], "object"),
        ("text", "object"),
    ],
)
async def test_a_bad_body_is_refused_with_what_was_wrong(body: Any, part: str) -> None:
    assert part in await refused(body)


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        ({"data": [0, 1, 1]}, "attention_mask"),
        ({"data": [0, 0, 0]}, "input_ids"),
        ({"shape": [1, 2], "data": [1, 1]}, "attention_mask"),
        ({"datatype": "FP32", "data": [1.0, 1.0, 1.0]}, "attention_mask"),
        ({"datatype": "BYTES", "data": ["1", "1", "1"]}, "attention_mask"),
    ],
)
async def test_a_mask_that_is_no_padding_behind_the_tokens_is_refused(mask: dict[str, Any], part: str) -> None:
    ids = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [5, 6, 7]}
    full = {"name": "attention_mask", "shape": [1, 3], "datatype": "INT64"} | mask
    assert part in await refused({"inputs": [ids, full]})


NO_JSON = [
    b"",
    b'{"inputs": [',
    b'{"inputs": [NaN]}',
    b'{"id": "\xff"}',
    b'{"id": "\\ud800"}',
    b'{"parameters": {"a": ' + b"[" * 100_000,
    b'{"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}x',
]


@pytest.mark.parametrize("body", NO_JSON, ids=range(len(NO_JSON)))
async def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    assert "not valid JSON" in await refused(body)


@pytest.mark.parametrize(
    "length", ["x", "-1", "+5", "1.0", "", " ", "5_0", "999999", "9" * 5000, "0" * 30 + "9" * 5000, "٣"]
)
async def test_a_bad_header_length_is_refused(length: str) -> None:
    body, _ = binary({"inputs": [tensor()]})
    async with client() as http:
        answer = await http.post(INFER, content=body, headers={LENGTH: length.encode()})
    # An empty header is none: the body is JSON alone.
    assert answer.status_code == (200 if not length.strip() else 400), answer.text


@pytest.mark.parametrize(
    ("size", "raw"),
    [
        (7, b"\x03\x00\x00\x00b"),
        (5, b"\x03\x00\x00\x00b"),
        (2, b"\x03\x00"),
        (8, b"\x03\x00\x00\x00bad"),
        (7, b"\x03\x00\x00\x00badmore"),
        (0, b""),
        (-1, b"\x03\x00\x00\x00bad"),
        (True, b"\x03\x00\x00\x00bad"),
        ("7", b"\x03\x00\x00\x00bad"),
        (7.5, b"\x03\x00\x00\x00bad"),
        (2**80, b"\x03\x00\x00\x00bad"),
        (7, b"\xff\xff\xff\xffbad"),
        (14, b"\x03\x00\x00\x00bad" * 2),
        (5, b"\x01\x00\x00\x00\xff"),
    ],
)
async def test_a_bad_binary_tensor_is_refused(size: Any, raw: bytes) -> None:
    described = {"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]}
    body, headers = binary(described, raw)
    await refused(body, **headers)


@pytest.mark.parametrize("length", [5, 20, 10_000])
async def test_a_header_length_that_cuts_the_json_is_refused(length: int) -> None:
    body, _ = binary({"inputs": [tensor()]})
    await refused(body, **{LENGTH: str(length)})


async def test_mangled_binary_requests_are_the_callers_mistake() -> None:
    """Bytes flipped, cut and doubled at random, from a fixed seed: never a 5xx."""
    rng = random.Random(7)
    texts = of_bytes(b"one text", b"another")
    described = {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
            {"name": "b", "shape": [2], "datatype": "FP16", "parameters": {"binary_data_size": 4}},
        ]
    }
    body, headers = binary(described, texts, b"\x00\x3c\x00\x3c")
    seen = set()
    async with client() as http:
        for _ in range(2000):
            mangled = bytearray(body)
            for _ in range(rng.randint(0, 4)):
                at = rng.randrange(len(mangled))
                match rng.randrange(3):
                    case 0:
                        mangled[at] = rng.randrange(256)
                    case 1:
                        del mangled[at : at + rng.randint(1, 20)]
                    case 2:
                        mangled[at:at] = mangled[: rng.randint(1, 20)]
            length = str(rng.choice([int(headers[LENGTH]), rng.randint(0, len(body) + 5)]))
            answer = await http.post(INFER, content=bytes(mangled), headers={LENGTH: length})
            seen.add(answer.status_code)
    assert seen == {200, 400}


async def test_metadata() -> None:
    async with client() as http:
        server = (await http.get("/v2")).json()
        model = (await http.get("/v2/models/m")).json()
        version = (await http.get("/v2/models/m/versions/1")).json()
    assert server["name"] == "modelserve"
    assert set(server) == {"name", "version", "extensions"}
    assert {"binary_tensor_data", "model_repository"} <= set(server["extensions"])
    assert model == version
    assert model == {
        "name": "m",
        "versions": ["1"],
        "platform": "stand-in",
        "inputs": [{"name": "input-0", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "output-0", "datatype": "INT64", "shape": [-1]}],
    }


@pytest.mark.parametrize("path", ["/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/infer"])
async def test_unknown_models_and_versions_are_404(path: str) -> None:
    async with client() as http:
        for name in ("nope", "m/versions/2", "m/versions/x"):
            url = path.format(name)
            send = http.post if url.endswith("infer") else http.get
            answer = await send(url)
            assert answer.status_code == 404
            assert name.rpartition("/")[2] in answer.json()["error"]


async def test_ready_tells_the_truth_of_a_model() -> None:
    async with client(StandIn(stage="load", reason="load in progress")) as http:
        loading = await http.get("/v2/models/m/ready")
        infer = await http.post(INFER, json=v2_body(["a"]))
    async with client() as http:
        ready = await http.get("/v2/models/m/ready")
    assert (loading.status_code, loading.json()) == (503, {"name": "m", "ready": False})
    assert (infer.status_code, infer.headers["retry-after"]) == (503, "7")
    assert (ready.status_code, ready.json()) == (200, {"name": "m", "ready": True})


async def test_the_repositorys_index() -> None:
    models = [
        StandIn(name="a"),
        StandIn(name="b", stage="warm-up", reason="warm-up in progress"),
        StandIn(name="c", stage="unloaded", reason="it has been unloaded"),
    ]
    async with client(*models) as http:
        posted = await http.post("/v2/repository/index", json={})
        got = await http.get("/v2/repository/index")
        names = await http.get("/v2/models")
    assert posted.json() == got.json()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in posted.json()] == [
        ("a", "1", "READY"),
        ("b", "1", "LOADING"),
        ("c", "1", "UNAVAILABLE"),
    ]
    assert names.json() == {"models": ["a", "b"]}


async def control(http: httpx.AsyncClient, name: str, verb: str) -> tuple[int, Any]:
    answer = await http.post(f"/v2/repository/models/{name}/{verb}", json={})
    return answer.status_code, answer.json()


async def test_models_are_unloaded_and_loaded_again() -> None:
    async with client(StandIn(), enable_model_control=True) as http:
        assert await control(http, "m", "load") == (200, {"name": "m", "load": True})
        assert await control(http, "m", "unload") == (200, {"name": "m", "unload": True})
        gone = {"error": "Model with name m does not exist."}
        for path in ("/v1/models/m", "/v2/models/m", "/v2/models/m/ready"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (404, gone)
        assert (await http.post("/v1/models/m:predict", json={"instances": ["a"]})).status_code == 404
        assert await control(http, "m", "unload") == (404, gone)
        assert await control(http, "m", "load") == (200, {"name": "m", "load": True})
        assert (await http.post(INFER, json=v2_body(["a"]))).status_code == 200
        assert (await control(http, "nope", "load"))[0] == 404


async def test_a_load_that_fails_says_why() -> None:
    async with client(StandIn(stage="unloaded", reason="broken"), enable_model_control=True) as http:
        assert await control(http, "m", "load") == (500, {"error": "The weights are gone."})


async def test_model_control_is_off_by_default() -> None:
    model = StandIn()
    async with client(model) as http:
        for verb in ("load", "unload"):
            code, body = await control(http, "m", verb)
            assert code == 501
            assert "--enable_model_control" in body["error"]
    assert model.ready


@pytest.mark.parametrize("parameters", [{}, {"binary_data_output": True}], ids=["JSON", "binary"])
async def test_an_answer_of_many_elements_is_written_beside_the_event_loop(
    parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million and a half of them take 0.7 s, in which nothing else would be answered."""
    threads = []

    def noted(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def write(tensor: Tensor) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return function(tensor)

        return write

    for function in (tensors.elements, tensors.to_bytes):
        monkeypatch.setattr(tensors, function.__name__, noted(function))
    count = 50_000

    async def many(request: InferRequest) -> InferResponse:
        size = count if request.instances == ["many"] else 1
        return InferResponse("m", request.id, outputs=[Tensor("output-0", "BYTES", (size,), [b"{}"] * size)])

    async with client(StandIn(many)) as http:
        for text in ("many", "one"):
            body = {"inputs": [tensor(data=[text])], "parameters": parameters}
            assert (await http.post(INFER, json=body)).status_code == 200
    assert threads == [False, True], "a small one is not worth a thread"
