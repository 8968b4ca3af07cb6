"""Tables of a real run beside its prediction, for the terminal, the HTML report and documents."""

from __future__ import annotations

from collections.abc import Sequence

from calibration.validate.engine.machine import calibrated_pace
from calibration.validate.engine.run import Compared, EngineValidation
from calibration.validate.engine.steps import StepErrors
from calibration.validate.figure import HEAD, Rows, figure_rows, shown, signed
from calibration.validate.tables import markdown_table
from simulator.results.format import number

LOAD_HEAD = HEAD
STEPS_HEAD = ("steps", "number", "time", "mean ms", "median error", "p90 error", "bias", "in all")


def facts(outcome: EngineValidation) -> list[tuple[str, str]]:
    """What was run where."""
    machine = outcome.machine
    deployment = outcome.resolved.deployment
    precision, limits = deployment.precision, deployment.limits
    software = f"PyTorch {machine['torch']}, kernels: {machine['kernels']}"
    if machine["triton"] and machine["kind"] == "cuda":
        software += f" {machine['triton']}"
    limit = outcome.capacity_per_s
    return [
        ("Engine ran on", f"{machine['device']} · {software} · {machine['date'][:10]}"),
        ("Clock", _clock(outcome)),
        ("Predicted for", deployment.hardware.title),
        (
            "Model",
            f"{deployment.model.name} · weights {precision.weights}"
            f"{' from its checkpoint' if outcome.checkpoint else ' (random)'}, "
            f"activations {precision.activations}, KV cache {precision.kv_cache}",
        ),
        (
            "Limits",
            f"{limits.max_num_seqs:,} sequences, {limits.max_num_batched_tokens:,} tokens a step, "
            f"{outcome.resolved.layout.blocks:,} KV blocks of {limits.block_size}",
        ),
        ("Capacity", "" if limit is None else f"{number(limit)} requests/s, predicted"),
        ("Plans", f"all {len(outcome.steps):,} steps are those that the simulator plans"),
        ("Error", "predicted / measured − 1; of steps: |predicted − measured| / measured"),
    ]


def _paced(outcome: EngineValidation) -> bool:
    return calibrated_pace(outcome.resolved, outcome.machine["device"]) is not None


def _clock(outcome: EngineValidation) -> str:
    text = {"cuda": "real time"}.get(
        outcome.machine["kind"], "computing time of the one thread that runs everything"
    )
    if outcome.machine["kind"] == "cpu" and _paced(outcome):
        text += ", at the pace at which it was calibrated"
    if outcome.machine["repeats"] > 1:
        text += f", each step run {outcome.machine['repeats']} times and the median counted"
    if outcome.rounds > 1:
        text += f"; figures are medians over {outcome.rounds} rounds"
    return text


def warnings(outcome: EngineValidation) -> list[str]:
    """What makes the comparison say less than it seems to."""
    hardware = outcome.resolved.deployment.hardware
    if (hardware.kind == "cpu") != (outcome.machine["kind"] == "cpu"):
        return [
            f"The engine ran on a {'CPU' if outcome.machine['kind'] == 'cpu' else 'GPU'} and the "
            f"prediction is for {hardware.title}: only the plans can be compared."
        ]
    if outcome.machine["kind"] == "cpu" and not _paced(outcome):
        return [
            f"{hardware.title} was not measured on this {outcome.machine['device']}: `simulate "
            "calibrate` and `simulate fit --measured` make a profile of it."
        ]
    return []


def title(compared: Compared) -> str:
    """0.8 of capacity: 12.3 requests/s, 200 requests."""
    load = compared.load
    count = f"{len(load.requests):,} requests"
    if load.multiple is None or load.rate_per_s is None:
        return f"{count} as the scenario sends them"
    return f"{load.multiple:g} × capacity: {number(load.rate_per_s)} requests/s, {count}"


def load_rows(compared: Compared) -> Rows:
    """A row a metric, see ``LOAD_HEAD``; then steps, which have no error."""
    rows = figure_rows(compared.figures)
    rounds = max(len(figure.rounds) for figure in compared.figures)
    steps = number(len(compared.steps) / rounds)
    rows.append(("Steps", steps, f"{compared.predicted_steps:,}", "", "", ""))
    return rows


def step_rows(found: Sequence[StepErrors]) -> Rows:
    """A row a kind of step, see ``STEPS_HEAD``; the last column is predicted over measured time of
    all of them together."""
    return [
        (
            e.kind, f"{e.steps:,}", f"{e.share:.1%}", number(e.mean_ms),
            f"{e.median_error_pct:.1f}%", f"{e.p90_error_pct:.1f}%", f"{e.bias:.2f}",
            f"{e.time_ratio:.2f}",
        )
        for e in found
    ]  # fmt: skip


def overview(loads: Sequence[Compared]) -> tuple[tuple[str, ...], Rows]:
    """Head and rows of one table: a row a metric, a column a load, each cell measured → predicted
    and the error."""
    head = ("", *(column(compared) for compared in loads))
    rows: Rows = []
    for figures in zip(*(compared.figures for compared in loads), strict=True):
        if all(figure.real is None for figure in figures):
            continue
        cells = (
            f"{shown(f, f.real, unit=False)} → {shown(f, f.predicted, unit=False)} "
            f"({signed(f.error_pct, short=True)})"
            for f in figures
        )
        unit = figures[0].metric.unit
        name = figures[0].metric.title + (f", {unit}" if unit else "")
        rows.append((name, *cells))
    return head, rows


def column(compared: Compared) -> str:
    """0.8 × (12.3/s)."""
    load = compared.load
    if load.multiple is None or load.rate_per_s is None:
        return "as it is"
    return f"{load.multiple:g} × ({number(load.rate_per_s)}/s)"


def markdown(outcome: EngineValidation) -> str:
    """The tables of a document."""
    parts = [
        "\n".join(f"- {name}: {text}" for name, text in facts(outcome) if text),
        *warnings(outcome),
        "Measured → predicted"
        + (", by multiples of the predicted capacity:" if outcome.capacity_per_s else ":"),
        markdown_table(*overview(outcome.loads)),
        "Steps:",
        markdown_table(STEPS_HEAD, step_rows(outcome.step_errors)),
    ]
    return "\n\n".join(parts) + "\n"
