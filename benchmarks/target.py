"""What was promised, and whether it was kept: one verdict a target. Knows no table and no process."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from benchmarks.contender import Measure, percentile
from benchmarks.rounds import Cell, Results

ENGINE_SHARE = 0.9
NAIVE = {("16", 32): 4.0, ("mixed", 32): 1.6}
ALONE_MS = 2.0
LIVE_MS = 50.0
START = 1.25
MEMORY_MIB = 500.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """met: None when this run measured nothing of it."""

    target: str
    met: bool | None
    found: str


def medians(rounds: list[Measure]) -> Measure:
    """The median of each field by itself."""
    return Measure(*(median(getattr(m, name) for m in rounds) for name in Measure.__slots__))


def best_engine(found: dict[str, list[Measure]]) -> str | None:
    """The layout and arrangement of threads with the most tokens per CPU second."""
    names = [name for name in found if name.startswith("in process")]
    return max(names, key=lambda name: medians(found[name]).tokens_per_cpu_s, default=None)


def best_naive(found: dict[str, list[Measure]]) -> str | None:
    """`def` or `async def`, whichever answers more requests."""
    names = [name for name in found if name.startswith("naive")]
    return max(names, key=lambda name: medians(found[name]).requests_per_s, default=None)


def verdicts(results: Results, server: str) -> list[Verdict]:
    """Every target, for the contender called `server`."""
    return [
        _engine_share(results, server),
        *(_naive(results, server, cell, least) for cell, least in NAIVE.items()),
        _alone(results, server),
        _most("p99 of GET /v2/health/live under saturation", _p99(results.live_ms), LIVE_MS, "ms"),
        _most("start until ready, beside the same imports and load", _start(results), START, "times"),
        _most("peak resident memory after the runs", results.peak_mib or None, MEMORY_MIB, "MiB"),
    ]


def _engine_share(results: Results, server: str) -> Verdict:
    target = f"tokens per CPU second: at least {ENGINE_SHARE:.0%} of the engine in process"
    shares: dict[Cell, float] = {}
    for cell, found in results.cells.items():
        engine = best_engine(found)
        if engine and server in found:
            shares[cell] = _ratio(found[server], found[engine], "tokens_per_cpu_s")
    if not shares:
        return Verdict(target, None, "not measured")
    listed = ", ".join(f"{name}/{n} {share:.0%}" for (name, n), share in shares.items())
    return Verdict(target, min(shares.values()) >= ENGINE_SHARE, f"texts/in flight: {listed}")


def _naive(results: Results, server: str, cell: Cell, least: float) -> Verdict:
    name, concurrency = cell
    target = f"requests/s, {name} tokens, {concurrency} in flight: at least {least:g} times the naive server"
    found = results.cells.get(cell, {})
    naive = best_naive(found)
    if not naive or server not in found:
        return Verdict(target, None, "not measured")
    ratio = _ratio(found[server], found[naive], "requests_per_s")
    return Verdict(target, ratio >= least, f"{ratio:.2f} times ({naive})")


def _alone(results: Results, server: str) -> Verdict:
    target = f"p50 of one client alone: within {ALONE_MS:g} ms of the engine's own time"
    more: dict[str, float] = {}
    for (name, concurrency), found in results.cells.items():
        engines = [key for key in found if key.startswith("in process")]
        if concurrency == 1 and engines and server in found:
            engine = min(engines, key=lambda key: medians(found[key]).p50_ms)
            pairs = zip(found[server], found[engine], strict=True)
            more[name] = median(ours.p50_ms - theirs.p50_ms for ours, theirs in pairs)
    if not more:
        return Verdict(target, None, "not measured")
    listed = ", ".join(f"{name} tokens {ms:+.2f} ms" for name, ms in more.items())
    return Verdict(target, max(more.values()) <= ALONE_MS, listed)


def _most(what: str, found: float | None, most: float, unit: str) -> Verdict:
    target = f"{what}: at most {most:g} {unit}"
    if found is None:
        return Verdict(target, None, "not measured")
    return Verdict(target, found <= most, f"{found:.4g} {unit}")


def _p99(values: list[float]) -> float | None:
    return percentile(values, 0.99) if values else None


def _start(results: Results) -> float | None:
    pairs = list(zip(results.server_start_s, results.bare_start_s, strict=True))
    return median(server / bare for server, bare in pairs) if pairs else None


def _ratio(ours: list[Measure], theirs: list[Measure], name: str) -> float:
    """The median over the rounds: what disturbed a round disturbed both."""
    ratios: list[float] = [getattr(a, name) / getattr(b, name) for a, b in zip(ours, theirs, strict=True)]
    return median(ratios)
