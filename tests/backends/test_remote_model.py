"""Which of a remote predictor's tensors are what, from what its server says of them."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve.backends.remote_model import Head, Plan, RemoteModel, fixed_length, plan
from modelserve.errors import LoadError
from modelserve.types import TensorSpec

USUAL = ("input_ids", "attention_mask")


def specs(*given: tuple[str, str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(*one) for one in given)


IDS = specs(("input_ids", "INT64", (-1, -1)))
MASK = specs(("attention_mask", "INT64", (-1, -1)))
TYPES = specs(("token_type_ids", "INT64", (-1, -1)))
LOGITS = specs(("logits", "FP32", (-1, 3)))
HIDDEN = ("last_hidden_state", "FP32", (-1, -1, 32))


def planned(
    inputs: tuple[TensorSpec, ...] = IDS + MASK,
    outputs: tuple[TensorSpec, ...] = LOGITS,
    *,
    head: Head = "sequence",
    width: int = 3,
    names: dict[str, str] | None = None,
    most: int | None = None,
    **said: Any,
) -> Plan:
    return plan(RemoteModel(inputs, outputs, **said), head, width, names=names or {}, usual=USUAL, most=most)


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(LoadError) as caught:
        planned(*args, **kwargs)
    return caught.value.message


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        (IDS + MASK, ["input_ids", "attention_mask"]),
        (MASK + IDS, ["input_ids", "attention_mask"]),
        (IDS + MASK + TYPES, ["input_ids", "attention_mask", "token_type_ids"]),
        (IDS, ["input_ids"]),
        (specs(("input-0", "BYTES", (-1,))) + IDS + MASK, ["input_ids", "attention_mask"]),  # a server like ours
    ],
)
def test_what_the_remote_lists_is_sent(inputs: tuple[TensorSpec, ...], sent: list[str]) -> None:
    assert [ours for ours, _ in planned(inputs).sent] == sent


def test_token_types_go_only_where_they_are_wanted() -> None:
    assert planned(IDS + MASK + TYPES).types
    assert not planned(IDS + MASK).types


def test_names_of_the_remote() -> None:
    inputs = specs(("INPUT__0", "INT32", (-1, -1)), ("INPUT__1", "INT32", (-1, -1)))
    found = planned(inputs, names={"attention_mask": "INPUT__1", "input_ids": "INPUT__0"})
    assert [(ours, spec.name, spec.datatype) for ours, spec in found.sent] == [
        ("input_ids", "INPUT__0", "INT32"),
        ("attention_mask", "INPUT__1", "INT32"),
    ]


def test_an_input_that_may_be_left_out() -> None:
    inputs = IDS + MASK + specs(("temperature", "FP32", (1,)))
    assert refused(inputs).startswith("the remote predictor wants temperature too, which is not sent; its inputs are ")
    assert len(planned(inputs, optional=frozenset({"temperature"})).sent) == 2


@pytest.mark.parametrize(
    ("inputs", "names", "message"),
    [
        (specs(("ids", "INT64", (-1, -1))), {}, "has no input named input_ids; its inputs are ids INT64 [-1, -1]; see"),
        (IDS, {"input_ids": "x"}, "has no input named x (--tensor_input_names); its inputs are input_ids INT64"),
        (specs(("input_ids", "FP32", (-1, -1))), {}, "input_ids is FP32 [-1, -1], and token ids are INT64 or INT32"),
        (specs(("input_ids", "INT64", (-1, -1, 1))), {}, "input_ids is INT64 [-1, -1, 1], and token ids"),
        (IDS + specs(("attention_mask", "INT64", (-1,))), {}, "attention_mask is INT64 [-1], and token ids"),
        (specs(("input_ids", "INT64", (-1, 16))), {}, "takes 16 tokens of every text and no attention_mask"),
        ((), {}, "has no input named input_ids; its inputs are none"),
    ],
)
def test_inputs_that_cannot_be(inputs: tuple[TensorSpec, ...], names: dict[str, str], message: str) -> None:
    assert message in refused(inputs, names=names)


@pytest.mark.parametrize(
    ("head", "width", "outputs", "name"),
    [
        ("sequence", 3, LOGITS, "logits"),
        ("sequence", 3, specs(("x", "FP16", (-1, -1))), "x"),
        ("sequence", 3, LOGITS + specs(("other", "FP32", (-1, 3))), "logits"),
        ("sequence", 3, specs(("pooled", "FP32", (-1, 32)), ("classes", "FP32", (-1, 3))), "classes"),
        ("token", 5, specs(("y", "BF16", (-1, -1, 5))), "y"),
        ("token", 5, specs(("logits", "FP64", (-1, -1, -1)), ("hidden", "FP32", (-1, -1, 32))), "logits"),
        ("none", 32, specs(("pooler_output", "FP32", (-1, 32)), HIDDEN), "last_hidden_state"),
        ("none", 32, specs(("a", "FP32", (-1, -1, 32)), ("token_embeddings", *HIDDEN[1:])), "token_embeddings"),
    ],
)  # fmt: skip
def test_the_output(head: Head, width: int, outputs: tuple[TensorSpec, ...], name: str) -> None:
    assert planned(outputs=outputs, head=head, width=width).output.name == name


@pytest.mark.parametrize(
    ("head", "outputs", "message"),
    [
        ("sequence", specs(("logits", "FP32", (-1, 4))), "has no output that can be the logits of every text"),
        ("sequence", specs(("logits", "INT64", (-1, 3))), "has no output"),
        ("sequence", specs(("logits", "FP32", (-1, -1, 3))), "has no output"),
        ("token", LOGITS, "no output that can be the logits of every token, FP32 or FP16 or BF16 or FP64 [-1, -1, 3]"),
        ("none", specs(("sentence_embedding", "FP32", (-1, 3))), "has no output that can be the hidden states"),
        ("sequence", specs(("a", "FP32", (-1, 3)), ("b", "FP32", (-1, 3))), "has several outputs that can be"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_lists_what_there_is(
    head: Head, outputs: tuple[TensorSpec, ...], message: str
) -> None:
    said = refused(outputs=outputs, head=head)
    assert message in said
    for spec in outputs:
        assert f"{spec.name} {spec.datatype} {list(spec.shape)}" in said


@pytest.mark.parametrize(
    ("said", "most", "size"),
    [(None, None, 1), (None, 16, 16), (8, None, 8), (8, 4, 4), (8, 16, 8), (0, None, 1), (0, 16, 16)],
)
def test_most_texts_of_a_request(said: int | None, most: int | None, size: int) -> None:
    found = planned(max_batch_size=said, most=most)
    assert found.max_batch_size == size
    assert found.layout == ("padded" if size > 1 else "single")


def test_a_model_without_a_dimension_for_the_batch() -> None:
    found = planned(specs(("input_ids", "INT64", (-1,))), specs(("logits", "FP32", (3,))), most=8)
    assert (found.single, found.max_batch_size, found.layout) == (True, 1, "single")


def test_without_a_mask_only_equal_lengths_go_together() -> None:
    assert planned(IDS, max_batch_size=8).layout == "equal"


def test_a_model_of_one_length() -> None:
    inputs = specs(("input_ids", "INT64", (-1, 16)), ("attention_mask", "INT64", (-1, 16)))
    assert planned(inputs, max_batch_size=8).length == 16
    assert fixed_length(RemoteModel(inputs, LOGITS), {}) == 16
    assert fixed_length(RemoteModel(IDS, LOGITS), {}) is None


def test_a_model_of_one_batch_size() -> None:
    inputs = specs(("input_ids", "INT64", (4, -1)), ("attention_mask", "INT64", (4, -1)))
    found = planned(inputs)
    assert (found.rows, found.max_batch_size) == (4, 4)
    assert planned(inputs, most=2).max_batch_size == 2


def test_v1_says_nothing_and_is_asked_as_usual() -> None:
    found = plan(None, "token", 3, names={}, usual=USUAL, most=None)
    assert [(ours, spec.name) for ours, spec in found.sent] == [(name, name) for name in USUAL]
    assert (found.output.name, found.max_batch_size) == ("logits", 1)
    named = plan(None, "none", 3, names={"input_ids": "ids"}, usual=USUAL, most=4)
    assert [spec.name for _, spec in named.sent] == ["ids"]
    assert (named.output.name, named.max_batch_size) == ("last_hidden_state", 4)
