"""KServe's runtime as recorded: the same shapes of its good answers, and right answers where it failed.

Successful answers are compared with recordings of kserve 0.20.0 key by key, in order, with nesting and types; values
differ, since the recordings are of other random weights. The errors are the list of what that server was seen to do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from modelserve.config import Config
from modelserve.protocols.context import Context
from modelserve.protocols.http import build_app
from modelserve.runtime.model import Model, Models
from tests.models import minilm, tiny
from tests.protocols.rest import v2_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTENCE = "HuggingFace is a company based in Paris"
TWO = ["Paris", "HuggingFace is in New York"]
MASKED = "the capital of france is [MASK]."
PROBABILITIES, LOGITS = {"return_probabilities": True}, {"return_raw_logits": True}
OFFSETS = {"return_offsets_mapping": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server with a model for each task."""
    directories = {
        "minilm": minilm(),
        "fill": tiny("bert", "fill_mask"),
        "tok": tiny("bert", "token_classification"),
        "seq": tiny("bert", "sequence_classification"),
    }
    models = [
        Model(Config(model_name=name, model_dir=str(directory), threads=1)) for name, directory in directories.items()
    ]
    for model in models:
        await model.load()
    app = build_app(Context(Config(payload_limit=12_000_000), Models(models)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60) as client:
        yield client
    for model in models:
        model.close()


def skeleton(value: Any) -> Any:
    """Keys in order, nesting and types. Class and token numbers as keys, and the elements of a list, become one."""
    if isinstance(value, dict):
        if value and all(key.isdigit() for key in value):
            (kind,) = {type(one).__name__ for one in value.values()}
            return {"#": kind}
        return [(key, skeleton(one)) for key, one in value.items()]
    if isinstance(value, list):
        kinds: list[Any] = []
        for one in map(skeleton, value):
            if one not in kinds:
                kinds.append(one)
        return ["list", *kinds]
    return type(value).__name__


V1: list[tuple[str, dict[str, Any], list[str], dict[str, Any]]] = [
    ("minilm", {}, ["Hello world"], {"predictions": [[-0.03447720780968666, 0.031023211777210236]]}),
    ("seq", {}, ["Hello, my dog is cute.", "bad"], {"predictions": [2, 2]}),
    ("seq", PROBABILITIES, ["bad"], {"predictions": [{"0": 0.1373, "1": 0.424, "2": 0.4388}]}),
    ("seq", LOGITS, ["bad"], {"predictions": [{"0": -0.8156455755233765, "1": 0.311895, "2": 0.3462}]}),
    ("tok", {}, [SENTENCE], {"predictions": [[[2, 4, 2, 3, 2, 2, 3, 2, 4, 2]]]}),
    ("tok", {}, TWO, {"predictions": [[[2, 1, 2, 3, 2, 2, 3, 2]], [[2, 4, 2, 3, 3, 2, 2, 2]]]}),
    ("tok", PROBABILITIES, [SENTENCE], {"predictions": [[{"0": 0.0469, "1": 0.1217}, {"0": 0.0951, "1": 0.1147}]]}),
    ("tok", LOGITS, TWO, {"predictions": [[{"0": -1.9507944583892822, "1": -0.419409841299057}]]}),
    (
        "tok",
        OFFSETS,
        [SENTENCE],
        {
            "predictions": [[[2, 4]]],
            "outputs": [{"name": "offset_mapping", "datatype": "INT64", "shape": [1, 2, 2], "data": [0, 0, 0, 7]}],
        },
    ),
    (
        "tok",
        OFFSETS | PROBABILITIES,
        TWO,
        {
            "predictions": [[{"0": 0.0469, "1": 0.1217}]],
            "outputs": [{"name": "offset_mapping", "datatype": "INT64", "shape": [1, 1, 2], "data": [0, 0]}],
        },
    ),
    ("fill", {}, [MASKED], {"predictions": [","]}),
    ("fill", {}, [MASKED, "the [MASK] sat"], {"predictions": [",", ","]}),
    ("fill", {}, ["the [MASK] sat on the [MASK]."], {"predictions": [",,"]}),
    ("fill", PROBABILITIES, [MASKED], {"predictions": [[[{"0": "0.0262"}, {"1": "0.0276"}]]]}),
    ("fill", LOGITS, [MASKED], {"predictions": [[[{"0": 0.0}, {"1": 0.05223787575960159}]]]}),
]


@pytest.mark.parametrize(("name", "parameters", "texts", "recorded"), V1)
async def test_v1_answers_have_the_recorded_shape(
    http: httpx.AsyncClient, name: str, parameters: dict[str, Any], texts: list[str], recorded: dict[str, Any]
) -> None:
    answer = await http.post(f"/v1/models/{name}:predict", json={"instances": texts, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert skeleton(answer.json()) == skeleton(recorded)
    assert len(answer.json()["predictions"]) == len(texts)


async def test_probabilities_of_fill_mask_are_strings_with_four_places(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/models/fill:predict", json={"instances": [MASKED], "parameters": PROBABILITIES})
    ((entries,),) = answer.json()["predictions"]
    assert [list(entry) for entry in entries] == [[str(index)] for index in range(len(entries))]
    assert all(re.fullmatch(r"\d\.\d{4}", *entry.values()) for entry in entries)


V2: list[tuple[str, dict[str, Any], list[str], list[tuple[str, str, int]]]] = [
    # (output, datatype, dimensions). FP64 and Python's reprs were recorded where FP32 and JSON objects are here.
    ("minilm", {}, ["Hello world", "b"], [("output-0", "FP32", 2)]),
    ("seq", {}, ["Hello, my dog is cute.", "bad"], [("output-0", "INT64", 1)]),
    ("seq", PROBABILITIES, ["Hello, my dog is cute.", "bad"], [("output-0", "BYTES", 1)]),
    ("seq", LOGITS, ["bad"], [("output-0", "BYTES", 1)]),
    ("tok", {}, TWO, [("output-0", "INT64", 3)]),
    ("tok", PROBABILITIES, ["Paris"], [("output-0", "BYTES", 2)]),
    ("tok", OFFSETS, TWO, [("output-0", "INT64", 3), ("offset_mapping", "INT64", 3)]),
    ("tok", OFFSETS | LOGITS, ["Paris"], [("output-0", "BYTES", 2), ("offset_mapping", "INT64", 3)]),
    ("fill", {}, ["the [MASK] sat", "a [MASK] [MASK]"], [("output-0", "BYTES", 1)]),
    ("fill", PROBABILITIES, ["the [MASK] sat"], [("output-0", "BYTES", 3)]),
]


@pytest.mark.parametrize(("name", "parameters", "texts", "outputs"), V2)
async def test_v2_answers_have_the_recorded_shape(
    http: httpx.AsyncClient,
    name: str,
    parameters: dict[str, Any],
    texts: list[str],
    outputs: list[tuple[str, str, int]],
) -> None:
    answer = await http.post(f"/v2/models/{name}/infer", json=v2_body(texts, id="g", parameters=parameters))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["model_name", "model_version", "id", "parameters", "outputs"]
    assert (body["model_name"], body["model_version"], body["id"], body["parameters"]) == (name, None, "g", None)
    assert [(o["name"], o["datatype"], len(o["shape"])) for o in body["outputs"]] == outputs
    for output in body["outputs"]:
        assert list(output) == ["name", "shape", "datatype", "parameters", "data"]
        assert output["shape"][0] == len(texts)
        elements = 1
        for size in output["shape"]:
            elements *= size
        assert len(output["data"]) == elements
        kind = {"FP32": "float", "INT64": "int", "BYTES": "str"}[output["datatype"]]
        assert skeleton(output["data"]) == ["list", kind]


PREDICT = "/v1/models/minilm:predict"
INFER = "/v2/models/minilm/infer"
GOOD = b'{"instances": ["Hello world"]}'
JSON = {"content-type": "application/json"}


def tensor(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input-0", "shape": [1], "datatype": "BYTES", "data": ["x"]} | fields]}


ERRORS: list[tuple[str, str, Any, dict[str, str], int]] = [
    ("unknown model", "/v1/models/nope:predict", {"instances": ["x"]}, {}, 404),
    ("unknown model, V2", "/v2/models/nope/infer", tensor(), {}, 404),
    ("malformed JSON", PREDICT, b'{"instances": [', JSON, 400),
    ("malformed JSON, V2", INFER, b'{"inputs": [', JSON, 400),
    ("empty body", PREDICT, b"", JSON, 400),
    ("empty body, V2", INFER, b"", JSON, 400),
    ("instances missing", PREDICT, {"foo": 1}, {}, 400),
    ("inputs missing, V2", INFER, {}, {}, 400),
    ("a JSON list", PREDICT, ["x"], {}, 400),
    ("a JSON string", PREDICT, b'"x"', JSON, 400),
    ("JSON null", PREDICT, b"null", JSON, 400),
    ("a JSON list, V2", INFER, ["x"], {}, 400),
    ("JSON null, V2", INFER, b"null", JSON, 400),
    ("instances null", PREDICT, {"instances": None}, {}, 400),
    ("one text", PREDICT, {"instances": "Hello world"}, {}, 200),
    ("no instance", PREDICT, {"instances": []}, {}, 400),
    ("no element, V2", INFER, tensor(shape=[0], data=[]), {}, 400),
    ("no input, V2", INFER, {"inputs": []}, {}, 400),
    ("numbers", PREDICT, {"instances": [1, 2]}, {}, 400),
    ("numbers, V2", INFER, tensor(data=[1]), {}, 400),
    ("null", PREDICT, {"instances": [None]}, {}, 400),
    ("booleans", PREDICT, {"instances": [True]}, {}, 400),
    ("mixed", PREDICT, {"instances": ["a", 1]}, {}, 400),
    ("nested lists", PREDICT, {"instances": [["a", "b"]]}, {}, 400),
    ("dicts", PREDICT, {"instances": [{"text": "a"}]}, {}, 200),
    ("other dicts", PREDICT, {"instances": [{"foo": "a"}]}, {}, 400),
    ("text pairs", "/v1/models/seq:predict", {"instances": [{"text": "a", "text_pair": "b"}]}, {}, 200),
    ("text pairs, V2", "/v2/models/seq/infer", tensor(shape=[1, 2], data=[["a", "b"]]), {}, 200),
    ("datatype STRING", INFER, tensor(datatype="STRING"), {}, 400),
    ("datatype FP16", INFER, tensor(datatype="FP16", data=[1.0]), {}, 400),
    ("datatype FP32 with strings", INFER, tensor(datatype="FP32"), {}, 400),
    ("datatype INT64", INFER, tensor(datatype="INT64", shape=[1, 3], data=[101, 7592, 102]), {}, 400),
    ("datatype missing", INFER, {"inputs": [{"name": "a", "shape": [1], "data": ["x"]}]}, {}, 400),
    ("wrong shape", INFER, tensor(shape=[5], data=["a", "b"]), {}, 400),
    ("an empty text", PREDICT, {"instances": [""]}, {}, 200),
    ("an over-long text", PREDICT, {"instances": ["hello world " * 2000]}, {}, 200),
    ("no mask", "/v1/models/fill:predict", {"instances": ["the cat sat"]}, {}, 400),
    ("no mask, V2", "/v2/models/fill/infer", tensor(data=["the cat sat"]), {}, 400),
    ("one of two without a mask", "/v1/models/fill:predict", {"instances": [MASKED, "the cat"]}, {}, 400),
    ("the mask cut off", "/v1/models/fill:predict", {"instances": ["the cat " * 300 + "[MASK]"]}, {}, 400),
    ("JSON with a charset", PREDICT, GOOD, {"content-type": "application/json; charset=utf-8"}, 200),
    ("JSON with a charset, V2", INFER, tensor(), {"content-type": "application/json;charset=UTF-8"}, 200),
    ("text/plain", PREDICT, GOOD, {"content-type": "text/plain"}, 415),
    ("text/plain, V2", INFER, tensor(), {"content-type": "text/plain"}, 415),
    ("a form", PREDICT, GOOD, {"content-type": "application/x-www-form-urlencoded"}, 415),
    ("no content type", PREDICT, GOOD, {}, 200),
    ("octet-stream", PREDICT, GOOD, {"content-type": "application/octet-stream"}, 200),
    ("invalid UTF-8", PREDICT, b'{"instances": ["\xff\xfe"]}', JSON, 400),
    ("NaN", PREDICT, b'{"instances": [NaN]}', JSON, 400),
    ("a lone surrogate", PREDICT, b'{"instances": ["\\ud800"]}', JSON, 400),
    ("unknown output", INFER, tensor() | {"outputs": [{"name": "embeddings"}]}, {}, 400),
    ("an unknown parameter, V2", INFER, tensor() | {"parameters": {"content_type": "pd"}}, {}, 200),
    ("version 1", "/v2/models/minilm/versions/1/infer", tensor(), {}, 200),
    ("version 2", "/v2/models/minilm/versions/2/infer", tensor(), {}, 404),
    ("explain", "/v1/models/minilm:explain", {"instances": ["x"]}, {}, 501),
    ("a body over the limit", PREDICT, {"instances": ["x" * 12_000_001]}, {}, 413),
]


@pytest.mark.parametrize(
    ("path", "body", "headers", "code"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
async def test_what_kserve_got_wrong(
    http: httpx.AsyncClient, path: str, body: Any, headers: dict[str, str], code: int
) -> None:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = await http.post(path, headers=headers, **given)
    assert answer.status_code == code, answer.text
    if code != 200:
        assert list(answer.json()) == ["error"]
        sentence = answer.json()["error"]
        assert len(sentence) > 15
        assert not re.search(r"Error\b|Exception|Traceback|NoneType", sentence)


async def test_an_over_long_text_is_cut_and_says_so(http: httpx.AsyncClient) -> None:
    text = "hello world " * 2000
    v1 = await http.post(PREDICT, json={"instances": [text]})
    v2 = await http.post(INFER, json=v2_body([text]))
    dropped = 4000 - (256 - 2)
    assert v1.json()["parameters"] == v2.json()["parameters"] == {"tokens_dropped": dropped}
    assert v1.headers["x-modelserve-tokens-dropped"] == v2.headers["x-modelserve-tokens-dropped"] == str(dropped)
    refused = await http.post(PREDICT, json={"instances": [text], "parameters": {"truncation": False}})
    assert refused.status_code == 400
    assert "256" in refused.json()["error"]


@pytest.mark.slow
async def test_ten_megabytes_and_two_thousand_texts_are_answered(http: httpx.AsyncClient) -> None:
    large = await http.post(PREDICT, json={"instances": ["hello world " * 850_000]})
    many = await http.post(PREDICT, json={"instances": ["hi"] * 2000})
    assert large.status_code == many.status_code == 200
    assert len(many.json()["predictions"]) == 2000


async def test_the_listings_keep_kserves_keys(http: httpx.AsyncClient) -> None:
    names = ["minilm", "fill", "tok", "seq"]
    assert (await http.get("/")).json() == {"status": "alive"}
    assert (await http.get("/v1/models")).json()["models"] == names
    one = (await http.get("/v1/models/minilm")).json()
    assert (one["name"], one["ready"]) == ("minilm", True)
    assert (await http.get("/v2/models")).json() == {"models": names}
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}
    assert (await http.get("/v2/models/minilm/ready")).json() == {"name": "minilm", "ready": True}
    metadata = (await http.get("/v2/models/minilm")).json()
    assert list(metadata) == ["name", "versions", "platform", "inputs", "outputs"]
    assert metadata["outputs"][0] == {"name": "output-0", "datatype": "FP32", "shape": [-1, 384]}
    cards = (await http.get("/openai/v1/models")).json()
    recorded = {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"}
    assert recorded <= set(cards["data"][0])
