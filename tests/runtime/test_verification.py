"""Verification passes for what is served rightly, in every task, and fails, with numbers, for whatever is not."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modelserve import flags
from modelserve.errors import ConfigError, InvalidRequest, LoadError, PredictorFailed
from modelserve.runtime import verification
from modelserve.runtime.greedy import Answer
from modelserve.runtime.verification import Asked, Report, Round, verify
from modelserve.runtime.verification_served import Answers, Written
from modelserve.runtime.verification_texts import built_in, given, with_mask
from modelserve.types import TextPair
from tests.backends.predictors import Fault, Predicting, rest
from tests.converted import converted
from tests.generative import tiny_generative
from tests.models import MAX_LENGTH, minilm, tiny

SEQUENCE = [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


def verified(directory: Path, lines: tuple[str, ...] | None = None, **given: Any) -> Report:
    own = {name: given.pop(name) for name in ("reference_dir", "tolerance", "new") if name in given}
    config = flags.from_keywords(model_dir=str(directory), **given)
    return verify(Asked(config=config, lines=lines, **own), lambda text: None)


def changed(directory: Path, to: Path, by: float = 0.1) -> Path:
    """The same model with one matrix of its first layer a little louder."""
    shutil.copytree(directory, to)
    file = to / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and ".0." in name)
    tensors[name] = tensors[name] * (1 + by) + by * tensors[name].std()
    save_file(tensors, file, metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "fill_mask", "text_embedding"])
def test_an_encoder_passes(task: str) -> None:
    report = verified(tiny("bert", task))
    assert report.passed
    assert (report.task, report.backend, report.dtype, report.reference) == (
        task,
        "huggingface",
        "float32",
        "transformers",
    )
    together, alone = report.rounds
    assert (together.asked, alone.asked) == ("together", "alone")
    for one in report.rounds:
        assert one.texts == len(built_in(task, MAX_LENGTH)) > 8
        assert one.largest <= report.allowed
        assert one.same == one.rows
        assert (one.rows == 0) == (task == "text_embedding") == (one.cosine is not None)


@pytest.mark.parametrize(
    "flags_",
    [
        {"pooling": "weightedmean", "normalize": False},
        {"pooling": "mean_sqrt_len_tokens", "max_length": 16},
        {"pooling": "max"},
        {"pooling": "lasttoken", "disable_special_tokens": True},
        {"pooling": "cls", "return_token_type_ids": True},
    ],
)
def test_flags_mean_the_same_to_the_reference(flags_: dict[str, Any]) -> None:
    assert verified(tiny("bert"), **flags_).passed


def test_an_embedding_by_the_encoders_half() -> None:
    report = verified(tiny_generative("t5"), task="text_embedding")
    assert (report.passed, report.task) == (True, "text_embedding")


@pytest.mark.slow
def test_real_weights_against_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    report = verified(minilm())
    assert report.passed
    assert report.reference == "sentence-transformers"
    assert report.rounds[0].cosine is not None
    assert report.rounds[0].cosine > 0.999999
    assert verified(minilm(), dtype="bfloat16").passed
    assert not verified(minilm(), dtype="bfloat16", tolerance=1e-4).passed
    monkeypatch.setattr("modelserve.runtime.verification_reference.find_spec", lambda name: None)
    report = verified(minilm(), lines=("a text",))
    assert report.passed
    assert report.reference == (
        "transformers, with what the server reads of modules.json (sentence-transformers is not installed)"
    )


@pytest.mark.parametrize(
    "architecture",
    ["llama", pytest.param("marian", marks=pytest.mark.slow), pytest.param("t5", marks=pytest.mark.slow)],
)
def test_a_model_that_writes_passes(architecture: str) -> None:
    report = verified(tiny_generative(architecture), new=12)
    assert report.passed
    for one in report.rounds:
        assert one.rows == one.same == 12 * one.texts
        assert 0 < one.largest <= report.allowed


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "fill_mask", "text_embedding"])
def test_other_weights_fail(task: str, tmp_path: Path) -> None:
    right = tiny("bert", task)
    report = verified(changed(right, tmp_path / "other"), reference_dir=right)
    assert not report.passed
    for one in report.rounds:
        assert one.largest > 10 * report.allowed
        assert not one.within(report.allowed)
    assert verified(right, reference_dir=right).passed


def test_other_weights_write_otherwise(tmp_path: Path) -> None:
    right = tiny_generative("llama")
    report = verified(changed(right, tmp_path / "other", 0.5), reference_dir=right)
    assert not report.passed
    for one in report.rounds:
        assert one.same + one.near_ties < one.rows < 24 * one.texts


def test_a_conversion_is_compared_with_what_it_was_made_of() -> None:
    source, conversion = converted()
    report = verified(conversion, reference_dir=source, new=12)
    assert report.passed
    assert (report.backend, report.task) == ("openvino", "text_generation")
    assert not verified(conversion, reference_dir=source, new=12, tolerance=1e-9).passed
    assert not verified(conversion, reference_dir=tiny_generative("llama"), new=12).passed


def test_a_predictor_that_answers_wrongly_fails() -> None:
    directory = tiny("bert", "sequence_classification")
    with rest(Predicting(outputs=SEQUENCE)) as port:
        report = verified(directory, model_name="m", predictor_host=f"127.0.0.1:{port}")
    assert not report.passed
    assert (report.backend, report.dtype) == ("remote", "float32")
    assert "takes no token_type_ids" in report.left_out
    assert report.rounds[0].texts == sum(isinstance(text, str) for text in built_in(report.task, MAX_LENGTH))
    for one in report.rounds:
        assert one.unlike == 0
        assert one.largest > 100
        assert one.same < one.rows == one.texts


def test_pairs_of_the_users_are_never_left_out() -> None:
    directory = tiny("bert", "sequence_classification")
    with rest(Predicting(outputs=SEQUENCE)) as port, pytest.raises(InvalidRequest, match="send single texts"):
        verified(directory, ("a\tb",), model_name="m", predictor_host=f"127.0.0.1:{port}")


def test_a_predictor_that_answers_what_is_no_number_fails() -> None:
    def nan(answer: Any) -> Any:
        return answer * np.float32("nan")

    with rest(Predicting(outputs=SEQUENCE, answer=nan)) as port:
        report = verified(tiny("bert", "sequence_classification"), model_name="m", predictor_host=f"127.0.0.1:{port}")
    assert not report.passed
    assert [one.unlike for one in report.rounds] == [one.texts for one in report.rounds]


def test_a_predictor_that_fails_is_an_error() -> None:
    directory = tiny("bert", "sequence_classification")
    with rest(Predicting(outputs=SEQUENCE, fault=lambda asked: Fault())) as port, pytest.raises(PredictorFailed):
        verified(directory, model_name="m", predictor_host=f"127.0.0.1:{port}")


def test_a_predictor_that_is_not_there_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_WAIT_S", 0.1)
    with rest(Predicting(outputs=SEQUENCE)) as port:
        pass
    with pytest.raises(LoadError, match=r"it was waited for 0\.1 seconds"):
        verified(tiny("bert", "sequence_classification"), model_name="m", predictor_host=f"127.0.0.1:{port}")


def test_the_tolerance_decides() -> None:
    directory = tiny("bert", "text_embedding")
    report = verified(directory, dtype="bfloat16")
    assert (report.passed, report.tolerance) == (True, 0.1)
    worst = max(one.largest for one in report.rounds)
    share = report.tolerance / report.allowed
    assert verified(directory, dtype="bfloat16", tolerance=worst * share * 1.001).passed
    assert not verified(directory, dtype="bfloat16", tolerance=worst * share * 0.999).passed


def test_texts_of_the_users() -> None:
    directory = tiny("bert", "sequence_classification")
    report = verified(directory, ("one text", "", "a question\tan answer"))
    assert report.passed
    assert report.rounds[0].texts == 2
    assert verified(tiny("roberta", "fill_mask"), ("The capital of [MASK] is Paris.", "<mask>")).passed


@pytest.mark.parametrize(
    ("directory", "given", "message"),
    [
        (lambda: tiny("bert"), {"lines": ("", " ")}, "--texts has no text"),
        (lambda: tiny("bert", "fill_mask"), {"lines": ("a [MASK]", "none")}, "text 2 of --texts has no mask"),
        (lambda: tiny("bert"), {"disable_lower_case": True}, "--disable_lower_case cannot be verified"),
        (lambda: tiny("bert"), {"model_format": "sklearn"}, "only Hugging Face models are verified"),
        (lambda: Path("/nowhere"), {}, "there is no directory /nowhere"),
    ],
)
def test_what_cannot_be_verified(directory: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verified(directory(), **given)


def test_a_crowd_of_less_than_all_where_few_may_wait() -> None:
    assert verified(tiny("bert"), max_queue_size=2).passed


def test_the_built_in_texts() -> None:
    for task in ("sequence_classification", "token_classification", "fill_mask", "text_embedding"):
        texts = built_in(task, MAX_LENGTH)
        assert len(str(texts[-1]).split()) > MAX_LENGTH, "longer than the model reads"
        assert any(isinstance(text, TextPair) for text in texts) == (task == "sequence_classification")
        assert all("[MASK]" in str(text) for text in texts) == (task == "fill_mask")
    assert given(["a\tb"], "text_embedding") == ["a\tb"]
    assert with_mask(["[MASK] x"], "<mask>") == ["<mask> x"]


ROUND = Round(
    asked="alone", texts=1, unlike=0, largest=1.0, mean=0.5, cosine=None, rows=4, same=3, near_ties=1
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "allowed", "passes"),
    [
        ({}, 1.0, True),
        ({}, math.nextafter(1.0, 0), False),
        ({"near_ties": 0}, 1.0, False),
        ({"unlike": 1}, 1.0, False),
        ({"largest": math.nan}, 1.0, False),
    ],
)
def test_the_edge(change: dict[str, Any], allowed: float, passes: bool) -> None:
    assert replace(ROUND, **change).within(allowed) is passes


def test_classes_that_change_places_are_near_ties_within_twice_what_is_allowed() -> None:
    right = np.array([[1.0, 0.5], [1.0, 0.0], [0.0, 1.0]], np.float32)
    ours = np.array([[0.5, 1.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
    (one, _) = verification._rounds(Answers([ours], [ours]), [right], "token_classification", 0.25)
    assert (one.rows, one.same, one.near_ties, one.largest) == (3, 1, 1, 1.0)
    (one, _) = verification._rounds(Answers([ours], [ours]), [right], "token_classification", 0.2)
    assert (one.same, one.near_ties) == (1, 0)


def test_a_written_text_is_followed_until_it_parts() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 5.0]])
    steps = logits.log_softmax(-1)
    right = Answer([7], [0, 0, 2], logits)
    same = Written([0, 0, 2], [float(steps[i, t]) for i, t in enumerate((0, 0, 2))])
    parted = Written([0, 1, 1], [float(steps[0, 0]) + 0.01, -9.0, -9.0])
    short = Written([0, 0], [0.0, 0.0])
    answers = Answers([same, parted, short], [parted, parted, parted])
    together, alone = verification._rounds(answers, [right] * 3, "text_generation", 0.06)
    assert (together.rows, together.same, together.near_ties, together.unlike) == (5, 4, 1, 1)
    assert together.largest == pytest.approx(0.01, abs=1e-6)
    assert alone.within(0.06)
    (strict, _) = verification._rounds(answers, [right] * 3, "text_generation", 0.04)
    assert (strict.same, strict.near_ties) == (4, 0)
