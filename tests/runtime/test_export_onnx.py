"""ONNX files of `modelserve export` against transformers: texts of different lengths in padded batches.

Architectures that go their own way are random models of tests/conformance/test_other_architectures.py. What is typed
is in tests/commands/test_export.py, Triton in tests/conformance/test_triton_export.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from modelserve import flags
from modelserve.errors import LoadError
from modelserve.runtime import export_onnx_check, export_onnx_graph
from modelserve.runtime.export_onnx import Asked, Record, export
from modelserve.types import Encoding
from tests.conformance.reference import output, tokenizer
from tests.conformance.test_other_architectures import MODELS, made
from tests.models import ARCHITECTURES, TASKS, minilm, tiny

TEXTS = (
    "The capital of France is Paris.",
    "Paris",
    "Maria met Zoë in São Paulo, near the old bank; nobody knew why (3.5 % more)!",
    "",
    "the cat sat on the mat" + " and the dog slept near the door" * 30,
)
BATCHES = ([0, 1, 2, 3, 4], [1, 4], [2, 1, 0], [3], [4], [1, 1, 1, 1, 1, 1, 1])
CASES = [pytest.param(a, t, id=f"{a}-{t}") for a in ARCHITECTURES for t in TASKS]
OTHERS = {
    "bart": ("sequence_classification", "fails in padded batches; alone texts are right: give --max_batch_size 1"),
    "big_bird": ("token_classification", None),
    "camembert": ("fill_mask", None),
    "convbert": ("text_embedding", "gives other answers, by .* in padded batches"),
    "data2vec-text": ("sequence_classification", None),
    "deberta": ("token_classification", None),
    "ernie": ("fill_mask", None),
    "esm": ("text_embedding", None),
    "eurobert": ("sequence_classification", None),
    "fnet": ("token_classification", "gives other answers, by .* in padded batches"),
    "funnel": ("fill_mask", "cannot be run by ONNX Runtime"),
    "gpt2": ("text_embedding", None),
    "ibert": ("sequence_classification", None),
    "layoutlm": ("token_classification", None),
    "llama": ("text_embedding", None),
    "longformer": ("text_embedding", "LongformerModel cannot be exported to ONNX"),
    "luke": ("sequence_classification", None),
    "megatron-bert": ("token_classification", None),
    "mra": ("fill_mask", None),
    "nomic_bert": ("text_embedding", None),
    "qwen2": ("sequence_classification", None),
    "rembert": ("token_classification", None),
    "roberta-prelayernorm": ("fill_mask", None),
    "roformer": ("text_embedding", None),
    "squeezebert": ("sequence_classification", None),
    "t5": ("token_classification", None),
    "xlm": ("fill_mask", None),
    "xlnet": ("text_embedding", "XLNetModel cannot be exported to ONNX"),
    "xmod": ("sequence_classification", None),
    "yoso": ("token_classification", "gives other answers, by .* in padded batches"),
}
"""Architecture -> a task, and with which words it is refused; the fixed sizes of a batch are why, or padding."""


def exported(directory: Path, model: Path, task: str, **given: Any) -> tuple[Path, Record]:
    said = {name: given.pop(name) for name in ("dtype", "trust_remote_code", "max_length") if name in given}
    config = flags.from_keywords(model_dir=str(model), task=task, model_name="m", **said)
    wanted: dict[str, Any] = {"max_batch_size": 32, "instances": "auto", "overwrite": False, **given}
    return export(Asked(config=config, output=directory / "repo", **wanted), lambda text: None)


def session(directory: Path) -> Any:
    return onnxruntime.InferenceSession(directory / "1" / "model.onnx", providers=["CPUExecutionProvider"])


def largest(directory: Path, model: Path, task: str, batches: tuple[list[int], ...] = BATCHES) -> float:
    """The largest difference between a text's answer in one of the batches and transformers' to it alone."""
    graph, worst = session(directory), 0.0
    names = [one.name for one in graph.get_inputs()]
    for batch in batches:
        tensors = tokenizer(model)([TEXTS[i] for i in batch], padding=True, truncation=True, return_tensors="np")
        tensors.setdefault("token_type_ids", np.zeros_like(tensors["input_ids"]))
        (answers,) = graph.run(None, {name: tensors[name].astype(np.int64) for name in names})
        for i, answer in zip(batch, answers, strict=True):
            known = output(model, task, TEXTS[i]).numpy()
            assert answer.dtype == np.float32
            worst = max(worst, float(np.abs((answer if known.ndim == 1 else answer[: len(known)]) - known).max()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "task"), CASES)
def test_equals_transformers(tmp_path: Path, architecture: str, task: str) -> None:
    model = tiny(architecture, task)
    directory, record = exported(tmp_path, model, task)
    assert largest(directory, model, task) < 2e-5
    assert record.deviation < 2e-5
    assert record.task == task
    assert {one.name for one in record.outputs} == {"last_hidden_state" if task == "text_embedding" else "logits"}
    types = architecture in ("bert", "electra", "albert")
    assert [one.name for one in record.inputs] == ["input_ids", "attention_mask", "token_type_ids"][: 2 + types]
    onnx.checker.check_model(directory / "1" / "model.onnx", full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHERS)
def test_other_architectures_are_exact_or_refused(tmp_path: Path, architecture: str) -> None:
    task, said = OTHERS[architecture]
    model = made(tmp_path / "model", architecture, task)
    if said is not None:
        with pytest.raises(LoadError, match=said):
            exported(tmp_path, model, task)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        return
    directory, _ = exported(tmp_path, model, task)
    assert largest(directory, model, task) < 2e-5


def test_every_other_architecture_has_its_row() -> None:
    assert list(OTHERS) == list(MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [name for name, (_, said) in OTHERS.items() if "padded" in (said or "")])
def test_what_padding_changes_is_exported_for_texts_alone(tmp_path: Path, architecture: str) -> None:
    task = OTHERS[architecture][0]
    model = made(tmp_path / "model", architecture, task)
    directory, record = exported(tmp_path, model, task, max_batch_size=1)
    assert record.max_batch_size == 1
    assert "dynamic_batching" not in (directory / "config.pbtxt").read_text()
    assert largest(directory, model, task, ([0], [1], [2], [4])) < 5e-5  # FNet's Fourier transform: 3e-5


@pytest.mark.slow
def test_half_precision(tmp_path: Path) -> None:
    """Half as large; its answers are float32 and near."""
    whole, _ = exported(tmp_path / "whole", minilm(), "text_embedding")
    half, record = exported(tmp_path / "half", minilm(), "text_embedding", dtype="float16")
    sizes = [(directory / "1" / "model.onnx").stat().st_size for directory in (whole, half)]
    assert sizes[0] > 80e6
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    assert largest(whole, minilm(), "text_embedding") < 1e-5
    assert 1e-5 < largest(half, minilm(), "text_embedding") < 2e-2
    assert record.dtype == "float16"
    assert [one.datatype for one in record.outputs] == ["FP32"]


@pytest.mark.slow
def test_large_weights_are_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx_graph, "_ONE_FILE", 1000)
    model = tiny("bert", "sequence_classification")
    directory, _ = exported(tmp_path, model, "sequence_classification")
    files = {file.name: file.stat().st_size for file in (directory / "1").iterdir()}
    assert set(files) == {"model.onnx", "model.onnx.data"}
    assert files["model.onnx.data"] > 100_000
    moved = directory.rename(tmp_path / "elsewhere")  # the name of that file is relative
    assert largest(moved, model, "sequence_classification") < 2e-5


@pytest.mark.slow
def test_a_graph_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight is changed between transformers' answers and the export."""
    write: Callable[..., None] = export_onnx_graph.write

    def spoil(exportable: export_onnx_graph.Exportable, *args: Any) -> None:
        with torch.no_grad():
            next(exportable.parameters()).mul_(1.01)
        write(exportable, *args)

    monkeypatch.setattr(export_onnx_graph, "write", spoil)
    with pytest.raises(LoadError, match=r"BertModel exported to ONNX gives other answers .* they differ by"):
        exported(tmp_path, tiny("bert"), "text_embedding")
    assert list(tmp_path.iterdir()) == []


def test_the_check_sees_what_padding_changes() -> None:
    """What is compared: each text alone, and batches of unequal lengths, the longest text among them."""
    asked = [Encoding(ids=[5] * n) for n in (3, 9, 3, 40)]
    batches = list(export_onnx_check._batches(asked, range(4), 32))
    assert batches[:4] == [([i], 0) for i in range(4)]
    assert batches[4:] == [([0, 1, 2], 0), ([3, 0], 0), ([0, 2], 3 + export_onnx_check._WIDER)]
    assert list(export_onnx_check._batches(asked, range(4), 1)) == [([i], 0) for i in range(4)]
