"""A scenario run for real by the micro-engine and predicted by the simulator, side by side
(``simulate validate --engine``)."""

from __future__ import annotations

from simulator.errors import UserError


def need_torch() -> None:
    """Everything else in this package imports torch.

    Raises:
        UserError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "the micro-engine runs on PyTorch, which is not installed",
            where="--engine",
            hint="pip install 'servecast[calibration]'",
        ) from None
    del torch
