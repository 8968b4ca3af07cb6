"""The timing of kernel configurations, with the kernels in Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.triton_support import DEVICE, torch

from calibration.kernels.gpu import decode_attention, prefill_attention  # isort: skip
from calibration.measure.configs import decode_configs, paged, prefill_configs  # isort: skip
from calibration.measure.gpu import CallTimer  # isort: skip


def test_every_configuration_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    device, timer = torch.device(DEVICE), CallTimer(1)
    for module in (decode_attention, prefill_attention):
        monkeypatch.setattr(module, "CANDIDATES", module.CANDIDATES[:2])
    found = list(decode_configs(timer, device, 2, 40, 4, 2, 64))
    found += list(prefill_configs(timer, device, 20, 4, 2, 64))
    assert [timed.kernel for timed in found] == ["decode"] * 2 + ["prefill"] * 2
    assert len({timed.config for timed in found}) == 4
    for timed in found:
        work = 4 * 2 * 40 * 2 * 64 if timed.kernel == "decode" else 4 * 4 * 64 * 20 * 21 / 2
        assert timed.rate == pytest.approx(work / timed.seconds)


def test_blocks_are_dealt_at_random_and_once() -> None:
    cache = paged(3, 33, 2, 8, torch.device("cpu"))
    assert cache.keys.shape == (9, 16, 2, 8)
    assert sorted(cache.tables.flatten().tolist()) == list(range(9))
    assert cache.tables.flatten().tolist() != list(range(9))
