"""A roofline in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.results.format import NOTHING, number, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from simulator.rooflines.figures import Roof, Roofline, RooflineStep

_WIDTH = 120
_LEAST_SHARE = 0.001


def render_roofline(found: Roofline, name: str, console: Console) -> None:
    """Prints the roofs, the operators of each step, and where decoding turns compute-bound."""
    from rich.text import Text

    def show(item: Any) -> None:
        console.print(item, width=min(_WIDTH, console.width), markup=False, highlight=False)

    show(Text(name, style="bold"))
    of_what = "" if len(found.parts) == 1 else f"; {found.part}"
    layout = f", {found.layout}" if found.layout else ""
    show(Text(f"{found.model} on {found.hardware}{layout}{of_what}"))
    show("")
    show(_roofs(found.roofs))
    for step in found.steps:
        show("")
        show(Text(step_line(step), style="bold"))
        show(_operators(step))
    show("")
    for line in (*turning_lines(found), *found.notes):
        show(Text(line))


def step_line(step: RooflineStep) -> str:
    """What a step is, how long it takes and what binds it, in one line."""
    if step.kind == "prefill":
        what = f"Prefill of {step.tokens:,} tokens of one prompt"
    else:
        each = f", {step.tokens} tokens each," if step.tokens > 1 else ""
        what = f"Decode of {step.sequences:,} sequences{each} with {step.context:,} of context each"
    return (
        f"{what}: {number(1e3 * step.seconds)} ms, bound by {step.bound} "
        f"({percent(step.resource_share[step.bound], 0)} of the time); "
        f"{percent(step.flops_share)} of peak FLOP/s, {percent(step.bytes_share)} of bandwidth"
    )


def turning_lines(found: Roofline) -> list[str]:
    """Where decoding turns compute-bound, in words; nothing where that is not known."""
    if found.turning is None:
        return []

    def at(batch: int | None) -> str:
        return "at no batch" if batch is None else f"from {batch:,} sequences on"

    products, whole = found.turning.products, found.turning.whole_step
    return [
        f"Decode turns compute-bound: products {at(products)}, whole steps {at(whole)} "
        f"({found.context:,} tokens of context each). The engine runs {found.most_sequences:,} "
        f"sequences at most; the KV cache holds {found.most_in_cache:,} of them."
    ]


def _roofs(roofs: tuple[Roof, ...]) -> Table:
    table = _table("roof", "TFLOP/s", "TB/s", "ridge", "fitted TFLOP/s", "TB/s", "ridge")
    for roof in roofs:
        table.add_row(
            f"{roof.kernels}, {roof.format}",
            *(number(value) for value in (
                roof.peak_flops_per_s / 1e12, roof.bytes_per_s / 1e12, roof.ridge,
                roof.fitted_flops_per_s / 1e12, roof.fitted_bytes_per_s / 1e12, roof.fitted_ridge,
            )),
        )  # fmt: skip
    return table


def _operators(step: RooflineStep) -> Table:
    table = _table("operator", "ms", "share", "FLOP/byte", "TFLOP/s", "GB/s", "of roof", "bound by")
    for each in step.operators:
        if each.share >= _LEAST_SHARE:
            table.add_row(
                each.name, number(1e3 * each.seconds), percent(each.share),
                NOTHING if each.intensity is None else number(each.intensity),
                number(each.flops_per_s / 1e12) if each.flops else NOTHING,
                number(each.bytes_per_s / 1e9), percent(each.floor_s / each.seconds, 0),
                each.bound,
            )  # fmt: skip
    for name, seconds in (("weight_gather", step.gather_s), ("host", step.host_s)):
        if seconds >= _LEAST_SHARE * step.seconds:
            share = percent(seconds / step.seconds)
            bound = "network" if name == "weight_gather" else "host"
            table.add_row(name, number(1e3 * seconds), share, *[NOTHING] * 4, bound)
    return table


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), collapse_padding=True, show_edge=False)
    for column in columns:
        left = column in ("roof", "operator", "bound by")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table
