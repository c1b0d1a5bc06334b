"""What one forward pass costs, by the tokens in it: `python -m benchmarks.passes`.

Packed passes on one core over texts of 16 tokens and over the mixed set. Shows how much a pass costs before its first
token, and from which size on a larger one gains nothing: what --max_batch_tokens and the batcher are set by. Knows no
server.
"""

from __future__ import annotations

import time
from statistics import median

from benchmarks.engine import Engine  # isort: skip  # sets the environment before torch is imported
from benchmarks import texts
from modelserve.types import Encoding

COUNTS = {"16": (1, 2, 4, 8, 16, 32, 64, 128), "mixed": (1, 2, 4, 8, 16, 32, 64)}
REPEATS = 9


def cost_s(engine: Engine, batch: list[Encoding]) -> float:
    """CPU seconds of a pass on one core, the median of several."""
    costs = []
    for _ in range(REPEATS + 1):
        started = time.thread_time()
        engine.backend.forward(batch, engine.reduce, alone=False)
        costs.append(time.thread_time() - started)
    return median(costs[1:])


def main() -> None:
    engine = Engine()
    print("| texts | texts in the pass | tokens | CPU ms | tokens / CPU s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, counts in COUNTS.items():
        encodings = engine.encode(texts.read(name))
        for count in counts:
            batch = encodings[:count]
            tokens, cost = sum(map(len, batch)), cost_s(engine, batch)
            print(f"| {name} | {count} | {tokens} | {1000 * cost:.1f} | {tokens / cost:.0f} |")


if __name__ == "__main__":
    main()
