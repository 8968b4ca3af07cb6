"""Reading scenarios: includes, overrides, and a sentence for everything that can be wrong."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path

import pytest

from simulator import parse_scenario, simulate
from simulator.errors import UserError
from simulator.scenario import load_scenario
from simulator.scenario.shipped import fragment_names

BASE = """\
name: base
model: llama-3.1-8b
hardware: h100-sxm
workload:
  kind: synthetic
  arrivals: {kind: poisson, rate_per_s: 3}
  lengths:
    kind: independent
    input: {kind: fixed, tokens: 512}
    output: {kind: fixed, tokens: 128}
  requests: 100
slo:
  ttft_ms: 500
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE, encoding="utf-8")
    return path


def sentence(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_scenario(path, overrides)
    return str(caught.value)


def test_loads(base: Path) -> None:
    scenario = load_scenario(base)
    assert scenario.hardware.profile == "h100-sxm"
    assert scenario.workload.kind == "synthetic"
    assert scenario.workload.requests == 100
    assert scenario.slo.ttft_ms == 500.0


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(BASE.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert load_scenario("-").name == "base"


# --- mistakes in the file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  requests: 100", "  requets: 100", ":11: workload.requets: unknown key; did you mean 'requests'?"),
        ("  ttft_ms: 500", "  ttft_s: 0.5", ":13: slo.ttft_s: unknown key; did you mean 'ttft_ms' (milliseconds)?"),
        ("  ttft_ms: 500", "  ttft_ms: 500ms", ":13: slo.ttft_ms: must be a number, got '500ms'; the unit belongs to the key (milliseconds)"),
        ("rate_per_s: 3", "rate_per_s: -3", ":6: workload.arrivals.rate_per_s: must be greater than 0, got -3"),
        ("rate_per_s: 3", "rate_per_s: .nan", ":6: workload.arrivals.rate_per_s: must be a finite number, got NaN"),
        ("rate_per_s: 3", "rate_per_s: .inf", ":6: workload.arrivals.rate_per_s: must be a finite number, got inf"),
        ("rate_per_s: 3", "rate_per_s: '3'", ":6: workload.arrivals.rate_per_s: must be a number, got '3'"),
        ("rate_per_s: 3", "rate_per_s: true", ":6: workload.arrivals.rate_per_s: must be a number, got True"),
        ("kind: poisson", "kind: poison", ":6: workload.arrivals: kind: must be one of poisson, gamma, constant, ramp, diurnal, rates, burst, closed_loop, got 'poison'; did you mean 'poisson'?"),
        ("  requests: 100", "  requests: 0", ":11: workload.requests: must be greater than or equal to 1, got 0"),
        ("  requests: 100", "  requests: 1.5", ":11: workload.requests: must be a whole number, got 1.5"),
        ("  requests: 100", "", ":4: workload: give exactly one of requests and duration_s"),
        ("model: llama-3.1-8b\n", "", ":1: model: is required but missing"),
        ("name: base", "name: base\nname: other", ":2: key 'name' was already given on line 1"),
        ("  ttft_ms: 500", "\tttft_ms: 500", ":13: not valid YAML: found character that cannot start any token"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_sentence(base: Path, old: str, new: str, said: str) -> None:
    assert BASE.count(old) == 1
    base.write_text(BASE.replace(old, new), encoding="utf-8")
    text = sentence(base)
    assert text.startswith(f"{base}{said}")
    assert "\n" not in text


def test_further_problems_are_counted(base: Path) -> None:
    base.write_text(BASE.replace("requests: 100", "requests: -1").replace("500", "-5"))
    assert sentence(base).endswith("got -1; 1 more problem in this file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ": the file is empty"),
        (b"# only a comment\n", ": the file is empty"),
        (b"- a\n- b\n", ":1: the top level must be a mapping of keys to values"),
        (b"just text", ":1: the top level must be a mapping of keys to values"),
        (b"\x00\xff\xfe\x01", ": is not UTF-8 text (byte 1)"),
        (b"name: !!python/object:os.system x\n", ":1: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed; write plain values"),
        (b"x: " + b"y" * 5_000_001, ": holds more than the 5 MB allowed"),
        (b"name: [unclosed\n", ":2: not valid YAML: did not find expected ',' or ']'"),
    ],
    ids=["empty", "comment", "list", "text", "binary", "tag", "large", "syntax"],
)  # fmt: skip
def test_a_file_that_is_no_scenario(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert sentence(path) == f"{path}{said}"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert sentence(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: no such file"
    assert sentence(tmp_path) == f"{tmp_path}: is a directory, not a YAML file"


def test_a_name_that_is_nearly_right() -> None:
    assert "did you mean 'chat-8b-h100'?" in sentence("chat-8b-h10")
    assert sentence("qqqq").endswith("`simulate list scenarios` shows them")


def test_a_device_without_end_is_refused() -> None:
    assert sentence("/dev/zero") == "/dev/zero: holds more than the 5 MB allowed"


def test_aliases_do_not_explode(tmp_path: Path) -> None:
    levels = "\n".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 40))
    path = tmp_path / "laughs.yaml"
    path.write_text(f"l0: &l0 [x, x]\n{levels}\n", encoding="utf-8")
    assert "holds more than 200,000 values" in sentence(path)


# --- include -------------------------------------------------------------------------------------


def test_include_merges_beneath(base: Path) -> None:
    top = base.with_name("top.yaml")
    top.write_text("include: base.yaml\nhardware: {memory_gib: 70}\nslo: {tpot_ms: 30}\n")
    scenario = load_scenario(top)
    assert scenario.hardware.profile == "h100-sxm"
    assert scenario.hardware.memory_gib == 70
    assert (scenario.slo.ttft_ms, scenario.slo.tpot_ms) == (500, 30)
    assert scenario.name == "base"


def test_later_includes_go_over_earlier_ones(base: Path) -> None:
    base.with_name("a.yaml").write_text("name: a\nslo: {ttft_ms: 1}\n")
    base.with_name("b.yaml").write_text("name: b\n")
    top = base.with_name("top.yaml")
    top.write_text("include: [base.yaml, a.yaml, b.yaml]\n")
    scenario = load_scenario(top)
    assert (scenario.name, scenario.slo.ttft_ms) == ("b", 1)


def test_another_kind_replaces_the_mapping(base: Path) -> None:
    top = base.with_name("top.yaml")
    top.write_text("include: base.yaml\nworkload: {arrivals: {kind: burst}}\n")
    workload = load_scenario(top).workload
    assert workload.kind == "synthetic"
    assert workload.arrivals.kind == "burst"


def test_includes_of_includes_and_shipped_names(base: Path) -> None:
    (base.parent / "sub").mkdir()
    (base.parent / "sub" / "mid.yaml").write_text("include: ../base.yaml\nname: mid\n")
    top = base.with_name("top.yaml")
    top.write_text("include: [chat-8b-h100, sub/mid.yaml]\n")
    scenario = load_scenario(top)
    assert scenario.name == "mid"
    assert scenario.workload.kind == "synthetic"


def test_an_error_in_an_included_file_names_that_file(base: Path) -> None:
    base.write_text(BASE.replace("requests: 100", "requests: -1"))
    top = base.with_name("top.yaml")
    top.write_text("include: base.yaml\nname: top\n")
    assert sentence(top).startswith(f"{base}:11: workload.requests: must be")


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("3", "{top}:1: include: must be a file or name, or a list of them"),
        ("[base.yaml, [x]]", "{top}:1: include: must be a file or name, or a list of them"),
        ("none.yaml", "{top}:1: no such file: {dir}/none.yaml"),
        ("chat-8b-h10", "{top}:1: no file and no shipped scenario is called 'chat-8b-h10'; did you mean 'chat-8b-h100'?"),
        ("top.yaml", "{top}:1: includes itself (top.yaml → top.yaml)"),
        ("circle.yaml", "{dir}/circle.yaml:1: includes itself (top.yaml → circle.yaml → top.yaml)"),
        ("bomb0.yaml", "{dir}/bomb9.yaml:1: more than 100 files are included"),
    ],
)  # fmt: skip
def test_bad_includes(base: Path, include: str, said: str) -> None:
    base.with_name("circle.yaml").write_text("include: top.yaml\n")
    for i in range(10):
        below = f"bomb{i + 1}.yaml" if i < 9 else "base.yaml"
        base.with_name(f"bomb{i}.yaml").write_text(f"include: [{below}, {below}]\n")
    top = base.with_name("top.yaml")
    top.write_text(f"include: {include}\n")
    assert sentence(top) == said.format(top=top, dir=base.parent)


def test_relative_paths_count_from_the_file_they_are_written_in(base: Path) -> None:
    trace = "{kind: trace, file: requests.csv}"
    (base.parent / "sub").mkdir()
    (base.parent / "sub" / "traffic.yaml").write_text(f"workload: {trace}\n")
    top = base.with_name("top.yaml")
    top.write_text("include: [base.yaml, sub/traffic.yaml]\nmodel: ./config.json\n")
    scenario = load_scenario(top)
    assert scenario.workload.kind == "trace"
    assert scenario.workload.file == str(base.parent.resolve() / "sub" / "requests.csv")
    assert scenario.model == str(base.parent.resolve() / "config.json")


def test_names_are_not_taken_for_paths(base: Path) -> None:
    (base.parent / "llama-3.1-8b").mkdir()
    scenario = load_scenario(base)
    assert scenario.model == "llama-3.1-8b"
    assert scenario.hardware.profile == "h100-sxm"


@pytest.mark.parametrize("name", fragment_names())
def test_every_fragment_can_be_included(base: Path, name: str) -> None:
    top = base.with_name("top.yaml")
    top.write_text(f"include: [base.yaml, {name}]\n")
    below = load_scenario(base)
    assert load_scenario(top) != below


# --- --set ---------------------------------------------------------------------------------------


def test_set_replaces_and_adds(base: Path) -> None:
    scenario = load_scenario(
        base,
        [
            "hardware=h200-sxm",
            "hardware.memory_gib=100",
            "engine.max_num_seqs=64",
            "workload.arrivals={kind: gamma, rate_per_s: 5, cv: 2}",
            "workload.arrivals.cv=3",
            "workload.requests=1_000",
            "name=with = sign",
            "slo.ttft_ms=null",
        ],
    )
    assert scenario.hardware.profile == "h200-sxm"
    assert scenario.hardware.memory_gib == 100
    assert scenario.engine.max_num_seqs == 64
    assert scenario.workload.kind == "synthetic"
    assert scenario.workload.arrivals.kind == "gamma"
    assert scenario.workload.arrivals.cv == 3
    assert scenario.workload.requests == 1000
    assert scenario.name == "with = sign"
    assert scenario.slo.ttft_ms is None


def test_set_reaches_into_lists(base: Path) -> None:
    classes = "[{name: a, workload: {kind: trace, file: azure-llm-2023-conv}}]"
    scenario = load_scenario(
        base,
        [
            f"workload={{kind: mix, classes: {classes}}}",
            "workload.classes.0.name=chat",
        ],
    )
    assert scenario.workload.kind == "mix"
    assert scenario.workload.classes[0].name == "chat"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("slo.ttft=3", "slo.ttft: unknown key; did you mean 'ttft_ms' (milliseconds)?"),
        ("slos.ttft_ms=3", "slos: unknown key; did you mean 'slo'?"),
        ("workload.arrivals.cv=2", "workload.arrivals.cv: unknown key; kind: poisson has none; it goes with kind: gamma or rates"),
        ("workload.lengths.input.mean=2", "workload.lengths.input.mean: unknown key; kind: fixed has none; it goes with kind: normal or lognormal"),
        ("workload.slice.requests=2", "workload.slice: unknown key; kind: synthetic has none; it goes with kind: trace"),
        ("slo.ttft_ms=-3", "slo.ttft_ms: must be greater than 0, got -3"),
        ("slo.ttft_ms=3 s", "slo.ttft_ms: must be a number, got '3 s'; the unit belongs to the key (milliseconds)"),
        ("slo.ttft_ms=.nan", "slo.ttft_ms: must be a finite number, got NaN"),
        ("slo.ttft_ms", "must be a path and a value; write --set path.to.field=value"),
        ("=3", "must be a path and a value; write --set path.to.field=value"),
        ("slo..ttft_ms=3", "must be a path and a value; write --set path.to.field=value"),
        ("model.name=x", "model is a single value and has no 'name'; write --set model=value"),
        ("name=[", "the value is not YAML: did not find expected node content"),
        ("name=a\nmodel: b", "the value must be a single one"),
        ("deployment.router.max_imbalance=3", "deployment.router: needs a 'kind', one of round_robin, random, least_outstanding, power_of_two, prefix_aware, session_affinity"),
        ("deployment.router=random", "deployment.router: must be a mapping of keys to values, got 'random'; write it as {kind: random}"),
    ],
)  # fmt: skip
def test_a_bad_override_is_named(base: Path, override: str, said: str) -> None:
    assert sentence(base, override) == f"--set {override}: {said}"


def test_a_list_wants_a_position(base: Path) -> None:
    classes = "[{name: a, workload: {kind: trace, file: x.csv}}]"
    first = f"workload={{kind: mix, classes: {classes}}}"
    for key in ("first", "1"):
        override = f"workload.classes.{key}.name=b"
        assert sentence(base, first, override) == (
            f"--set {override}: workload.classes is a list of 1; "
            f"give a position from 0 to 0 instead of '{key}'"
        )


def test_a_mapping_is_a_scenario_and_stays_as_it_is() -> None:
    data = {"include": "chat-8b-h100", "workload": {"rate_scale": 2}, "hardware": "h200-sxm"}
    given = copy.deepcopy(data)
    scenario = load_scenario(data, "measurement.seed=3")
    assert scenario == load_scenario(
        "chat-8b-h100",
        ["workload.rate_scale=2", "hardware=h200-sxm", "measurement.seed=3"],
    )
    assert data == given


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"modle": "x"}, "scenario: modle: unknown key; did you mean 'model'?"),
        ({"include": "nope"}, "scenario: no file and no shipped scenario is called 'nope'"),
        ({"slo": {"ttft_ms": "5s"}}, "scenario: slo.ttft_ms: must be a number, got '5s'"),
    ],
)
def test_a_wrong_mapping_is_told_by_its_key(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as told:
        load_scenario({"include": "chat-8b-h100"} | wrong)
    assert str(told.value).startswith(sentence)


def test_a_value_that_is_no_text_is_an_error() -> None:
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_scenario("chat-8b-h100", ["name=a\udcff"])


@pytest.mark.parametrize(
    "path", ["a/" * 3000, "a" * 3000, "a" * 3000 + ".yaml", "~nobody-has-it/x"]
)
@pytest.mark.parametrize("key", ["model", "hardware.profile", "engine.profile", "workload.file"])
def test_what_can_be_no_path_is_told(key: str, path: str) -> None:
    with pytest.raises(UserError) as told:
        simulate(load_scenario("chat-8b-h100", f"{key}={path}"))
    assert path[:300] in str(told.value)


@pytest.mark.parametrize("path", ["a/" * 3000, "a" * 3000, "~nobody-has-it/x"])
def test_what_can_be_no_path_is_not_included(path: str) -> None:
    with pytest.raises(UserError) as told:
        parse_scenario(f"include: {path}\n", "mine.yaml")
    assert path[:300] in str(told.value)
