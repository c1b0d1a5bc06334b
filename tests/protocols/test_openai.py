"""The OpenAI routes and rerank, over the whole ASGI app and real models."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from modelserve.config import Config
from modelserve.errors import NotSupported
from modelserve.protocols.context import Context
from modelserve.protocols.http import build_app
from modelserve.protocols.rerank import activation_of
from modelserve.runtime.model import Model, Models
from tests.models import minilm, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = ["Hello world", "a longer sentence here"]


async def serving(directory: Path, **parameters: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that serves one model under the name m."""
    config = Config(model_dir=str(directory), model_name="m", threads=1, **parameters)
    model = Model(config)
    await model.load()
    transport = httpx.ASGITransport(build_app(Context(config, Models([model]))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        yield client
    model.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedder() -> AsyncIterator[httpx.AsyncClient]:
    async for client in serving(minilm()):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def classifier() -> AsyncIterator[httpx.AsyncClient]:
    async for client in serving(tiny("bert", "sequence_classification")):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reranker() -> AsyncIterator[httpx.AsyncClient]:
    async for client in serving(tiny("bert", "sequence_classification", num_labels=1)):
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matryoshka() -> AsyncIterator[httpx.AsyncClient]:
    async for client in serving(tiny("bert", "text_embedding", matryoshka_dimensions=(16, 32))):
        yield client


async def embed(client: httpx.AsyncClient, prefix: str = "", **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{prefix}/v1/embeddings", json={"model": "m", **body})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def refused(client: httpx.AsyncClient, path: str, body: Any, code: int = 400) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape."""
    content = body if isinstance(body, bytes) else None
    answer = await client.post(path, content=content, json=None if content is not None else body)
    assert answer.status_code == code, answer.text
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array([row["embedding"] for row in answer["data"]])


@pytest.mark.parametrize("prefix", ["", "/openai"])
async def test_a_text_is_embedded_under_both_prefixes(embedder: httpx.AsyncClient, prefix: str) -> None:
    answer = await embed(embedder, prefix, input="Hello world", user="u", frob=1)
    assert answer["object"] == "list"
    assert answer["model"] == "m"
    (row,) = answer["data"]
    assert (row["object"], row["index"], len(row["embedding"])) == ("embedding", 0, 384)
    # What KServe's runtime answered for this text and these weights.
    np.testing.assert_allclose(row["embedding"][:3], [-0.034477207, 0.031023212, 0.006734978], atol=1e-5)
    # [CLS] hello world [SEP]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "total_tokens": 4,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


async def test_texts_keep_their_order(embedder: httpx.AsyncClient) -> None:
    together = await embed(embedder, input=TEXTS)
    alone = [await embed(embedder, input=text) for text in TEXTS]
    assert [row["index"] for row in together["data"]] == [0, 1]
    np.testing.assert_allclose(vectors(together), np.concatenate([vectors(one) for one in alone]), atol=1e-5)
    assert together["usage"]["total_tokens"] == sum(one["usage"]["total_tokens"] for one in alone)


async def test_base64_is_little_endian_float32(embedder: httpx.AsyncClient) -> None:
    numbers = await embed(embedder, input=TEXTS, encoding_format="float")
    coded = await embed(embedder, input=TEXTS, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded["data"]]
    np.testing.assert_allclose(decoded, vectors(numbers), atol=1e-6)


async def test_token_ids_are_read_as_they_are(embedder: httpx.AsyncClient) -> None:
    # [CLS] hello world [SEP] in BERT's vocabulary.
    ids = [101, 7592, 2088, 102]
    text = await embed(embedder, input="Hello world")
    one = await embed(embedder, input=ids)
    two = await embed(embedder, input=[ids, [101, 102]])
    np.testing.assert_allclose(vectors(one), vectors(text), atol=1e-5)
    np.testing.assert_allclose(vectors(two)[0], vectors(text)[0], atol=1e-5)
    assert one["usage"]["prompt_tokens"] == 4
    assert two["usage"]["prompt_tokens"] == 6


async def test_an_empty_text_is_embedded(embedder: httpx.AsyncClient) -> None:
    answer = await embed(embedder, input="")
    assert answer["usage"]["prompt_tokens"] == 2


async def test_truncation_is_told(embedder: httpx.AsyncClient) -> None:
    answer = await embedder.post("/v1/embeddings", json={"model": "m", "input": "word " * 1000})
    # MiniLM reads 256 tokens, two of them special.
    assert answer.headers["x-modelserve-tokens-dropped"] == "746"
    assert answer.json()["usage"]["total_tokens"] == 256


async def test_dimensions_cut_where_the_model_was_trained_for_it(matryoshka: httpx.AsyncClient) -> None:
    whole = vectors(await embed(matryoshka, input=TEXTS))
    cut = vectors(await embed(matryoshka, input=TEXTS, dimensions=16))
    np.testing.assert_allclose(cut, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-5)
    error = await refused(matryoshka, "/v1/embeddings", {"model": "m", "input": "x", "dimensions": 7})
    assert error["param"] == "dimensions"
    assert "16, 32" in error["message"]


async def test_dimensions_are_refused_where_it_was_not(embedder: httpx.AsyncClient) -> None:
    error = await refused(embedder, "/v1/embeddings", {"model": "m", "input": "x", "dimensions": 64})
    assert error["param"] == "dimensions"
    assert "64" in error["message"]
    assert "384" in error["message"]


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"model": "m"}, "input", "input is missing; it is a text, a list of texts"),
        ({"input": "x"}, "model", "model is missing"),
        ({"model": "m", "input": None}, "input", "got `null`; it is a text"),
        ({"model": "m", "input": 5}, "input", "got `int`; it is a text"),
        ({"model": "m", "input": {"text": "x"}}, "input", "got `object`"),
        ({"model": "m", "input": []}, "input", "input is empty"),
        ({"model": "m", "input": [[]]}, "input", "input has an empty list"),
        ({"model": "m", "input": [[101], []]}, "input", "input has an empty list"),
        ({"model": "m", "input": ["a", 5]}, "input", "input mixes texts and token ids"),
        ({"model": "m", "input": ["a", [5]]}, "input", "input mixes"),
        ({"model": "m", "input": ["a", None]}, "input", "it is a text"),
        ({"model": "m", "input": [[5, "a"]]}, "input", "it is a text"),
        ({"model": "m", "input": [True]}, "input", "it is a text"),
        ({"model": "m", "input": [1.5]}, "input", "it is a text"),
        ({"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format", "'hex'; it is float or base64"),
        ({"model": "m", "input": "x", "dimensions": 0}, "dimensions", "it is a number of 1 or more"),
        ({"model": "m", "input": "x", "dimensions": "64"}, "dimensions", "it is a number of 1 or more"),
        ({"model": 5, "input": "x"}, "model", "got `int`; it names the model"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "input", "input is missing"),
        ([], None, "Expected `object`, got `array`"),
        (b"{", None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b'{"model": "m", "input": "\xff"}', None, "not valid JSON"),
    ],
)
async def test_bad_embedding_requests_name_the_field(
    embedder: httpx.AsyncClient, body: Any, param: str | None, told: str
) -> None:
    error = await refused(embedder, "/openai/v1/embeddings", body)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
    assert told in error["message"]


async def test_token_ids_outside_the_vocabulary_are_refused(embedder: httpx.AsyncClient) -> None:
    for ids in ([101, 30522], [-1], [[101], [10**12]]):
        error = await refused(embedder, "/v1/embeddings", {"model": "m", "input": ids})
        assert "vocabulary" in error["message"]


async def test_unknown_models_are_not_found(embedder: httpx.AsyncClient) -> None:
    for path, body in (
        ("embeddings", {"input": "x"}),
        ("rerank", {"query": "q", "documents": ["d"]}),
        ("chat/completions", {"messages": []}),
        ("completions", {"prompt": ""}),
    ):
        error = await refused(embedder, f"/openai/v1/{path}", {"model": "nope", **body}, 404)
        assert error["message"] == "Model with name nope does not exist."
        assert error["code"] == "model_not_found"


async def test_other_models_and_apis_say_what_they_are(
    embedder: httpx.AsyncClient, classifier: httpx.AsyncClient
) -> None:
    error = await refused(classifier, "/v1/embeddings", {"model": "m", "input": "x"})
    assert error["message"] == "Model m does not support Embeddings API; its task is sequence_classification."
    error = await refused(embedder, "/v1/chat/completions", {"model": "m", "messages": []})
    assert error["message"] == "Model m does not support Chat Completion API"
    error = await refused(embedder, "/openai/v1/completions", {"model": "m", "prompt": "x"})
    assert error["message"] == "Model m does not support Completions API"


async def test_models_are_listed_for_openais_clients_and_v1s(embedder: httpx.AsyncClient) -> None:
    for prefix in ("/v1", "/openai/v1"):
        listed = (await embedder.get(f"{prefix}/models")).json()
        assert listed["object"] == "list"
        assert listed["models"] == ["m"]
        one = (await embedder.get(f"{prefix}/models/m")).json()
        assert listed["data"] == [one]
        assert (one["id"], one["object"], one["name"], one["ready"]) == ("m", "model", "m", True)
        assert one["max_model_len"] == 256
    unknown = await embedder.get("/openai/v1/models/nope")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert (await embedder.get("/v1/models/nope")).json() == {"error": "Model with name nope does not exist."}


async def test_what_is_not_there_answers_in_the_same_shape(embedder: httpx.AsyncClient) -> None:
    for path in ("/v1/responses", "/openai/v1/responses", "/openai/v1/audio/speech"):
        await refused(embedder, path, {}, 404)
    answer = await embedder.get("/v1/embeddings")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("given", "served"), [("", ""), ("/", ""), ("openai", "/openai"), ("/a/b/", "/a/b"), ("/v1", "/v1")]
)
async def test_the_prefix_is_the_operators(given: str, served: str) -> None:
    model = Model(config := Config(model_dir="/nowhere", model_name="m", openai_route_prefix=given))
    transport = httpx.ASGITransport(build_app(Context(config, Models([model]))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for prefix in {served, ""}:
            assert (await client.get(f"{prefix}/v1/models")).json()["models"] == ["m"]
            await refused(client, f"{prefix}/v1/embeddings", {"model": "m", "input": "x"}, 503)
        assert (await client.post("/elsewhere/v1/embeddings", json={})).status_code == 404
    model.close()


async def test_a_model_that_loads_is_not_ready() -> None:
    model = Model(config := Config(model_dir="/nowhere", model_name="m"))
    transport = httpx.ASGITransport(build_app(Context(config, Models([model]))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path, body in (("embeddings", {"input": "x"}), ("rerank", {"query": "q", "documents": ["d"]})):
            error = await refused(client, f"/v1/{path}", {"model": "m", **body}, 503)
            assert error["type"] == "server_error"
    model.close()


QUERY = "What is the capital of France?"
DOCUMENTS = ["Paris is the capital of France.", "The cat sat on the mat.", "Berlin is in Germany.", "Hello."]


def reference(query: str, documents: list[str]) -> np.ndarray[Any, Any]:
    """The logits of transformers for the reranker's weights."""
    import torch
    import transformers

    directory = tiny("bert", "sequence_classification", num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        rows = [model(**tokenizer(query, one, return_tensors="pt")).logits[0, 0].item() for one in documents]
    return np.array(rows)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/openai/v1/rerank"])
async def test_documents_come_in_the_order_of_their_relevance(reranker: httpx.AsyncClient, path: str) -> None:
    answer = await reranker.post(path, json={"model": "m", "query": QUERY, "documents": DOCUMENTS})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    scores = 1 / (1 + np.exp(-reference(QUERY, DOCUMENTS)))
    assert [row["index"] for row in body["results"]] == np.argsort(-scores).tolist()
    for row in body["results"]:
        assert row["relevance_score"] == pytest.approx(scores[row["index"]], abs=1e-5)
        assert "document" not in row
    assert body["model"] == "m"
    assert body["usage"]["total_tokens"] == body["meta"]["tokens"]["input_tokens"] > 4 * len(QUERY.split())


async def test_top_n_and_documents_as_the_caller_wants_them(reranker: httpx.AsyncClient) -> None:
    documents = [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]]
    body = {"model": "m", "query": QUERY, "documents": documents, "top_n": 2, "return_documents": True}
    results = (await reranker.post("/v1/rerank", json=body)).json()["results"]
    assert len(results) == 2
    assert [row["document"]["text"] for row in results] == [DOCUMENTS[row["index"]] for row in results]
    more = (await reranker.post("/v1/rerank", json={**body, "top_n": 99})).json()["results"]
    assert len(more) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("wrong", "param", "told"),
    [
        ({"query": None}, "query", "it is a text"),
        ({"documents": []}, "documents", "it is a list of at least one text"),
        ({"documents": None}, "documents", "it is a list of at least one text"),
        ({"documents": "d"}, "documents", "it is a list of at least one text"),
        ({"documents": [5]}, "documents", "it is a list of at least one text"),
        ({"documents": [{"image": "x"}]}, "documents", "is missing; it is a list of at least one text"),
        ({"top_n": 0}, "top_n", "1 or more"),
        ({"top_n": -1}, "top_n", "1 or more"),
        ({"top_n": "3"}, "top_n", "1 or more"),
        ({"return_documents": "maybe"}, "return_documents", "true or false"),
    ],
)
async def test_bad_rerank_requests_name_the_field(
    reranker: httpx.AsyncClient, wrong: dict[str, Any], param: str, told: str
) -> None:
    body = {"model": "m", "query": "q", "documents": ["d"], **wrong}
    error = await refused(reranker, "/v1/rerank", body)
    assert error["param"] == param
    assert told in error["message"]


async def test_only_cross_encoders_rerank(embedder: httpx.AsyncClient, classifier: httpx.AsyncClient) -> None:
    body = {"model": "m", "query": "q", "documents": ["d"]}
    error = await refused(embedder, "/v1/rerank", body)
    assert "does not support Rerank API: its task is text_embedding" in error["message"]
    error = await refused(classifier, "/v1/rerank", body)
    assert "it tells 3 classes apart" in error["message"]


async def test_scores_are_what_the_models_config_says() -> None:
    logits = np.array([-1000.0, -1.0, 0.0, 2.0, 1000.0])
    sigmoid = [0.0, 1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2.0)), 1.0]
    linear = {"activation_fn": "torch.nn.modules.linear.Identity"}
    np.testing.assert_allclose(activation_of({})(logits), sigmoid, atol=1e-12)
    named = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
    np.testing.assert_allclose(activation_of(named)(logits), sigmoid, atol=1e-12)
    np.testing.assert_array_equal(activation_of({"sentence_transformers": linear})(logits), logits)
    old = {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    np.testing.assert_array_equal(activation_of(old)(logits), logits)
    assert activation_of({"sentence_transformers": {"version": "5.0"}})(logits)[2] == 0.5
    with pytest.raises(NotSupported, match=r"torch\.nn\.ELU"):
        activation_of({"sentence_transformers": {"activation_fn": "torch.nn.ELU"}})


async def test_requests_that_arrive_together_are_answered_each_with_its_own(embedder: httpx.AsyncClient) -> None:
    texts = [f"text number {number} " * (number % 7 + 1) for number in range(40)]
    together = await asyncio.gather(*(embed(embedder, input=text) for text in texts))
    at_once = await embed(embedder, input=texts)
    np.testing.assert_allclose(np.concatenate([vectors(one) for one in together]), vectors(at_once), atol=1e-5)
