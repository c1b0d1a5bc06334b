"""One forward pass over a batch in a given layout, and the States that a task's `reduce` reads from it.

Runs in a backend thread under torch.inference_mode. Knows no task and no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch

from modelserve.backends.base import Layout
from modelserve.backends.network import Network
from modelserve.backends.packing import groups_of
from modelserve.types import Encoding


class SplitStates:
    """Encoder and head apart: the head runs on the rows that the task asks for, and no others."""

    def __init__(self, network: Network, hidden: torch.Tensor, lengths: list[int]) -> None:
        self._network = network
        self.hidden = hidden
        self.lengths = lengths
        self.groups = groups_of(lengths)

    def token_logits(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.hidden if rows is None else self.hidden[rows]
        if not len(hidden):
            hidden = self.hidden[:1]  # no layer is run on nothing; the row is dropped again
            return self._network.head(hidden.unsqueeze(0))[0][:0]
        return self._network.head(hidden.unsqueeze(0))[0]

    def sequence_logits(self) -> torch.Tensor:
        if self._network.first_row_only:
            first = torch.tensor(self.lengths, device=self.hidden.device).cumsum(0).roll(1)
            first[0] = 0
            return self._network.head(self.hidden[first].unsqueeze(1))
        return torch.cat(
            [
                self._network.head(self.hidden[first : first + n * length].view(n, length, -1))
                for first, n, length in self.groups
            ]
        )


class WholeStates:
    """The whole model ran at once, because its head cannot be run apart, or elsewhere.

    answer: [B, L, C] or [B, C], what it gave. bare: it has no head, and these are its hidden states.
    """

    def __init__(self, answer: torch.Tensor, lengths: list[int], *, bare: bool) -> None:
        self._answer = answer
        self._bare = bare
        self.lengths = lengths
        self.groups = groups_of(lengths)

    @property
    def hidden(self) -> torch.Tensor:
        if not self._bare:
            raise RuntimeError("a model whose head cannot be run apart shows no hidden states; this is a bug")
        return unpad(self._answer, self.lengths)

    def token_logits(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        logits = unpad(self._answer, self.lengths)
        return logits if rows is None else logits[rows]

    def sequence_logits(self) -> torch.Tensor:
        return self._answer


def run(
    network: Network, encodings: Sequence[Encoding], layout: Layout, *, split: bool, varlen: bool
) -> SplitStates | WholeStates:
    """One pass over `encodings`, which fit the layout. split: run encoder and head apart."""
    lengths = [len(encoding) for encoding in encodings]
    if layout == "packed":
        return SplitStates(network, _packed(network, encodings, lengths, varlen), lengths)
    ids, mask, types = pad(network, encodings, lengths)
    if split:
        return SplitStates(network, unpad(network.encode_padded(ids, mask, types), lengths), lengths)
    return WholeStates(network.run_whole(ids, mask, types), lengths, bare=network.bare)


def _packed(network: Network, encodings: Sequence[Encoding], lengths: list[int], varlen: bool) -> torch.Tensor:
    device = network.device
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=np.int64)
    positions = np.concatenate([_ARANGE[:n] if n <= _KNOWN else np.arange(n) for n in lengths])
    padding = network.position_padding
    if padding is not None:
        positions = positions + padding + 1
        if (ids == padding).any():
            positions = np.concatenate([_counted(np.asarray(e.ids), padding) for e in encodings])
    types = None
    if _types_matter(network, encodings):
        types = torch.from_numpy(_types(encodings, lengths)).to(device)
    bounds = None
    if varlen:
        bounds = torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)
    return network.encode_packed(
        torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), types, groups_of(lengths), bounds
    )


_KNOWN = 512
_ARANGE = np.arange(_KNOWN)


def _counted(
    ids: np.ndarray[tuple[int], np.dtype[np.int64]], padding: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """RoBERTa's positions of a text that holds the padding token itself: it counts the other tokens only."""
    real = (ids != padding).astype(np.int64)
    counted: np.ndarray[tuple[int], np.dtype[np.int64]] = np.cumsum(real) * real + padding
    return counted


def _types_matter(network: Network, encodings: Sequence[Encoding]) -> bool:
    return network.has_types or (network.takes_types and any(e.type_ids is not None for e in encodings))


def _types(encodings: Sequence[Encoding], lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if all(e.type_ids is None for e in encodings):
        return np.zeros(sum(lengths), dtype=np.int64)
    return np.fromiter(
        chain.from_iterable(e.type_ids if e.type_ids is not None else [0] * len(e) for e in encodings), dtype=np.int64
    )


def pad(
    network: Network, encodings: Sequence[Encoding], lengths: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """ids, mask and types, int64 [B, longest] on the device; mask None when there is nothing to mask or to guess."""
    device, longest = network.device, max(lengths)
    shape = (len(encodings), longest)
    ids = np.full(shape, getattr(network.config, "pad_token_id", None) or 0, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64) if _types_matter(network, encodings) else None
    for row, encoding in enumerate(encodings):
        ids[row, : lengths[row]] = encoding.ids
        if types is not None and encoding.type_ids is not None:
            types[row, : lengths[row]] = encoding.type_ids
    mask = None
    if min(lengths) < longest or network.guesses_mask:
        mask = torch.from_numpy((np.arange(longest) < np.asarray(lengths)[:, None]).astype(np.int64)).to(device)
    return torch.from_numpy(ids).to(device), mask, None if types is None else torch.from_numpy(types).to(device)


def unpad(padded: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """[B, L, H] -> the real rows end to end, [T, H]. Raises ValueError for a network that shortens texts (Funnel)."""
    if padded.shape[1] != max(lengths):
        raise ValueError(f"{padded.shape[1]} rows for {max(lengths)} tokens")
    if min(lengths) == padded.shape[1]:
        return padded.flatten(0, 1)
    real = torch.arange(padded.shape[1], device=padded.device) < torch.tensor(lengths, device=padded.device)[:, None]
    return padded[real]
