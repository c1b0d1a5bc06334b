"""What a model must answer: transformers or sentence-transformers on the same weights, float32 on the CPU, one text at
a time, without padding.

Shares with the server how weights are read and nothing that computes: tokens are AutoTokenizer's, the network is
transformers' own. Blocking.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from modelserve.backends.pretrained import load_pretrained
from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.runtime.files import Files
from modelserve.runtime.greedy import Answer, answers
from modelserve.runtime.heads import GENERATIVE, encoder_class, missing_head
from modelserve.runtime.verification_texts import Asked
from modelserve.tasks.recipe import Recipe, read
from modelserve.types import Array, ModelInfo, TextPair

_CLASSES = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "fill_mask": "AutoModelForMaskedLM",
    "text_embedding": "AutoModel",
    "text_generation": "AutoModelForCausalLM",
    "text2text_generation": "AutoModelForSeq2SeqLM",
}
_POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda rows: rows.mean(0),
    "cls": lambda rows: rows[0],
    "max": lambda rows: rows.amax(0),
    "lasttoken": lambda rows: rows[-1],
    "mean_sqrt_len_tokens": lambda rows: rows.sum(0) / math.sqrt(len(rows)),
    "weightedmean": lambda rows: torch.arange(1.0, len(rows) + 1) @ rows / (len(rows) * (len(rows) + 1) / 2),
}
"""Of one text's hidden states [L, H]: none is padded, so there is no mask."""


class Reference:
    """The model in memory."""

    def __init__(self, config: Config, files: Files, info: ModelInfo, task: str) -> None:
        """Raises LoadError, and ConfigError for flags with which neither library can be asked."""
        if config.disable_lower_case:
            raise ConfigError("--disable_lower_case cannot be verified: transformers has no such way; leave it out")
        self._config, self._files, self._info, self._task = config, files, info, task
        self.how = "transformers"
        """Which library answers, and what of the server's own it needs for that."""
        self._sentences: Any = None
        self._recipe: Recipe | None = None
        if task == "text_embedding" and self._is_sentence_transformers():
            self._sentences = self._sentence_transformer()
            self.how = "sentence-transformers"
            return
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(
            files.tokenizer, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
        if task == "text_embedding":
            self._recipe = self._read_recipe()
        self._model: Any = load_pretrained(
            files.model,
            encoder_class(task, _CLASSES[task], info.config.get("model_type")),
            "float32",
            config.trust_remote_code,
            config.allow_pickle,
            lambda keys: missing_head(keys, task),
        ).eval()
        self._inputs = inspect.signature(self._model.forward).parameters.keys()

    def answer(self, text: Asked) -> Array:
        """The vector [D] of an embedding, else logits: [1, C], [tokens, C] or [masks, vocabulary]."""
        with torch.inference_mode():
            if self._sentences is not None:
                return self._encoded(str(text))
            tokens = self._tokens(text)
            rows = self._model(**{name: ids for name, ids in tokens.items() if name in self._inputs})
            if self._recipe is not None:
                return self._vector(rows[0][0], self._recipe)
            logits = (rows["logits"] if "logits" in rows else rows["prediction_logits"])[0].float()
            if self._task == "fill_mask":
                logits = logits[tokens["input_ids"][0] == self.tokenizer.mask_token_id]
            found: Array = logits.reshape(-1, logits.shape[-1]).numpy()
            return found

    def write(self, texts: Sequence[Asked], new: int, say: Callable[[str], None]) -> list[Answer]:
        """Of a model that writes: its greedy tokens, and what they were chosen by."""
        prompts = [self._tokens(text)["input_ids"][0].tolist() for text in texts]
        return answers(self._model, prompts, say, new=new, what="reference")

    def _tokens(self, text: Asked) -> Any:
        parts = list(text) if isinstance(text, TextPair) else [text]
        if self._info.lower_case:
            parts = [part.lower() for part in parts]
        given: dict[str, Any] = {"return_token_type_ids": True} if self._config.return_token_type_ids else {}
        if self._task not in GENERATIVE:
            given |= {"truncation": True, "max_length": self._info.max_length}
        # Lists, since a single empty second text would be taken for none.
        return self.tokenizer(
            *([part] for part in parts),
            return_tensors="pt",
            add_special_tokens=not self._config.disable_special_tokens,
            **given,
        )

    def _is_sentence_transformers(self) -> bool:
        """Whether that library can be asked for these vectors: it is here, the directory is one of its own, and no flag
        wants what it has no word for."""
        config = self._config
        other = config.pooling or config.normalize is False or config.disable_special_tokens
        ours = other or config.return_token_type_ids
        return not ours and find_spec("sentence_transformers") is not None and self._is_its_directory()

    def _is_its_directory(self) -> bool:
        return (self._files.model / "modules.json").is_file()

    def _sentence_transformer(self) -> Any:
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()
        try:
            made = SentenceTransformer(
                str(self._files.model),
                device="cpu",
                trust_remote_code=self._config.trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32, "use_safetensors": None if self._config.allow_pickle else True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
            raise LoadError(f"sentence-transformers cannot load {self._files.model.name}: {_line(error)}") from error
        if self._config.max_length is not None:
            made.max_seq_length = self._config.max_length
        return made

    def _encoded(self, text: str) -> Array:
        given: dict[str, Any] = {"normalize_embeddings": True} if self._config.normalize else {}
        if self._config.prompt_name is not None:
            given["prompt_name"] = self._config.prompt_name
        vector: Array = self._sentences.encode(text, show_progress_bar=False, **given)
        return vector

    def _read_recipe(self) -> Recipe:
        config = self._config
        recipe = read(self._info, pooling=config.pooling, allow_pickle=config.allow_pickle)
        if config.prompt_name or recipe.default_prompt_name:
            raise ConfigError("prompts are verified by sentence-transformers alone; install it, or leave --pooling out")
        if self._is_its_directory():
            missing = find_spec("sentence_transformers") is None
            why = "sentence-transformers is not installed" if missing else "it has no such flags"
            self.how = f"transformers, with what the server reads of modules.json ({why})"
        return recipe

    def _vector(self, rows: torch.Tensor, recipe: Recipe) -> Array:
        vector = torch.cat([_POOLINGS[mode](rows.float()) for mode in recipe.modes])
        vector = recipe.layers(vector[None])[0] if len(recipe.layers) else vector
        normalize = recipe.normalize if self._config.normalize is None else self._config.normalize
        vector = torch.nn.functional.normalize(vector, dim=-1) if normalize else vector
        found: Array = vector[: recipe.truncate_dim].numpy()
        return found


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
