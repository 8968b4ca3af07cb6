"""``features``: what the product covers."""

from __future__ import annotations

import click

from simulator.cli.output import echo_json, echo_table
from simulator.cli.scenarios import json_option


@click.command()
@click.argument("word", metavar="[WORD]", required=False)
@click.option("--area", metavar="AREA", help="Only one area, e.g. --area 'KV cache'.")
@json_option
def features(word: str | None, area: str | None, as_json: bool) -> None:
    """Show what can be simulated, and how it is asked for.

    WORD shows only the rows that hold it, e.g. preemption or examples/chat-8b-h100.yaml.
    """
    from itertools import groupby

    from simulator.features import chosen, document, load_features

    rows = chosen(load_features(), area, word)
    if as_json:
        echo_json(document(rows))
        return
    if not rows:
        click.echo("No feature holds this word.")
        return
    for i, (name, group) in enumerate(groupby(rows, key=lambda row: row.area)):
        if i:
            click.echo()
        echo_table(
            [name, "set or read", "example", "docs"],
            [
                [
                    row.feature,
                    row.set_by,
                    row.example.removeprefix("examples/").removesuffix(".yaml"),
                    row.docs.removeprefix("docs/"),
                ]
                for row in group
            ],
            wrap_first=True,
        )
