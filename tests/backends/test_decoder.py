"""Flat steps: which architectures pass the check, what is refused and why, what the lean changes do, the KV memory."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from modelserve.backends import decoder as decoders
from modelserve.backends import flat
from modelserve.backends.decoder import Decoder, Piece
from modelserve.backends.flat import Group, NotFlat, groups_of
from modelserve.backends.lean import Undo, fused, norms, packed
from modelserve.backends.room import free_bytes
from modelserve.backends.slots import LayerShape, Slots
from modelserve.errors import LoadError
from tests.backends.causal import VOCABULARY, causal

_RNG = random.Random(0)
HALVES = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in (torch.bfloat16, torch.float16)]
_IDS = [_RNG.randrange(3, VOCABULARY) for _ in range(300)]


def slow(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    "name",
    ["llama", *slow("qwen3", "mistral"), "gpt2", *slow("phi", "gemma2"), "gemma3", *slow("gpt_neox", "stablelm")],
)
def test_what_passes_the_check_has_the_logits_of_the_plain_model(name: str, dtype: torch.dtype) -> None:
    """Texts longer than the check's and than a window, in pieces that differ from its own, in company."""
    with torch.inference_mode():
        plain = causal(name, dtype)(torch.tensor([_IDS])).logits[0].float()
    decoder = Decoder(causal(name, dtype))
    decoder.allot(2000, context=512, sequences=4)
    with torch.inference_mode():
        slot, other, third = (decoder.slots.take() for _ in range(3))
        parts, done = [], 0
        for n in (1, 100, 3, 1, 1, 150, 44):
            company = [Piece(other, done, _IDS[done : done + 1], 0)] if done == 0 else []
            company += [Piece(third, 0, _IDS[:17], 2)]
            parts.append(decoder.step([*company, Piece(slot, done, _IDS[done : done + n], n)])[-n:])
            done += n
    off = torch.cat(parts).float() - plain
    assert off.square().mean().sqrt() < decoder.tolerance * plain.square().mean().sqrt()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("falcon", "0 of its 3 layers"),
        ("bloom", "positions"),
        ("mamba", "positions"),
        ("lfm2", "1 of its 3 layers"),
        ("longrope", "longrope"),
        ("llama4", "chunks"),
    ],
)
def test_what_cannot_be_run_flat_is_refused_with_its_reason_and_left_as_it_was(name: str, why: str) -> None:
    model = causal(name)
    with torch.inference_mode():
        before = model(torch.tensor([_IDS[:20]]), use_cache=False).logits
        with pytest.raises(NotFlat, match=why):
            Decoder(model)
        assert torch.equal(model(torch.tensor([_IDS[:20]]), use_cache=False).logits, before)


@pytest.mark.parametrize("wrong", ["window", "position", "past"])
def test_the_check_finds_what_is_wrong(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong == "window":
        monkeypatch.setattr(flat.Band, "window", property(lambda band: None))
    elif wrong == "position":
        monkeypatch.setattr(
            decoders, "range", lambda *a: range(*(a if len(a) == 1 else (a[0] + 1, a[1] + 1))), raising=False
        )
    else:
        monkeypatch.setattr(
            decoders, "groups_of", lambda slots: [Group(i, s, (n - 1,)) for i, (s, n) in enumerate(slots)]
        )
    with pytest.raises(NotFlat):
        Decoder(causal("mistral"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [norms, fused, packed])
def test_a_lean_change_keeps_the_answers_and_can_be_undone(change: decoders.Change, dtype: torch.dtype) -> None:
    model = causal("qwen3", dtype)
    ids = torch.tensor([_IDS[:50]])
    with torch.inference_mode():
        before = model(ids).logits
    with torch.no_grad():
        undo = change(model)
    if undo is None:
        assert change is packed
        pytest.skip("this CPU has no kernel for it")
    with torch.inference_mode():
        after = model(ids).logits
    assert (after - before).float().square().mean().sqrt() < 0.05 * before.float().square().mean().sqrt()
    with torch.no_grad():
        undo()
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, before)


def test_packing_frees_the_weights_and_fusing_stores_none_twice() -> None:
    model = causal("llama")
    with torch.no_grad():
        fused(model)
        layer = model.model.layers[0]
        assert layer.self_attn.k_proj.weight.untyped_storage().data_ptr() == (
            layer.self_attn.q_proj.weight.untyped_storage().data_ptr()
        )
        if packed(model) is None:
            pytest.skip("this CPU has no kernel for it")
    for linear in (layer.self_attn.q_proj, layer.mlp.up_proj, layer.mlp.down_proj):
        assert linear.weight.untyped_storage().nbytes() == linear.weight.element_size()


def test_a_change_that_alters_the_answers_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(model: torch.nn.Module) -> Undo:
        head = model.lm_head
        assert isinstance(head, torch.nn.Linear)
        head.weight.mul_(0.5)

        def undo() -> None:
            head.weight.mul_(2.0)

        return undo

    monkeypatch.setattr(decoders, "CHANGES", (halved, norms))
    decoder = Decoder(causal("llama"))
    assert decoder.changes == ["norms"]
    assert decoder.difference() < decoder.tolerance


def test_memory_is_bounded_and_told() -> None:
    decoder = Decoder(causal("llama"))
    assert decoder.bytes_per_token == 3 * 2 * 2 * 16 * 4
    assert decoder.allot(None, context=100, sequences=2) == 200
    assert decoder.allot(50, context=100, sequences=2) == 50
    with pytest.raises(LoadError, match="bytes"):
        decoder.allot(-1, context=100, sequences=2)
    assert free_bytes(torch.device("cpu")) > 0


def test_slots_grow_within_their_budget_and_keep_what_they_hold() -> None:
    slots = Slots([LayerShape(2, 2, 2)], torch.float32, torch.device("cpu"), tokens=2000, context=1000)
    held = []
    for number in range(3):
        slot = slots.take()
        slots.fit(300 if number < 2 else 600)
        slots.clean(slot, 250)
        index = torch.arange(250) + slot.number * slots.length
        slots.write(
            0, slots.rows(index, 2), torch.full((250, 2, 2), float(number)), torch.full((250, 2, 2), -float(number))
        )
        held.append(slot)
        assert slots.count * slots.length <= 2000
    slots.free(held[0])
    assert [slot.number for slot in held[1:]] == [1, 0]
    for number in (1, 2):
        assert (slots.keys(0)[held[number].number, :, :250] == number).all()
        assert (slots.values(0)[held[number].number, :, :250] == -number).all()
    for _ in range(8):
        slots.take()
    slots.fit(200)  # many short ones after long ones: the slots are shorter
    assert slots.count * slots.length <= 2000
    slots.fit(200)
    with pytest.raises(ValueError, match="budget"):
        slots.fit(201)


def test_with_room_for_all_nothing_ever_grows_and_only_what_is_written_takes_memory() -> None:
    shape, bytes_ = LayerShape(1, 64, 64), 4 * 64 * 2
    slots = Slots([shape], torch.float32, torch.device("cpu"), tokens=64 * 8192, context=8192, most=64)
    before = _resident()
    slots.take()
    slots.fit(10)
    first = slots.keys(0)
    for _ in range(63):
        slots.clean(slots.take(), 64)
    slots.fit(8192)
    assert slots.keys(0) is first
    assert first.shape == (64, 1, 8192, 64)
    assert _resident() - before < 64 * 8192 * bytes_ / 4, "256 MiB are set aside, 4 are written to"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_finite_whatever_was_there() -> None:
    """A NaN in what is masked would still be a NaN in the answer."""
    slots = Slots([LayerShape(1, 2, 2)], torch.float32, torch.device("cpu"), tokens=2000, context=1000)
    slot = slots.take()
    slots.fit(100)
    slots.keys(0).fill_(float("nan"))
    slots.clean(slot, 70)
    assert (slots.keys(0)[0, :, :70] == 0).all()


def test_neighbours_of_like_length_share_a_group() -> None:
    assert groups_of([]) == []
    assert groups_of([(0, 5), (1, 9), (2, 3)]) == [Group(0, 0, (5, 9, 3))]
    assert groups_of([(0, 5), (2, 9)]) == [Group(0, 0, (5,)), Group(1, 2, (9,))]
    assert groups_of([(0, 5), (1, 2000), (2, 7)]) == [Group(0, 0, (5,)), Group(1, 1, (2000,)), Group(2, 2, (7,))]
