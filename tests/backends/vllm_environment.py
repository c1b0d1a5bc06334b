"""vLLM on a CPU, in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.environments import environment
from tests.generative import tiny_generative

_RANK = 8


def model() -> Path:
    """vLLM's kernels for CPUs have heads of 32 and more."""
    return tiny_generative("llama", hidden_size=128)


def adapter(directory: Path) -> Path:
    """A LoRA adapter of it, as peft saves one, which changes its texts."""
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_pretrained(model())
    tensors: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            rows, columns = module.weight.shape
            down, up = torch.randn(_RANK, columns) * 0.3, torch.randn(rows, _RANK) * 0.3
            tensors |= {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _RANK, "lora_alpha": 2 * _RANK, "bias": "none"}
    settings |= {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0, "base_model_name_or_path": str(model())}
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def merged(adapter: Path) -> Any:
    """The network with the adapter's products added to its weights."""
    network = transformers.AutoModelForCausalLM.from_pretrained(model()).eval()
    tensors = load_file(adapter / "adapter_model.safetensors")
    with torch.no_grad():
        for name, module in network.named_modules():
            if f"base_model.model.{name}.lora_A.weight" in tensors:
                down, up = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
                module.weight += 2 * up @ down
    return network


def vllm_python() -> Path:
    """Its Python; 3.5 GB and some three minutes, the first time."""
    return environment(Path(__file__).with_name("requirements-vllm.txt"), checked=False)
