"""Measures a machine: ceilings, then operators and steps of each model, saved as they come."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from calibration.engine.build import Engine, Formats
from calibration.engine.clock import Pace
from calibration.engine.decoder import Runnable, load_runnable
from calibration.measure import cpu, gpu
from calibration.measure.bursts import burst, step_rows
from calibration.measure.ceilings import ceiling_rows
from calibration.measure.machine import describe_machine
from calibration.measure.rows import FILE, Row, load_rows, save_rows
from calibration.measure.stage import stage
from simulator.deployment import ResolvedPrecision
from simulator.errors import UserError
from simulator.models import load_decoder
from simulator.scenario.precision import Dtype
from simulator.scenario.shipped import examples_folder

Progress = Callable[[str, int, int], None]
"""Called with what is being measured, how much of it is done, and how much there is."""

_DONE, _PROBE = "done", "probe_s"
_CEILINGS = {"cpu": ("bf16", "fp32"), "cuda": ("bf16", "fp16", "fp8", "fp32")}
_ROUNDS = {"cpu": 7, "cuda": 3}

_BURSTS = {
    "cpu": ((12, 100, 30), (32, 60, 20), (6, 300, 20), (3, 30, 60)),
    "cuda": (
        (8, 512, 64),
        (32, 512, 128),
        (64, 256, 96),
        (128, 256, 64),
        (4, 4096, 32),
        (1, 128, 64),
    ),
}
"""Requests, mean prompt and mean output of the bursts whose steps are measured."""

_KV_TOKENS = {"cpu": cpu.KV_TOKENS, "cuda": 300_000}


@dataclass(frozen=True)
class Model:
    """What is measured: a model, by what it is called, in number formats."""

    name: str
    decoder: Runnable
    config: dict[str, Any]
    precision: ResolvedPrecision

    @property
    def labels(self) -> dict[str, str]:
        """Of its rows."""
        p = self.precision
        return {
            "model": self.name, "weights": p.weights, "activations": p.activations,
            "kv_cache": p.kv_cache,
        }  # fmt: skip

    @property
    def title(self) -> str:
        """How progress calls it."""
        return f"{self.name} {self.precision.weights}"


def default_models(device: str) -> list[str]:
    """What is measured unless said."""
    if device == "cpu":
        return [str(examples_folder() / "models" / "micro-dense.json")]
    return ["llama-3.1-8b", "qwen3-14b", "qwen3-30b-a3b"]


def formats(weights: str) -> ResolvedPrecision:
    """Number formats with weights in one of them: products in that type but for int8, a KV cache of
    16 bits unless all is in 32."""
    known: dict[str, tuple[Dtype, Dtype, Dtype]] = {
        "bf16": ("bf16", "bf16", "bf16"),
        "fp16": ("fp16", "fp16", "fp16"),
        "fp32": ("fp32", "fp32", "fp32"),
        "int8": ("int8", "bf16", "bf16"),
        "fp8": ("fp8", "fp8", "bf16"),
    }
    return ResolvedPrecision(*known[weights])


def told(rows: Sequence[Row]) -> Iterator[str]:
    """The ceilings, and how long steps took, in sentences."""
    for row in rows:
        if row.what == "ceiling":
            rate = row.amount / row.seconds
            copied = row.name == "copy"
            yield (
                f"copy {rate / 1e9:,.1f} GB/s"
                if copied
                else f"matrix product {row.activations} {rate / 1e12:,.2f} TFLOP/s"
            )
    for model in dict.fromkeys(row.model for row in rows if row.what == "step"):
        steps = [row for row in rows if row.model == model and row.what == "step"]
        spread = sorted(row.spread for row in steps)[len(steps) // 2]
        yield (
            f"{model}: {len(steps)} steps, {min(row.seconds for row in steps) * 1e3:.2f} ms at "
            f"least; half of the rounds lie within {100 * spread:.1f}% (median)"
        )


def named(path: str, precision: ResolvedPrecision) -> Model:
    """A model by preset or path.

    Raises:
        UserError: there is none, or the engine cannot run it so.
    """
    Formats.of(precision)
    decoder = load_runnable(path)
    values = dict(load_decoder(path).config.values)
    return Model(decoder.spec.name, decoder, values, precision)


def calibrate(
    models: Sequence[Model], device: torch.device, out: Path, progress: Progress
) -> tuple[Path, list[Row]]:
    """Measures what ``out`` does not hold yet.

    Args:
        models: whose operators and steps.
        device: what is measured; on a CPU one thread.
        out: folder of the measurements and of the models' configurations.
        progress: told how far it is.

    Returns:
        The file, and all rows in it.

    Raises:
        UserError: ``out`` holds measurements of another machine.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
        _check_cpu(models)
    elif torch.cuda.get_device_capability(device) < (8, 9):
        for model in models:
            if model.precision.activations == "fp8":
                raise UserError("this device has no products in fp8", where="--weights fp8")
    machine = describe_machine(device)
    rows, before = _begun(out, machine)
    done = list(before.get(_DONE, ()))
    probe_s = None
    if device.type == "cpu":
        probe_s = machine[_PROBE] = before.get(_PROBE) or Pace().reference_s
    for model in models:
        _keep_configuration(model, out)
    for section, measure in _sections(models, device, probe_s, progress):
        if section not in done:
            try:
                rows += list(measure())
            except torch.OutOfMemoryError:
                raise UserError(
                    f"{section} do not fit into the memory of this device",
                    where="--model",
                    hint="measure a smaller one, or its --weights int8",
                ) from None
            done.append(section)
            save_rows(out, rows, machine | {_DONE: done})
    return out / FILE, rows


def _check_cpu(models: Sequence[Model]) -> None:
    """Refuses what a processor cannot do or hold."""
    from simulator.models.counting import weight_bytes

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for model in models:
        if "fp8" in (model.precision.weights, model.precision.activations):
            raise UserError("processors have no products in fp8", where="--weights fp8")
        needed = weight_bytes(model.decoder.spec, model.precision.weights)
        if needed > 0.7 * memory:
            raise UserError(
                f"its weights take {needed / 2**30:,.0f} GiB and this machine has "
                f"{memory / 2**30:,.0f}",
                where=f"--model {model.name}",
            )
        if model.decoder.spec.max_context < cpu.LONGEST:
            raise UserError(
                f"its context of {model.decoder.spec.max_context} tokens is shorter than the "
                f"{cpu.LONGEST} that are measured",
                where=f"--model {model.name}",
            )


def _keep_configuration(model: Model, out: Path) -> None:
    """Puts the model's keys beside the measurements, which speak of it by its name."""
    text = json.dumps(model.config, indent=2, default=str) + "\n"
    path = out / "models" / f"{model.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(
                f"holds measurements of another model called {model.name}",
                where=str(out),
                hint="name another folder with --out, or rename the model's file",
            )
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(out)) from None


def _begun(out: Path, machine: dict[str, Any]) -> tuple[list[Row], dict[str, Any]]:
    """What an earlier call left behind."""
    if not (out / FILE).is_file():
        return [], {}
    rows, before = load_rows(out)
    for key in ("device", "torch", "triton", "program"):
        if before.get(key) != machine[key]:
            raise UserError(
                f"holds measurements of {key} {before.get(key)}, this is {machine[key]}",
                where=str(out),
                hint="name another folder with --out",
            )
    return rows, before


def _sections(
    models: Sequence[Model], device: torch.device, probe_s: float | None, progress: Progress
) -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    yield "ceilings", lambda: ceiling_rows(device, _CEILINGS[device.type])
    for model in models:

        def operators(model: Model = model) -> Iterator[Row]:
            return _operators(model, device, probe_s, progress)

        def steps(model: Model = model) -> Iterator[Row]:
            return _steps(model, device, probe_s, progress)

        yield f"operators of {model.title}", operators
        yield f"steps of {model.title}", steps


def _operators(
    model: Model, device: torch.device, probe_s: float | None, progress: Progress
) -> Iterator[Row]:
    def told(done: int, total: int) -> None:
        progress(f"operators of {model.title}", done, total)

    if probe_s is not None:
        engine = _stage(model, device)
        # As when serving: with all the code that the library makes, and memory laid out alike.
        engine.executor.warm_up(engine.limits.max_num_batched_tokens)
        yield from cpu.operator_rows(engine, _ROUNDS["cpu"], model.labels, Pace(probe_s), told)
        return
    layers = model.decoder.layers
    few = replace(model.decoder, layers=layers[-gpu.LAYERS :])  # first layers may be dense
    yield from gpu.operator_rows(
        _stage(replace(model, decoder=few), device), gpu.GraphTimer(), model.labels, told
    )
    torch.cuda.empty_cache()


def _steps(
    model: Model, device: torch.device, probe_s: float | None, progress: Progress
) -> Iterator[Row]:
    progress(f"steps of {model.title}", 0, 1)
    engine = _stage(model, device, graphs=device.type == "cuda")
    engine.executor.warm_up(min(2048, engine.limits.max_num_batched_tokens))
    bursts = [burst(*sizes, seed=i) for i, sizes in enumerate(_BURSTS[device.type])]
    pace = Pace(probe_s) if probe_s is not None else None
    yield from step_rows(engine, bursts, _ROUNDS[device.type], model.labels, pace)
    progress(f"steps of {model.title}", 1, 1)
    if device.type == "cuda":
        del engine
        torch.cuda.empty_cache()


def _stage(model: Model, device: torch.device, *, graphs: bool = False) -> Engine:
    on_cpu = device.type == "cpu"
    sizes = cpu if on_cpu else gpu
    longest = min(sizes.LONGEST, model.decoder.spec.max_context)
    return stage(
        model.decoder, Formats.of(model.precision), device,
        sequences=sizes.SEQUENCES, kv_tokens=_room(model, device),
        longest=longest, budget=sizes.BUDGET, graphs=graphs,
    )  # fmt: skip


def _room(model: Model, device: torch.device) -> int:
    """Tokens in the cache: what the sweeps want, or what a GPU has room for."""
    wanted = _KV_TOKENS[device.type]
    if device.type == "cpu":
        return wanted
    from simulator.models.counting import kv_bytes_per_token, weight_bytes

    spec, p = model.decoder.spec, model.precision
    share = len(model.decoder.layers) / spec.layers
    free = torch.cuda.mem_get_info(device)[0] - share * weight_bytes(spec, p.weights) - 8 * 2**30
    return max(4096, min(wanted, int(0.8 * free / (share * kv_bytes_per_token(spec, p.kv_cache)))))
