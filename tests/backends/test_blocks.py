"""Layers in a dozen operations: which models get them, that the logits stay theirs, and that a wrong one is undone."""

from __future__ import annotations

import random

import pytest
import torch

from modelserve.backends.decoder import Decoder, Piece
from tests.backends.causal import VOCABULARY, causal

_RNG = random.Random(3)
_IDS = [_RNG.randrange(3, VOCABULARY) for _ in range(60)]


def _logits(decoder: Decoder) -> torch.Tensor:
    """Of _IDS, in chunks and token by token."""
    decoder.allot(2000, context=256, sequences=2)
    with torch.inference_mode():
        slot, parts, done = decoder.slots.take(), [], 0
        for n in (20, 1, 1, 30, 1, 7):
            parts.append(decoder.step([Piece(slot, done, _IDS[done : done + n], n)]))
            done += n
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3", "mistral", "phi3", "mixtral"])
def test_usual_layers_are_replaced_and_the_logits_stay(name: str, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        plain = causal(name, dtype)(torch.tensor([_IDS])).logits[0].float()
    decoder = Decoder(causal(name, dtype))
    assert "blocks" in decoder.changes
    off = _logits(decoder).float() - plain
    assert off.square().mean().sqrt() < decoder.tolerance * plain.square().mean().sqrt()
    if dtype is torch.float32:
        assert off.abs().max() < 1e-3 * plain.abs().max()


@pytest.mark.parametrize("name", ["granite", "smollm3"])
def test_layers_that_only_look_usual_are_put_back(name: str) -> None:
    """A factor at the residual; a layer without rotary positions."""
    with torch.inference_mode():
        plain = causal(name)(torch.tensor([_IDS])).logits[0]
    decoder = Decoder(causal(name))
    assert "blocks" not in decoder.changes
    assert "packed" in decoder.changes or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(_logits(decoder), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "phi", "gemma3", "cohere", "olmo2", "stablelm", "gpt_oss", "ministral3"])
def test_other_layers_are_left_alone(name: str) -> None:
    """ministral3: the factor that its queries get from the 32nd token on is not seen in the texts of the comparison."""
    with torch.inference_mode():
        plain = causal(name)(torch.tensor([_IDS])).logits[0]
    decoder = Decoder(causal(name))
    assert "blocks" not in decoder.changes
    torch.testing.assert_close(_logits(decoder), plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["self_attn.o_proj", "self_attn", "mlp", "input_layernorm"])
def test_a_layer_with_a_hook_is_left_alone(name: str) -> None:
    """Whoever hangs something on a part of it wants it called."""
    model = causal("llama")
    seen: list[int] = []
    model.model.layers[0].get_submodule(name).register_forward_hook(lambda *call: seen.append(1))
    decoder = Decoder(model)
    before = len(seen)
    _logits(decoder)
    assert len(seen) - before == 6
