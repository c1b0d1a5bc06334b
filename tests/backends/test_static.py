"""Static batches against `generate` itself, on the same weights: alone and in a crowd, with joins, ends and faults."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers

from modelserve.backends.padding import Bounds, find_layout, next_batch
from modelserve.backends.static import StaticEngine
from modelserve.errors import InferenceFailed, InvalidRequest, LoadError, NotReady
from modelserve.generation import Sampling, Sequence
from tests.backends.ear import Ear, ear
from tests.generative import ENCODER_DECODERS, POSITIONS, tiny_generative

ARCHITECTURES = ["t5", "bart", "marian", "gpt2", "bloom", "mamba", "falcon"]
QUICK = ("t5", "gpt2", "bloom", "mamba")
GREEDY = Sampling(temperature=0)
END = 2
PROMPTS = [[300, 12, 44], list(range(100, 141)), [5, 6], [77], list(range(400, 430)), [9, 8, 7, 6, 5, 4, 3]]


def sequence(prompt: list[int], sampling: Sampling = GREEDY, max_tokens: int = 20, **values: Any) -> Sequence:
    wanted: dict[str, Any] = {"end_ids": frozenset({END}), "seed": 0, "sink": Ear()}
    return Sequence(prompt=prompt, sampling=sampling, max_tokens=max_tokens, **(wanted | values))


def load(architecture: str) -> Any:
    auto = transformers.AutoModelForSeq2SeqLM if architecture in ENCODER_DECODERS else transformers.AutoModelForCausalLM
    return auto.from_pretrained(tiny_generative(architecture)).eval()


def make(model: Any, **values: Any) -> StaticEngine:
    return StaticEngine(
        model, **({"end_ids": {END}, "context_length": POSITIONS, "max_running": 16, "threads": 1} | values)
    )


def expected(model: Any, prompt: list[int], max_tokens: int, **values: Any) -> list[int]:
    made = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        num_beams=1,
        do_sample=False,
        **values,
    )[0].tolist()
    return made[1:] if model.config.is_encoder_decoder else made[len(prompt) :]


@pytest.fixture(
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(architecture: str) -> Iterator[StaticEngine]:
    made = make(load(architecture))
    yield made
    made.close()
    assert made.join(60)


@pytest.fixture
def t5() -> Iterator[StaticEngine]:
    made = make(load("t5"))
    yield made
    made.close()
    assert made.join(60)


def run(engine: StaticEngine, *sequences: Sequence) -> list[list[int]]:
    for one in sequences:
        engine.start(one)
    return [ear(one).ids for one in sequences]


def test_greedy_is_generate_alone_and_in_a_crowd(engine: StaticEngine, architecture: str) -> None:
    """Prompts of all lengths, limits of all sizes, and rows that end early beside rows that go on."""
    model = load(architecture)
    limits = [20, 7, 1, 30, 12, 20]
    wanted = [expected(model, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    together = [sequence(prompt, max_tokens=limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert run(engine, *together) == wanted
    assert run(engine, sequence(PROMPTS[1], max_tokens=limits[1])) == [wanted[1]]
    for one, ids, limit in zip(together, wanted, limits, strict=True):
        assert ear(one).finish == ("stop" if ids[-1] == END and len(ids) < limit else "length")
    deadline = time.monotonic() + 10
    while engine.stuck_s() and time.monotonic() < deadline:
        time.sleep(0.001)  # `generate` returns a moment after its last token
    assert (engine.running(), engine.waiting(), engine.stuck_s()) == (0, 0, 0.0)


def test_padding_is_allowed_where_it_is_harmless(engine: StaticEngine) -> None:
    assert engine.describe()["layout"] == "padded", engine.describe()["layout_reason"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_padded_too(architecture: str, dtype: torch.dtype) -> None:
    if (architecture, dtype) == ("mamba", torch.float16):  # its own forward overflows
        with pytest.raises(LoadError, match="NaN"):
            make(load(architecture).to(dtype))
        return
    engine = make(load(architecture).to(dtype))
    try:
        assert engine.describe()["layout"] == "padded", engine.describe()["layout_reason"]
        assert engine.describe()["dtype"] == str(dtype).removeprefix("torch.")
        endless = [sequence(prompt, max_tokens=9, end_ids=frozenset()) for prompt in PROMPTS]
        assert [len(ids) for ids in run(engine, *endless)] == [9] * len(PROMPTS)
    finally:
        engine.close()
        assert engine.join(60)


@pytest.mark.parametrize("architecture", ["t5", "bloom"], indirect=True)
def test_seeds_and_wishes_in_a_crowd(engine: StaticEngine) -> None:
    wishes = [
        Sampling(),
        Sampling(temperature=0.7, top_k=9, logprobs=2),
        Sampling(top_p=0.8, frequency_penalty=0.6),
        Sampling(temperature=2.0, min_p=0.02, logit_bias={7: 3.0}),
        Sampling(temperature=0, repetition_penalty=1.5),
        Sampling(temperature=0, min_tokens=10, logprobs=0),
    ]

    def fresh() -> list[Sequence]:
        return [sequence(p, s, seed=i) for i, (p, s) in enumerate(zip(PROMPTS, wishes, strict=True))]

    alone = [run(engine, one)[0] for one in fresh()]
    crowd = fresh()
    assert run(engine, *crowd) == alone
    assert run(engine, *reversed(fresh())) == alone[::-1]
    assert {len(token.top) for token in ear(crowd[1]).tokens} == {2}
    assert all(token.logprob < 0 for token in ear(crowd[5]).tokens)
    other = sequence(PROMPTS[0], wishes[0], seed=99)
    assert run(engine, other)[0] != alone[0]


@pytest.mark.parametrize("architecture", ["t5", "gpt2"], indirect=True)
def test_logprobs_are_those_of_the_model(engine: StaticEngine, architecture: str) -> None:
    model, prompt = load(architecture), PROMPTS[4]
    one = sequence(prompt, Sampling(temperature=0, logprobs=3), max_tokens=6)
    ids = run(engine, one)[0]
    with torch.inference_mode():
        if architecture == "t5":
            start = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + ids[:-1]])).logits[0, len(prompt) - 1 :]
    for token, row in zip(ear(one).tokens, logits.log_softmax(-1), strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [id for id, _ in token.top] == row.topk(3).indices.tolist()


def test_newcomers_wait_for_the_next_batch(t5: StaticEngine) -> None:
    release = threading.Event()
    first = sequence(PROMPTS[0], max_tokens=5, sink=Ear(on_put=lambda: release.wait(10)), end_ids=frozenset())
    t5.start(first)
    assert ear(first).first.wait(10)
    late = [sequence(prompt) for prompt in PROMPTS[1:3]]
    for one in late:
        t5.start(one)
    assert (t5.running(), t5.waiting()) == (1, 2)
    release.set()
    model = load("t5")
    assert [ear(one).ids for one in late] == [expected(model, prompt, 20) for prompt in PROMPTS[1:3]]
    assert len(ear(first).ids) == 5


def test_a_sink_that_has_enough_ends_its_row_alone(t5: StaticEngine) -> None:
    short, long = sequence(PROMPTS[0], sink=Ear(enough=3)), sequence(PROMPTS[1], max_tokens=15)
    model = load("t5")
    assert run(t5, short, long) == [expected(model, PROMPTS[0], 3), expected(model, PROMPTS[1], 15)]
    assert ear(short).finish is None


def test_cancelled_rows_are_computed_no_further(t5: StaticEngine) -> None:
    """Everyone in the batch: it ends within a step, long before its 200 tokens. One that waits: it never begins."""
    steps = [0]

    def count() -> None:
        steps[0] += 1
        if steps[0] == 4:
            t5.cancel(running)

    running = sequence(PROMPTS[0], max_tokens=200, sink=Ear(on_put=count), end_ids=frozenset())
    t5.start(running)
    assert ear(running).first.wait(10)
    waiting = sequence(PROMPTS[1])
    t5.start(waiting)
    t5.cancel(waiting)
    after = sequence(PROMPTS[2])
    assert run(t5, after) == [expected(load("t5"), PROMPTS[2], 20)]
    assert len(ear(running).tokens) == 4
    assert not ear(waiting).tokens
    assert not ear(running).ended.is_set()
    assert not ear(waiting).ended.is_set()


def test_ignoring_the_end(engine: StaticEngine) -> None:
    endless = [sequence(prompt, max_tokens=40, end_ids=frozenset()) for prompt in PROMPTS[:3]]
    assert [len(ids) for ids in run(engine, *endless)] == [40, 40, 40]
    assert {ear(one).finish for one in endless} == {"length"}


def test_the_longest_texts(engine: StaticEngine) -> None:
    whole = engine.limits.encoder_decoder
    prompt = [5 + i % 500 for i in range(POSITIONS if whole else POSITIONS - 10)]
    limit = POSITIONS if whole else 10
    assert [len(ids) for ids in run(engine, sequence(prompt, max_tokens=limit, end_ids=frozenset()))] == [limit]
    over = sequence([*prompt, 5], max_tokens=limit)
    run(engine, over)
    assert isinstance(ear(over).finish, InvalidRequest)


def test_what_the_models_config_says_is_kept() -> None:
    """forced_bos (mBART's language), min_length and no_repeat_ngram_size (summaries of bart-large-cnn)."""
    said = {"forced_bos_token_id": 33, "min_length": 25, "no_repeat_ngram_size": 2}
    model, reference = load("bart"), load("bart")
    for name, value in said.items():
        setattr(model.generation_config, name, value)
    engine = make(model)
    try:
        wanted = [expected(reference, prompt, 30, **said) for prompt in PROMPTS]
        assert run(engine, *(sequence(prompt, max_tokens=30) for prompt in PROMPTS)) == wanted
        assert {ids[0] for ids in wanted} == {33}
        assert engine.limits.lacks == {"prompt_logprobs", "grammar"}
    finally:
        engine.close()
        assert engine.join(60)


def test_min_tokens_over_a_forced_end() -> None:
    engine = make(load("bart"))
    try:
        one = sequence(PROMPTS[0], Sampling(temperature=0, min_tokens=6), max_tokens=6)
        assert END not in run(engine, one)[0]
        assert ear(one).finish == "length"
    finally:
        engine.close()
        assert engine.join(60)


@pytest.mark.parametrize("architecture", ["bloom"], indirect=True)
def test_prompts_are_scored(engine: StaticEngine, architecture: str) -> None:
    prompt = PROMPTS[5]
    asked = Sampling(temperature=0, logprobs=2, prompt_logprobs=True)
    goes_on, only_scored = sequence(prompt, asked, max_tokens=4), sequence(prompt, asked, max_tokens=0)
    run(engine, goes_on, only_scored, sequence(PROMPTS[1]))
    model = load(architecture)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1)
    for one in (goes_on, only_scored):
        scores = ear(one).scores
        assert [token.id for token in scores] == prompt
        assert math.isnan(scores[0].logprob)
        assert scores[0].top == ()
        for i in range(1, len(prompt)):
            assert scores[i].logprob == pytest.approx(float(logits[i - 1, prompt[i]]), abs=1e-4)
            assert len(scores[i].top) == 2
    assert ear(goes_on).ids == expected(model, prompt, 4)
    assert (ear(only_scored).ids, ear(only_scored).finish) == ([], "length")


class Faulty(torch.nn.Module):
    """Stands where the decoder's embedding was, and may raise."""

    def __init__(self, inner: torch.nn.Module, fault: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.inner, self.fault = inner, fault

    def forward(self, ids: torch.Tensor) -> Any:
        self.fault(ids)
        return self.inner(ids)


def faulty(fault: Callable[[torch.Tensor], None]) -> StaticEngine:
    """bloom, whose embedding is asked for the prompts first and then for a token of each row."""
    model = load("bloom")
    armed: list[Any] = [lambda ids: None]
    model.transformer.word_embeddings = Faulty(model.transformer.word_embeddings, lambda ids: armed[0](ids))
    engine = make(model)
    armed[0] = fault
    return engine


def test_a_prompt_that_the_model_cannot_take_fails_alone() -> None:
    def fault(ids: torch.Tensor) -> None:
        if (ids == 77).any():
            raise RuntimeError("no such token")

    engine = faulty(fault)
    try:
        crowd = [sequence(prompt, max_tokens=9) for prompt in PROMPTS]
        run(engine, *crowd)
        model = load("bloom")
        for one in crowd:
            if one.prompt == [77]:
                assert isinstance(ear(one).finish, InferenceFailed)
            else:
                assert ear(one).ids == expected(model, one.prompt, 9)
        assert not engine.lost
    finally:
        engine.close()
        assert engine.join(60)


def test_out_of_memory_splits_the_batch() -> None:
    sizes: list[int] = []

    def fault(ids: torch.Tensor) -> None:
        sizes.append(len(ids))
        if len(ids) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine has

    engine = faulty(fault)
    try:
        wanted = [expected(load("bloom"), prompt, 9) for prompt in PROMPTS]
        assert run(engine, *(sequence(prompt, max_tokens=9) for prompt in PROMPTS)) == wanted
        assert max(sizes) > 2
    finally:
        engine.close()
        assert engine.join(60)


def test_a_fault_in_the_middle_ends_who_has_heard_something() -> None:
    """And the next batch is answered."""
    steps = [0]

    def fault(ids: torch.Tensor) -> None:
        steps[0] += 1
        if steps[0] == 4:
            raise RuntimeError("broken")

    engine = faulty(fault)
    try:
        broken = [sequence(prompt) for prompt in PROMPTS[:2]]
        assert [len(ids) for ids in run(engine, *broken)] == [3, 3]
        assert all(isinstance(ear(one).finish, InferenceFailed) for one in broken)
        assert run(engine, sequence(PROMPTS[0])) == [expected(load("bloom"), PROMPTS[0], 20)]
    finally:
        engine.close()
        assert engine.join(60)


def test_a_row_of_nan_fails_alone() -> None:
    model = load("bloom")
    head, armed = model.lm_head.forward, [False]

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        if armed[0] and len(logits) > 1:
            logits[1] = math.nan
        return logits

    model.lm_head.forward = forward
    engine = make(model)
    armed[0] = True
    try:
        crowd = [sequence(prompt) for prompt in PROMPTS[:3]]
        run(engine, *crowd)
        assert isinstance(ear(crowd[1]).finish, InferenceFailed)
        assert [ear(one).ids for one in crowd[::2]] == [expected(load("bloom"), p, 20) for p in PROMPTS[:3:2]]
    finally:
        engine.close()
        assert engine.join(60)


def test_a_lost_device_ends_everyone() -> None:
    from modelserve.backends.base import DeviceLost

    def fault(ids: torch.Tensor) -> None:
        raise DeviceLost("gone")

    engine = faulty(fault)
    crowd = [sequence(prompt) for prompt in PROMPTS]
    run(engine, *crowd)
    assert engine.lost
    late = sequence(PROMPTS[0])
    run(engine, late)
    assert all(isinstance(ear(one).finish, InferenceFailed) for one in [*crowd, late])
    engine.close()
    assert engine.join(60)


def test_a_sink_that_raises_ends_its_row_alone(t5: StaticEngine) -> None:
    def broken() -> None:
        raise RuntimeError("the server's fault")

    crowd = [sequence(PROMPTS[0], sink=Ear(on_put=broken)), sequence(PROMPTS[1])]
    for one in crowd:
        t5.start(one)
    assert ear(crowd[1]).ids == expected(load("t5"), PROMPTS[1], 20)
    assert len(ear(crowd[0]).tokens) == 1


def test_close_ends_who_runs_and_who_waits() -> None:
    engine = make(load("t5"), max_running=1)
    release = threading.Event()
    runs = sequence(PROMPTS[0], max_tokens=200, sink=Ear(on_put=lambda: release.wait(10)), end_ids=frozenset())
    waits = sequence(PROMPTS[1])
    engine.start(runs)
    engine.start(waits)
    assert ear(runs).first.wait(10)
    closing = threading.Thread(target=engine.close)
    closing.start()
    deadline = time.monotonic() + 10
    while not engine._closed and time.monotonic() < deadline:
        time.sleep(0.001)
    release.set()
    closing.join(10)
    assert len(ear(runs).ids) < 200
    late = sequence(PROMPTS[2])
    engine.start(late)
    for one in (runs, waits, late):
        assert ear(one).ended.wait(10)
        assert isinstance(ear(one).finish, NotReady)
    assert engine.running() == engine.waiting() == 0


def test_stuck_since_the_last_step(t5: StaticEngine) -> None:
    release = threading.Event()
    one = sequence(PROMPTS[0], max_tokens=3, sink=Ear(on_put=lambda: release.wait(10)))
    t5.start(one)
    assert ear(one).first.wait(10)
    before, began = t5.stuck_s(), time.monotonic()
    while t5.stuck_s() <= before and time.monotonic() < began + 10:
        time.sleep(0.001)
    assert before < t5.stuck_s() <= time.monotonic() - began + before + 1
    release.set()
    assert len(ear(one).ids) <= 3


ALWAYS = {0, 1}


def fake(change: Callable[[list[list[int]], torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A model whose logits depend on its prompt, and on `change`."""

    def logits(prompts: Any) -> torch.Tensor:
        table = torch.randn(100, 3, 10, generator=torch.Generator().manual_seed(0))
        return change(prompts, torch.stack([table[prompt].sum(0) for prompt in prompts]))

    return logits


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        (lambda prompts, logits: logits, "padded"),
        (lambda prompts, logits: logits + len({len(p) for p in prompts}), "equal"),
        (lambda prompts, logits: logits + len(prompts), "single"),
    ],
)
def test_the_layout_is_found(change: Any, layout: str) -> None:
    assert find_layout(fake(change), 100, ALWAYS, 50, torch.float32)[0] == layout


def test_weights_of_nan_are_refused() -> None:
    with pytest.raises(LoadError, match="NaN"):
        find_layout(fake(lambda prompts, logits: logits * math.nan), 100, ALWAYS, 50, torch.float32)


def test_a_model_that_sees_padding_is_batched_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """bloom without its attention mask."""
    model, reference = load("bloom"), load("bloom")
    forward = model.transformer.forward
    model.transformer.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs)
    engine = make(model)
    try:
        assert engine.describe()["layout"] == "equal"
        prompts = [*PROMPTS, [4, 3, 2], [1]]
        assert run(engine, *(sequence(p, max_tokens=9) for p in prompts)) == [
            expected(reference, p, 9) for p in prompts
        ]
    finally:
        engine.close()
        assert engine.join(60)


def test_batches_are_in_order_and_bounded() -> None:
    padded = Bounds("padded", 4, 1000)
    assert next_batch([(9, 10), (3, 10), (31, 1), (20, 5), (8, 1)], padded) == [0, 1, 2, 3]
    assert next_batch([(10, 10), (12, 10), (90, 10), (15, 10)], padded) == [0, 1, 3]
    assert next_batch([(200, 10), (10, 10), (8, 10), (180, 10)], padded) == [0, 1, 3]
    assert next_batch([(2000, 2000), (1, 1)], padded) == [0]
    assert next_batch([(5, 400), (5, 400), (5, 400)], padded) == [0, 1]
    assert next_batch([(5, 9), (6, 9), (5, 9)], Bounds("equal", 4, 1000)) == [0, 2]
    assert next_batch([(5, 9), (5, 9)], Bounds("single", 4, 1000)) == [0]


def test_the_memory_for_keys_and_values_bounds_a_batch() -> None:
    """Two layers of 64 numbers, keys and values, in float32: 1024 bytes a token."""
    for given, tokens in ((1024 * 3000, 3000), (1, 2 * POSITIONS)):
        engine = make(load("t5"), kv_bytes=given)
        assert engine.describe()["batch_tokens"] == tokens
        engine.close()
        assert engine.join(60)
