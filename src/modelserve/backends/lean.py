"""The same model with less work per step: norms in one operation, linear layers that read the same input as one, and
weights in the order in which the CPU's kernel reads them.

Each change is made to the modules of a loaded transformers model, by what they are made of and not by their
architecture, and can be undone; whether the model still gives its own answers is found by comparison (decoder.py).
Knows no schedule; runs in the load thread. A model so changed is called by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm
from transformers.pytorch_utils import Conv1D

Undo = Callable[[], None]

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Linear layers that most architectures call one after the other with the same input."""

_COPY_SHARE = 0.25
"""A head that is the embedding as well can only be reordered as a copy: up to so much of all weights."""
_ROWS = 16
"""Rows of a step for which the kernel chooses its order."""


def norms(model: nn.Module) -> Undo | None:
    """RMS norms as one operation, where it gives the same values. None where there is nothing to do."""
    changed = []
    for module in model.modules():
        weight, eps = getattr(module, "weight", None), _epsilon(module)
        if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, torch.Tensor) or eps is None:
            continue
        x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        if weight.dim() == 1 and _near(module(x), (norm := Norm(weight, eps))(x)):
            module.forward = norm
            changed.append(module)
    return _plain(changed)


def fused(model: nn.Module) -> Undo | None:
    """Siblings become one layer, whose weights the old ones are views of: nothing is stored twice."""
    changed: list[nn.Module] = []
    for parent in model.modules():
        for names in SIBLINGS:
            group = [getattr(parent, name, None) for name in names]
            layers = [one for one in group if _is_linear(one)]
            if len(layers) == len(names) and len({one.in_features for one in layers}) == 1:
                _fuse(layers)
                changed += layers
    return _plain(changed)


def packed(model: nn.Module) -> Undo | None:
    """Weights in the kernel's order, in place of the usual one. CPU only."""
    weights = [*model.parameters()]
    if weights[0].device.type != "cpu" or weights[0].dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available() or (  # type: ignore[no-untyped-call]
        weights[0].dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return None
    allowed = _COPY_SHARE * sum(weight.numel() for weight in weights)
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    undo: list[Undo] = []
    for module in model.modules():
        if not _is_linear(module) and type(module) is not Conv1D:
            continue
        if module.weight.dtype is not weights[0].dtype:
            continue
        copy = id(module.weight) in shared
        forward: Any = module.forward
        if isinstance(forward, _Sibling):
            if forward.number == 0:
                undo.append(forward.together.pack())
        elif not copy or module.weight.numel() <= allowed:
            undo.append(_pack(module, keep=copy))

    def all_of_it() -> None:
        for one in undo:
            one()

    return all_of_it if undo else None


def product_of(modules: Sequence[Any]) -> Product | None:
    """Linear layers as one product, their outputs end to end: the one that they share, or a single layer's own."""
    forwards = [getattr(module, "forward", None) for module in modules]
    siblings = [forward for forward in forwards if isinstance(forward, _Sibling)]
    if siblings:
        together = siblings[0].together
        mine = [forward.number for forward in siblings if forward.together is together]
        return together.product if mine == [*range(together.layers)] and len(mine) == len(modules) else None
    if len(modules) > 1:
        return None
    if isinstance(forwards[0], Product):
        return forwards[0]
    return Product(modules[0].weight, modules[0].bias) if _is_linear(modules[0]) else None


class Norm:
    """An RMS norm over the last dimension.

    PyTorch makes nine operations of it on a CPU. A layer norm is one, and the layer norm of (x, -x), whose mean is 0,
    is the RMS norm of x in its first half: 1.5 ms less of a step that takes 22 or 36.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.width = len(weight)
        self._weight = weight
        self._eps = eps
        self._twice = torch.cat((weight, weight)).detach() if weight.device.type == "cpu" else None

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self._twice is None:
            return rms_norm(hidden_states, self._weight.shape, self._weight, self._eps)
        both = torch.cat((hidden_states, -hidden_states), -1)
        return torch.layer_norm(both, self._twice.shape, self._twice, None, self._eps)[..., : self.width]


class Product:
    """x @ weight.T + bias, with the weight in the usual order or in the kernel's."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.width: int = weight.shape[0]
        """Of what comes out."""
        self._weight = weight
        self._bias = bias
        self._reordered = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._reordered:
            # Its "swish", "add" and "mul" of a second tensor are slower than operations of their own: 2 ms a step.
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return out
        return linear(x, self._weight, self._bias)

    def reorder(self) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.detach(), _ROWS)
        self._reordered = True

    def usual(self) -> torch.Tensor:
        """The weight in the usual order, which it has again."""
        self._weight = self._weight.to_dense()
        self._reordered = False
        return self._weight


class _Together:
    """Several linear layers as one, computed when the first is called; the others find their part there."""

    def __init__(self, modules: list[nn.Linear], product: Product) -> None:
        self._modules = modules
        self.product = product
        self._input: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = []
        self._widths = [module.out_features for module in modules]
        self.layers = len(modules)

    def part(self, number: int, x: torch.Tensor) -> torch.Tensor:
        if x is not self._input or self._parts[number] is None:
            self._input, self._parts = x, list(self.product(x).split_with_sizes(self._widths, -1))
        part, self._parts[number] = self._parts[number], None
        if not any(one is not None for one in self._parts):
            self._input = None
        assert part is not None
        return part

    def pack(self) -> Undo:
        self.product.reorder()
        for module in self._modules:
            module.weight.data = _nothing(module.weight)

        def undo() -> None:
            for module, weight in zip(self._modules, self.product.usual().split_with_sizes(self._widths), strict=True):
                module.weight.data = weight

        return undo


class _Sibling:
    """`forward` of one of several linear layers."""

    def __init__(self, together: _Together, number: int) -> None:
        self.together = together
        self.number = number

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        return self.together.part(self.number, input)


def _fuse(group: list[nn.Linear]) -> None:
    widths = [module.out_features for module in group]
    weight = torch.cat([module.weight.data for module in group])
    bias = None
    if any(module.bias is not None for module in group):
        zeros = weight.new_zeros
        bias = torch.cat([zeros(m.out_features) if m.bias is None else m.bias.data for m in group])
    for module, view in zip(group, weight.split_with_sizes(widths), strict=True):
        module.weight.data = view
    together = _Together(group, Product(weight, bias))
    for number, module in enumerate(group):
        module.forward = _Sibling(together, number)  # type: ignore[method-assign]


def _pack(module: nn.Linear | Conv1D, *, keep: bool) -> Undo:
    """keep: somebody else reads the weight in its usual order."""
    turned = isinstance(module, Conv1D)  # its weight is [in, out]
    product = Product(module.weight.data.t().contiguous() if turned else module.weight, module.bias)
    product.reorder()
    if not keep:
        module.weight.data = _nothing(module.weight)
    module.forward = product  # type: ignore[method-assign]

    def undo() -> None:
        if not keep:
            weight = product.usual()
            module.weight.data = weight.t().contiguous() if turned else weight
        del module.forward

    return undo


def _nothing(weight: torch.Tensor) -> torch.Tensor:
    """Looks like the weight and takes no memory. Who reads it past `forward` gets NaN, and fails the comparison."""
    return torch.full((), float("nan"), dtype=weight.dtype).expand(weight.shape)


def _plain(changed: list[Any]) -> Undo | None:
    def undo() -> None:
        for module in changed:
            del module.forward

    return undo if changed else None


def _is_linear(module: Any) -> TypeGuard[nn.Linear]:
    """Exactly, and untouched by hooks: a subclass may do anything."""
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


def _epsilon(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps", "epsilon"):
        if isinstance(value := getattr(module, name, None), float):
            return value
    return None


def _near(one: torch.Tensor, other: torch.Tensor) -> bool:
    tolerance = 4 * torch.finfo(one.dtype).eps
    return bool(torch.allclose(one, other, rtol=tolerance, atol=tolerance))
