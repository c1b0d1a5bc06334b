"""What is told from a directory, compared with what transformers makes of the same directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.files import resolve
from modelserve.runtime.heads import infer, missing_head, refusal
from modelserve.runtime.info import inspect
from modelserve.types import ModelInfo
from tests.models import ARCHITECTURES, MAX_LENGTH, TASKS, minilm, tiny

Edit = Callable[..., Path]

AUTO_CLASSES = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "fill_mask": "AutoModelForMaskedLM",
    "text_embedding": "AutoModel",
}


def known(directory: Path, **config: Any) -> tuple[ModelInfo, str]:
    settings = Config(model_dir=str(directory), **config)
    return inspect(resolve(settings, lambda fraction: None), settings)


def refused(directory: Path, **config: Any) -> str:
    with pytest.raises(LoadError) as caught:
        known(directory, **config)
    return caught.value.message


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """A copy of a directory with other values in a JSON file (None takes one out), or with other tensors."""

    def edit(source: Path, file: str = "config.json", *, tensors: Any = None, **values: Any) -> Path:
        directory = source if source.is_relative_to(tmp_path) else tmp_path / source.name
        if directory != source:
            shutil.copytree(source, directory)
        path = directory / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        content = {key: value for key, value in (content | values).items() if value is not None}
        path.write_text(json.dumps(content))
        if tensors is not None:
            kept = tensors(load_file(directory / "model.safetensors"))
            save_file(kept, directory / "model.safetensors")
        return directory

    return edit


# Task


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_task_is_the_one_that_the_model_was_made_for(architecture: str, task: str) -> None:
    info, inferred = known(tiny(architecture, task))
    assert inferred == task
    assert info.hidden_size == 32
    assert info.max_length == MAX_LENGTH
    assert info.num_labels == {"sequence_classification": 3, "token_classification": 5}.get(task, 2)
    assert info.path == tiny(architecture, task)


@pytest.mark.parametrize("asked", TASKS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_task_of_the_head_and_embeddings_are_served(architecture: str, task: str, asked: str) -> None:
    directory = tiny(architecture, task)
    if asked in (task, "text_embedding"):
        assert known(directory, task=asked)[1] == asked
    else:
        message = refused(directory, task=asked)
        assert message.startswith(f"the task {asked} cannot be served: ")
        assert ", and a head with random weights is never served; the model can do " in message


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_agrees_on_which_heads_are_there(architecture: str) -> None:
    """What is let through loads completely; what loads incompletely is refused before, and by the missing keys."""
    import transformers

    for task in TASKS:
        for asked, auto_class in AUTO_CLASSES.items():
            _, report = getattr(transformers, auto_class).from_pretrained(
                tiny(architecture, task), output_loading_info=True
            )
            late = missing_head(report["missing_keys"], asked)
            if asked in (task, "text_embedding"):
                assert late is None, (task, asked)
            elif {task, asked} != {"sequence_classification", "token_classification"}:
                assert late is not None, (task, asked)
                assert "a head with random weights is never served" in late


def test_reasons_of_refusal() -> None:
    assert refused(tiny("bert"), task="sequence_classification") == (
        "the task sequence_classification cannot be served: the model has no classification head (BertModel), "
        "and a head with random weights is never served; the model can do text_embedding"
    )
    assert refused(tiny("roberta", "sequence_classification"), task="fill_mask") == (
        "the task fill_mask cannot be served: the model has no masked language modelling head "
        "(RobertaForSequenceClassification), and a head with random weights is never served; "
        "the model can do sequence_classification and text_embedding"
    )
    assert refused(tiny("modernbert", "token_classification"), task="sequence_classification") == (
        "the task sequence_classification cannot be served: its head is for token_classification "
        "(ModernBertForTokenClassification), and a head with random weights is never served; "
        "the model can do token_classification and text_embedding"
    )


def test_the_names_in_the_file_count_more_than_config_json(edited: Edit) -> None:
    def headless(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}

    directory = edited(tiny("bert", "fill_mask"), tensors=headless)
    assert "the model has no masked language modelling head (BertForMaskedLM)" in refused(directory)
    assert known(directory, task="text_embedding")[1] == "text_embedding"


def test_a_head_of_unknown_names_is_left_to_the_load(edited: Edit) -> None:
    def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("cls.predictions", "new_head"): tensor for name, tensor in tensors.items()}

    assert known(edited(tiny("bert", "fill_mask"), tensors=renamed))[1] == "fill_mask"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForMaskedLM", "fill_mask"),
        ("XLMWithLMHeadModel", "fill_mask"),
        ("DebertaV2ForTokenClassification", "token_classification"),
        ("MPNetModel", "text_embedding"),
        ("ElectraForPreTraining", "text_embedding"),
        ("GPT2LMHeadModel", "text_generation"),
        ("LlamaForCausalLM", "text_generation"),
        ("T5ForConditionalGeneration", "text2text_generation"),
    ],
)
def test_architectures(architecture: str, task: str) -> None:
    assert infer([architecture], None, sentence_transformers=False) == task


def test_bert_for_pretraining_fills_masks() -> None:
    shapes = {"bert.embeddings.word_embeddings.weight": (9, 4), "cls.predictions.bias": (9,), "cls.x.weight": (2, 4)}
    assert infer(["BertForPreTraining"], shapes, sentence_transformers=False) == "fill_mask"
    assert refusal("fill_mask", ["BertForPreTraining"], shapes) is None
    assert "no classification head" in str(refusal("sequence_classification", ["BertForPreTraining"], shapes))


def test_a_sentence_transformers_directory_is_for_embeddings_whatever_its_architecture(edited: Edit) -> None:
    assert known(minilm())[1] == "text_embedding"
    directory = edited(tiny("bert", "fill_mask"))
    (directory / "modules.json").write_text("[]")
    assert known(directory)[1] == "text_embedding"
    assert known(directory, task="fill_mask")[1] == "fill_mask"


def test_other_kinds_of_sentence_transformers(edited: Edit) -> None:
    directory = edited(
        tiny("bert", "sequence_classification"), "config_sentence_transformers.json", model_type="CrossEncoder"
    )
    (directory / "modules.json").write_text("[]")
    assert known(directory)[1] == "sequence_classification"
    edited(directory, "config_sentence_transformers.json", model_type="SparseEncoder")
    assert refused(directory) == "the model is a SparseEncoder of sentence-transformers, which is not served"


@pytest.mark.parametrize("task", ["text_generation", "text2text_generation"])
def test_generation_is_for_those_that_are_made_for_it(edited: Edit, task: str) -> None:
    assert refused(tiny("bert"), task=task) == (
        f"the task {task} cannot be served: BertModel is no architecture that does it; it is made for text_embedding"
    )
    architecture = {"text_generation": "LlamaForCausalLM", "text2text_generation": "T5ForConditionalGeneration"}[task]
    directory = edited(tiny("bert"), architectures=[architecture])
    assert known(directory)[1] == task
    assert f"{architecture} generates text" in refused(directory, task="fill_mask")


def test_heads_of_other_tasks(edited: Edit) -> None:
    directory = edited(tiny("bert", "sequence_classification"), architectures=["BertForMultipleChoice"])
    assert refused(directory) == (
        "BertForMultipleChoice names none of the tasks sequence_classification, token_classification, fill_mask, "
        "text_embedding; set --task (text_embedding, say)"
    )
    assert "its head is another one (BertForMultipleChoice)" in refused(directory, task="sequence_classification")
    assert known(directory, task="text_embedding")[1] == "text_embedding"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_architectures_the_names_of_the_tensors_tell(edited: Edit, architecture: str) -> None:
    for task in TASKS:
        directory = edited(tiny(architecture, task), architectures=None)
        classifier = task in ("sequence_classification", "token_classification")
        if task == "token_classification" or (classifier and architecture == "modernbert"):
            # A lone classifier can be for sequences or tokens, in modernbert always.
            assert refused(directory).endswith("; set --task")
        else:
            assert known(directory)[1] == task
        assert known(directory, task=task)[1] == task


def test_tensors_of_no_known_name_tell_nothing(edited: Edit) -> None:
    directory = edited(tiny("bert"), architectures=None, tensors=lambda _: {"weight": np.zeros(1, np.float32)})
    assert refused(directory) == "config.json names no architecture and the weights do not tell the task; set --task"


def test_pickles_are_not_read_for_the_task(edited: Edit) -> None:
    directory = edited(tiny("bert", "fill_mask"))
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert known(directory, allow_pickle=True)[1] == "fill_mask"
    edited(directory, architectures=None)
    assert refused(directory, allow_pickle=True).endswith("; set --task")


def test_architectures_that_are_no_names(edited: Edit) -> None:
    assert refused(edited(tiny("bert"), architectures="BertModel")) == (
        "architectures in config.json is 'BertModel', which is no list of names"
    )


@pytest.mark.parametrize(
    ("keys", "task", "matters"),
    [
        ([], "fill_mask", False),
        (["pooler.dense.weight", "pooler.dense.bias"], "text_embedding", False),
        (["bert.pooler.dense.weight"], "sequence_classification", True),
        (["encoder.layer.0.output.dense.weight"], "text_embedding", True),
        (["classifier.weight", "classifier.bias"], "token_classification", True),
    ],
)
def test_missing_keys(keys: list[str], task: str, matters: bool) -> None:
    reason = missing_head(keys, task)
    assert (reason is not None) == matters
    if reason is not None:
        assert reason.startswith(f"the task {task} cannot be served: the weights lack {sorted(keys)[0]}")


@pytest.mark.slow  # imports transformers
def test_code_of_the_model_is_not_run_without_leave(edited: Edit) -> None:
    auto_map = {"AutoModel": "modeling_mine.Mine"}
    directory = edited(tiny("bert"), auto_map=auto_map)
    assert known(directory)[1] == "text_embedding"  # transformers has this type itself
    edited(directory, model_type="mine")
    assert refused(directory) == (
        "a mine model runs on code that comes with it, not on transformers'; give --trust_remote_code if you trust it"
    )
    assert known(directory, trust_remote_code=True)[1] == "text_embedding"


def test_a_model_of_no_type(edited: Edit) -> None:
    assert refused(edited(tiny("bert"), model_type=None)) == (
        "model_type in config.json is None, so transformers cannot tell what model it is"
    )


# Labels


def test_labels(edited: Edit) -> None:
    info, _ = known(tiny("bert", "sequence_classification"))
    assert info.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert info.problem_type is None
    info, _ = known(tiny("bert", "sequence_classification", problem_type="multi_label_classification"))
    assert info.problem_type == "multi_label_classification"
    info, _ = known(tiny("bert", "sequence_classification", num_labels=1))
    assert (info.num_labels, info.id2label) == (1, {0: "LABEL_0"})
    directory = edited(tiny("bert", "sequence_classification"), id2label=None, label2id=None, num_labels=3)
    assert known(directory)[0].id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize(
    ("architecture", "task", "rows"),
    [
        ("bert", "sequence_classification", "classifier.weight has 3 rows"),
        ("roberta", "sequence_classification", "classifier.out_proj.weight has 3 rows"),
        ("modernbert", "token_classification", "classifier.weight has 5 rows"),
    ],
)
def test_labels_agree_with_the_head(edited: Edit, architecture: str, task: str, rows: str) -> None:
    directory = edited(tiny(architecture, task), id2label={"0": "no", "1": "yes"})
    assert refused(directory) == f"config.json has 2 labels, but {rows}"


def test_labels_and_problem_types_that_mean_nothing(edited: Edit) -> None:
    directory = edited(tiny("bert", "sequence_classification"), id2label={"a": "b"})
    assert refused(directory).startswith("id2label in config.json must map numbers to names (")
    edited(directory, id2label=["a", "b", "c"])
    assert refused(directory).startswith("id2label in config.json must map numbers to names (")
    edited(directory, id2label={str(n): "x" for n in range(3)}, problem_type="guess")
    assert refused(directory) == (
        "problem_type in config.json is 'guess'; it must be single_label_classification, multi_label_classification, "
        "regression"
    )


# Sizes


@pytest.mark.parametrize("name", ["hidden_size", "dim", "d_model", "n_embd", "emb_dim"])
def test_hidden_size(edited: Edit, name: str) -> None:
    directory = edited(tiny("bert"), **{"hidden_size": None, name: 48})
    assert known(directory)[0].hidden_size == 48
    edited(directory, **{name: None})
    assert refused(directory).startswith("config.json has no hidden size (hidden_size, dim, ")


def test_the_longest_input(edited: Edit) -> None:
    directory = edited(tiny("bert"), "tokenizer_config.json", model_max_length=10**30)
    assert known(edited(directory, max_position_embeddings=512))[0].max_length == 512
    assert known(edited(directory, max_seq_len=300, n_positions=-1))[0].max_length == 300
    assert known(edited(directory, "tokenizer_config.json", model_max_length=200))[0].max_length == 200
    assert known(edited(directory, "tokenizer_config.json", model_max_length=10**30))[0].max_length == 300
    edited(directory, max_position_embeddings=None, max_seq_len=None)
    assert known(directory)[0].max_length == 2048


def test_positions_that_are_counted_from_the_padding(edited: Edit) -> None:
    directory = edited(tiny("xlm-roberta"), "tokenizer_config.json", model_max_length=None)
    assert known(directory)[0].max_length == MAX_LENGTH
    assert known(edited(directory, pad_token_id=None))[0].max_length == MAX_LENGTH
    assert known(edited(directory, pad_token_id=5))[0].max_length == MAX_LENGTH - 4


def test_sentence_transformers_length_is_advice_for_embeddings() -> None:
    assert known(minilm())[0].max_length == 256
    assert known(minilm(), max_length=512)[0].max_length == 512
    assert known(minilm(), max_length=16)[0].max_length == 16


def test_too_long() -> None:
    assert refused(tiny("bert"), max_length=129) == (
        "--max_length 129 is above the model's limit of 128 tokens (max_position_embeddings=128 in config.json); give "
        "at most 128, or --allow_long_max_model_len (ALLOW_LONG_MAX_MODEL_LEN=1), with wrong answers or failures where "
        "the model cannot"
    )
    assert known(tiny("bert"), max_length=129, allow_long_max_model_len=True)[0].max_length == 129
    assert "max_position_embeddings=130 in config.json, of which 2 are not used" in refused(
        tiny("roberta"), max_length=129
    )


@pytest.mark.slow
def test_the_families_that_count_from_the_padding_are_transformers_own() -> None:
    """Architectures for text whose positions start behind the padding, read from transformers' sources."""
    import transformers

    from modelserve.runtime.info import COUNTED_FROM_PADDING

    models = Path(transformers.__file__).parent / "models"
    found = {
        path.parent.name.replace("_", "-")
        for path in models.glob("*/modeling_*.py")
        if "def create_position_ids_from_input_ids" in path.read_text(encoding="utf-8")
    }
    names = {name.removesuffix("-text") for name in COUNTED_FROM_PADDING}
    assert names <= found | {"camembert"}
    # Not text encoders: of pictures, sound and proteins, translators, and parts of other models.
    others = {"altclip", "bridgetower", "clap", "evolla", "kosmos2", "kosmos2-5", "kosmos-2", "kosmos-2-5"}
    others |= {"m2m-100", "nllb-moe", "seamless-m4t", "seamless-m4t-v2", "speech-to-text", "speecht5", "trocr"}
    assert found - names <= others | {"pp-doclayout-v2", "fsmt"}
