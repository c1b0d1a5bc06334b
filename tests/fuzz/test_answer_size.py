"""An answer that would not fit the memory is refused before it is computed, by the estimate that each task makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from modelserve import pb
from modelserve.tasks.answer import FIELD_BYTES, NUMBER_BYTES, OBJECT_BYTES
from tests.fuzz.memory import MIB, forget_peak, peak, resident
from tests.models import tiny
from tests.process import Server, serve

pytestmark = pytest.mark.slow

VOCABULARY = 30_522
MASKED = "the capital of [MASK] is"
PROBABILITIES = {"return_probabilities": True}
LOGITS = {"return_raw_logits": True}


@pytest.fixture(scope="module")
def fill_mask() -> Iterator[Server]:
    with serve("--model_dir", tiny("bert", "fill_mask", vocab_size=VOCABULARY), "--model_name=m") as server:
        yield server


@pytest.fixture(scope="module")
def tokens() -> Iterator[Server]:
    directory = tiny("bert", "token_classification", num_labels=50)
    with serve("--model_dir", directory, "--model_name=m", "--answer_limit=100_000_000") as server:
        yield server


def v1(texts: list[str], parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/models/m:predict", {"instances": texts, "parameters": parameters}


def v2(texts: list[str], parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    inputs = [{"name": "texts", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]
    return "/v2/models/m/infer", {"inputs": inputs, "parameters": parameters}


def raw(rows: int, columns: int, real: int) -> tuple[str, dict[str, Any]]:
    """Token ids of which only the first `real` of each row are no padding."""
    mask = np.zeros((rows, columns), np.int64)
    mask[:, :real] = 1
    inputs = [
        {"name": name, "shape": [rows, columns], "datatype": "INT64", "data": data.ravel().tolist()}
        for name, data in (("input_ids", mask * 5), ("attention_mask", mask))
    ]
    return "/v2/models/m/infer", {"inputs": inputs}


TOO_LARGE = {
    "every probability, V1": v1([MASKED] * 4096, PROBABILITIES),
    "every probability, V2": v2([MASKED] * 4096, PROBABILITIES),
    "every logit of many masks in few texts": v1(["[MASK] " * 120] * 2, LOGITS),
    "filling up to one text with many masks": v2([*[MASKED] * 130, "[MASK] " * 100], PROBABILITIES),
    "every word as a candidate": v1([MASKED] * 100, {"top_k": VOCABULARY}),
    "logits of texts": raw(100, 100, 100),
    "logits of padding": raw(2, 500_000, 2),
}


@pytest.mark.parametrize("asked", TOO_LARGE.values(), ids=list(TOO_LARGE))
def test_an_answer_over_the_limit_is_refused_before_it_is_computed(
    fill_mask: Server, asked: tuple[str, dict[str, Any]]
) -> None:
    forget_peak(fill_mask.process.pid)
    before = resident(fill_mask.process.pid)
    answer = fill_mask.post(*asked)
    assert answer.status_code == 413, answer.text[:300]
    assert "--answer_limit" in answer.json()["error"]
    assert str(2**30) in answer.json()["error"]
    assert peak(fill_mask.process.pid) - before < 200 * MIB


def test_it_is_refused_over_grpc_too(fill_mask: Server) -> None:
    _, body = v2([MASKED] * 1000, {})
    inputs = [{"name": "texts", "shape": [1000], "datatype": "BYTES"}]
    contents = {"bytes_contents": [text.encode() for text in body["inputs"][0]["data"]]}
    request = pb.ModelInferRequest(model_name="m", inputs=[inputs[0] | {"contents": contents}])
    request.parameters["return_probabilities"].bool_param = True
    with grpc.insecure_channel(f"127.0.0.1:{fill_mask.grpc_port}") as channel:
        infer = channel.unary_unary(
            f"/{pb.SERVICE.full_name}/ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString
        )
        with pytest.raises(grpc.RpcError) as caught:
            infer(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "--answer_limit" in caught.value.details()


def test_more_targets_than_words(fill_mask: Server) -> None:
    answer = fill_mask.post(*v1([MASKED], {"targets": ["a"] * (VOCABULARY + 1)}))
    assert answer.status_code == 400
    assert f"{VOCABULARY} words" in answer.json()["error"]


def test_the_default_lets_through_what_people_ask(fill_mask: Server) -> None:
    for path, body in (
        v1([MASKED] * 4096, {}),
        v1([MASKED] * 4096, {"top_k": 5}),
        v2([MASKED] * 20, PROBABILITIES),
        raw(4, 10, 10),
    ):
        answer = fill_mask.post(path, body)
        assert answer.status_code == 200, answer.text[:300]


@pytest.mark.parametrize("form", [v1, v2])
def test_of_every_token(tokens: Server, form: Any) -> None:
    """102 tokens of a text with 50 classes each take about 0.7 MB."""
    text = "the capital of France is " * 20
    assert tokens.post(*form([text] * 100, PROBABILITIES)).status_code == 200
    answer = tokens.post(*form([text] * 200, PROBABILITIES))
    assert answer.status_code == 413
    assert "100000000 are allowed (--answer_limit)" in answer.json()["error"]
    for parameters in ({}, {"return_labels": True}, {"aggregation_strategy": "simple"}):
        assert tokens.post(*form([text] * 200, parameters)).status_code == 200


@pytest.mark.parametrize("form", [v1, v2])
@pytest.mark.parametrize("parameters", [PROBABILITIES, LOGITS], ids=["probabilities", "logits"])
def test_the_estimate_is_near_the_truth(fill_mask: Server, form: Any, parameters: dict[str, Any]) -> None:
    pid, texts = fill_mask.process.pid, 50
    forget_peak(pid)
    before = resident(pid)
    assert fill_mask.post(*form([MASKED] * texts, parameters)).status_code == 200
    assert peak(pid) - before < 1.3 * texts * VOCABULARY * OBJECT_BYTES


def test_the_estimate_for_tokens_is_near_the_truth() -> None:
    text, texts, labels = "the capital of France is " * 20, 200, 50
    with serve("--model_dir", tiny("bert", "token_classification", num_labels=labels), "--model_name=m") as server:
        pid = server.process.pid
        for form in (v1, v2):
            forget_peak(pid)
            before = resident(pid)
            assert server.post(*form([text] * texts, LOGITS)).status_code == 200
            assert peak(pid) - before < 1.3 * texts * 102 * (OBJECT_BYTES + labels * FIELD_BYTES)


def test_the_estimate_for_tensors_is_near_the_truth(fill_mask: Server) -> None:
    pid = fill_mask.process.pid
    forget_peak(pid)
    before = resident(pid)
    assert fill_mask.post(*raw(4, 80, 80)).status_code == 200
    assert peak(pid) - before < 1.3 * 4 * 80 * VOCABULARY * NUMBER_BYTES
