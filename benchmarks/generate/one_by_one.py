"""transformers' `generate`, one request at a time, as in KServe's runtime: `python -m benchmarks.generate.one_by_one`.

A line of JSON in, one out. The first line in names the model's directory, the data type and the threads.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from modelserve.environment import environment_defaults

environment_defaults()  # as the server does, before torch is imported

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def main() -> None:
    said: dict[str, Any] = json.loads(sys.stdin.readline())
    torch.set_num_threads(said["threads"])
    model = AutoModelForCausalLM.from_pretrained(said["directory"], dtype=getattr(torch, said["dtype"])).eval()
    model.to(said["device"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        started = time.perf_counter()
        with torch.inference_mode():
            for prompt in job["prompts"]:
                ids = torch.tensor([prompt], device=said["device"])
                tokens = job["tokens"]
                wanted = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
                model.generate(ids, attention_mask=torch.ones_like(ids), **wanted)
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
