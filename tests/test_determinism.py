"""The same run gives the same bytes: again in this process, and in others with other hash seeds."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from simulator.cluster import run_cluster
from simulator.results.record import RunRecord
from simulator.scenario.routers import PowerOfTwoRouter, PrefixAwareRouter, RandomRouter, Router
from tests.strategies import CONTINUOUS, random_case

ROUTERS: dict[str, Router] = {
    "random": RandomRouter(),
    "power_of_two": PowerOfTwoRouter(),
    "prefix_aware": PrefixAwareRouter(max_imbalance=2),
}
ROOT = Path(__file__).resolve().parent.parent


def fingerprint(record: RunRecord) -> str:
    """Hash of every column."""
    digest = hashlib.sha256()
    for part in (record, record.steps, record.gaps):
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f"{field.name} {value.dtype} {value.shape}".encode())
                digest.update(value.tobytes())
    return digest.hexdigest()


def run_once(router: str, seed: int = 7) -> RunRecord:
    case = random_case(np.random.default_rng(11), CONTINUOUS[0], prefix_caching=True, n=150)
    return run_cluster(
        case.requests,
        case.limits,
        case.kv_blocks,
        case.cost,
        replicas=4,
        router=ROUTERS[router],
        seed=seed,
    )


def in_another_process(router: str, hash_seed: str) -> str:
    code = f"from tests.test_determinism import *; print(fingerprint(run_once({router!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("router", ROUTERS)
def test_same_bytes_in_any_process(router: str) -> None:
    here = fingerprint(run_once(router))
    assert in_another_process(router, "1") == here
    assert in_another_process(router, "4242") == here


@pytest.mark.parametrize("router", ROUTERS)
def test_a_second_run_in_the_same_process_is_the_same(router: str) -> None:
    """Nothing global survives a run."""
    first = run_once(router)
    run_once(router, seed=8)
    assert fingerprint(run_once(router)) == fingerprint(first)


def test_the_seed_matters() -> None:
    assert fingerprint(run_once("random", seed=1)) != fingerprint(run_once("random", seed=2))


def test_fingerprint_sees_a_single_bit() -> None:
    record = run_once("random")
    before = fingerprint(record)
    record.steps.first_s[3] = np.nextafter(record.steps.first_s[3], 1.0)
    assert fingerprint(record) != before
