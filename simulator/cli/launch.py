"""``export`` and ``import``: deployment files out of a scenario, and a scenario out of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option
from simulator.errors import UserError

if TYPE_CHECKING:
    from simulator.scenario import Scenario

_ENGINES = ("vllm", "sglang", "tensorrt-llm")


@click.command("export")
@scenario_argument
@set_option
@click.option(
    "--for",
    "target",
    type=click.Choice([*_ENGINES, "kubernetes"]),
    help="Engine to write for, or the manifest of the scenario's own.  [default: its engine]",
)
@click.option("--out", metavar="DIR", help="Write all files there instead of printing them.")
@json_option
def export_files(
    file: str, overrides: tuple[str, ...], target: str | None, out: str | None, as_json: bool
) -> None:
    """Print the launch arguments, or the Kubernetes manifest, of a deployment.

    FILE is a YAML file, the name of a shipped scenario, or - for standard input. Without --out the
    engine's files are printed; with it, the manifest is written beside them.
    """
    from simulator.cli.output import echo_json
    from simulator.launch import MANIFEST, launch_files, launch_manifest

    if out is not None:
        from simulator.cli.folder import check_free

        check_free(out)
    with loaded(file, overrides) as scenario:
        if target == "kubernetes":
            files = {MANIFEST: launch_manifest(scenario)}
        else:
            files = launch_files(scenario, engine=target)
    if out is not None:
        _write(files, out)
        return
    if as_json:
        echo_json(files)
        return
    shown = {
        name: text for name, text in files.items() if target == "kubernetes" or name != MANIFEST
    }
    for name, text in shown.items():
        if len(shown) > 1:
            click.echo(f"# --- {name} ---")
        click.echo(text, nl=False)


def _write(files: dict[str, str], out: str) -> None:
    from simulator.cli.folder import make

    folder = make(out, "launch")
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
        click.echo(str(path))


@click.command("import")
@click.argument("source", metavar="FILE|-- COMMAND", nargs=-1, required=True)
@click.option("--base", metavar="SCENARIO", help="What the files do not say, traffic included.")
@click.option("--workload", metavar="SCENARIO", help="Traffic and SLO from another scenario.")
@click.option("--hardware", metavar="NAME", help="Profile of the devices.")
@click.option("--model", metavar="NAME", help="Preset or config.json of what is served.")
@click.option("--replicas", type=click.IntRange(1, 4096), help="How many, for a single command.")
@click.option(
    "--acceptance", type=click.FloatRange(0, 1), help="Probability of a drafted token's acceptance."
)
@click.option("--lenient", is_flag=True, help="Ignore what is unknown or cannot be simulated.")
@click.option("--out", metavar="FILE", help="Write the scenario there instead of printing it.")
@json_option
def import_files(
    source: tuple[str, ...],
    base: str | None,
    workload: str | None,
    hardware: str | None,
    model: str | None,
    replicas: int | None,
    acceptance: float | None,
    lenient: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Print the scenario of a deployment that runs already.

    FILE is a script with a launch command or a Kubernetes manifest, - standard input; or the
    command itself stands behind --. What was ignored or assumed is said on standard error.

    \b
    simulate import --base chat-8b-h100 -- vllm serve Qwen/Qwen3-8B --max-num-seqs 64
    simulate import deployment.yaml --workload my-scenario.yaml
    """  # noqa: D301 - click wants the backslash itself
    from simulator.cli.output import echo_json
    from simulator.launch import read_launch
    from simulator.scenario.dump import compact, dump_scenario

    text, name, folder = _source(source)
    read = read_launch(
        text,
        base=_scenario(base),
        workload=_scenario(workload),
        hardware=hardware,
        model=model,
        replicas=replicas,
        acceptance=acceptance,
        lenient=lenient,
        folder=folder,
        name=name,
    )
    for note in read.notes:
        click.echo(f"Note: {note}", err=True)
    if out is not None:
        try:
            with Path(out).open("x", encoding="utf-8") as stream:
                stream.write(dump_scenario(read.scenario))
        except FileExistsError:
            raise UserError(
                "already exists and is left as it is", where=out, hint="choose another --out"
            ) from None
        except OSError as error:
            raise UserError(f"cannot be written: {error.strerror}", where=out) from None
        click.echo(out)
    elif as_json:
        echo_json({"scenario": compact(read.scenario), "notes": list(read.notes)})
    else:
        click.echo(dump_scenario(read.scenario), nl=False)


def _scenario(reference: str | None) -> Scenario | None:
    from simulator.scenario import load_scenario

    return None if reference is None else load_scenario(reference)


def _source(words: tuple[str, ...]) -> tuple[str, str, Path | None]:
    """Text, its name in errors, and the folder of the files that it names."""
    import shlex
    import sys

    from simulator.yamlio import MAX_BYTES, decoded, read_text

    if len(words) > 1:
        return shlex.join(words), "", None
    if words[0] == "-":
        return decoded(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>"), "<stdin>", None
    path = Path(words[0])
    if " " in words[0] and not path.exists():
        return words[0], "", None
    return read_text(path), str(path), path.parent
