"""openvino-genai's continuous batching with no server around it: `python -m benchmarks.generate.genai`.

A line of JSON in, one out. The first line in names the converted directory, the precision and the threads. Callers are
kept full: who has its text asks for the next at once.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai


def main() -> None:
    said: dict[str, Any] = json.loads(sys.stdin.readline())
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    properties = {"INFERENCE_PRECISION_HINT": said["precision"], "INFERENCE_NUM_THREADS": said["threads"]}
    pipeline = openvino_genai.ContinuousBatchingPipeline(said["directory"], scheduler, "CPU", properties)
    print(json.dumps({"ready": True}), flush=True)
    number = 0
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        wanted = openvino_genai.GenerationConfig()
        wanted.max_new_tokens, wanted.ignore_eos, wanted.do_sample = job["tokens"], True, False
        waiting, count, first = list(reversed(job["prompts"])), 0, []
        open_: dict[int, list[Any]] = {}
        started, cpu = time.perf_counter(), time.process_time()
        while waiting or open_:
            while waiting and len(open_) < job["callers"]:
                ids = openvino.Tensor(np.array([waiting.pop()], dtype=np.int64))
                open_[number] = [pipeline.add_request(number, ids, wanted), 0, time.perf_counter()]
                number += 1
            pipeline.step()
            now = time.perf_counter()
            for id, entry in list(open_.items()):
                handle, had, sent = entry
                while handle.can_read():
                    new = sum(len(output.generated_ids) for output in handle.read().values())
                    if not had:
                        first.append(now - sent)
                    had = entry[1] = had + new
                    count += new
                if had >= job["tokens"]:
                    del open_[id]
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "tokens": count, "first": first, "cpu_s": time.process_time() - cpu}))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
