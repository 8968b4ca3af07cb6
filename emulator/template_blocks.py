"""What chat templates have beyond plain Jinja."""

from __future__ import annotations

from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser


class GenerationBlock(Extension):
    """``{% generation %}`` marks the text of answers, for training; here it is text like any."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        """The block's body stands for the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
