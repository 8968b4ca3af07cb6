"""``roofline``: the operators of a step against what the device can do."""

from __future__ import annotations

import click

from simulator.cli.output import console, echo_json
from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option

_COUNT = click.IntRange(min=1)


@click.command("roofline")
@scenario_argument
@set_option
@click.option("--batch", type=_COUNT, metavar="N", help="Sequences of the decode step.")
@click.option("--context", type=_COUNT, metavar="TOKENS", help="That each of them attends to.")
@click.option(
    "--prompt-tokens", type=_COUNT, metavar="TOKENS", help="Of the prompt of the prefill step."
)
@click.option(
    "--part", metavar="NAME", help="A pool, a stage of a pipeline …  [default: the first one]"
)
@json_option
def roofline_command(
    file: str,
    overrides: tuple[str, ...],
    batch: int | None,
    context: int | None,
    prompt_tokens: int | None,
    part: str | None,
    as_json: bool,
) -> None:
    """Show the operators of a prefill and a decode step on the device's roofline.

    FILE is a scenario: a YAML file, the name of a shipped one, or - for standard input. Nothing is
    simulated. Sizes that are not given follow the scenario's traffic and limits.
    """
    from simulator.rooflines import roofline

    with loaded(file, overrides) as scenario:
        found = roofline(
            scenario, part=part, batch=batch, context=context, prompt_tokens=prompt_tokens
        )
    if as_json:
        echo_json({"name": scenario.name, **found.as_dict()})
        return
    from simulator.rooflines.terminal import render_roofline

    render_roofline(found, scenario.name, console())
