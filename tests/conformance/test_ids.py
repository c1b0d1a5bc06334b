"""Token ids that a caller brings, over V2's tensors and OpenAI's embeddings: the odd ones answered, the wrong refused.

An id that the network does not know would stop a pass for everybody in it, and a CUDA device for good.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conformance.apis import APIS, V2, Refused, ask
from tests.conformance.reference import assert_same, encoded, model, prediction, tokenizer
from tests.conformance.serving import Serve
from tests.models import ARCHITECTURES, TASKS, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "The capital of France is Paris."


def tensors(*rows: list[int], **more: list[list[int]]) -> dict[str, np.ndarray]:
    """Rows of ids filled up behind their ends, their mask, and more tensors."""
    longest = max(map(len, rows))
    given = {
        "input_ids": [row + [0] * (longest - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        **more,
    }
    return {name: np.array(values, dtype=np.int64) for name, values in given.items()}


@pytest.mark.parametrize(("architecture", "task"), [*zip(ARCHITECTURES, TASKS * 3, strict=False)])
async def test_ids_that_no_text_has(serve: Serve, architecture: str, task: str) -> None:
    """Special tokens, padding among them, anywhere in a row."""
    path = tiny(architecture, task)
    served = await serve(path, task=task)
    padding, size = tokenizer(path).pad_token_id, model(path, task).config.vocab_size
    special = sorted(tokenizer(path).all_special_ids)
    rows = [[7, padding, 9, padding, 10], [padding], [*special, size - 1, 8, *special], [size - 1] * 40]
    with torch.inference_mode():
        expected = [model(path, task)(input_ids=torch.tensor([row]))[0][0].numpy() for row in rows]
    for infer in V2.values():
        answer, _ = await infer(served, tensors(*rows), {})
        (values,) = answer.values()
        for got, row, wanted in zip(values, rows, expected, strict=True):
            got = got if got.ndim == 1 else got[: len(row)]
            np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tensors([5, 6], [7, 10**6]), "input 1 has the token id 1000000, the model's vocabulary has ids from 0 to"),
        (tensors([5, -1]), "input 0 has the token id -1"),
        (tensors([5, 6], token_type_ids=[[0, 2]]), "input 0 has the token type id 2, the model has types from 0 to 1"),
        (tensors([5, 6], token_type_ids=[[-1, 0]]), "input 0 has the token type id -1"),
        (tensors([5] * 129), "input 0 has 129 tokens, the model takes at most 128"),
    ],
)
async def test_ids_that_the_network_does_not_know(
    serve: Serve, passes: list[list[int]], given: dict[str, np.ndarray], message: str
) -> None:
    path = tiny("bert", "sequence_classification")
    served = await serve(path)
    for infer in V2.values():
        with pytest.raises(Refused, match=message) as refused:
            await infer(served, given, {})
        assert refused.value.status in (400, "INVALID_ARGUMENT")
    assert passes == []


async def test_a_vocabulary_that_is_larger_than_the_network(serve: Serve, tmp_path: Path) -> None:
    """A token that was added to the tokenizer and not to the weights is the affair of whoever writes it."""
    path = shutil.copytree(tiny("bert", "sequence_classification"), tmp_path / "model")
    grown = tokenizer(tiny("bert", "sequence_classification"))
    size = len(grown)
    file = json.loads((path / "tokenizer.json").read_text())
    file["added_tokens"].append({**file["added_tokens"][0], "id": size, "content": "<new>"})
    (path / "tokenizer.json").write_text(json.dumps(file))
    served = await serve(path)
    for api in APIS:
        good, bad = await asyncio.gather(
            ask(served, api, [TEXT]), ask(served, api, ["a <new> token"]), return_exceptions=True
        )
        assert_same(good.predictions, [prediction(path, "sequence_classification", TEXT)])
        assert isinstance(bad, Refused)
        assert f"input 0 has the token id {size}, the model's vocabulary has ids from 0 to {size - 1}" in str(bad)


async def test_a_network_that_is_larger_than_its_vocabulary(serve: Serve) -> None:
    """Many networks have rows beyond their tokenizer's words, to a round number."""
    path = tiny("bert", vocab_size=1024)
    served = await serve(path)
    assert len(tokenizer(path)) < 1000
    with torch.inference_mode():
        expected = model(path, "text_embedding")(input_ids=torch.tensor([[5, 1000, 6]]))[0][0]
    answer, _ = await V2["v2-json"](served, tensors([5, 1000, 6]), {})
    np.testing.assert_allclose(answer["last_hidden_state"][0], expected, atol=1e-5, rtol=0)
    wanted: Any = torch.nn.functional.normalize(expected.mean(0), dim=-1).tolist()
    assert_same((await ask(served, "openai", [[5, 1000, 6]])).predictions, [wanted])


async def test_too_many_ids_are_cut_as_their_text(serve: Serve) -> None:
    path = tiny("roberta")
    served = await serve(path)
    text = TEXT * 40
    ids = encoded(path, text, truncation=False)["input_ids"][0].tolist()
    for api in ("openai", "openai-base64"):
        answer = await ask(served, api, [ids])
        assert_same(answer.predictions, [prediction(path, "text_embedding", text)])
        assert answer.dropped == len(ids) - 128
