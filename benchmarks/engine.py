"""The engine with no server around it: `python -m benchmarks.engine`, a line of JSON in, one out.

The server's own tokenizer, backend and task, called directly, with as many texts in flight as the server would have:
take so many texts, tokenise them, sort them by length, cut them into batches of the token budget, run the batches, and
begin again. Knows no queue and no protocol.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from modelserve.environment import environment_defaults

environment_defaults()  # as the server does, before torch is imported

from benchmarks import texts  # noqa: E402
from modelserve.backends.base import Layout  # noqa: E402
from modelserve.backends.huggingface import HuggingFaceBackend  # noqa: E402
from modelserve.config import Config  # noqa: E402
from modelserve.runtime.huggingface import load  # noqa: E402
from modelserve.runtime.modality import Loaded  # noqa: E402
from modelserve.runtime.texts import Texts  # noqa: E402
from modelserve.types import Encoding, InferRequest  # noqa: E402


class Engine:
    """A loaded model and the texts that go through it."""

    def __init__(self) -> None:
        path = texts.model_dir()
        loaded = load(Config(model_dir=str(path)), path, lambda stage, fraction: None)
        assert isinstance(loaded, Loaded)
        assert isinstance(loaded.modality, Texts)
        assert isinstance(loaded.backend, HuggingFaceBackend)
        self.modality, self.backend = loaded.modality, loaded.backend
        self.reduce = loaded.modality.reduce
        self.verdict = self.backend.verdict
        self.sets = {name: texts.read(name) for name in texts.SETS}

    def run(
        self, *, name: str, in_flight: int, seconds: float, layout: Layout, streams: int, first: int
    ) -> dict[str, Any]:
        """streams: threads with a pass each, on one core each; 1 is one pass at a time, on every core."""
        self.backend.verdict = replace(self.verdict, layout=layout)
        source = self.sets[name]
        latencies: list[float] = []
        indexes: list[int] = []
        following = itertools.count(first)
        until = time.perf_counter() + seconds

        def stream(texts_at_once: int) -> None:
            while (started := time.perf_counter()) < until:
                taken = [next(following) % len(source) for _ in range(texts_at_once)]
                self.embed([source[i] for i in taken], alone=streams == 1)
                latencies.append(1000 * (time.perf_counter() - started))
                indexes.extend(taken)

        started = time.perf_counter()
        threads = [threading.Thread(target=stream, args=(in_flight // streams,)) for _ in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lasted = time.perf_counter() - started
        return {"seconds": lasted, "lasted_s": lasted, "latencies_ms": latencies, "indexes": indexes}

    def embed(self, batch: list[str], alone: bool = True) -> list[Any]:
        """The vectors of the texts, in the order of their lengths."""
        encodings = sorted(self.encode(batch), key=len)
        outputs = []
        for part in self.cut(encodings):
            outputs += self.backend.forward(part, self.reduce, alone=alone)
        return outputs

    def encode(self, batch: list[str]) -> list[Encoding]:
        """Tokenised, in order."""
        return self.modality.preprocess(InferRequest("", list(batch)))

    def cut(self, encodings: list[Encoding]) -> list[list[Encoding]]:
        """Neighbours in length, as many as the token budget holds: padded tokens when padded."""
        budget = self.backend.limits.max_batch_tokens
        padded = self.backend.verdict.layout == "padded"
        parts: list[list[Encoding]] = [[]]
        tokens = 0
        for encoding in encodings:
            tokens = len(encoding) * (len(parts[-1]) + 1) if padded else tokens + len(encoding)
            if parts[-1] and tokens > budget:
                parts.append([])
                tokens = len(encoding)
            parts[-1].append(encoding)
        return parts


def main() -> None:
    # In threads that end, as the server's load: OpenMP's own spin at barriers only while there are few of them.
    with ThreadPoolExecutor(1) as thread:
        engine = thread.submit(Engine).result()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if "embed" in job:
            with ThreadPoolExecutor(1) as thread:
                result: dict[str, Any] = {"vector": thread.submit(engine.embed, [job["embed"]]).result()[0].tolist()}
        else:
            result = engine.run(**job)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
