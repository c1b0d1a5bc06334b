"""Our server before a real Triton Inference Server: it answers what it answers with the weights here, and what
transformers does, for every encoder task over every API, alone, in batches and in a crowd.

What Triton runs is in tests/triton_models.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelserve.errors import LoadError
from tests.conformance.apis import apis, ask
from tests.conformance.reference import ROUNDED, assert_same, prediction
from tests.conformance.serving import Serve, Served
from tests.models import tiny
from tests.process import serve as served_process
from tests.triton import Triton, triton
from tests.triton_models import Model, forget, seen, write

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PROTOCOLS = ("v2", "grpc-v2")
TEXTS = [
    "Hello world [MASK]",
    "Zoë's café [MASK] in São Paulo",
    "[MASK]",
    "A server [MASK] many requests at once. " + "It sorts them by length and runs them together. " * 9,
    "Maria Rossi works for a [MASK] in Milan.",
    "The cat sat on the [MASK]. The dog slept near the door.",
]
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
USUAL = {name: name for name in (IDS, MASK, TYPES)}
OURS = {IDS: "INPUT__0", MASK: "INPUT__1", TYPES: "INPUT__2"}


@dataclass(frozen=True)
class Case:
    """A model of Triton's, and what our server is told about it."""

    task: str
    architecture: str = "bert"
    model: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    atol: float = 5e-5
    batch: int = 8
    """Most texts of a request that Triton may be sent."""

    @property
    def path(self) -> Path:
        return tiny(self.architecture, self.task)


SEQUENCE, TOKEN = "sequence_classification", "token_classification"
CASES = {
    "sequence": Case(SEQUENCE),
    "token": Case(TOKEN),
    "mask": Case("fill_mask"),
    "embedding": Case("text_embedding"),
    "modernbert": Case(
        "fill_mask", "modernbert", {"network": "transformers", "names": {IDS: IDS, MASK: MASK}}, atol=1e-4
    ),
    "int32": Case(TOKEN, model={"ids": "INT32", "max_batch_size": 3}, batch=3),
    "half": Case(SEQUENCE, model={"output": "FP16"}, atol=0.02),
    "half-embedding": Case("text_embedding", model={"output": "FP16"}, atol=0.002),
    "double": Case(SEQUENCE, model={"output": "FP64"}),
    "typeless": Case(SEQUENCE, model={"names": {IDS: IDS, MASK: MASK}}),
    "optional-types": Case(SEQUENCE, model={"optional": (TYPES,)}),
    "maskless": Case(SEQUENCE, model={"names": {IDS: IDS}}),
    "renamed": Case(
        SEQUENCE,
        model={"names": OURS, "output_name": "OUTPUT__0"},
        flags={"tensor_input_names": ",".join(f"{ours}={theirs}" for ours, theirs in OURS.items())},
    ),
    "fixed": Case(TOKEN, model={"length": 32, "ids": "INT32"}),
    "unbatched": Case(TOKEN, model={"max_batch_size": 0}, flags={"predictor_max_batch_size": 4}, batch=4),
    "unbatched-unsaid": Case(SEQUENCE, model={"max_batch_size": 0}, batch=1),
    "alone": Case(SEQUENCE, model={"max_batch_size": 1}, batch=1),
    "less-than-its-most": Case(SEQUENCE, flags={"predictor_max_batch_size": 2}, batch=2),
    "several-outputs": Case(
        SEQUENCE,
        model={"described": (("hidden", "FP32", (-1, 32)), ("pooled", "FP32", (3,)), ("logits", "FP32", (3,)))},
    ),
}
UNSUITABLE = {
    "words": (("words", "BYTES", (3,)), ("scores", "FP32", (7,)), ("states", "FP32", (-1, 32))),
    "numbers": (("classes", "INT64", (3,)),),
    "twins": (("one", "FP32", (3,)), ("other", "FP32", (3,))),
}


@dataclass(frozen=True)
class Running:
    server: Triton
    repository: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    repository = tmp_path_factory.mktemp("repository")
    models = [Model(name, case.path, case.task, **case.model) for name, case in CASES.items()]
    models += [Model(name, tiny("bert", SEQUENCE), SEQUENCE, described=outputs) for name, outputs in UNSUITABLE.items()]
    write(repository, *models)
    with triton(repository) as server:
        yield Running(server, repository)


async def before(running: Running, serve: Serve, name: str, protocol: str, **flags: Any) -> Served:
    case = CASES[name]
    return await serve(
        case.path,
        model_name=name,
        predictor_host=running.server.host(protocol),
        predictor_protocol=protocol,
        **{**case.flags, **flags},
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", CASES)
async def test_answers_are_the_local_backends_and_transformers(
    running: Running, serve: Serve, name: str, protocol: str
) -> None:
    case = CASES[name]
    length = case.model.get("length", -1)
    cut = {"max_length": length} if length > 0 else {}
    asked = {} if case.task == "text_embedding" else {"return_raw_logits": True}
    parameter = next(iter(asked), None)
    expected = [prediction(case.path, case.task, text, parameter, **cut) for text in TEXTS]
    served = await before(running, serve, name, protocol)
    local = await serve(case.path, **cut)
    assert_same((await ask(local, "v1", TEXTS, **asked)).predictions, expected, case.atol)
    forget(running.repository, name)

    crowd = [(api, i) for api in apis(case.task) for i in range(len(TEXTS))] * 2
    for api in apis(case.task):
        assert_same((await ask(served, api, TEXTS, **asked)).predictions, expected, case.atol)
    answers = await asyncio.gather(*(ask(served, api, [TEXTS[i]], **asked) for api, i in crowd))
    for (_, i), answer in zip(crowd, answers, strict=True):
        assert_same(answer.predictions, [expected[i]], case.atol)
    assert_same((await ask(served, "v1", TEXTS[:1], **asked)).predictions, expected[:1], case.atol)

    requests = seen(running.repository, name)
    rows = [request.shape[0] for request in requests]
    assert sum(rows) == len(apis(case.task)) * len(TEXTS) + len(crowd) + 1, "each text is computed once"
    if name != "maskless":  # whose batches are of texts of one length, and may be one text each
        assert max(rows) > 1 or case.batch == 1
    assert max(rows) <= case.batch
    assert {request.shape[1] for request in requests} == {length} or length < 0
    names = case.model.get("names", USUAL)
    assert all(request.inputs == sorted(names.values()) for request in requests)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_pairs(running: Running, serve: Serve, protocol: str) -> None:
    """Texts that are read together have token types, which only some models take."""
    pair = ("Berlin is a city", "The food was good.")
    path = CASES["sequence"].path
    expected = prediction(path, SEQUENCE, pair, "return_raw_logits")
    served = await before(running, serve, "sequence", protocol)
    for api in apis(SEQUENCE):
        assert_same((await ask(served, api, [pair], return_raw_logits=True)).predictions, [expected], 5e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_process_without_weights(running: Running, tmp_path: Path, protocol: str) -> None:
    """Only the configuration and the tokenizer are there; the caller's id is on Triton's request."""
    path = CASES["token"].path
    here = shutil.copytree(path, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    expected = [prediction(path, TOKEN, text, "return_probabilities") for text in TEXTS]
    forget(running.repository, "token")
    with served_process(
        "--model_name=token",
        "--model_dir",
        here,
        f"--predictor_host={running.server.host(protocol)}",
        f"--predictor_protocol={protocol}",
    ) as server:
        body = {"instances": TEXTS, "parameters": {"return_probabilities": True}}
        answer = server.post("/v1/models/token:predict", json=body, headers={"x-request-id": "from-the-caller"})
        info = server.get("/info").json()
        assert server.stop() == 0
    assert_same(answer.json()["predictions"], expected, ROUNDED)
    assert {request.id for request in seen(running.repository, "token")} == {"from-the-caller"}
    assert "triton 2.51.0" in str(info)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_model_that_does_not_fit_is_no_server(running: Running, serve: Serve, protocol: str) -> None:
    async def refusal(name: str, path: Path = CASES["sequence"].path, **flags: Any) -> str:
        flags |= {"predictor_host": running.server.host(protocol), "predictor_protocol": protocol}
        with pytest.raises(LoadError) as refused:
            await serve(path, model_name=name, **flags)
        return str(refused.value)

    words = await refusal("words")
    assert all(part in words for part in ("words BYTES [-1, 3]", "scores FP32 [-1, 7]", "states FP32 [-1, -1, 32]"))
    assert "classes INT64 [-1, 3]" in await refusal("numbers")
    twins = await refusal("twins")
    assert all(part in twins for part in ("several", "one FP32 [-1, 3]", "other FP32 [-1, 3]"))
    assert "INPUT__0 INT64 [-1, -1]" in await refusal("renamed")
    assert "token_type_ids" in await refusal("sequence", tensor_input_names=f"{IDS},{MASK}")
    assert "logits FP32 [-1, -1, 5]" in await refusal("token"), "a head of tokens for one of texts"
    absent = await refusal("nothing")
    assert "nothing" in absent
    assert all(name in absent for name in CASES)
    assert "32" in await refusal("fixed", tiny("bert", TOKEN), max_length=64)


async def test_the_command_says_what_there_is(running: Running) -> None:
    where = running.server.host("v2")
    with served_process(
        "--model_name=words", "--model_dir", CASES["sequence"].path, f"--predictor_host={where}", ready=False
    ) as server:
        assert server.process.wait(60) != 0
        assert "scores FP32 [-1, 7]" in server.log
