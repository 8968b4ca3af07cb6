"""What an engine is made from, its texts, its draws and its clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import DoesNotFitError, UserError
from simulator.resolve import resolve
from simulator.scenario.load import load_scenario
from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    StaticPolicy,
)
from simulator.scenario.queue import PriorityQueue

from tests.engine_support import (  # isort: skip
    CPU,
    LLAMA,
    VOCAB,
    drawn,
    engine,
    greedy,
    limits,
    one_thread,  # noqa: F401
    plain_logits,
    replayed,
    sharing,
    some_requests,
    talks,
    torch,
    written,
)

from calibration.engine.build import Engine, Formats, build_engine
from calibration.engine.clock import ThreadClock, WallClock
from calibration.engine.ranks import Alone
from calibration.engine.texts import Texts
from simulator.deployment import ResolvedPrecision
from simulator.workload.requests import Requests


def complaint(make: Callable[[], Any]) -> str:
    """The one sentence that a mistake gets."""
    with pytest.raises(UserError) as caught:
        make()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# --- texts -----------------------------------------------------------------------------------------


def prompts(requests: Requests, seed: int = 0, vocab: int = 50_000) -> list[list[int]]:
    texts = Texts(requests, vocab, seed)
    texts.prepare()
    lengths = requests.input_tokens.tolist()
    return [texts.slice(index, 0, length).tolist() for index, length in enumerate(lengths)]


def alike(one: list[int], other: list[int]) -> int:
    """Tokens that two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_equal_streams_equal_tokens() -> None:
    texts = [[(7, 30)], [(7, 50)], [(7, 20), (8, 50)], [(9, 50)], [(7, 20)]]
    made = prompts(some_requests([(50, 1)] * 5, texts=texts))
    assert alike(made[0], made[1]) == 30
    assert alike(made[1], made[2]) == 20
    assert alike(made[1], made[3]) == 0
    assert alike(made[4], made[1]) == 20
    assert alike(made[4], made[2]) == 20  # what nobody shares is another text each time


def test_texts_of_one_s_own_differ() -> None:
    made = prompts(some_requests([(40, 1)] * 6))
    assert len({tuple(text[:3]) for text in made}) == 6
    assert all(0 <= token < 50_000 for text in made for token in text)


def test_another_seed_another_text() -> None:
    requests = sharing(1)
    assert prompts(requests, 3) == prompts(requests, 3)
    assert all(a != b for a, b in zip(prompts(requests, 3), prompts(requests, 4), strict=True))


def test_tokens_are_spread_over_the_vocabulary() -> None:
    (made,) = prompts(some_requests([(5000, 1)]), vocab=10)
    assert np.bincount(made, minlength=10).min() > 400


def test_an_answer_is_part_of_the_next_prompt() -> None:
    requests = some_requests(
        [(10, 4), (20, 3), (25, 1)],
        parent=[-1, 0, 1],
        texts=[[(1, 10)], [(1, 20)], [(1, 25)]],
        continues=[True, True, True],
    )
    texts = Texts(requests, 1000, 0)
    texts.prepare()
    first = texts.slice(0, 0, 10).tolist()
    texts.answers[0].extend([1, 2, 3, 4])
    assert texts.slice(0, 8, 13).tolist() == [*first[8:], 1, 2, 3]
    texts.ended(0)
    second = texts.slice(1, 0, 20).tolist()
    assert second[:14] == [*first, 1, 2, 3, 4]
    texts.answers[1].extend([5, 6, 7])
    texts.ended(1)
    assert texts.slice(2, 0, 23).tolist() == [*second, 5, 6, 7]


def test_the_last_turn_need_not_be_continued() -> None:
    """It begins with the answer before it all the same."""
    requests = some_requests(
        [(10, 4), (20, 3)], parent=[-1, 0], texts=[[(1, 10)], [(1, 20)]], continues=[True, False]
    )
    texts = Texts(requests, 1000, 0)
    texts.prepare()
    texts.answers[0].extend([1, 2, 3, 4])
    texts.ended(0)
    assert texts.slice(1, 10, 14).tolist() == [1, 2, 3, 4]


# --- draws -----------------------------------------------------------------------------------------


def drawn_answers(folder: Path, requests: Requests, temperature: float, seed: int) -> Any:
    run = engine(folder, limits(budget=32), seed=seed, temperature=temperature)
    return [run.serve(requests)[1].answers for _ in range(2)]


def test_draws_repeat(tmp_path) -> None:
    folder = written(tmp_path)
    requests = some_requests([(5, 10), (9, 10), (30, 4)])
    hot = drawn_answers(folder, requests, 1.0, 0)
    assert hot[0] == hot[1]
    assert hot == drawn_answers(folder, requests, 1.0, 0)
    assert hot != drawn_answers(folder, requests, 0.5, 0)
    assert hot != drawn_answers(folder, requests, 0.0, 0)


def test_another_seed_other_draws(tmp_path) -> None:
    """With the same weights and prompts."""
    folder = written(tmp_path)
    requests = some_requests([(5, 20)])
    answers = []
    for seed in (0, 1):
        run = engine(folder, temperature=2.0)
        run.executor.seed = seed
        answers.append(run.serve(requests)[1].answers)
    assert answers[0] != answers[1]


def test_draws_follow_the_softmax(tmp_path) -> None:
    """Many one-token answers to one prompt."""
    run = engine(
        written(tmp_path), limits(seqs=64, budget=2000, block_size=4), 2000, temperature=0.7
    )
    text = [1, 2, 3]
    n = 1500
    _, texts = run.serve(some_requests([(3, 1)] * n), prompts=dict.fromkeys(range(n), text))
    taken = np.bincount([answer[0] for answer in texts.answers], minlength=VOCAB)
    shares = (plain_logits(run.model, text)[-1] / 0.7).softmax(0).numpy().astype(float)
    often = shares * n >= 5
    chi2 = ((taken - shares * n) ** 2 / (shares * n))[often].sum()
    assert chi2 < often.sum() + 4 * np.sqrt(2 * often.sum())


# --- clocks ----------------------------------------------------------------------------------------


def test_the_clock_of_a_thread_jumps_over_waiting() -> None:
    clock = ThreadClock()
    began = time.perf_counter()
    clock.start()
    clock.wait_until(1000.0)
    assert 1000.0 <= clock.now() < 1000.5
    before = clock.now()
    clock.wait_until(3.0)  # that was long ago
    assert before <= clock.now() < 1000.5
    time.sleep(0.05)
    assert clock.now() - before < 0.04
    sum(range(300_000))
    assert clock.now() > before
    assert time.perf_counter() - began < 30


def test_a_wall_clock_waits() -> None:
    clock = WallClock()
    began = time.perf_counter()
    clock.start()
    clock.wait_until(0.02)
    assert clock.now() >= 0.02
    assert time.perf_counter() - began >= 0.02
    clock.wait_until(0.01)
    clock.start()
    assert clock.now() < 0.02


def test_late_requests_come_late_on_either_clock(tmp_path) -> None:
    requests = some_requests([(4, 2), (4, 2)], at=[0.0, 0.05])
    for clock in (WallClock(), ThreadClock()):
        steps, _ = engine(written(tmp_path)).serve(requests, clock)
        assert steps[2].start_s >= 0.05
        assert sum(step.seconds for step in steps) < 0.05 + steps[-1].end_s - steps[2].start_s
        replayed(steps, requests, limits(), 200)


# --- limits ----------------------------------------------------------------------------------------


def test_orders_of_the_queue(tmp_path) -> None:
    ordered = replace(limits(), queue=PriorityQueue())
    assert complaint(lambda: engine(written(tmp_path), ordered)) == (
        "engine.queue: the micro-engine serves first come, first served, not priority; leave it out"
    )


@pytest.mark.parametrize(
    "policy", [StaticPolicy(batch_size=4), DynamicPolicy(batch_size=4, window_ms=5)]
)
def test_padded_batches(tmp_path, policy) -> None:
    assert complaint(lambda: engine(written(tmp_path), limits(policy))) == (
        f"engine.policy: the micro-engine has no padded batches, as {policy.kind} needs; "
        "use continuous, prefill_first or full_reservation"
    )


@pytest.mark.parametrize(
    ("lengths", "limit", "blocks", "what"),
    [
        ((100, 30), limits(longest=128), 200, "more than max_model_len (128)"),
        ((100, 30), limits(), 32, "but a replica has 32 (room for 128 tokens)"),
        ((60, 10), limits(ContinuousPolicy(chunked_prefill=False), budget=64), 200, "and chunked_prefill is off"),
        ((4, 1), limits(seqs=8, budget=4), 200, "max_num_batched_tokens (4) is below max_num_seqs (8)"),
    ],
)  # fmt: skip
def test_what_never_fits_is_not_begun(tmp_path, lengths, limit, blocks, what) -> None:
    run = engine(written(tmp_path), limit, blocks)
    with pytest.raises(DoesNotFitError) as caught:
        run.serve(some_requests([(3, 1), lengths]))
    assert what in str(caught.value)
    assert run.executor.number.item() == 0


def test_the_largest_that_fits_is_served(tmp_path) -> None:
    limit = limits(longest=130, budget=8, block_size=4)
    run = engine(written(tmp_path), limit, 33)
    requests = some_requests([(100, 30), (129, 1), (1, 129)])
    _, texts = run.serve(requests)
    assert [len(answer) for answer in texts.answers] == [30, 1, 129]


def test_a_warm_engine_gives_the_same(tmp_path) -> None:
    """Warming up goes up to the longest text there may be, and leaves nothing behind."""
    folder, requests = written(tmp_path), sharing(3, gap=0.0)
    limit = limits(longest=99, block_size=16, budget=200)
    cold = engine(folder, limit, 50, temperature=1.0).serve(requests)[1].answers
    warm = engine(folder, limit, 50, temperature=1.0)
    warm.executor.warm_up(200)
    assert warm.serve(requests)[1].answers == cold


@pytest.mark.parametrize("longest", [1, 2, 16, 17])
def test_any_engine_warms_up(tmp_path, longest) -> None:
    limit = limits(longest=longest, seqs=1, budget=4, block_size=16)
    engine(written(tmp_path), limit, 2).executor.warm_up(100)


def test_repeated_steps_give_the_same(tmp_path) -> None:
    """Without pauses only durations differ."""
    folder, requests = written(tmp_path), talks(5, pause=0.0)
    limit = limits(budget=24)
    once = engine(folder, limit, temperature=1.0)
    again = engine(folder, limit, temperature=1.0)
    steps, texts = again.serve(requests, repeats=3)
    assert texts.answers == once.serve(requests)[1].answers
    replayed(steps, requests, limit, 200)


def test_repeated_steps_are_greedy(tmp_path) -> None:
    folder, requests = written(tmp_path), sharing(6, output=20, gap=0.0)
    run = engine(folder, limits(budget=24, ahead=True), 20)
    steps, texts = run.serve(requests, repeats=2)
    replayed(steps, requests, run.limits, 20)
    for index, prompt in enumerate(requests.input_tokens.tolist()):
        answer = texts.answers[index]
        whole = texts.slice(index, 0, prompt + len(answer)).tolist()
        assert greedy(plain_logits(run.model, whole), prompt, answer)


# --- from a scenario -------------------------------------------------------------------------------

SCENARIO: dict[str, Any] = {
    "hardware": "xeon-6980p-2s",
    "engine": {
        "profile": "micro-engine",
        "kv_cache_tokens": 2048,
        "max_model_len": 256,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
    },
    "precision": {"weights": "fp32", "kv_cache": "fp32"},
    "workload": {
        "kind": "synthetic",
        "arrivals": {"kind": "poisson", "rate_per_s": 100},
        "lengths": {
            "kind": "independent",
            "input": {"kind": "fixed", "tokens": 20},
            "output": {"kind": "fixed", "tokens": 4},
        },
        "requests": 10,
    },
}


def built(folder: Path | str, *overrides: str, **options: Any) -> Engine:
    scenario = load_scenario(SCENARIO | {"model": str(folder)}, overrides)
    found = resolve(scenario)
    return build_engine(found.deployment, found.layout, CPU, **options)


def test_a_scenario_runs(tmp_path) -> None:
    run = built(written(tmp_path), "measurement.seed=5")
    assert run.layout.blocks * run.layout.block_size == 2048
    assert (run.limits.max_num_seqs, run.limits.async_scheduling) == (8, False)
    assert run.model.kv[0][0].dtype == torch.float32
    assert run.seed == 5
    assert run.executor.graph_sizes == ()
    requests = drawn(1)
    steps, texts = run.serve(requests)
    assert [len(answer) for answer in texts.answers] == requests.output_tokens.tolist()
    replayed(steps, requests, run.limits, run.layout.blocks)


def test_a_window_keeps_every_token(tmp_path) -> None:
    """In the simulator's memory as in the engine's, so both have the same blocks."""
    run = built(written(tmp_path, LLAMA, model_type="mistral", sliding_window=16))
    assert run.layout.growing
    requests = drawn(1)
    steps, _ = run.serve(requests)
    replayed(steps, requests, run.limits, run.layout.blocks, 16)


ONE = (
    "the micro-engine runs one replica on one device, with clients that wait, and no network; "
    "leave it out"
)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("deployment.replicas=2", f"deployment.replicas: {ONE}"),
        ("deployment.timeout_s=3", f"deployment.timeout_s: {ONE}"),
        ("deployment.network_ms=3", f"deployment.network_ms: {ONE}"),
        (
            "engine.kv_allocation={kind: contiguous, reserve: exact}",
            "engine.kv_allocation: the micro-engine keeps KV blocks in device memory alone and "
            "computes what it forgets anew; leave it out",
        ),
    ],
)
def test_what_it_does_not_do(tmp_path, override, sentence) -> None:
    assert complaint(lambda: built(written(tmp_path), override)) == sentence


def test_tp_takes_as_many_ranks(tmp_path) -> None:
    class Pair(Alone):
        size = 2

    folder, sentence = written(tmp_path), f"parallelism.tp: {ONE}"
    assert complaint(lambda: built(folder, ranks=Pair())) == sentence
    four = ("hardware.profile=h100-sxm", "precision.weights=bf16", "parallelism.tp=4")
    assert complaint(lambda: built(folder, *four)) == sentence
    assert complaint(lambda: built(folder, *four, ranks=Pair())) == sentence


def test_other_engines(tmp_path) -> None:
    assert complaint(lambda: built(written(tmp_path), "engine.profile=vllm")).startswith(
        "engine.profile: runs the micro-engine, not vLLM"
    )


def test_a_policy_that_it_does_not_have(tmp_path) -> None:
    folder = written(tmp_path)
    scenario = SCENARIO | {"model": str(folder)}
    scenario["engine"] = {
        key: value for key, value in SCENARIO["engine"].items() if key != "max_num_batched_tokens"
    } | {"policy": {"kind": "static", "batch_size": 4}}
    found = resolve(load_scenario(scenario))
    assert complaint(lambda: build_engine(found.deployment, found.layout, CPU)) == (
        "engine.policy: the micro-engine has no padded batches, as static needs; "
        "use continuous, prefill_first or full_reservation"
    )


def test_a_preset_has_no_weights() -> None:
    assert complaint(lambda: built("qwen2.5-0.5b", "precision.weights=bf16", checkpoint=True)) == (
        "model: qwen2.5-0.5b is a preset, which has no weights; "
        "give the folder of a checkpoint with its config.json and *.safetensors"
    )


def test_a_folder_without_weights(tmp_path) -> None:
    assert complaint(lambda: built(written(tmp_path), checkpoint=True)) == (
        f"{tmp_path}: the folder holds no *.safetensors"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("fp32", "fp32", "fp32"), Formats(torch.float32, None, torch.float32)),
        (("bf16", "bf16", "fp8"), Formats(torch.bfloat16, None, torch.float8_e4m3fn)),
        (("fp16", "fp16", "fp16"), Formats(torch.float16, None, torch.float16)),
        (("int8", "bf16", "bf16"), Formats(torch.bfloat16, "int8", torch.bfloat16)),
        (("fp8", "fp8", "fp8"), Formats(torch.bfloat16, "fp8", torch.float8_e4m3fn)),
    ],
)
def test_formats(given, expected) -> None:
    assert Formats.of(ResolvedPrecision(*given)) == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("int4", "bf16", "bf16"), "precision: the micro-engine has no products of bf16 with weights in int4; it has fp32, bf16, fp16, weights: int8 with activations: bf16, and fp8"),
        (("fp8", "bf16", "bf16"), "precision: the micro-engine has no products of bf16 with weights in fp8; it has fp32, bf16, fp16, weights: int8 with activations: bf16, and fp8"),
        (("int8", "int8", "bf16"), "precision: the micro-engine has no products of int8 with weights in int8; it has fp32, bf16, fp16, weights: int8 with activations: bf16, and fp8"),
        (("bf16", "bf16", "int8"), "precision.kv_cache: the micro-engine has no KV cache in int8; it has fp32, bf16, fp16, fp8"),
    ],
)  # fmt: skip
def test_formats_that_it_does_not_have(given, sentence) -> None:
    assert complaint(lambda: Formats.of(ResolvedPrecision(*given))) == sentence


@pytest.mark.parametrize("narrow", ["int8", "fp8"])
def test_a_narrow_scenario_runs(tmp_path, narrow) -> None:
    folder = written(tmp_path)
    formats = Formats.of(ResolvedPrecision(narrow, {"int8": "bf16"}.get(narrow, narrow), "fp8"))
    run = engine(folder, limits(FullReservationPolicy()), formats=formats)
    requests = drawn(2, 5)
    _, texts = run.serve(requests)
    assert [len(answer) for answer in texts.answers] == requests.output_tokens.tolist()
