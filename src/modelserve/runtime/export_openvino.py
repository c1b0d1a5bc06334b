"""A script for the exporter's environment (export_openvino.txt): a causal language model -> OpenVINO's graph of it.

    python -I export_openvino.py MODEL_DIRECTORY OUTPUT_DIRECTORY float32|int8 [--trust_remote_code]

Prints `stage …` when it begins something. Imports nothing of modelserve: it runs in a process of its own, in an
environment that has other versions of torch and transformers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(source: Path, output: Path, weights: str, trust: bool) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE", "NNCF_CI"):
        os.environ[name] = "1"  # the last is how nncf is told to send nothing about whoever uses it
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # openvino does without, and sends nothing
    _say("reading the weights")
    import torch
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    _say("exporting the graph")
    with torch.inference_mode():
        main_export(
            str(source),
            output,
            task="text-generation-with-past",
            library_name="transformers",
            local_files_only=True,
            trust_remote_code=trust,
            stateful=True,
            convert_tokenizer=False,
            ov_config=OVConfig(dtype="fp32"),
            model_loading_kwargs={"torch_dtype": torch.float32},
        )
    if weights == "int8":
        _say("making the weights int8")
        _compress(output / "openvino_model.xml")


def _compress(graph: Path) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(graph)
    smaller = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    made = graph.with_name("smaller.xml")
    openvino.save_model(smaller, made, compress_to_fp16=False)
    del model, smaller  # the old weights are mapped into memory until then
    for suffix in (".xml", ".bin"):
        os.replace(made.with_suffix(suffix), graph.with_suffix(suffix))


def _say(stage: str) -> None:
    print("stage", stage, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], "--trust_remote_code" in sys.argv[4:])
