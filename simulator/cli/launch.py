"""``export`` and ``import``: deployment files out of a scenario, and a scenario out of them."""

from __future__ import annotations

import click

from simulator.cli.scenarios import json_option, loaded, scenario_argument, set_option

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
