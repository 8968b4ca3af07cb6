"""One model on several ranks gives what it gives on one."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.engine_support import (  # isort: skip
    CPU,
    LLAMA,
    MIXTRAL,
    QWEN2_MOE,
    VOCAB,
    drawn,
    engine,
    limits,
    one_thread,  # noqa: F401
    plain_logits,
    pooled,
    sharing,
    talks,
    torch,
    written,
)

from calibration.engine.decoder import load_runnable
from calibration.engine.model import Model
from calibration.engine.ranks import Alone, Group
from calibration.engine.weights import RandomSource, build_weights
from calibration.kernels import choose

MODELS: dict[str, dict[str, Any]] = {
    "kv-heads": LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8},
    "one-kv-head": LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "two-kv-heads": LLAMA | {"num_key_value_heads": 2, "vocab_size": 197},
    "qk-norm": LLAMA | {"model_type": "qwen3", "head_dim": 16},
    "biases": LLAMA | {"model_type": "qwen2"},
    "experts": MIXTRAL,
    "shared-experts": QWEN2_MOE,
}


# --- shares of the weights -------------------------------------------------------------------------


class Threads:
    """Ranks that are threads of one process."""

    def __init__(self, rank: int, size: int, shared: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._shared, self._barrier = rank, size, shared, barrier

    def _all(self, x: Any) -> list[Any]:
        self._shared[self.rank] = x
        self._barrier.wait()
        every = list(self._shared)
        self._barrier.wait()
        return every

    def all_reduce(self, x: Any) -> Any:
        return torch.stack(self._all(x)).sum(0)

    def all_gather(self, x: Any) -> Any:
        return torch.cat(self._all(x), dim=-1)


def model(folder: Path, ranks: Any, narrow: Any = None) -> Model:
    decoder = load_runnable(str(folder))
    weights = build_weights(
        decoder, RandomSource(5, torch.float32, CPU), narrow, ranks.rank, ranks.size
    )
    return Model(decoder, weights, choose("torch"), ranks, [], 64)


def on_threads(size: int, compute: Any) -> list[Any]:
    """What ``compute(ranks)`` gives on each of ``size`` ranks."""
    shared: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=30)
    found: list[Any] = [None] * size

    def work(rank: int) -> None:
        try:
            found[rank] = compute(Threads(rank, size, shared, barrier))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_ranks_add_up_to_the_whole(tmp_path, name, size) -> None:
    folder = written(tmp_path, MODELS[name])
    tokens = [(i * 37) % (VOCAB - 3) for i in range(20)]
    whole = plain_logits(model(folder, Alone()), tokens)
    parts = on_threads(size, lambda ranks: plain_logits(model(folder, ranks), tokens))
    for logits in parts:
        assert logits.shape == whole.shape
        assert torch.equal(logits, parts[0])
        torch.testing.assert_close(logits, whole, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["two-kv-heads", "experts"])
def test_narrow_weights_are_shared_too(tmp_path, name) -> None:
    folder = written(tmp_path, MODELS[name])
    tokens = [(i * 37) % 190 for i in range(20)]
    whole = plain_logits(model(folder, Alone(), "int8"), tokens)
    for logits in on_threads(2, lambda ranks: plain_logits(model(folder, ranks, "int8"), tokens)):
        torch.testing.assert_close(logits, whole, atol=0.05, rtol=0.05)  # scales are a part's own


def test_what_does_not_fit_is_padded(tmp_path) -> None:
    """199 rows on two ranks: 100 and 99, and a row of zeros that nobody's token can be."""
    folder = written(tmp_path)
    shares = [
        build_weights(
            load_runnable(str(folder)), RandomSource(5, torch.float32, CPU), None, rank, 2
        )
        for rank in range(2)
    ]
    assert [len(share.embedding) for share in shares] == [100, 100]
    assert not shares[1].embedding[-1].any()
    assert shares[1].lm_head.weight.shape == (100, 32)


# --- processes -------------------------------------------------------------------------------------

LOADS = {
    "kv-heads": lambda: drawn(1),
    "one-kv-head": lambda: sharing(2, output=20, gap=0.0),
    "experts": lambda: talks(3),
    "shared-experts": lambda: pooled(4),
}


def served(folder: Path, name: str, **options: Any) -> Any:
    limit = limits(budget=24, ahead=name == "experts")
    draws = (
        1.0 if name == "one-kv-head" else 0.0
    )  # its requests come at once: no step hangs on time
    config = written(folder / name, MODELS[name])
    return engine(config, limit, 36, seed=7, temperature=draws, **options)


def one_of_two(rank: int, folder: str) -> None:
    """What each process does."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    answers = {}
    for name, load in LOADS.items():
        run = served(Path(folder) / str(rank), name, ranks=Group())
        if rank:
            run.follow()
            continue
        run.executor.warm_up(16)
        answers[name] = [run.serve(load())[1].answers for _ in range(2)]
        run.close()
        run.close()
    if not rank:
        (Path(folder) / "answers.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


def test_two_processes_serve_as_one(tmp_path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    found = json.loads((tmp_path / "answers.json").read_text())
    for name, load in LOADS.items():
        alone = served(tmp_path / "alone", name).serve(load())[1].answers
        assert found[name] == [alone, alone], name


def test_alone_there_is_nobody_to_follow(tmp_path) -> None:
    run = engine(written(tmp_path))
    run.close()
    with pytest.raises(AssertionError, match="nobody to follow"):
        run.follow()
