"""Launch commands in shell scripts, command lines and containers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from simulator.errors import UserError

MAX_CHARS = 1_000_000

_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sglang.launch_server": "sglang",
}
_SHELLS = ("sh", "bash", "dash", "ash", "zsh")
_IMAGE = re.compile(r"(?:^|/)vllm-(?:openai|tpu)[\w.-]*(?:[:@]\S+)?$")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """A launch command: the engine, the words behind its program, the image that holds it, and
    names of variables that it finds set."""

    engine: str
    words: list[str]
    image: str = ""
    variables: tuple[str, ...] = ()


@dataclass(slots=True)
class _Segment:
    words: list[str] = field(default_factory=list)


def read_shell(text: str, where: str = "") -> list[Command]:
    """Every launch command of a script.

    Raises:
        UserError: quotes do not close, or the text is too long.
    """
    if len(text) > MAX_CHARS:
        raise UserError(f"holds more than the {MAX_CHARS:,} characters allowed", where=where)
    variables: dict[str, str] = {}
    found = []
    for segment in _segments(text, where):
        words = segment.words
        if words[:1] == ["export"]:
            words = words[1:]
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            variables[match[1]] = match[2]
            words = words[1:]
        if words:
            here = find_commands([substituted(word, variables) for word in words], where=where)
            found += [replace(one, variables=(*one.variables, *variables)) for one in here]
    return found


def _segments(text: str, where: str) -> list[_Segment]:
    """Words of each simple command; redirections are left out."""
    plain = re.sub(r"\\\r?\n", " ", re.sub(r"^[ \t]*#.*$", "", text, flags=re.MULTILINE))
    plain = re.sub(r"\$\((\w+)\)", r"${\1}", plain)  # as containers have it; no parentheses then
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    segments = [_Segment()]
    skip = comment = False
    try:
        for token in lexer:
            ends = set(token) <= set("();|&\n") and token != ""
            if "\n" in token and ends:
                comment = False
            if comment:
                continue
            if skip:
                skip = False
            elif ends:
                segments.append(_Segment())
            elif set(token) <= set("<>&"):
                skip = True
                if segments[-1].words and segments[-1].words[-1] in ("1", "2"):
                    segments[-1].words.pop()
            elif token.startswith("#"):
                comment = True
            else:
                segments[-1].words.append(token)
    except ValueError as error:
        what = str(error).lower()
        raise UserError(
            f"the command cannot be read: {what}", where=where, hint="close the quotes"
        ) from None
    return [segment for segment in segments if segment.words]


def substituted(word: str, variables: Mapping[str, str]) -> str:
    """``word`` with the variables that have a value; others stay."""

    def value(match: re.Match[str]) -> str:
        name, _, default = (match[1] or match[2] or match[3]).partition(":-")
        return variables.get(name, default or match[0])

    return re.sub(r"\$(?:\{([^}]+)\}|\((\w+)\)|(\w+))", value, word)


def find_commands(words: Sequence[str], image: str = "", where: str = "") -> list[Command]:
    """The launch command among the words of a simple command, or those of the script that it hands
    to a shell; none if it starts something else."""
    for at, word in enumerate(words):
        name = word.rpartition("/")[2]
        behind = list(words[at + 1 :])
        if name in _SHELLS and any(re.fullmatch(r"-[a-z]*c", option) for option in behind[:2]):
            inner = next((each for each in behind if not each.startswith("-")), "")
            return [replace(one, image=image) for one in read_shell(inner, where)]
        if name == "vllm" and behind[:1] == ["serve"]:
            return [Command("vllm", behind[1:], image)]
        if name == "sglang" and behind[:1] == ["serve"]:
            return [Command("sglang", behind[1:], image)]
        if name == "trtllm-serve" and behind[:1] not in (["disaggregated"], ["mm_embedding_serve"]):
            return [Command("tensorrt-llm", behind[behind[:1] == ["serve"] :], image)]
        if word == "-m" and behind and behind[0] in _MODULES:
            rest = behind[1:]
            return [Command(_MODULES[behind[0]], rest[rest[:1] == ["serve"] :], image)]
        if _IMAGE.search(word) and not word.startswith("-"):
            return find_commands(behind, word, where) or [Command("vllm", behind, word)]
    return []
