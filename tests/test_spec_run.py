"""Speculative decoding from the scenario to the result: memory, figures, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.cli.scenarios import _memory_rows
from simulator.errors import UserError
from simulator.models import load_model
from simulator.models.counting import kv_bytes_per_token, mtp_parameters, weight_bytes
from simulator.models.layout import Layout
from simulator.resolution.speculation import Target, speculate
from simulator.resolve import Resolved, resolve
from simulator.results import Result
from simulator.results.phrases import speculation_lines
from simulator.scenario.scenario import Scenario
from simulator.scenario.speculative import NgramSpeculative
from simulator.simulation import simulate

GIB = 2**30
DRAFT: dict[str, Any] = {
    "kind": "draft_model", "model": "llama-3.2-1b", "tokens": 4, "acceptance": 0.8,
}  # fmt: skip


def scenario(speculative: dict[str, Any] | None, **changes: Any) -> Scenario:
    """Eight users who want 300 tokens each of Llama-3.1-8B on one H100."""
    engine = {"profile": "vllm", "max_num_seqs": 512, "prefix_caching": False}
    return Scenario.model_validate(
        {
            "model": changes.get("model", "llama-3.1-8b"),
            "hardware": {"profile": changes.get("hardware", "h100-sxm")},
            "parallelism": {"tp": changes.get("tp", 1)},
            "precision": changes.get("precision", {}),
            "engine": engine | {"speculative": speculative} | changes.get("engine", {}),
            "measurement": {"warmup_fraction": 0.0, "include_drain": True},
            "workload": {
                "kind": "synthetic",
                "requests": changes.get("requests", 64),
                "arrivals": {"kind": "closed_loop", "concurrency": changes.get("users", 8)},
                "lengths": {
                    "kind": "independent",
                    "input": {"kind": "fixed", "tokens": 200},
                    "output": {"kind": "fixed", "tokens": 300},
                },
            },
        }
    )


def run(speculative: dict[str, Any] | None, **changes: Any) -> Result:
    return simulate(scenario(speculative, **changes), intervals=False)


def tpot(result: Result) -> float:
    return float(result.summary()["latency"]["tpot_ms"]["mean"])


# --- when it helps -------------------------------------------------------------------------------


def test_helps_few_users_and_hurts_many() -> None:
    few, many = {"users": 2, "requests": 20}, {"users": 500, "requests": 1000}
    assert tpot(run(DRAFT, **few)) < 0.75 * tpot(run(None, **few))
    assert tpot(run(DRAFT, **many)) > 1.1 * tpot(run(None, **many))


def test_breaks_even_where_large_batches_draft_nothing() -> None:
    """What is drafted at both ends of the run is a small gain."""
    many = {"users": 400, "requests": 800}
    ngram = {"kind": "ngram", "tokens": 4, "acceptance": 0.3}
    plain = tpot(run(None, **many))
    assert tpot(run(ngram, **many)) > 1.1 * plain
    assert tpot(run(ngram | {"max_batch": 16}, **many)) == pytest.approx(plain, rel=0.01)
    for other in (DRAFT, {"kind": "eagle", "tokens": 4, "acceptance": 0.7}):
        assert tpot(run(other | {"max_batch": 16}, **many)) == pytest.approx(plain, rel=0.02)


def test_first_tokens_wait_for_the_draft_to_read_the_prompt_and_for_nothing_else() -> None:
    alone = {"users": 1, "requests": 3}
    with_, without = run(DRAFT, **alone), run(None, **alone)
    later = with_.record.first_token_s[0] - without.record.first_token_s[0]
    work = with_.accountant.account(with_.record.steps)
    drafted = sum(part[0] for name, part in work.operator_s.items() if name.startswith("draft_"))
    assert later == pytest.approx(drafted)
    ngram = run({"kind": "ngram", "tokens": 4, "acceptance": 0.3}, **alone)
    assert ngram.record.first_token_s[0] == without.record.first_token_s[0]


# --- memory --------------------------------------------------------------------------------------


def memory(speculative: dict[str, Any] | None, **changes: Any) -> Resolved:
    return resolve(scenario(speculative, **changes))


def test_a_draft_takes_its_weights_and_a_cache_of_its_own() -> None:
    model, draft = load_model("llama-3.1-8b"), load_model("llama-3.2-1b")
    plain, with_ = (memory(d).deployment.memory for d in (None, DRAFT))
    weights = weight_bytes(draft, "bf16") / GIB
    assert with_.weights_gib - plain.weights_gib == pytest.approx(weights)
    assert with_.beside_gib == pytest.approx(weights)
    both = kv_bytes_per_token(model, "bf16") + kv_bytes_per_token(draft, "bf16")
    assert with_.block_bytes == pytest.approx(16 * both)
    assert with_.kv_blocks < plain.kv_blocks
    assert any("draft" in name for name, _ in _memory_rows(memory(DRAFT).deployment))


def test_an_eagle_layer_takes_a_layer_and_its_projection() -> None:
    plain = memory(None).deployment.memory
    eagle = {"kind": "eagle", "tokens": 3, "acceptance": 0.7}
    shared, reduced = (memory(eagle | more).deployment.memory for more in ({}, {"vocab": 32000}))
    # 218.1 M parameters of one of Llama-3.1-8B's layers, and 2 · 4096 · 4096 of the projection.
    assert shared.beside_gib == pytest.approx(2 * (218_112_000 + 2 * 4096**2) / GIB, rel=1e-4)
    assert reduced.beside_gib - shared.beside_gib == pytest.approx(2 * 32000 * 4096 / GIB)
    assert shared.block_bytes == pytest.approx(plain.block_bytes * 33 / 32)


def test_an_mtp_module_is_what_the_model_says() -> None:
    spec = load_model("deepseek-v3")
    changes = {"model": "deepseek-v3", "hardware": "h200-sxm", "tp": 8}
    with_ = memory({"kind": "mtp", "tokens": 1, "acceptance": 0.85}, **changes)
    # Experts are in fp8, so that a byte a parameter is a little less than all; attention's latents
    # lie on every device.
    share = with_.deployment.memory.beside_gib * GIB / (mtp_parameters(spec) / 8)
    assert 1.0 < share < 1.15
    plain = memory(None, **changes).deployment.memory
    assert with_.deployment.memory.block_bytes == pytest.approx(plain.block_bytes * 62 / 61)


def test_one_device_may_run_the_draft() -> None:
    whole, alone = (memory(DRAFT | more, tp=4) for more in ({}, {"draft_tp": 1}))
    ratio = alone.deployment.memory.beside_gib / whole.deployment.memory.beside_gib
    assert 3.5 < ratio <= 4.0
    assert alone.cost.decode(1, 500, 0, 0)[0] > whole.cost.decode(1, 500, 0, 0)[0]
    result = run(DRAFT | {"draft_tp": 1}, tp=4, requests=8)
    result.check_integrity()
    work = result.accountant.account(result.record.steps)
    assert (
        work.energy_j > 4 * 0.99 * result.accountant.idle_w / 4 * result.record.steps.duration_s
    ).all()


# --- figures -------------------------------------------------------------------------------------


def test_the_summary_says_what_it_brought() -> None:
    result = run(DRAFT)
    result.check_integrity()
    summary = result.summary()
    found = summary["speculation"]
    decoded = 64 * 299
    assert found["accepted_tokens"] + found["drafted_tokens"] / 4 == decoded
    assert found["rejected_tokens"] == found["drafted_tokens"] - found["accepted_tokens"]
    expected = (1 - 0.8**5) / (1 - 0.8)
    assert found["tokens_per_verification"] == pytest.approx(expected, rel=0.02)
    assert found["acceptance_rate"] == pytest.approx((expected - 1) / 4, rel=0.02)
    assert found["verified_share"] == 1.0
    assert 0.05 < found["drafting_time_share"] < 0.5
    assert 0.1 < found["rejected_flops_share"] < 0.5
    assert 0.0 < found["drafting_flops_share"] < 0.3
    itl, per_step = (summary["latency"][key] for key in ("itl_ms", "itl_per_step_ms"))
    assert itl["n"] == decoded
    assert per_step["n"] == decoded - found["accepted_tokens"]
    assert itl["min"] == 0.0 < per_step["min"]
    assert itl["mean"] * itl["n"] == pytest.approx(per_step["mean"] * per_step["n"])
    assert summary["throughput"]["output_tokens_per_s"] * summary["run"]["window"][
        "duration_s"
    ] == pytest.approx(64 * 300)
    lines = speculation_lines(summary)
    assert "draft model llama-3.2-1b, 4 tokens" in lines[0]


def test_nobody_speculates_nothing_is_said() -> None:
    summary = run(None, requests=8).summary()
    assert set(summary["speculation"].values()) == {None}
    assert summary["latency"]["itl_per_step_ms"]["n"] == 0
    assert speculation_lines(summary) == []


def test_the_seed_decides_what_is_accepted() -> None:
    one, same = (run(DRAFT, requests=16).record.finish_s for _ in range(2))
    assert (one == same).all()
    other = simulate(
        scenario(DRAFT, requests=16).model_copy(
            update={"measurement": scenario(DRAFT).measurement.model_copy(update={"seed": 9})}
        ),
        intervals=False,
    )
    assert (other.record.finish_s != one).any()


# --- refusals ------------------------------------------------------------------------------------

NGRAM = {"kind": "ngram", "tokens": 3, "acceptance": 0.5}
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (NGRAM | {"tokens": 0}, {}, "greater than or equal to 1"),
    (NGRAM | {"acceptance": [0.5, 0.5]}, {}, "lists 2 probabilities for 3 drafted tokens"),
    (NGRAM | {"acceptance": 1.5}, {}, "less than or equal to 1"),
    (NGRAM | {"model": "llama-3.2-1b"}, {}, "not permitted"),
    (DRAFT | {"model": "qwen3-0.6b"}, {}, "vocabulary of 151,936 tokens and llama-3.1-8b"),
    (DRAFT | {"model": "nobody"}, {}, "there is no model 'nobody'"),
    (DRAFT | {"model": "llama-3-8b"}, {}, "made for 8,192 tokens"),
    (DRAFT | {"model": "llama-3.3-70b"}, {}, "does not fit beside llama-3.1-8b"),
    (DRAFT | {"precision": {"weights": "bf16", "activations": "fp8"}}, {}, "need weights of"),
    ({"kind": "mtp", "tokens": 1, "acceptance": 0.8}, {}, "no modules that predict further"),
    ({"kind": "eagle", "tokens": 1, "acceptance": 0.8, "vocab": 200_000}, {}, "is larger than"),
    (NGRAM, {"model": "falcon-h1-7b"}, "has recurrent layers"),
    (NGRAM, {"engine": {"policy": {"kind": "static", "batch_size": 4}}}, "static batches do not"),
    (NGRAM, {"engine": {"max_num_batched_tokens": 1000}}, "2048 tokens of decoding sequences"),
]


@pytest.mark.parametrize(("speculative", "changes", "said"), REFUSED, ids=[s for *_, s in REFUSED])
def test_what_cannot_be_is_refused_with_the_reason(
    speculative: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises((UserError, ValueError), match=said) as error:
        run(speculative, **changes)
    if isinstance(error.value, UserError):
        assert str(error.value.where).startswith("engine.speculative")
        assert error.value.hint


@pytest.mark.parametrize("layout", [Layout(pp=2), Layout(dp=2, ep=2)], ids=["pp", "dp"])
def test_pipelines_and_lockstep_ranks_do_not_speculate(layout: Layout) -> None:
    found = memory(None).deployment
    target = Target(
        found.model, found.hardware, found.engine, found.precision, layout, found.limits
    )
    asked = NgramSpeculative.model_validate(NGRAM)
    with pytest.raises(UserError, match="not with pipelines"):
        speculate(asked, target, lambda *_: found.precision, None, 0)
