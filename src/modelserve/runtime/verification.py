"""Whether a served model answers what transformers or sentence-transformers answer on the same weights.

`verify` computes the reference, loads the model as a server would, asks it, and compares. Blocking; holds one model at
a time. Knows no command line.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.registry import load as named
from modelserve.runtime import verification_texts as texts
from modelserve.runtime.files import resolve
from modelserve.runtime.formats import model_format
from modelserve.runtime.greedy import NEW, Answer
from modelserve.runtime.heads import GENERATIVE
from modelserve.runtime.info import inspect
from modelserve.runtime.load import load
from modelserve.runtime.verification_served import Answers, Written, ask, refusal_of_pairs
from modelserve.types import Array, TextPair

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
"""Share of the largest answer by which an answer may differ, by the type that the served model computes in. float32:
ten times what another order of the same sums came to in this project's tests. The others have 11 and 8 bits."""
_NAMES = {"FP32": "float32", "FP64": "float32", "FP16": "float16", "BF16": "bfloat16", "auto": "float32"}
"""What a remote predictor calls them."""
_WAIT_S = 30.0
"""For a remote predictor that is not there."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be verified, and on what."""

    config: Config
    """As `modelserve serve` would have it."""
    lines: tuple[str, ...] | None = None
    """The user's texts; None for the built-in ones."""
    reference_dir: Path | None = None
    """Where the weights of the reference are, where they are not the served model's own."""
    tolerance: float | None = None
    """TOLERANCE of the served type when not given."""
    new: int = NEW
    """Tokens of each text that is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """How near the answers of one way to ask are."""

    asked: str
    """together or alone."""
    texts: int
    unlike: int
    """Texts that were answered in another shape, or with what is no number."""
    largest: float
    """Deviation of a logit, of a vector's number, or of a written token's log-probability."""
    mean: float
    cosine: float | None
    """The smallest, of vectors."""
    rows: int
    """Classes or tokens that were chosen; 0 for vectors."""
    same: int
    near_ties: int
    """Chosen otherwise where the reference's own logits for both are no more than twice the allowed deviation apart."""

    def within(self, allowed: float) -> bool:
        return not self.unlike and self.largest <= allowed and self.rows == self.same + self.near_ties


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict, and what it is made of."""

    passed: bool
    model: str
    task: str
    backend: str
    device: str
    dtype: str
    reference: str
    """Which library, and what of the server's own it needed."""
    tolerance: float
    allowed: float
    """Largest deviation that passes: the tolerance times the largest answer."""
    left_out: str
    """Why pairs of texts, which were among ours, were not asked; "" where they were."""
    rounds: tuple[Round, ...]


def verify(asked: Asked, say: Say) -> Report:
    """Raises LoadError, ConfigError, and what the served model answers a request with that it cannot answer."""
    known, wanted, how, task = _reference(asked, say)
    gc.collect()
    service = load(asked.config, _patient(say))
    try:
        if service.task_name != task:
            raise ConfigError(f"the served model's task is {service.task_name}, the reference's is {task}; give --task")
        said = service.describe()
        left_out = "" if asked.lines is not None else refusal_of_pairs(service, wanted)
        if left_out:
            kept = [i for i, text in enumerate(wanted) if not isinstance(text, TextPair)]
            known, wanted = [known[i] for i in kept], [wanted[i] for i in kept]
        answers = ask(service, asked.config, wanted, asked.new, say)
    finally:
        service.close()
        service.free()
    dtype = _NAMES.get(str(said.get("dtype")), str(said.get("dtype")))
    tolerance = TOLERANCE.get(dtype, TOLERANCE["float32"]) if asked.tolerance is None else asked.tolerance
    allowed = tolerance * _scale(known, task)
    rounds = _rounds(answers, known, task, allowed)
    return Report(
        passed=all(one.within(allowed) for one in rounds),
        model=asked.config.model_id or str(said.get("model_id", asked.config.model_dir)),
        task=task,
        backend=service.backend_name,
        device=str(said.get("device", asked.config.predictor_host or asked.config.device)),
        dtype=dtype,
        reference=how,
        tolerance=tolerance,
        allowed=allowed,
        left_out=left_out,
        rounds=rounds,
    )


def _reference(asked: Asked, say: Say) -> tuple[list[Any], list[texts.Asked], str, str]:
    """The right answers, to which texts, whose they are, and the task."""
    # Weights are wanted, whoever computes; those of another backend's form are no reference.
    config = replace(asked.config, predictor_host=None, tensor_input_names=(), backend="huggingface")
    if asked.reference_dir is not None:
        config = replace(config, model_id=None, model_revision=None, model_dir=str(asked.reference_dir))
    path = None if config.model_id else Path(config.model_dir).expanduser()
    if (kind := model_format(config, path)) != "huggingface":
        raise ConfigError(f"only Hugging Face models are verified, and the files are {kind}'s")
    say("reference: loading")
    files = resolve(config, lambda fraction: say(f"reference: {fraction:.0%} of the files are here"))
    info, task = inspect(files, config)
    reference = named("modelserve.runtime.verification_reference:Reference")(config, files, info, task)
    wanted = texts.built_in(task, info.max_length) if asked.lines is None else texts.given(asked.lines, task)
    if task in GENERATIVE:
        return reference.write(wanted, asked.new, say), wanted, reference.how, task
    if task == "fill_mask":
        if reference.tokenizer.mask_token is None:
            raise LoadError("the model's tokenizer has no mask token, which fill_mask needs")
        wanted = texts.with_mask(wanted, reference.tokenizer.mask_token)
    known = []
    for number, text in enumerate(wanted, 1):
        say(f"reference: text {number} of {len(wanted)}")
        known.append(reference.answer(text))
    return known, wanted, reference.how, task


def _patient(say: Say) -> Callable[..., None]:
    """Tells the stages of a load, and ends one that waits for a predictor which does not come."""
    since: list[float] = []

    def at(stage: str, fraction: float, /, *, waits_for: str = "") -> None:
        say(f"served: {waits_for or f'{stage} {fraction:.0%}'}")
        if waits_for:
            since.append(time.monotonic())
            if since[-1] - since[0] > _WAIT_S:
                raise LoadError(f"{waits_for.rstrip('.')}; it was waited for {_WAIT_S:g} seconds")

    return at


def _scale(known: Sequence[Any], task: str) -> float:
    """The largest number of the reference. Logits below 1 differ by rounding of what they are sums of."""
    largest = max(float(np.abs(_logits(one)).max()) for one in known)
    if not np.isfinite(largest):
        raise LoadError("the reference gives NaN or infinite values: its weights are no model's")
    return largest if task == "text_embedding" else max(1.0, largest)


def _logits(answer: Any) -> Array:
    found: Array = answer.logits.numpy() if isinstance(answer, Answer) else answer
    return found[~np.isneginf(found)]


def _rounds(answers: Answers, known: Sequence[Any], task: str, allowed: float) -> tuple[Round, ...]:
    compare = _written if task in GENERATIVE else _vectors if task == "text_embedding" else _classes
    made = {"together": answers.together, "alone": answers.alone}
    return tuple(compare(name, found, known, allowed) for name, found in made.items())


def _alike(made: Array, right: Array) -> bool:
    return made.shape == right.shape and bool(np.isfinite(made).all())


def _vectors(name: str, made: Sequence[Array], known: Sequence[Array], allowed: float) -> Round:
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(made, known, strict=True) if _alike(a, b)]
    norms = [float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]
    cosines = [float(a @ b) / norm if norm else 0.0 for (a, b), norm in zip(pairs, norms, strict=True)]
    return Round(
        asked=name,
        texts=len(known),
        unlike=len(known) - len(pairs),
        **_off([np.abs(a - b) for a, b in pairs]),
        cosine=min(cosines, default=None),
        rows=0,
        same=0,
        near_ties=0,
    )


def _classes(name: str, made: Sequence[Array], known: Sequence[Array], allowed: float) -> Round:
    pairs = [(a, b) for a, b in zip(made, known, strict=True) if _alike(a, b)]
    rows = same = ties = 0
    for ours, right in pairs:
        chosen, best = ours.argmax(-1), right.argmax(-1)
        every = np.arange(len(right))
        near = right[every, best] - right[every, chosen] <= 2 * allowed
        rows, same = rows + len(right), same + int((chosen == best).sum())
        ties += int((near & (chosen != best)).sum())
    return Round(
        asked=name,
        texts=len(known),
        unlike=len(known) - len(pairs),
        **_off([np.abs(a - b) for a, b in pairs]),
        cosine=None,
        rows=rows,
        same=same,
        near_ties=ties,
    )


def _written(name: str, made: Sequence[Written], known: Sequence[Answer], allowed: float) -> Round:
    """Token by token until a text parts from the reference's: from there on they are different texts."""
    offs: list[Array] = []
    rows = same = ties = unlike = 0
    for ours, right in zip(made, known, strict=True):
        if len(ours.new) != len(right.new) or not np.isfinite(ours.logprobs).all():
            unlike += 1
            continue
        steps = right.logits.log_softmax(-1).numpy()
        places = [i for i, (a, b) in enumerate(zip(ours.new, right.new, strict=True)) if a != b]
        common = places[0] if places else len(right.new)
        told = np.array([ours.logprobs[i] - steps[i, right.new[i]] for i in range(common)])
        offs.append(np.abs(told))
        rows, same = rows + common + bool(places), same + common
        if places:
            logits = right.logits[common]
            ties += bool(logits[right.new[common]] - logits[ours.new[common]] <= 2 * allowed)
    return Round(
        asked=name,
        texts=len(known),
        unlike=unlike,
        **_off(offs),
        cosine=None,
        rows=rows,
        same=same,
        near_ties=ties,
    )


def _off(offs: Sequence[Array]) -> dict[str, float]:
    numbers = np.concatenate([off.ravel() for off in offs]) if offs else np.zeros(0)
    return {"largest": float(numbers.max(initial=0.0)), "mean": float(numbers.mean()) if len(numbers) else 0.0}
