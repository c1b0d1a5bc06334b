"""The worked examples as a reader runs them: train, serve, ask; and their questions over V1 and V2."""

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.fill_mask import train as fill_mask
from examples.sentiment import train as sentiment
from examples.text_generation import train as dates
from examples.token_classification import train as names
from tests.blocks import LANGUAGES, ROOT, Block, Reader, blocks
from tests.process import Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = ("fill_mask", "sentiment", "text_generation", "token_classification")
BUILT = "build/examples"
"""Where the pages save their models; the tests save them in a folder of their own."""
READ_AHEAD = 1
"""Blocks of a page that the fixture has run: the training."""


def page(example: str, folder: Path) -> list[Block]:
    """The blocks of an example's page, with its models in `folder`."""
    found = blocks(ROOT / "examples" / example / "README.md")
    return [dataclasses.replace(block, text=block.text.replace(BUILT, str(folder))) for block in found]


@dataclasses.dataclass(frozen=True)
class Trained:
    folder: Path
    printed: dict[str, str]
    """What each example's training printed."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every model, trained by the first command of its page; at once, since each training uses one core."""
    folder = tmp_path_factory.mktemp("examples")
    running = {
        example: subprocess.Popen(
            ["bash", "-c", page(example, folder)[0].text],
            cwd=ROOT,
            env=Reader({}).environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for example in EXAMPLES
    }
    printed = {example: process.communicate()[0] for example, process in running.items()}
    for example, process in running.items():
        assert process.returncode == 0, f"{example}: {printed[example]}"
    return Trained(folder, printed)


@pytest.fixture(scope="module")
def served(trained: Trained, request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve("--model_name", "m", "--model_dir", trained.folder / request.param) as server:
        yield server


def v1(server: Server, *texts: str, **parameters: Any) -> list[Any]:
    answer = server.post("/v1/models/m:predict", {"instances": list(texts), "parameters": parameters})
    assert answer.status_code == 200, answer.text
    predictions: list[Any] = answer.json()["predictions"]
    return predictions


def v2(server: Server, *texts: str, **parameters: Any) -> dict[str, Any]:
    """The output tensor."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}
    answer = server.post("/v2/models/m/infer", {"inputs": [tensor], "parameters": parameters})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    return dict(output)


@pytest.mark.parametrize("example", EXAMPLES)
def test_training_prints_its_accuracy_and_saves_a_usual_directory(example: str, trained: Trained) -> None:
    accuracy = re.search(r"held-out accuracy: ([\d.]+)%", trained.printed[example])
    assert accuracy is not None
    assert float(accuracy[1]) >= 80
    directory = trained.folder / example
    config = json.loads((directory / "config.json").read_text())
    kind = "LlamaForCausalLM" if example == "text_generation" else "BertFor"
    assert config["architectures"][0].startswith(kind)
    if example in ("sentiment", "token_classification"):
        assert all(not label.startswith("LABEL_") for label in config["id2label"].values())
    assert (directory / "model.safetensors").exists()
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


@pytest.mark.parametrize("example", EXAMPLES)
def test_page_is_true(example: str, trained: Trained) -> None:
    with Reader({}) as reader:
        for block in page(example, trained.folder)[READ_AHEAD:]:
            assert block.language in LANGUAGES, str(block)
            before = reader.printed
            reader.read(block)
            if block.language == "text" and before is not None:
                assert firm(before) == firm(block.text), str(block)


def firm(printed: str) -> list[str]:
    """What is the same on every machine: each line up to its first number or comma."""
    return [re.split(r"[\d,]", line)[0] for line in printed.splitlines()]


@pytest.mark.parametrize("served", ["fill_mask"], indirect=True)
def test_fill_mask_answers(served: Server) -> None:
    paris, france = "The capital of France is [MASK].", "The capital of [MASK] is paris."
    assert v1(served, paris, france) == ["paris", "france"]
    assert v1(served, "The capital of Germany is [MASK]. The language of Chile is [MASK].") == ["berlin spanish"]
    (best,) = v1(served, paris, top_k=3)
    assert best[0]["token_str"] == "paris"
    assert best[0]["sequence"] == "the capital of france is paris."
    assert best[0]["score"] > best[1]["score"] > best[2]["score"]

    assert v2(served, paris, france)["data"] == ["paris", "france"]
    output = v2(served, paris, top_k=2)
    assert output["shape"] == [1, 1, 2]
    assert [json.loads(one)["token_str"] for one in output["data"]] == [c["token_str"] for c in best[:2]]

    _, asked = fill_mask.sentences()
    # The answer is the last word of each of these sentences.
    texts = [re.sub(rf"{sentence.answer}\.$", "[MASK].", sentence.text) for sentence in asked]
    answers = [sentence.answer.lower() for sentence in asked]
    assert agreement(v1(served, *texts), answers) >= 0.8


@pytest.mark.parametrize("served", ["sentiment"], indirect=True)
def test_sentiment_answers(served: Server) -> None:
    good, bad = "Hello, my dog is cute.", "The tent leaked and we spent the night in a puddle."
    assert v1(served, good, bad) == [1, 0]
    first, second = v1(served, good, bad, return_labels=True)
    assert (first["label"], second["label"]) == ("POSITIVE", "NEGATIVE")
    ((best, other),) = v1(served, good, top_k=2)
    assert best == pytest.approx(first)
    assert best["score"] + other["score"] == pytest.approx(1)

    output = v2(served, good, bad)
    assert (output["datatype"], output["shape"], output["data"]) == ("INT64", [2], [1, 0])
    output = v2(served, good, bad, return_labels=True)
    assert [json.loads(one)["label"] for one in output["data"]] == ["POSITIVE", "NEGATIVE"]

    asked = sentiment.reviews("held_out.tsv")
    found = v1(served, *(review.text for review in asked))
    assert agreement(found, [review.label for review in asked]) >= 0.8


@pytest.mark.parametrize("served", ["token_classification"], indirect=True)
def test_token_classification_answers(served: Server) -> None:
    text = "HuggingFace is a company based in Paris and New York"
    spans = [("ORG", "HuggingFace"), ("LOC", "Paris"), ("LOC", "New York")]
    for strategy in ("simple", "first", "average", "max"):
        (entities,) = v1(served, text, aggregation_strategy=strategy)
        assert [(e["entity_group"], text[e["start"] : e["end"]]) for e in entities] == spans, strategy
        assert all(0 < entity["score"] <= 1 for entity in entities)
    ((labels,),) = v1(served, text, return_labels=True)
    assert labels[1] == "B-ORG"
    ((classes,),) = v1(served, text)
    assert [names.LABELS[number] for number in classes] == labels

    output = v2(served, text, "Nobody came.", aggregation_strategy="first")
    assert output["shape"] == [2, 3]
    found = [json.loads(one) for one in output["data"][:3]]
    assert [(e["entity_group"], text[e["start"] : e["end"]]) for e in found] == spans
    assert output["data"][3:] == ["", "", ""]

    asked = names.held_out_sentences()
    answers = v1(served, *(sentence.text for sentence in asked), aggregation_strategy="first")
    right = total = 0
    for sentence, entities in zip(asked, answers, strict=True):
        given = {names.Span(entity["entity_group"], entity["start"], entity["end"]) for entity in entities}
        right += len(given & set(sentence.spans))
        total += len(given) + len(sentence.spans)
    assert 2 * right / total >= 0.8


@pytest.mark.parametrize("served", ["text_generation"], indirect=True)
def test_text_generation_answers(served: Server) -> None:
    asked, told = "When is 2026-11-26?", "On the 26th of November 2026."
    body = {"model": "m", "messages": [{"role": "user", "content": asked}], "temperature": 0}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == told
    assert choice["finish_reason"] == "stop"

    stream = served.post("/v1/chat/completions", body | {"stream": True}).text
    *pieces, done = re.findall(r"^data: (.*)$", stream, re.MULTILINE)
    assert done == "[DONE]"
    events = [json.loads(piece) for piece in pieces]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == told

    assert v1(served, f"{asked}\n") == [told]
    assert v2(served, f"{asked}\n", stop=" of")["data"] == ["On the 26th"]

    _, held_out = dates.dates()
    found = v1(served, *map(dates.question, held_out), max_tokens=48)
    assert agreement(found, [dates.answer(day) for day in held_out]) >= 0.8


def agreement(found: list[Any], right: list[Any]) -> float:
    return sum(a == b for a, b in zip(found, right, strict=True)) / len(right)
