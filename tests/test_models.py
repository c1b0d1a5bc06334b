"""The tiny models that other tests rest on: loadable, of the right kind, the same for everybody, and not blind."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers

from tests import models
from tests.models import ARCHITECTURES, MAX_LENGTH, TASKS, minilm, tiny

AUTO = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "fill_mask": "AutoModelForMaskedLM",
    "text_embedding": "AutoModel",
}
SOME = ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "bert")]
TEXTS = ["The capital of France is Paris.", "Anna met Zoë", "I hate this book, don't you?"]
KINDS = {"roberta": "BPE", "modernbert": "BPE", "xlm-roberta": "Unigram", "albert": "Unigram", "deberta-v2": "Unigram"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", SOME)
def test_loads_and_tells_texts_apart(architecture: str, task: str) -> None:
    path = tiny(architecture, task)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model, report = getattr(transformers, AUTO[task]).from_pretrained(path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.model_type == architecture
    assert type(tokenizer.backend_tokenizer.model).__name__ == KINDS.get(architecture, "WordPiece")
    with torch.inference_mode():
        answers = [model(**tokenizer(text, return_tensors="pt"))[0][0].reshape(-1)[:3] for text in TEXTS]
        longest = tokenizer("the cat " * 200, truncation=True, return_tensors="pt")
        assert longest["input_ids"].shape == (1, MAX_LENGTH)
        assert torch.isfinite(model(**longest)[0]).all()
    assert all((one - other).abs().max() > 0.05 for one, other in pairwise(answers))
    masked = tokenizer(f"Paris {tokenizer.mask_token}")["input_ids"]
    assert masked.count(tokenizer.mask_token_id) == 1


def test_modernbert_sees_only_its_neighbourhood() -> None:
    path = tiny("modernbert")
    model = transformers.AutoModel.from_pretrained(path)
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    assert model.config.local_attention < 16


def test_variants() -> None:
    config = json.loads((tiny("bert", "sequence_classification", num_labels=1) / "config.json").read_text())
    assert list(config["id2label"]) == ["0"]
    multi = tiny("bert", "sequence_classification", num_labels=4, problem_type="multi_label_classification")
    assert json.loads((multi / "config.json").read_text())["problem_type"] == "multi_label_classification"
    cased, uncased = (transformers.AutoTokenizer.from_pretrained(tiny("bert", cased=it)) for it in (True, False))
    assert cased.tokenize("Paris") != cased.tokenize("paris")
    assert uncased.tokenize("Paris") == uncased.tokenize("paris")
    assert tiny("bert", seed=1) != tiny("bert")
    with pytest.raises(ValueError, match="no tiny model 'gpt2'"):
        tiny("gpt2")


@pytest.mark.slow
def test_two_processes_at_once_build_the_same(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests import models; models.CACHE = Path(sys.argv[1]);"
        "print(models.tiny('albert', 'fill_mask')); print(models.tiny('bert', 'fill_mask'))"
    )
    root = Path(models.__file__).parent.parent
    command = [sys.executable, "-c", script]
    shared, other = tmp_path / "shared", tmp_path / "other"
    running = [
        subprocess.Popen([*command, str(cache)], cwd=root, stdout=subprocess.PIPE, text=True)
        for cache in (shared, shared, other)
    ]
    built = [process.communicate(timeout=100)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert built[0] == built[1]
    assert sorted(entry.name for entry in shared.iterdir()) == sorted(Path(path).name for path in built[0])
    for one, same in zip(built[0], built[2], strict=True):
        for file in ("tokenizer.json", "config.json", "model.safetensors"):
            assert (Path(one) / file).read_bytes() == (Path(same) / file).read_bytes()


def test_minilm_is_there() -> None:
    assert (minilm() / "model.safetensors").is_file()
