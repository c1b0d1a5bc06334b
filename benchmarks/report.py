"""Results to what a reader sees: tables and verdicts in the terminal, a block of Markdown for docs/benchmarks.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.contender import percentile
from benchmarks.rounds import Results
from benchmarks.target import Verdict, best_engine, best_naive, medians

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
COLUMNS = ("texts", "in flight", "what", "requests/s", "p50 ms", "p99 ms", "tokens / CPU s", "cores")
WORDS = {True: ("met", "green"), False: ("MISSED", "bold red"), None: ("-", "dim")}


def rows(results: Results, *, everything: bool = False) -> Iterator[tuple[str, ...]]:
    """A row a cell and contender: of the engine's and the naive server's variants the better one, or all of them."""
    for (name, concurrency), found in results.cells.items():
        for contender, rounds in found.items():
            variants = {"in process": best_engine(found), "naive": best_naive(found)}
            if not everything and any(contender.startswith(k) and contender != v for k, v in variants.items()):
                continue
            m = medians(rounds)
            numbers = (f"{m.requests_per_s:.1f}", f"{m.p50_ms:.1f}", f"{m.p99_ms:.1f}", f"{m.tokens_per_cpu_s:.0f}")
            yield (name, str(concurrency), contender, *numbers, f"{m.cores:.2f}")


def facts(results: Results) -> list[str]:
    """What has no row of its own."""
    lines = []
    if results.live_ms:
        low, high = percentile(results.live_ms, 0.5), percentile(results.live_ms, 0.99)
        lines.append(
            f"/v2/health/live, {len(results.live_ms)} probes under saturation: p50 {low:.1f}, p99 {high:.1f} ms"
        )
    if results.server_start_s:
        server, bare = median(results.server_start_s), median(results.bare_start_s)
        times = len(results.server_start_s)
        lines.append(
            f"start until ready {server:.2f} s, the same imports and load alone {bare:.2f} s, {times} times each"
        )
    if results.peak_mib:
        lines.append(
            f"resident memory of the server {results.resident_mib:.0f} MiB, at its peak {results.peak_mib:.0f} MiB"
        )
    clients = [medians(rounds).client_cores for found in results.cells.values() for rounds in found.values()]
    if clients:
        lines.append(f"the load generator took at most {max(clients):.3f} of a core")
    return lines


def show(console: Console, results: Results, verdicts: list[Verdict], header: list[str], everything: bool) -> None:
    for line in header:
        console.print(line, style="dim")
    table = Table(show_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("texts", "what") else "right", overflow="fold")
    last = None
    for row in rows(results, everything=everything):
        if last not in (None, row[:2]):
            table.add_section()
        last = row[:2]
        table.add_row(*row)
    console.print(table)
    for line in facts(results):
        console.print(line)
    console.print()
    for verdict in verdicts:
        word, style = WORDS[verdict.met]
        console.print(f"[{style}]{word:>6}[/]  {verdict.target}: {verdict.found}", highlight=False, soft_wrap=True)


def markdown(results: Results, verdicts: list[Verdict], header: list[str]) -> str:
    """The block between the marks of docs/benchmarks.md."""
    lines = [*(f"- {line}" for line in header), ""]
    lines += ["| target | | found |", "| --- | --- | --- |"]
    words = {True: "met", False: "**missed**", None: "-"}
    lines += [f"| {verdict.target} | {words[verdict.met]} | {verdict.found} |" for verdict in verdicts]
    lines += ["", f"| {' | '.join(COLUMNS)} |", "| --- | ---: | --- " + "| ---: " * (len(COLUMNS) - 3) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(results)]
    lines += ["", *(f"- {line}" for line in facts(results)), ""]
    return "\n".join(lines)


def record(text: str, name: str = "run") -> None:
    """Put the block of that name into the page. Raises ValueError when the page has lost its marks."""
    block = re.compile(rf"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
    page = PAGE.read_text()
    if not block.search(page):
        raise ValueError(f"{PAGE.name} has no block between <!-- {name} --> and <!-- end of {name} -->")
    PAGE.write_text(block.sub(lambda match: match[1] + text + match[2], page))
