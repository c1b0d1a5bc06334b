"""A transformers model taken apart into its encoder and its head, so that the encoder can run packed and the head can
run on just the rows that a task needs.

The head is run by calling the whole model while its encoder hands back a hidden state that was computed before; so the
head is always transformers' own code. Whether that gives the model's own answer is found out at load. Runs in a
backend thread; knows no task and no queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modelserve.backends.packing import NAME, Group, packed
from modelserve.types import Encoding


class _Replay(threading.local):
    hidden: torch.Tensor | None = None


class Network:
    """`whole` (the model as loaded, or a bare encoder) with its encoder and its head callable apart."""

    def __init__(self, whole: PreTrainedModel) -> None:
        self.whole = whole.eval()
        self.encoder: PreTrainedModel = whole.base_model
        self.bare = self.encoder is whole
        self.config = whole.config
        names = signature(self.encoder.forward).parameters
        types: int | None = getattr(self.config, "type_vocab_size", None)
        self.takes_types = "token_type_ids" in names and types != 0
        self.has_types = self.takes_types and types is not None
        """It embeds a type with every token, 0 where none is given. Without a number of types (XLNet, GPT-2, XLM) no
        type is not the same as 0: GPT-2 and XLM would add the vocabulary's first word."""
        self.takes_positions = "position_ids" in names
        self.first_row_only = False
        """The sequence head reads each text's first hidden row and no other; found out at load."""
        if getattr(self.config, "_attn_implementation", None) == "sdpa":
            whole.set_attn_implementation(NAME)
        ours = getattr(self.config, "_attn_implementation", None) == NAME
        self.can_pack = self.takes_positions and ours
        self.guesses_mask = not ours and "attention_mask" in names
        """Without an attention mask it may make one of its own: XLM's leaves out whatever is the padding token."""
        table = self._position_table()
        self.position_padding: int | None = None if table is None else table.padding_idx
        """The RoBERTa family numbers positions from padding_idx + 1 and gives padding that number."""
        self.positions: int | None = None
        """Most tokens that learned positions know; None where positions are computed."""
        if table is not None:
            self.positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        self._replay = _Replay()
        if not self.bare:
            self._encode = self.encoder.forward
            self.encoder.forward = self._encode_or_replay

    def close(self) -> None:
        """Let go of the encoder: it calls this object and this object it, and what is frozen (server.py) no collector
        frees."""
        if not self.bare:
            del self.encoder.forward

    def keeps_notes(self, run: Callable[[Encoding], object], texts: Sequence[Encoding]) -> bool:
        """Whether `run`, a pass over one of two texts of unequal length, leaves something of it in the modules.

        Funnel's does. Two threads must not run such a network at once: each would read the other's notes.
        """
        run(texts[0])  # what is made once, on the first pass, is no note
        before = self._attributes()
        run(texts[1])
        now = self._attributes()
        return len(now) != len(before) or any(one is not other for one, other in zip(now, before, strict=True))

    def _attributes(self) -> list[object]:
        return [
            value
            for module in self.whole.modules()
            for values in (vars(module), module._buffers)
            for value in values.values()
        ]

    @property
    def device(self) -> torch.device:
        device: torch.device = self.whole.device
        return device

    def encode_packed(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        types: torch.Tensor | None,
        groups: list[Group],
        bounds: torch.Tensor | None,
    ) -> torch.Tensor:
        """Hidden states [T, H] of texts end to end; ids, positions, types: int64 [T]."""
        kwargs: dict[str, Any] = {"input_ids": ids.unsqueeze(0), "position_ids": positions.unsqueeze(0)}
        if types is not None:
            kwargs["token_type_ids"] = types.unsqueeze(0)
        with packed(groups, bounds=bounds):
            return self._hidden(self.encoder(**kwargs))[0]

    def encode_padded(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor:
        """Hidden states [B, L, H]; ids, mask, types: int64 [B, L]. mask None: nothing is padded."""
        return self._hidden(self.encoder(**self._padded(ids, mask, types)))

    def run_whole(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor:
        """The whole model's logits [B, L, C] or [B, C] (a bare encoder's hidden states), head and all."""
        output = self.whole(**self._padded(ids, mask, types))
        return self._hidden(output) if self.bare else self._logits(output)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head's logits for hidden states [B, L, H], all of them real: [B, L, C] or [B, C]."""
        with self._replaying(hidden):
            ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
            return self._logits(self.whole(input_ids=ids))

    def _padded(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"input_ids": ids}
        if mask is not None:
            kwargs["attention_mask"] = mask
        if types is not None:
            kwargs["token_type_ids"] = types
        return kwargs

    @staticmethod
    def _hidden(output: Any) -> torch.Tensor:
        hidden: torch.Tensor = output[0]
        return hidden

    @staticmethod
    def _logits(output: Any) -> torch.Tensor:
        # BertForPreTraining and its like name the token head's answer prediction_logits.
        logits: torch.Tensor = output["logits"] if "logits" in output else output["prediction_logits"]
        return logits

    @contextmanager
    def _replaying(self, hidden: torch.Tensor) -> Iterator[None]:
        self._replay.hidden = hidden
        try:
            yield
        finally:
            self._replay.hidden = None

    def _encode_or_replay(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self._replay.hidden
        if hidden is None:
            return self._encode(*args, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self._pool(hidden))

    def _pool(self, hidden: torch.Tensor) -> torch.Tensor | None:
        pooler = getattr(self.encoder, "pooler", None)
        if pooler is None:
            return None
        if isinstance(pooler, nn.Linear):  # ALBERT keeps the activation beside the layer
            pooled: torch.Tensor = self.encoder.pooler_activation(pooler(hidden[:, 0]))
            return pooled
        return pooler(hidden)  # type: ignore[no-any-return]

    def _position_table(self) -> nn.Embedding | None:
        for name, module in self.encoder.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                return module
        return None
