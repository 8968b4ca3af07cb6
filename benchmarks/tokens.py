"""Tokens that the emulator counts by rule beside those of real tokenizers, and how fast both are:
``python -m benchmarks.tokens --tokenizer MODEL_FOLDER --tiktoken cl100k_base TEXT_FILE...``.

``--tiktoken`` needs the package of that name and its files; both options may be repeated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from emulator.answers import Answers, Lengths, Wanted
from emulator.tokens import block_keys, by_rule, from_file
from simulator import load_scenario
from simulator.live import LiveDeployment

Count = Callable[[str], int]
_LONG = 100_000


def _of_file(path: Path) -> Count:
    tokenizer = from_file(path)
    return lambda text: len(tokenizer.encode(text))


def _of_tiktoken(name: str) -> Count:
    import tiktoken

    encoding = tiktoken.get_encoding(name)
    return lambda text: len(encoding.encode_ordinary(text))


@click.command(help=__doc__)
@click.option("--tokenizer", "folders", multiple=True, type=click.Path(path_type=Path))
@click.option("--tiktoken", "encodings", multiple=True)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def main(folders: tuple[Path, ...], encodings: tuple[str, ...], files: tuple[Path, ...]) -> None:
    rule = by_rule()
    counts = {path.stem: _of_file(path) for path in folders}
    counts |= {name: _of_tiktoken(name) for name in encodings}
    print(f"{'':32s}characters  a token" + "".join(f"{name[:14]:>15s}" for name in counts))
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        tokens = len(rule.encode(text))
        errors = (tokens / count(text) - 1 for count in counts.values())
        print(f"{file.name[:30]:32s}{len(text):10,}{len(text) / tokens:9.2f}"
              + "".join(f"{error:+15.0%}" for error in errors))  # fmt: skip
    speeds()


def speeds() -> None:
    rule, texts = by_rule(), list(Path(__file__).parents[1].glob("docs/*.md"))
    text = "".join(text.read_text() for text in texts)
    tokens, seconds = timed(lambda: rule.encode(text))
    print(f"by rule: {len(text) / seconds / 1e6:.0f} million characters of English a second")
    long = (tokens * (_LONG // len(tokens) + 1))[:_LONG]
    _, seconds = timed(lambda: block_keys(long, 16, ""))
    print(f"keys of {_LONG:,} tokens in blocks of 16: {1e3 * seconds:.1f} ms")
    deployment = LiveDeployment(load_scenario("chat-8b-h100"))
    answers = Answers(Lengths(deployment.traffic, 0), rule)
    wanted = Wanted(max_tokens=1000, ignore_eos=True)
    _, seconds = timed(lambda: answers.to([1], wanted, room=1000))
    print(f"an answer of 1,000 tokens: {1e6 * seconds:.0f} µs")


def timed(work: Callable[[], list[int]]) -> tuple[list[int], float]:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return result, best


if __name__ == "__main__":
    sys.exit(main())
