"""From a launch command to what it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.errors import UserError
from simulator.launch.checkpoints import ReadModel, read_checkpoint
from simulator.launch.found import Found
from simulator.launch.options import Options, parse
from simulator.launch.read_sglang import read_sglang
from simulator.launch.read_tensorrt_llm import read_tensorrt_llm
from simulator.launch.read_vllm import read_vllm
from simulator.launch.shell import Command
from simulator.models import load_model

FileOf = Callable[[str], dict[str, Any] | None]
"""Content of a file that a command names; None if it cannot be found."""

_FILES = {"vllm": "config", "sglang": "config", "tensorrt-llm": "extra-llm-api-options"}
_VARIABLES = re.compile(r"(VLLM|SGLANG|SGL|TRTLLM|TLLM|NCCL|CUDA|HIP|ROCM|TORCH|PYTORCH)_")
"""Names of variables that engines and their libraries read."""

_RELEASE = re.compile(r":v?(\d+\.\d+(?:\.\d+)?(?:\.post\d+)?)(?:[-_.].*)?$")


def read_command(
    command: Command, file_of: FileOf, *, model: str | None = None, lenient: bool = False
) -> Found:
    """What a launch command asks for.

    Args:
        command: as found.
        file_of: for files of options.
        model: name to take instead of the command's.
        lenient: see `parse`.

    Raises:
        UserError: an argument or a value that is not known or cannot be simulated.
    """
    engine = command.engine
    options = parse(engine, command.words, lenient=lenient)
    named = options.text(_FILES[engine])
    extra: dict[str, Any] = {}
    if named is not None:
        content = file_of(named)
        if content is None:
            raise UserError(
                f"the file {named} is not there", where=options.spelled(_FILES[engine]),
                hint="it is looked for beside the script, and in the ConfigMaps of a manifest",
            )  # fmt: skip
        extra = content
    if engine != "tensorrt-llm" and extra:
        options = parse(engine, command.words, lenient=lenient, config=extra)
    if not options.model and model is None:
        raise UserError("the command names no model", hint="give it, or --model NAME")
    served = read_checkpoint(model or options.model)
    if model is not None and options.model and model != options.model:
        served = served._replace(note=f"{options.model} is taken for {model}")
    spec = load_model(served.name)
    found = _read(engine, options, served, spec.native_dtype, extra, lenient)
    if found.fields.get("engine.prefix_caching") and (spec.recurrent or not spec.grows):
        del found.fields["engine.prefix_caching"]
        found.notes.append(f"prefixes of {spec.name}, which keeps states, are not shared here")
    if variables := [name for name in command.variables if _VARIABLES.match(name)]:
        names = ", ".join(dict.fromkeys(variables))
        found.notes.append(f"ignored, although they may change times: the variables {names}")
    if served.note:
        found.notes.append(served.note)
    release = _RELEASE.search(command.image)
    if release:
        found.version = release[1].partition(".post")[0]
    return found


def _read(
    engine: str,
    options: Options,
    served: ReadModel,
    native: str,
    extra: dict[str, Any],
    lenient: bool,
) -> Found:
    if engine == "vllm":
        return read_vllm(options, served, native)
    if engine == "sglang":
        return read_sglang(options, served, native)
    return read_tensorrt_llm(options, served, native, extra, lenient=lenient)


def files_in(folder: Path | None) -> FileOf:
    """Files of a folder; the current one by default."""

    def find(name: str) -> dict[str, Any] | None:
        from simulator.yamlio import load_yaml

        path = (folder or Path()) / name
        return load_yaml(path)[0] if path.is_file() else None

    return find
