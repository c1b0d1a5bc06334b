"""Texts to Encodings and back, through the Rust tokenizer directly. Knows no task and no queue.

Called from the tokenizer's threads (runtime/model.py); one instance serves them all, the Rust side releases the GIL.
Too long a text is cut or refused here, before any queue, and what was cut is counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.runtime.excerpt import PIECE, characters, excerpt, groups
from modelserve.runtime.files import Files
from modelserve.types import Encoding, Instance, ModelInfo, Params, TextPair, TokenIds


class Tokenizer:
    """A model's tokenizer. Fulfils tasks.base.Tokenize."""

    def __init__(
        self,
        path: Path,
        *,
        max_length: int,
        keep_case: bool = False,
        lower_case: bool = False,
        special_tokens: bool = True,
        type_ids: bool = False,
        rows: int | None = None,
        types: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the tokenizer of `path`, as transformers does.

        keep_case: never lower-case. lower_case: always, unless keep_case. special_tokens: add the model's own.
        type_ids: give token type ids even where the tokenizer does not list them as an input. rows, types: how many
        token ids and token types the network knows; without rows as many as the vocabulary has, without types (or 0)
        any that comes. Raises LoadError.
        """
        try:
            loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            first = (str(error).strip().splitlines() or ["unreadable"])[0]
            raise LoadError(f"the tokenizer of {path.name} cannot be loaded: {first}") from error
        rust = getattr(loaded, "backend_tokenizer", None)
        if not isinstance(rust, tokenizers.Tokenizer):
            raise LoadError(f"the tokenizer of {path.name} has no fast (tokenizers) form")
        self._rust = _plain(tokenizers.Tokenizer.from_str(_with_case(rust.to_str())) if keep_case else rust)
        if lower_case and not keep_case:
            before = [self._rust.normalizer] if self._rust.normalizer else []
            self._rust.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Lowercase(), *before])
        self._side: str = loaded.truncation_side
        self._cutting: dict[str, tokenizers.Tokenizer] = {}
        self._special_tokens = special_tokens
        self.gives_types = type_ids or "token_type_ids" in loaded.model_input_names
        """Whether it says which of two texts a token is of."""
        self._special_ids = frozenset(loaded.all_special_ids)
        self.loaded = loaded
        """transformers' own object."""
        self.max_length = max_length
        self.vocab_size = self._rust.get_vocab_size(with_added_tokens=True)
        if self.vocab_size <= len(self._special_ids):
            # transformers makes an empty tokenizer, without a word, where the files of one are missing.
            raise LoadError(f"{path.name} has no tokenizer files (tokenizer.json, vocab.txt or the like)")
        self.rows = rows or self.vocab_size
        """Token ids that the network knows."""
        self._types = types
        self.mask_token: str | None = loaded.mask_token
        self.mask_token_id: int | None = loaded.mask_token_id if loaded.mask_token else None
        self.pad_token_id: int | None = loaded.pad_token_id if loaded.pad_token else None
        self.unknown_token_id: int | None = loaded.unk_token_id if loaded.unk_token else None
        self.marks_subwords = bool(getattr(self._rust.model, "continuing_subword_prefix", None))

    def __call__(self, instances: Sequence[Instance], params: Params, *, offsets: bool = False) -> list[Encoding]:
        """Encodings in order.

        Raises InvalidRequest for an input of no tokens, for ids that the network does not know (a CUDA device would
        not survive them), and for one that is longer than `max_length` when `params.truncation` is false.
        """
        if any(isinstance(instance, TokenIds) for instance in instances):
            return [
                self._of_ids(instance, index, params)
                if isinstance(instance, TokenIds)
                else self([instance], params, offsets=offsets)[0]
                for index, instance in enumerate(instances)
            ]
        encodings: list[Encoding] = []
        for start, stop in groups([characters(instance) for instance in instances]):
            self._add(encodings, instances[start:stop], params, offsets)
        return encodings

    def _add(self, encodings: list[Encoding], instances: Sequence[Instance], params: Params, offsets: bool) -> None:
        """Encode texts and pairs, and add them to those that there are."""
        texts: list[Any] = [tuple(i) if isinstance(i, TextPair) else i for i in instances]
        rest = shift = 0
        if characters(instances[0]) > PIECE:
            from_end = self._cut_side(params) == "left"
            texts, rest = self._excerpts(texts[0], from_end)
            shift = len(instances[0]) - len(texts[0]) if from_end else 0
        found = self._encode(self._rust, texts, offsets)
        for text, encoding, instance in zip(texts, found, instances, strict=True):
            index, length = len(encodings), len(encoding) + rest
            if length > self.max_length:
                encoding = self._cut(text, index, length, params, offsets)
            elif length == 0:
                raise InvalidRequest(f"input {index} has no tokens")
            if self.rows < self.vocab_size:
                self._check_ids(encoding.ids, index)
            encodings.append(self._ours(encoding, instance, length - len(encoding), offsets, shift))

    def _excerpts(self, text: Any, from_end: bool) -> tuple[list[Any], int]:
        """What has to be tokenised of a very long text or pair, as a list of one, and how many tokens the rest has."""

        def count(piece: str) -> int:
            return len(self._rust.encode_batch_fast([piece], add_special_tokens=False)[0])

        parts = text if isinstance(text, tuple) else (text,)
        found = [excerpt(part, count, self.max_length, from_end=from_end) for part in parts]
        kept = tuple(part for part, _ in found)
        return [kept if isinstance(text, tuple) else kept[0]], sum(rest for _, rest in found)

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        text: str = self.loaded.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def join(self, tokens: Sequence[str]) -> str:
        text: str = self.loaded.convert_tokens_to_string(list(tokens))
        return text

    def token(self, id: int) -> str:
        token: str | None = self._rust.id_to_token(id)
        return token if token is not None else ""

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self._rust.encode(text, add_special_tokens=False).ids
        return ids

    def vocabulary_id(self, token: str) -> int | None:
        id: int | None = self._rust.token_to_id(token)
        return id

    def _encode(self, rust: tokenizers.Tokenizer, texts: list[Any], offsets: bool) -> list[tokenizers.Encoding]:
        encode = rust.encode_batch if offsets else rust.encode_batch_fast
        found: list[tokenizers.Encoding] = encode(texts, add_special_tokens=self._special_tokens)
        return found

    def _cut(self, text: Any, index: int, length: int, params: Params, offsets: bool) -> tokenizers.Encoding:
        if params.truncation is False:
            raise InvalidRequest(
                f"input {index} has {length} tokens, the model takes at most {self.max_length}; "
                "shorten it or allow truncation",
                param="truncation",
            )
        side = self._cut_side(params)
        rust = self._cutting.get(side)
        if rust is None:
            rust = tokenizers.Tokenizer.from_str(self._rust.to_str())
            rust.enable_truncation(self.max_length, direction=side)
            self._cutting[side] = rust
        return self._encode(rust, [text], offsets)[0]

    def _cut_side(self, params: Params) -> str:
        return params.truncation if isinstance(params.truncation, str) else self._side

    def _ours(
        self, found: tokenizers.Encoding, instance: Instance, dropped: int, offsets: bool, shift: int
    ) -> Encoding:
        """shift: characters of the instance before the text that was encoded."""
        spans = found.offsets if offsets else None
        if spans and shift:
            spans = [
                (start + shift, end + shift) if not special else (start, end)
                for (start, end), special in zip(spans, found.special_tokens_mask, strict=True)
            ]
        return Encoding(
            ids=found.ids,
            type_ids=found.type_ids if self.gives_types else None,
            offsets=spans,
            word_ids=found.word_ids if offsets else None,
            special=found.special_tokens_mask if offsets else None,
            text=instance if isinstance(instance, str) else "",
            dropped=dropped,
        )

    def _of_ids(self, instance: TokenIds, index: int, params: Params) -> Encoding:
        ids, type_ids = list(instance.ids), instance.type_ids
        if not ids:
            raise InvalidRequest(f"input {index} has no tokens")
        self._check_ids(ids, index)
        if type_ids is not None and self._types:
            wrong = next((type for type in type_ids if not 0 <= type < self._types), None)
            if wrong is not None:
                raise InvalidRequest(
                    f"input {index} has the token type id {wrong}, the model has types from 0 to {self._types - 1}",
                    param="token_type_ids",
                )
        dropped = len(ids) - self.max_length
        if dropped > 0:
            if params.truncation is False:
                raise InvalidRequest(
                    f"input {index} has {len(ids)} tokens, the model takes at most {self.max_length}; "
                    "shorten it or allow truncation",
                    param="truncation",
                )
            end = ids[-1:] if ids[-1] in self._special_ids else []
            ids = ids[: self.max_length - len(end)] + end
            type_ids = type_ids and type_ids[: len(ids)]
        special = [int(id in self._special_ids) for id in ids]
        return Encoding(ids=ids, type_ids=type_ids, special=special, dropped=max(0, dropped))

    def _check_ids(self, ids: Sequence[int], index: int) -> None:
        wrong = next((id for id in ids if not 0 <= id < self.rows), None)
        if wrong is not None:
            raise InvalidRequest(
                f"input {index} has the token id {wrong}, the model's vocabulary has ids from 0 to {self.rows - 1}"
            )


def load_tokenizer(config: Config, files: Files, info: ModelInfo) -> Tokenizer:
    """The model's tokenizer, as the parameters want it. Raises LoadError."""
    return Tokenizer(
        files.tokenizer,
        max_length=info.max_length,
        keep_case=config.disable_lower_case,
        lower_case=info.lower_case,
        special_tokens=not config.disable_special_tokens,
        type_ids=config.return_token_type_ids,
        rows=info.config.get("vocab_size"),
        types=info.config.get("type_vocab_size"),
        trust_remote_code=config.trust_remote_code,
    )


def _plain(rust: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """It, without padding and truncation, whatever was saved with it."""
    rust.no_padding()
    rust.no_truncation()
    return rust


def _with_case(text: str) -> str:
    """The tokenizer's JSON without any lower-casing step."""
    data = json.loads(text)
    data["normalizer"] = _without_lower(data.get("normalizer"))
    return json.dumps(data)


def _without_lower(step: Any) -> Any:
    if step is None or step["type"] == "Lowercase":
        return None
    if step["type"] == "BertNormalizer":
        return {**step, "lowercase": False}
    if step["type"] == "Sequence":
        steps = [kept for s in step["normalizers"] if (kept := _without_lower(s)) is not None]
        return {**step, "normalizers": steps}
    return step
