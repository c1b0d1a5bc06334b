"""Grammars that hold a text to a form: compiled by llguidance for a model's vocabulary.

Knows no engine and no request. `compile` runs on the tokenizer's threads (llguidance lets go of the GIL); a Constraint
is used by the engine's thread. What a caller's grammar may cost is bounded by its length and by llguidance's limits: of
what it compiles to, and of the work of one step.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import llguidance
import numpy as np

from modelserve.errors import InvalidRequest
from modelserve.generation import Constraint, Grammar
from modelserve.runtime.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_MAX_SOURCE = 100_000
"""Characters of a grammar: a schema of so many compiles in about half a second."""
_MAX_LEXER_STATES = 50_000
"""Each takes 1 to 2 KB; llguidance's own limit is five times that."""
_BLANK = "[ ]?"
"""What may stand between two parts of JSON. Models write one space; more of them, or lines, and a model that does not
know what to say fills its answer with blanks."""
_MAX_REASON = 300


class Grammars:
    """What compiles grammars for one model; for any number of threads."""

    def __init__(self, loaded: Any, rows: int, ends: Collection[int] = ()) -> None:
        """loaded: the transformers tokenizer. rows: token ids that the network knows. ends: those that end a text, the
        tokenizer's own where none is given."""
        own = loaded.eos_token_id
        self._ends = sorted(end for end in ends if 0 <= end < rows) or ([own] if own is not None else [])
        self._loaded = loaded
        self._vocabulary = Vocabulary(loaded)
        # llguidance reads these kinds of tokenizers itself, as long as the network has a row for each of its tokens.
        self._known = self._vocabulary.of_bytes and len(loaded) <= rows
        self._rows = rows
        self._lock = threading.Lock()
        self._made: llguidance.LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> Callable[[], Constraint]:
        """Makes Constraints of it, one for each text. Raises InvalidRequest, with llguidance's reason."""
        what = _NAMES[grammar.form]
        if len(grammar.source) > _MAX_SOURCE:
            raise InvalidRequest(
                f"The {what} has {len(grammar.source)} characters, at most {_MAX_SOURCE} are compiled."
            )
        if not self._ends:
            raise InvalidRequest("This model has no token that ends a text, so its texts cannot be held to a form.")
        try:
            source = _source(grammar)
        except ValueError as wrong:
            raise InvalidRequest(f"The {what} cannot be compiled: {_reason(str(wrong))}.") from wrong
        if not self._known:
            source = _unforced(source)
        matcher = llguidance.LLMatcher(self._tokenizer(), source, log_level=0, limits=_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # of the first token: some limits and a vocabulary that does not fit show here
        if (error := matcher.get_error()).startswith("NoExtension"):
            raise InvalidRequest(f"The vocabulary of this model has no tokens that begin what the {what} asks for.")
        if error:
            raise InvalidRequest(f"The {what} cannot be compiled: {_reason(error)}.")
        return lambda: Match(matcher.deep_copy(), self._rows)

    def _tokenizer(self) -> llguidance.LLTokenizer:
        """Made at the first use: it takes up to a second and most servers never need it."""
        with self._lock:
            if self._made is None:
                read = self._loaded.backend_tokenizer.to_str() if self._known else self._spelt()
                self._made = llguidance.LLTokenizer(read, n_vocab=self._rows, eos_token=self._ends)
            return self._made

    def _spelt(self) -> llguidance.TokenizerWrapper:
        return llguidance.TokenizerWrapper(_Spelling(self._vocabulary, self._rows, self._ends[0]))


class Match:
    """A grammar and the tokens so far. Fulfils generation.Constraint."""

    def __init__(self, matcher: llguidance.LLMatcher, rows: int) -> None:
        self._matcher = matcher
        self._words = (rows + 31) // 32

    def mask(self) -> np.ndarray[Any, Any]:
        """There is always one: where the text can only end, it is the end tokens."""
        found = np.frombuffer(self._matcher.compute_bitmask(), dtype="<u4")
        return found[: self._words]

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            # Its limits of work, or a vocabulary that cannot go on. The text ends here, and is not whole.
            log.warning("a grammar could not be followed to its end: %s", _reason(self._matcher.get_error()))

    @property
    def complete(self) -> bool:
        stopped: bool = self._matcher.is_stopped()
        return stopped


_NAMES = {
    "json_object": "response format json_object",
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "lark": "grammar",
}


def _source(grammar: Grammar) -> str:
    """As llguidance reads it. Raises ValueError for what is no JSON."""
    matcher = llguidance.LLMatcher
    if grammar.form == "regex":
        source: str = matcher.grammar_from_regex(grammar.source)
    elif grammar.form == "lark":
        source = matcher.grammar_from_lark(grammar.source)
    else:
        schema = '{"type": "object"}' if grammar.form == "json_object" else grammar.source
        # Over what the schema itself says: it may not ask for endless blanks.
        source = matcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _BLANK})
    return source


def _unforced(source: str) -> str:
    """The same, without writing what has no alternative in the tokenizer's own tokens: it would put a space first."""
    if source.startswith("{"):
        grammar = json.loads(source)["grammars"][0]
        source = grammar["lark_grammar"] or f"start: %json {json.dumps(grammar['json_schema'])}"
    return '%llguidance {"no_forcing": true}\n' + source


def _limits() -> Any:
    return llguidance._lib.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)


def _reason(error: str) -> str:
    """llguidance's words, without the state of its parser."""
    text = " ".join(error.split("<", 1)[0].split()) or "no reason given"
    return text[:_MAX_REASON].rstrip(".")


class _Spelling:
    """A vocabulary that llguidance does not read by itself. The names are those that its wrapper reads."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, rows: int, end: int) -> None:
        self.eos_token_id = end
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for id in range(rows):
            raw = vocabulary.raw(id)
            if id in vocabulary.special or not raw:
                self.special_token_ids.append(id)
                raw = (vocabulary.token(id) or f"<unused {id}>").encode()
            self.tokens.append(raw)

    def __call__(self, text: bytes) -> list[int]:
        """Asked only for the tokens of what a grammar forces, which `_unforced` forbids."""
        raise NotImplementedError("this vocabulary is not asked for the tokens of a text")
