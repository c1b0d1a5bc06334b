"""Text embedding against sentence-transformers on the same directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.pooling import MODES
from modelserve.tasks.recipe import read
from modelserve.types import Encoding, Params, TextPair, TokenIds
from tests.models import ARCHITECTURES, minilm, tiny
from tests.tasks.reference import TEXTS, ask, build, info, pretrained_tokenizer, reduce

NAME = "text_embedding"
HIDDEN = 32


def save(path: Path, *modules: torch.nn.Module, architecture: str = "bert", **settings: Any) -> Path:
    """A directory as sentence-transformers writes it."""
    network = Transformer(str(tiny(architecture)))
    SentenceTransformer(modules=[network, *modules], **settings).save_pretrained(str(path), create_model_card=False)
    return path


def encode(path: Path, texts: list[str] = TEXTS, **given: Any) -> np.ndarray:
    return SentenceTransformer(str(path)).encode(texts, **given)


def assert_same(ours: list[Any], theirs: np.ndarray) -> None:
    np.testing.assert_allclose(np.stack(ours), theirs, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_bare_encoder_is_pooled_by_mean_and_normalised(architecture: str) -> None:
    path = tiny(architecture)
    answer = ask(path, build(path, NAME), TEXTS)
    assert_same(answer.predictions, encode(path, normalize_embeddings=True))
    assert all(isinstance(row, np.ndarray) and row.dtype == np.float32 for row in answer.predictions)
    assert (answer.tensor.datatype, answer.tensor.shape) == ("FP32", (len(TEXTS), HIDDEN))
    np.testing.assert_array_equal(answer.tensor.data, np.stack(answer.predictions))
    assert answer.extra_outputs == []


def test_minilm() -> None:
    path = minilm()
    task = build(path, NAME)
    texts = [*TEXTS, "a longer sentence that is padded differently from the first"]
    answer = ask(path, task, texts)
    assert_same(answer.predictions, encode(path, texts))
    # What KServe answered for this text (its transcript "V1 embed one").
    recorded = [-0.03447720780968666, 0.031023211777210236, 0.006734978407621384, 0.026108982041478157]
    np.testing.assert_allclose(ask(path, task, ["Hello world"]).predictions[0][:4], recorded, atol=1e-6)
    assert [(s.name, s.datatype, s.shape) for s in task.output_specs()] == [("output-0", "FP32", (-1, 384))]


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("mode", list(MODES))
def test_every_pooling(tmp_path: Path, mode: str, prompted: bool) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, mode, include_prompt=not prompted), prompts={"q": "the query: "})
    task = build(path, NAME)
    given = {"prompt_name": "q"} if prompted else {}
    answer = ask(path, task, TEXTS, **given)
    assert_same(answer.predictions, encode(path, **given))
    # As a flag over a directory that says otherwise.
    other = build(tiny("bert"), NAME, Config(pooling=mode, normalize=False))
    if not prompted:
        assert_same(ask(tiny("bert"), other, TEXTS).predictions, encode(path))


def test_joined_poolings_and_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save(
        tmp_path / "st",
        Pooling(HIDDEN, ("mean", "cls", "weightedmean")),
        Dense(3 * HIDDEN, 24, activation_function=torch.nn.GELU(), use_residual=True),
        Dropout(0.5),
        Normalize(),
        LayerNorm(24),
        Dense(24, 24, bias=False, use_residual=True),
        Dense(24, 16),
        Normalize(),
    )
    task = build(path, NAME)
    assert_same(ask(path, task, TEXTS).predictions, encode(path))
    assert task.output_specs()[0].shape == (-1, 16)
    without = ask(path, task, TEXTS, normalize=False).predictions
    norms = np.linalg.norm(np.stack(without), axis=1, keepdims=True)
    assert abs(norms - 1).min() > 1e-3
    assert_same(list(np.stack(without) / norms), encode(path))


def test_directories_of_older_versions(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, ("cls", "mean")), Dense(2 * HIDDEN, 8), Normalize())
    expected = encode(path)
    modules = json.loads((path / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (path / "modules.json").write_text(json.dumps(modules))
    old = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (path / "1_Pooling" / "config.json").write_text(json.dumps({**old, "pooling_mode_max_tokens": False}))
    shutil.rmtree(path / "3_Normalize")
    assert_same(ask(path, build(path, NAME), TEXTS).predictions, expected)


def test_a_pooling_that_says_nothing_is_the_mean(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, "cls"))
    expected = encode(save(tmp_path / "mean", Pooling(HIDDEN, "mean")))
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": False}))
    assert_same(ask(path, build(path, NAME), TEXTS).predictions, expected)


def test_normalize_by_flag_and_by_request(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, "mean"))
    plain, unit = encode(path), encode(path, normalize_embeddings=True)
    assert_same(ask(path, build(path, NAME), TEXTS).predictions, plain)
    assert_same(ask(path, build(path, NAME), TEXTS, normalize=True).predictions, unit)
    flagged = build(path, NAME, Config(normalize=True))
    assert_same(ask(path, flagged, TEXTS).predictions, unit)
    assert_same(ask(path, flagged, TEXTS, normalize=False).predictions, plain)


PROMPTS = {"query": "query: ", "passage": "a passage of text: "}


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize(
    "architecture", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "deberta-v2"))]
)
def test_prompts(tmp_path: Path, architecture: str, include_prompt: bool) -> None:
    pooling = Pooling(HIDDEN, "mean", include_prompt=include_prompt)
    path = save(tmp_path / "st", pooling, architecture=architecture, prompts=PROMPTS, default_prompt_name="query")
    task = build(path, NAME)
    assert_same(ask(path, task, TEXTS).predictions, encode(path))
    for name in PROMPTS:
        assert_same(ask(path, task, TEXTS, prompt_name=name).predictions, encode(path, prompt_name=name))
    flagged = build(path, NAME, Config(prompt_name="passage"))
    assert_same(ask(path, flagged, TEXTS).predictions, encode(path, prompt_name="passage"))
    assert abs(encode(path) - encode(path, prompt_name="passage")).max() > 1e-2


def test_only_the_prompt_is_left_of_a_text(tmp_path: Path) -> None:
    prompts = {"long": "the cat sat on the mat " * 60}
    path = save(tmp_path / "st", Pooling(HIDDEN, "max", include_prompt=False), prompts=prompts)
    answer = ask(path, build(path, NAME), ["Anna"], prompt_name="long")
    assert answer.encodings[0].dropped > 0
    assert np.isfinite(answer.predictions[0]).all()


def test_token_ids_take_no_prompt(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, "mean"), prompts=PROMPTS, default_prompt_name="query")
    ids = [TokenIds(pretrained_tokenizer(path)(f"query: {text}")["input_ids"]) for text in TEXTS]
    task = build(path, NAME)
    assert_same(ask(path, task, ids).predictions, encode(path))
    with pytest.raises(InvalidRequest, match="send texts, not token ids"):
        task.preprocess(ids, Params(prompt_name="query"))


def test_unknown_prompts_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, "mean"), prompts=PROMPTS)
    with pytest.raises(InvalidRequest, match="no prompt named 'nope'; it has document, passage, query") as refused:
        build(path, NAME).preprocess(TEXTS, Params(prompt_name="nope"))
    assert refused.value.param == "prompt_name"
    with pytest.raises(InvalidRequest, match="no prompt named 'query'; it has no prompts"):
        build(minilm(), NAME).preprocess(TEXTS, Params(prompt_name="query"))
    with pytest.raises(LoadError, match="no prompt named 'nope'"):
        build(path, NAME, Config(prompt_name="nope"))


CARD = """\
---
tags:
- sentence-transformers
- loss:MatryoshkaLoss
- loss:MultipleNegativesRankingLoss
---
* Loss: MatryoshkaLoss with these parameters:
  {
      "loss": "MultipleNegativesRankingLoss",
      "matryoshka_dims": [
          16,
          8
      ]
  }
"""


def matryoshka(path: Path, card: str = CARD, **config: Any) -> Path:
    save(path, Pooling(HIDDEN, "mean"), Normalize())
    (path / "README.md").write_text(card)
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**said, **config}))
    return path


def test_dimensions_of_a_matryoshka_model(tmp_path: Path) -> None:
    path = matryoshka(tmp_path / "st")
    task = build(path, NAME)
    for dimensions in (8, 16, HIDDEN):
        answer = ask(path, task, TEXTS, dimensions=dimensions)
        assert_same(answer.predictions, encode(path, truncate_dim=dimensions, normalize_embeddings=True))
        assert answer.tensor.shape == (len(TEXTS), dimensions)
        plain = ask(path, task, TEXTS, dimensions=dimensions, normalize=False).predictions
        full = ask(path, task, TEXTS, normalize=False).predictions
        assert_same(plain, np.stack(full)[:, :dimensions])
    with pytest.raises(
        InvalidRequest, match="dimensions is 9; the model was trained for 8, 16 and gives 32"
    ) as refused:
        task.preprocess(TEXTS, Params(dimensions=9))
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize(
    ("card", "config", "allowed", "refused"),
    [
        ("", {"matryoshka_dimensions": [8, 16]}, (8, 16, 32), (0, 9, 33)),
        ("", {"is_matryoshka": True}, (1, 9, 32), (-1, 0, 33)),
        ("---\ntags:\n- loss:Matryoshka2dLoss\n---\n", {}, (1, 9, 32), (0, 33)),
        ("It speaks of MatryoshkaLoss, and was not trained with it.", {}, (32,), (1, 16, 33)),
    ],
)
def test_who_says_matryoshka(
    tmp_path: Path, card: str, config: dict[str, Any], allowed: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    path = matryoshka(tmp_path / "st", card, **config)
    task = build(path, NAME)
    for dimensions in allowed:
        assert ask(path, task, ["Anna"], dimensions=dimensions).tensor.shape == (1, dimensions)
    for dimensions in refused:
        with pytest.raises(InvalidRequest, match=f"dimensions is {dimensions}"):
            task.preprocess(["Anna"], Params(dimensions=dimensions))


def test_other_models_refuse_dimensions() -> None:
    with pytest.raises(InvalidRequest, match=r"not trained for shorter vectors \(Matryoshka\); it gives 384"):
        build(minilm(), NAME).preprocess(TEXTS, Params(dimensions=128))
    assert ask(minilm(), build(minilm(), NAME), ["Anna"], dimensions=384).tensor.shape == (1, 384)


def test_truncate_dim_of_the_directory(tmp_path: Path) -> None:
    path = save(tmp_path / "st", Pooling(HIDDEN, "mean"), Normalize(), truncate_dim=8)
    task = build(path, NAME)
    assert task.output_specs()[0].shape == (-1, 8)
    assert_same(ask(path, task, TEXTS).predictions, encode(path))
    assert_same(ask(path, task, TEXTS, normalize=True).predictions, encode(path, normalize_embeddings=True))
    assert_same(
        ask(path, task, TEXTS, dimensions=20).predictions, encode(path, truncate_dim=20, normalize_embeddings=True)
    )


def test_a_batch_may_mix_requests(tmp_path: Path) -> None:
    path = matryoshka(tmp_path / "st")
    settings = json.loads((path / "config_sentence_transformers.json").read_text())
    (path / "config_sentence_transformers.json").write_text(json.dumps({**settings, "prompts": PROMPTS}))
    pooling = json.loads((path / "1_Pooling" / "config.json").read_text())
    (path / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    task = build(path, NAME)
    asked = [Params(), Params(dimensions=8), Params(normalize=False), Params(prompt_name="query"), Params()]
    encodings = [task.preprocess(["Paris"], params)[0] for params in asked]
    encodings[-1] = Encoding(encodings[-1].ids, raw=True)
    outputs = reduce(path, task, encodings)
    assert outputs[-1] is None
    for params, output in list(zip(asked, outputs, strict=True))[:-1]:
        np.testing.assert_allclose(output, ask(path, task, ["Paris"], params).predictions[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_float32(dtype: torch.dtype) -> None:
    class Half:
        lengths = [100, 100]
        groups = [(0, 2, 100)]
        hidden = torch.full((200, HIDDEN), 1000.0, dtype=dtype)  # a float16 sum would be infinite

    outputs = build(tiny("bert"), NAME).reduce(Half(), [Encoding([1] * 100)] * 2)
    np.testing.assert_allclose(np.stack(outputs), np.full((2, HIDDEN), HIDDEN**-0.5), atol=1e-6)
    assert outputs[0].dtype == np.float32


@pytest.mark.parametrize(
    ("instances", "given", "message"),
    [
        ([TextPair("a", "b")], {}, "the task text_embedding takes single texts"),
        (["a"], {"top_k": 1}, "top_k means nothing to the task text_embedding"),
        (["a"], {"return_probabilities": True}, "return_probabilities means nothing"),
    ],
)
def test_refused(instances: list[Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build(tiny("bert"), NAME).preprocess(instances, Params(**given))


def test_kserves_flags_change_nothing() -> None:
    path = tiny("bert")
    flagged = build(path, NAME, Config(return_probabilities=True, return_raw_logits=True))
    assert_same(ask(path, flagged, TEXTS).predictions, encode(path, normalize_embeddings=True))


def broken(path: Path, **files: Any) -> Path:
    save(path, Pooling(HIDDEN, "mean"), Dense(HIDDEN, 8), Normalize())
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_json", ".json")
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


TRANSFORMER = {"path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules_json": "{"}, "modules.json is not JSON"),
        ({"modules_json": {}}, "modules.json holds a dict, not a list"),
        ({"modules_json": [TRANSFORMER, {"path": "x"}]}, "not a list of modules with type and path"),
        ({"modules_json": [TRANSFORMER]}, "no Pooling"),
        ({"modules_json": [TRANSFORMER, DENSE, POOLING]}, "Dense before Pooling"),
        (
            {"modules_json": [TRANSFORMER, POOLING, {"path": "x", "type": "sentence_transformers.models.LSTM"}]},
            "sentence_transformers.models.LSTM; supported behind the network: Pooling, Dense",
        ),
        ({"modules_json": [{"path": "", "type": "custom_st.Transformer"}, POOLING]}, "supported first: Transformer"),
        ({"1_Pooling__config_json": {"pooling_mode": "median"}}, "'median'; known are cls, max, mean"),
        (
            {"1_Pooling__config_json": {"pooling_mode": ["mean", "cls"]}},
            "takes vectors of length 32, the pooling gives 64",
        ),
        ({"2_Dense__config_json": {"in_features": 32}}, "2_Dense/config.json has no out_features"),
        ({"2_Dense__config_json": {"in_features": 32, "out_features": 9}}, "the weights of 2_Dense do not fit"),
        (
            {"2_Dense__config_json": {"in_features": 32, "out_features": 8, "activation_function": "os.system"}},
            "activation os.system; only classes of torch.nn are run",
        ),
        (
            {
                "2_Dense__config_json": {
                    "in_features": 32,
                    "out_features": 8,
                    "activation_function": "torch.nn.init.eye_",
                }
            },
            "only classes of torch.nn are run",
        ),
        (
            {"2_Dense__config_json": {"in_features": 32, "out_features": 8, "module_input_name": "token_embeddings"}},
            "2_Dense reads token_embeddings",
        ),
    ],
)
def test_directories_that_are_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        read(info(broken(tmp_path / "st", **files)))


def test_pickled_layers_need_a_yes(tmp_path: Path) -> None:
    path = broken(tmp_path / "st")
    expected = encode(path)
    weights = SentenceTransformer(str(path))[2].state_dict()
    (path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(LoadError, match=r"2_Dense has no model\.safetensors"):
        build(path, NAME)
    torch.save(weights, path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(LoadError, match="2_Dense has pickled weights only; --allow_pickle"):
        build(path, NAME)
    assert_same(ask(path, build(path, NAME, Config(allow_pickle=True)), TEXTS).predictions, expected)


def test_flags_for_classes_are_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    build(minilm(), NAME, Config(return_probabilities=True))
    assert "--return_probabilities has no effect: text_embedding has no classes" in caplog.messages
