"""Writes tests/data/openvino-llama.tar.gz again: a tiny Llama with a tokenizer, and its conversion to OpenVINO.

    python tools/openvino_model.py          wants the exporter's environment, which is made when it is not there

So that the tests of the engine need openvino alone and no exporter. The weights are bfloat16's numbers: half of their
bytes are zeros, and the archive stays small.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "tests" / "data" / "openvino-llama.tar.gz"
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers

    from tests.generative import tiny_generative

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = work / "source"
        shutil.copytree(tiny_generative("llama", **SHAPE), source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16().float())
        model.save_pretrained(source)
        convert = [sys.executable, "-m", "modelserve", "convert", "--to=openvino"]
        subprocess.run([*convert, f"--model_dir={source}", f"--output={work / 'converted'}"], check=True)
        record = json.loads((work / "converted" / "modelserve.json").read_text())
        record["source"] = "a tiny Llama"
        (work / "converted" / "modelserve.json").write_text(json.dumps(record, indent=2) + "\n")
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:gz", compresslevel=9) as archive:
            for name in ("source", "converted"):
                archive.add(work / name, arcname=name, filter=_nobodys)
    print(f"{ARCHIVE.relative_to(ROOT)}: {ARCHIVE.stat().st_size} bytes")


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without who made it and when, and without locks."""
    if Path(entry.name).name.startswith("."):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


if __name__ == "__main__":
    main()
