"""A sequence as the body of vLLM's completions request. Pure; knows no connection."""

from __future__ import annotations

from typing import Any

import msgspec

from modelserve.generation import Grammar, Sampling, Sequence

_PLAIN = Sampling()
_SAME = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
"""Fields that vLLM has under the same name with the same meaning."""
_LEAST_TOP_P = 1e-6
"""vLLM takes no 0, which is the likeliest token alone; so is this."""
_BLANK = {"whitespace_pattern": "[ ]?"}
"""As in runtime/grammar.py: more between two parts of JSON, and a model may fill its answer with blanks."""


def body(sequence: Sequence) -> bytes:
    """The stop strings are not in there: whoever reads the tokens finds them."""
    sampling = sequence.sampling
    scored = sampling.prompt_logprobs
    asked: dict[str, Any] = {
        "model": sequence.model_name,
        "prompt": sequence.prompt,
        "stream": not scored,  # vLLM scores a prompt only in one piece
        "return_token_ids": True,
        "max_tokens": max(1, sequence.max_tokens),
        "stop_token_ids": sorted(sequence.end_ids),
        # The tokens that end this text are those above, and no others. A grammar's end is the tokenizer's.
        "ignore_eos": sampling.grammar is None or sampling.ignore_eos,
    }
    asked |= {name: value for name in _SAME if (value := getattr(sampling, name)) != getattr(_PLAIN, name)}
    if sampling.top_p < _LEAST_TOP_P:
        asked["top_p"] = _LEAST_TOP_P
    if sampling.min_tokens:
        asked["min_tokens"] = min(sampling.min_tokens, asked["max_tokens"])
    if sampling.seed is not None:  # without one vLLM draws for the whole batch at once, which is faster
        asked["seed"] = sequence.seed % 2**63
    if sampling.logit_bias:
        asked["logit_bias"] = {str(id): bias for id, bias in sampling.logit_bias.items()}
    if sampling.logprobs is not None:
        asked |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if scored:
        asked["prompt_logprobs"] = sampling.logprobs or 0
    if sampling.grammar is not None:
        asked["structured_outputs"] = _structure(sampling.grammar)
    return msgspec.json.encode(asked)


def _structure(grammar: Grammar) -> dict[str, Any]:
    """For vLLM's `guidance` backend, which is llguidance as here: the same grammars, and the same texts of them."""
    if grammar.form == "regex":
        return {"regex": grammar.source}
    if grammar.form == "lark":
        return {"grammar": grammar.source}
    schema = {"type": "object"} if grammar.form == "json_object" else msgspec.json.decode(grammar.source)
    return {"json": schema | {"x-guidance": _BLANK} if isinstance(schema, dict) else grammar.source}
