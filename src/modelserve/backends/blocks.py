"""A decoder's layer in a dozen operations, where transformers' modules make fifty of it.

For layers of the usual kind: an RMS norm, attention with rotary positions over fused products, a residual, another
norm, an MLP (gated, else whatever the model has), a residual. Found by what a layer is made of and not by its
architecture; that it gives the same answers is found by comparison (decoder.py), as with all of lean.py. The texts of
the comparison are short: an attention that is told more than usual (positions, say, for a factor that long texts get)
is left alone. Made in the load thread, called by the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn

from modelserve.backends.flat import Band, NotFlat, attend
from modelserve.backends.lean import Norm, Product, Undo, product_of

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = ({"q_proj", "k_proj", "v_proj", "o_proj"}, {"qkv_proj", "o_proj"})
_TOLD = {"hidden_states", "position_embeddings", "attention_mask", "past_key_values", "kwargs"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = ({"gate_proj", "up_proj", "down_proj", "act_fn"}, {"gate_up_proj", "down_proj", "activation_fn"})


def blocks(model: nn.Module) -> Undo | None:
    """Layers of the usual kind get a `forward` of our own. None where there is none."""
    rotation = _Rotation()
    changed = []
    for module in model.modules():
        if (block := _block(module, rotation)) is not None:
            module.forward = block
            changed.append(module)

    def undo() -> None:
        for module in changed:
            del module.forward

    return undo if changed else None


class _Rotation:
    """cos and sin of a step's positions as `_rotated` wants them: made by the first layer, kept for the others."""

    def __init__(self) -> None:
        self._of: torch.Tensor | None = None
        self._made: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos, sin: [1, N, width]. Returns [N, 1, width] each, the first half of sin negated."""
        if self._made is None or self._of is not cos:
            half = sin.shape[-1] // 2
            self._of = cos
            self._made = (cos[0, :, None], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)[:, None])
        return self._made


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [N, heads, width]. As transformers' rotate_half: x * cos + (-second half, first half) * sin."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class _Block:
    """`forward` of a layer: hidden states [1, N, hidden] in and out."""

    def __init__(
        self, layer: Any, rotation: _Rotation, qkv: Product, out: Product, norms: tuple[Norm, Norm] | None
    ) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._rotation = rotation
        self._before: Norm = layer.input_layernorm.forward
        self._between: Norm = layer.post_attention_layernorm.forward
        self._qkv, self._out, self._norms = qkv, out, norms
        self._layer: int = attention.layer_idx
        self._window: int | None = getattr(attention, "sliding_window", None)
        self._scaling: float = attention.scaling
        self._width: int = attention.head_dim
        self._queries = attention.o_proj.in_features // self._width
        self._keys = (qkv.width // self._width - self._queries) // 2
        self._mlp: Callable[[torch.Tensor], torch.Tensor] = _gated(mlp) or mlp

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if position_embeddings is None:
            raise NotFlat("its layers are not told the rotary positions")
        if attention_mask is not None and not isinstance(attention_mask, Band):
            raise NotFlat("its attention masks in a way of its own")
        window = self._window if attention_mask is None else attention_mask.window
        heads = self._qkv(self._before(hidden_states)).view(-1, self._queries + 2 * self._keys, self._width)
        query, key, value = self._turned(heads, *self._rotation(*position_embeddings))
        seen = attend(self._layer, query, key, value, window, self._scaling)
        states = self._out(seen.reshape(1, seen.shape[0], -1)).add_(hidden_states)
        return self._mlp(self._between(states)).add_(states)

    def _turned(
        self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value [N, heads, width] from all heads end to end."""
        last = self._queries + self._keys
        if self._norms is None:
            turned = _rotated(heads[:, :last], cos, sin)
            return turned[:, : self._queries], turned[:, self._queries :], heads[:, last:]
        query = _rotated(self._norms[0](heads[:, : self._queries]), cos, sin)
        return query, _rotated(self._norms[1](heads[:, self._queries : last]), cos, sin), heads[:, last:]


class _Gated:
    """down(act(gate(x)) * up(x)), gate and up being one product."""

    def __init__(self, both: Product, act: nn.Module, down: Product) -> None:
        self._both, self._act, self._down = both, act, down

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self._both(x).chunk(2, -1)
        return self._down(self._act(gate).mul_(up))


def _block(layer: nn.Module, rotation: _Rotation) -> _Block | None:
    parts = {name: part for name, part in layer.named_children() if not isinstance(part, nn.Dropout)}
    if parts.keys() != _PARTS:
        return None
    attention: Any = parts["self_attn"]
    if not signature(attention.forward).parameters.keys() <= _TOLD or any(True for _ in attention.parameters(False)):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules()):
        return None
    inner = dict(attention.named_children())
    if inner.keys() - _HEAD_NORMS not in _ATTENTION:
        return None
    if not all(isinstance(getattr(parts[name], "forward", None), Norm) for name in _PARTS if name.endswith("norm")):
        return None
    if any(not hasattr(attention, name) for name in ("layer_idx", "scaling", "head_dim")):
        return None
    qkv = product_of([inner[name] for name in ("q_proj", "k_proj", "v_proj", "qkv_proj") if name in inner])
    out = product_of([attention.o_proj])
    head_norms = [inner[name].forward for name in ("q_norm", "k_norm") if name in inner]
    norms = [norm for norm in head_norms if isinstance(norm, Norm) and norm.width == attention.head_dim]
    if qkv is None or out is None or len(norms) != len(head_norms) or len(norms) not in (0, 2):
        return None
    return _Block(layer, rotation, qkv, out, (norms[0], norms[1]) if norms else None)


def _gated(mlp: nn.Module) -> _Gated | None:
    inner: dict[str, Any] = dict(mlp.named_children())
    if inner.keys() not in _MLP:
        return None
    both = product_of([inner[name] for name in ("gate_proj", "up_proj", "gate_up_proj") if name in inner])
    down = product_of([inner["down_proj"]])
    return _Gated(both, inner.get("act_fn") or inner["activation_fn"], down) if both and down else None
