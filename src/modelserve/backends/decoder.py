"""One step of a decoder-only transformers model: pieces of many sequences in, logits out; the past is in slots.

Whether a model may be run so is found by comparison with its own plain forward (`check`), never assumed. Knows no
schedule, no sampling and no clock; runs in the load thread, then in the engine's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from modelserve.backends.blocks import blocks
from modelserve.backends.faults import computing
from modelserve.backends.flat import NAME, Chunk, Group, NotFlat, Probe, Step, flat, groups_of
from modelserve.backends.lean import Undo, fused, norms, packed
from modelserve.backends.room import tokens_for
from modelserve.backends.slots import LayerShape, Slot, Slots, bytes_per_token

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference that rounding may cause: root mean square, relative to the logits' own. A wrong mask or position
makes differences near 1."""

Change = Callable[[torch.nn.Module], Undo | None]
CHANGES: tuple[Change, ...] = (norms, fused, packed, blocks)
"""Made at load, in this order."""


class Piece(NamedTuple):
    """What a step computes of one sequence: tokens that follow those which are in its slot."""

    slot: Slot
    start: int
    """Tokens in the slot."""
    ids: Sequence[int]
    keep: int
    """Of the last so many tokens the logits are wanted."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text of the check: when it joins, and in which pieces it is computed."""

    ids: list[int]
    joins: int
    pieces: tuple[int, ...]


class Decoder:
    """A causal language model and its KV memory."""

    def __init__(self, model: PreTrainedModel, *, lean: bool = True) -> None:
        """Makes `model` attend as flat.py does. Raises NotFlat, and leaves the model as it was, where it cannot.

        lean: also change what lean.py and blocks.py can, as far as the model's answers stay the same.
        """
        self.model = model.eval()
        self.device: torch.device = model.device
        self._keeps = "logits_to_keep" in signature(model.forward).parameters
        self._usual = model.config._attn_implementation
        self.slots: Slots
        self._refuse()
        with computing(self.device):
            texts = _texts(model.config)
            try:
                expected = [model(input_ids=self._row(text.ids), use_cache=False).logits[0] for text in texts]
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # whatever the architecture's code raises
                raise NotFlat(f"its plain forward fails: {_line(error)}") from error
        self.vocabulary: int = expected[0].shape[-1]
        self.dtype: torch.dtype = expected[0].dtype
        self._texts, self._expected = texts, expected
        try:
            model.set_attn_implementation(NAME)
            self.shapes = self._probe()
            self.check()
            self.changes = self._change() if lean else []
        except NotFlat:
            self.restore()
            raise
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            self.restore()
            raise NotFlat(f"its attention cannot be replaced: {_line(error)}") from error

    @property
    def bytes_per_token(self) -> int:
        """KV memory of one token."""
        return bytes_per_token(self.shapes, self._kv_dtype)

    def allot(self, tokens: int | None, *, context: int, sequences: int) -> int:
        """KV memory for at most so many tokens together; a share of what is free when not given. Returns how many.

        Raises LoadError where there is no room for one.
        """
        tokens = tokens_for(tokens, self.bytes_per_token, self.device, context=context, sequences=sequences)
        self.slots = self._memory(tokens, context, most=sequences)
        return tokens

    def step(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Logits [wanted tokens, vocabulary], in the order of `pieces`."""
        return self._step(self.slots, pieces)

    def close(self) -> None:
        """Free the weights and the KV memory."""
        self.slots.clear()
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "kv_bytes_per_token": self.bytes_per_token,
            "lean": self.changes,
        }

    def restore(self) -> None:
        """The model attends as it did when it was loaded."""
        self.model.set_attn_implementation(self._usual)

    def difference(self) -> float:
        """How far flat logits are from the plain ones: texts that join and leave, whole and in pieces."""
        with computing(self.device):
            actual = self._choreography()
        wanted = torch.cat(self._expected).float()
        if not torch.isfinite(wanted).all():
            raise NotFlat(f"its plain forward gives NaN or infinite values in {self.dtype}")
        off = torch.cat(actual).float() - wanted
        return float(off.square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-12))

    def check(self) -> None:
        """Raises NotFlat unless flat steps give the logits of the plain forward."""
        if (off := self.difference()) > self.tolerance or off != off:
            raise NotFlat(f"its logits in flat steps differ from its own by {off:.1e}")

    def _change(self) -> list[str]:
        """Names of the changes of lean.py and blocks.py that were made; one that alters the answers is undone."""
        made = []
        for change in CHANGES:
            with torch.no_grad():
                undo = change(self.model)
            if undo is None:
                continue
            try:
                self.check()
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # NotFlat, or whatever the architecture's code raises
                with torch.no_grad():
                    undo()
                log.info("left as it is, %s: %s", change.__name__, _line(error))
            else:
                made.append(change.__name__)
        return made

    @property
    def tolerance(self) -> float:
        return TOLERANCE.get(self.model.dtype, 1e-4)

    def _step(self, slots: Slots, pieces: Sequence[Piece]) -> torch.Tensor:
        slots.fit(max(piece.start + len(piece.ids) for piece in pieces))
        for piece in pieces:
            slots.clean(piece.slot, piece.start + len(piece.ids))
        order = sorted(range(len(pieces)), key=lambda i: (len(pieces[i].ids) > 1, pieces[i].slot.number))
        ids: list[int] = []
        positions: list[int] = []
        index: list[int] = []
        kept: list[range] = [range(0)] * len(pieces)
        singles: list[tuple[int, int]] = []
        chunks: list[Chunk] = []
        for i in order:
            slot, start, tokens, keep = pieces[i]
            n, first = len(tokens), len(ids)
            if n == 1:
                singles.append((slot.number, start + 1))
            else:
                chunks.append(Chunk(first, slot.number, start, n))
            ids.extend(tokens)
            positions.extend(range(start, start + n))
            index.extend(range(slot.number * slots.length + start, slot.number * slots.length + start + n))
            kept[i] = range(first + n - keep, first + n)
        groups: list[Group] = []
        for group in groups_of(singles):
            groups.append(group)
            for number, _ in singles[group.first : group.first + len(group.lengths)]:
                slots.clean(slots.taken(number), max(group.lengths))
        step = Step(slots, torch.tensor(index, device=self.device), groups, chunks)
        with flat(step):
            logits = self._forward(ids, positions, [token for tokens in kept for token in tokens])
        if step.layers != len(self.shapes):
            raise NotFlat(f"attention ran {step.layers} times in {len(self.shapes)} layers")
        return logits

    def _forward(self, ids: Sequence[int], positions: Sequence[int], keep: Sequence[int]) -> torch.Tensor:
        kwargs: dict[str, Any] = {"input_ids": self._row(ids), "position_ids": self._row(positions)}
        wanted = torch.tensor(keep or [0], device=self.device)  # not every kernel takes no rows at all
        if self._keeps:
            logits: torch.Tensor = self.model(**kwargs, use_cache=False, logits_to_keep=wanted).logits[0]
        else:
            logits = self.model(**kwargs, use_cache=False).logits[0][wanted]
        return logits[: len(keep)]

    def _probe(self) -> list[LayerShape]:
        """What each layer keeps of a token. Raises NotFlat where not every layer attends through our function."""
        probe = Probe()
        with computing(self.device), flat(probe):
            self._forward([1, 1], [0, 1], [1])
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        if sorted(probe.shapes) != list(range(layers)):
            raise NotFlat(f"{len(probe.shapes)} of its {layers} layers attend in the way that can be replaced")
        return [probe.shapes[layer] for layer in range(layers)]

    def _refuse(self) -> None:
        """What short texts would not show."""
        config = self.model.config.get_text_config()
        if getattr(self.model.config, "is_encoder_decoder", False):
            raise NotFlat("it has an encoder")
        if getattr(config, "attention_chunk_size", None):
            raise NotFlat("it attends within chunks of the text")
        if "position_ids" not in signature(self.model.forward).parameters:
            raise NotFlat("it cannot be told the positions of tokens")
        ropes = getattr(config, "rope_parameters", None) or {}
        nested = [value for value in ropes.values() if isinstance(value, dict)]
        kinds = {rope.get("rope_type") for rope in (nested or [ropes])} & {"dynamic", "longrope"}
        if kinds:
            raise NotFlat(f"its rotary positions ({kinds.pop()}) depend on the longest text of a step")

    def _choreography(self) -> list[torch.Tensor]:
        """The logits of the check's texts, each in its pieces, beside whichever others are there."""
        texts = self._texts
        slots = self._memory(_longest(texts) * len(texts), _longest(texts))
        parts: list[list[torch.Tensor]] = [[] for _ in texts]
        done = [0] * len(texts)
        places: dict[int, Slot] = {}
        for now in range(max(text.joins + len(text.pieces) for text in texts)):
            step: list[tuple[int, Piece]] = []
            for i, text in enumerate(texts):
                if 0 <= now - text.joins < len(text.pieces):
                    n = text.pieces[now - text.joins]
                    slot = places[i] if i in places else places.setdefault(i, slots.take())
                    step.append((i, Piece(slot, done[i], text.ids[done[i] : done[i] + n], n)))
            logits = self._step(slots, [piece for _, piece in step])
            for (i, piece), part in zip(step, torch.split(logits, [piece.keep for _, piece in step]), strict=True):
                parts[i].append(part)
                done[i] += piece.keep
                if done[i] == len(texts[i].ids):
                    slots.free(places.pop(i))
        return [torch.cat(part) for part in parts]

    def _memory(self, tokens: int, context: int, most: int | None = None) -> Slots:
        with torch.inference_mode():
            return Slots(self.shapes, self._kv_dtype, self.device, tokens=tokens, context=context, most=most)

    @property
    def _kv_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    def _row(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, device=self.device)[None]


def _texts(config: Any) -> list[Text]:
    """Four texts of random ids: whole and then token by token, in uneven chunks, beside one another.

    They are longer than a small window of attention. The last one joins when the third has left.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    long = window + 9 if window <= 32 else 21
    long = min(long, int(getattr(config, "max_position_embeddings", None) or long))
    rng = random.Random(0)
    plans: list[tuple[int, tuple[int, ...]]] = [
        (0, (long - 6, 1, 1, 1, 1, 1, 1)),
        (1, (long // 2, long - long // 2 - 3, 1, 1, 1)),
        (0, (2, 1, 3)),
        (3, (5, 1, 2, 1)),
    ]
    return [
        Text([rng.randrange(config.vocab_size) for _ in range(sum(pieces))], joins, pieces) for joins, pieces in plans
    ]


def _longest(texts: Sequence[Text]) -> int:
    return max(len(text.ids) for text in texts)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
