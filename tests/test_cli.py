"""The command line short of simulating: help, lists, starter, schema, traces, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from simulator import __version__
from simulator.cli import cli
from simulator.scenario import Scenario, load_scenario
from simulator.scenario.fields import describe


def simulate(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, args, input=stdin, prog_name="simulate")


def refusal(*args: str) -> str:
    """The one sentence with which a command is refused."""
    result = simulate(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def test_help_names_every_command() -> None:
    result = simulate("--help")
    assert result.exit_code == 0
    for command in (
        "run",
        "check",
        "schema",
        "init",
        "trace",
        "list",
        "compare",
        "features",
        "version",
    ):
        assert f"\n  {command} " in result.stdout
        assert simulate(command, "--help").exit_code == 0


def test_version() -> None:
    assert simulate("version").stdout == f"{__version__}\n"
    assert simulate("--version").stdout == f"simulate, version {__version__}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rnu"], "no such command 'rnu'; did you mean 'run'?"),
        (["qqq"], "no such command 'qqq'; `simulate --help` lists them"),
        (["run"], "missing argument 'FILE'; `simulate run --help` shows how it is used"),
        (["run", "x", "y"], "got unexpected extra argument (y); `simulate run --help` shows how it is used"),
        (["run", "x", "--set"], "option '--set' requires an argument; `simulate --help` shows how it is used"),
        (["list", "modles"], "there is no list of 'modles', only of scenarios, plans, fragments, models, architectures, students, hardware, engines, traces, tables, policies, routers, arrivals; did you mean 'models'?"),
        (["trace", "azure-llm-2023-conv", "--format", "azur"], "--format azur: must be one of auto, azure, burstgpt, mooncake, sharegpt, csv, jsonl; did you mean 'azure'?"),
        (["trace", "azure-llm-2023-conv", "--start-s", "nan"], "--start-s nan: start_s: must be a finite number, got NaN"),
        (["trace", "azure-llm-2023-conv", "--requests", "0"], "--requests 0: requests: must be greater than or equal to 1, got 0"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_gets_one_sentence(args: list[str], said: str) -> None:
    assert refusal(*args) == said


def test_an_unknown_option_gets_one_sentence() -> None:
    assert refusal("run", "x", "--jsn").startswith("no such option '--jsn'")


def test_a_missing_trace_names_the_shipped_ones() -> None:
    said = refusal("trace", "azure-llm-2023-con")
    assert said.startswith("there is no trace 'azure-llm-2023-con'")
    assert "azure-llm-2023-conv" in said


# --- list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "key", "member"),
    [
        ("scenarios", "name", "chat-8b-h100"),
        ("fragments", "name", "traffic-azure-chat"),
        ("models", "name", "llama-3.1-8b"),
        ("hardware", "name", "h100-sxm"),
        ("engines", "name", "vllm"),
        ("traces", "name", "azure-llm-2023-conv"),
        ("policies", "kind", "continuous"),
        ("routers", "kind", "prefix_aware"),
        ("arrivals", "kind", "closed_loop"),
    ],
)
def test_lists(what: str, key: str, member: str) -> None:
    rows = json.loads(simulate("list", what, "--json").stdout)
    assert member in [row[key] for row in rows]
    text = simulate("list", what).stdout
    assert all(str(row[key]) in text for row in rows)


# --- init and schema -----------------------------------------------------------------------------


def test_init_writes_a_scenario_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = simulate("init", "mine")
    assert result.exit_code == 0
    assert result.stdout == "Wrote mine.yaml. Next: simulate run mine.yaml\n"
    assert load_scenario("mine.yaml").name == "mine"


def test_init_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my-scenario.yaml").write_text("mine")
    said = refusal("init")
    assert said == "my-scenario.yaml: already exists and is left as it is; choose another --out"
    assert Path("my-scenario.yaml").read_text() == "mine"


def test_init_into_a_missing_folder(tmp_path: Path) -> None:
    out = f"{tmp_path}/none/x.yaml"
    assert refusal("init", "--out", out) == f"{out}: cannot be written: No such file or directory"


def test_init_to_standard_output(tmp_path: Path) -> None:
    text = simulate("init", "--out", "-", "a: b").stdout
    path = tmp_path / "printed.yaml"
    path.write_text(text)
    assert load_scenario(path).name == "a: b"


def test_the_starter_shows_every_key_and_each_can_be_uncommented(tmp_path: Path) -> None:
    text = simulate("init", "--out", "-").stdout
    path = tmp_path / "all.yaml"
    for field in describe(Scenario):
        assert f"\n{field.name}:" in text or f"\n# {field.name}:" in text
    lines = text.splitlines()
    keys = [i for i, line in enumerate(lines) if line.lstrip().startswith("# ") and _is_key(line)]
    assert len(keys) >= 20
    for i in keys:
        block = _uncomment(lines, i)
        path.write_text("\n".join(block))
        load_scenario(path)


def _is_key(line: str) -> bool:
    name, colon, _ = line.replace("#", "", 1).strip().partition(":")
    return bool(colon) and name.isidentifier() and not line.startswith("#   ")


def _uncomment(lines: list[str], i: int) -> list[str]:
    """Take the # from a key and from the lines below that belong to it."""
    result = list(lines)
    pad = len(lines[i]) - len(lines[i].lstrip())
    result[i] = lines[i].replace("# ", "", 1)
    j = i + 1
    while j < len(lines) and lines[j].startswith(" " * pad + "#   "):
        result[j] = lines[j].replace("# ", "", 1)
        j += 1
    return result


def test_schema_is_json_and_covers_every_field() -> None:
    document = json.loads(simulate("schema").stdout)
    assert document["$schema"].startswith("https://json-schema.org/")
    assert set(document["properties"]) == {*Scenario.model_fields, "include"}
    assert {"required": ["model", "hardware", "workload"]} in document["anyOf"]
    assert {"type": "string"} in document["properties"]["hardware"]["anyOf"]
    assert document["$defs"]["PoissonArrivals"]["properties"]["rate_per_s"]["exclusiveMinimum"] == 0
    assert document["additionalProperties"] is False


# --- trace ---------------------------------------------------------------------------------------


def test_trace_describes_a_slice() -> None:
    args = ("trace", "azure-llm-2023-conv", "--start-s", "600", "--duration-s", "600")
    document = json.loads(simulate(*args, "--json").stdout)
    assert document["requests"] == 3118
    assert "3,118" in simulate(*args).stdout


def test_a_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n1,x,5\n")
    said = refusal("trace", str(path))
    assert said.startswith(f"{path}:3")


# --- errors of ours ------------------------------------------------------------------------------


def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the roof is on fire")

    monkeypatch.setattr("simulator.workload.describe_trace", fail)


def test_an_error_of_ours_is_short_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch)
    result = simulate("trace", "x")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Internal error: RuntimeError: the roof is on fire\n")
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch)
    for args in (("--debug", "trace", "x"), ("trace", "x", "--debug")):
        result = simulate(*args)
        assert isinstance(result.exception, RuntimeError)
