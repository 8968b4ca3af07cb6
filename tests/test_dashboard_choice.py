"""The dashboard's scenario: address, YAML, command line and values are ways to write the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import pytest

from dashboard.choice import MOST_YAML_BYTES, Choice
from dashboard.uploads import MOST_BYTES, Uploads
from simulator import (
    UserError,
    dump_scenario,
    load_scenario,
    parse_scenario,
    scenario_field,
    scenario_names,
)

NAMES = scenario_names()


def through_address(choice: Choice) -> Choice:
    return Choice.from_query(parse_qs(urlencode(choice.to_query(), doseq=True)))


@pytest.mark.parametrize("name", NAMES)
def test_address_yaml_and_options_restore_every_shipped_scenario(name: str) -> None:
    plain = Choice(name)
    changed = plain.with_value("measurement.seed", 7).with_value("slo.ttft_ms", 321.5)
    for choice in (plain, changed):
        assert through_address(choice) == choice
        assert choice.yaml == dump_scenario(load_scenario(name, choice.sets))
        own = Choice("mine.yaml", choice.yaml)
        assert own.scenario == choice.scenario
        assert own.yaml == choice.yaml
        assert own.key == choice.key
        assert through_address(own) == own
        file, *rest = shlex.split(choice.options)
        assert load_scenario(file, rest[1::2]) == choice.scenario
    assert changed.key != plain.key
    assert changed.with_value("measurement.seed", 0).with_set("slo.ttft_ms", None) == plain


def test_the_scenarios_own_value_replaces_nothing() -> None:
    choice = Choice().with_value("parallelism.tp", 2)
    assert choice.sets == ("parallelism.tp=2",)
    assert choice.with_value("parallelism.tp", 1) == Choice()
    short = Choice(sets=("hardware=l40s",))
    back = short.with_value("hardware.profile", "h100-sxm")
    assert back.scenario.hardware.profile == "h100-sxm"
    assert back.with_value("hardware.profile", "l40s") == short


def test_kinds_are_written_as_mappings_and_text_is_quoted() -> None:
    choice = Choice().with_value("deployment.router", "random").with_value("name", "1e3: #x")
    assert choice.scenario.deployment.router.kind == "random"
    assert choice.scenario.name == "1e3: #x"
    assert through_address(choice).key == choice.key


def test_a_knob_has_what_the_model_says() -> None:
    scenario = load_scenario("chat-8b-h100")
    tp = scenario_field("parallelism.tp", scenario)
    assert (tp.kind, tp.value, tp.default, tp.least) == ("whole", 1, 1, 1)
    ttft = scenario_field("slo.ttft_ms", scenario)
    assert (ttft.kind, ttft.value, ttft.nullable) == ("number", 500.0, True)
    assert (ttft.least, ttft.limits, ttft.unit) == (0, "> 0", "milliseconds")
    assert scenario_field("engine.cuda_graphs", scenario).choices[:2] == (True, False)
    assert "l40s" in scenario_field("hardware.profile", scenario).choices
    router = scenario_field("deployment.router", scenario)
    assert router.value == router.default == "round_robin"
    policy = scenario_field("engine.policy", scenario)
    assert "static" not in policy.choices, "needs a batch size"
    for path in ("workload.arrivals.rate_per_s", "nothing", "slo", "workload.classes.0"):
        with pytest.raises(UserError, match=path):
            scenario_field(path, scenario)


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        ("model=/etc/passwd", "model"),
        ("workload.file=../../x.csv", "workload.file"),
        ("hardware=~root/h.yaml", "hardware.profile"),
        ("engine=/proc/self/environ.yaml", "engine.profile"),
        ("deployment.pools=[{name: a, hardware: /etc/h.yaml}]", "deployment.pools.0.hardware"),
        ('model="a\\0b"', "model"),
    ],
)
def test_files_outside_are_refused_by_their_key_unopened(sets: str, key: str) -> None:
    with pytest.raises(UserError, match="lies outside") as raised:
        _ = Choice(sets=(sets,)).scenario
    assert key in str(raised.value)


def test_includes_and_links_that_lead_outside_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / "secret.yaml"
    secret.write_text("password: hidden")
    (inside / "link.yaml").symlink_to(secret)
    (inside / "more.yaml").write_text("include: ../secret.yaml")
    (inside / "own.yaml").write_text("slo: {ttft_ms: 77}")
    monkeypatch.chdir(inside)
    for include in (secret, "link.yaml", "more.yaml", "/etc/passwd", "own.yaml/../../secret.yaml"):
        text = f"include: [chat-8b-h100, {include}]"
        with pytest.raises(UserError, match=r"include: .*lies outside") as raised:
            _ = Choice("a.yaml", text).scenario
        assert "hidden" not in str(raised.value)
        assert "root:" not in str(raised.value)
    found = Choice("a.yaml", "include: [chat-8b-h100, own.yaml]").scenario
    assert found.slo.ttft_ms == 77
    assert parse_scenario(f"include: [chat-8b-h100, {tmp_path}/inside/own.yaml]").slo == found.slo


def test_names_in_an_address_are_shipped_ones() -> None:
    for name in ("/etc/passwd", "-", "../examples/chat-8b-h100.yaml", "plan-chat-8b"):
        with pytest.raises(UserError, match="no shipped scenario"):
            _ = Choice(name).scenario


def test_uploads_are_this_sessions_alone_and_go_with_it() -> None:
    mine, other = Uploads(), Uploads()
    file = mine.keep("../../my trace.csv", b"arrival_s,input_tokens,output_tokens\n0,10,5\n")
    assert file.is_relative_to(mine.folder)
    assert mine.keep("my trace.csv", file.read_bytes()) == file
    sets = (f"workload={{kind: trace, file: {file}}}",)
    choice = Choice(sets=sets, uploads=mine.folder)
    assert choice.uploaded == [file]
    assert choice.key != Choice().key
    with pytest.raises(UserError, match=r"workload\.file: .*lies outside"):
        _ = Choice(sets=sets, uploads=other.folder).scenario
    with pytest.raises(UserError, match="200 MB"):
        mine.keep("large.csv", bytes(MOST_BYTES))
    folder = mine.folder
    del mine
    assert not folder.exists()


def test_a_changed_file_is_another_question(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n")
    choice = Choice(sets=(f"workload={{kind: trace, file: {file}}}",), uploads=tmp_path)
    before = choice.key
    file.write_text("arrival_s,input_tokens,output_tokens\n0,10,5\n1,10,5\n")
    assert choice.key != before


def test_files_of_scenarios_are_bounded_text() -> None:
    with pytest.raises(UserError, match="more than 200 kB"):
        Choice.from_file("large.yaml", b" " * (MOST_YAML_BYTES + 1))
    with pytest.raises(UserError, match="not UTF-8"):
        Choice.from_file("binary.yaml", b"\xff\xfe")
    with pytest.raises(UserError, match="empty"):
        _ = Choice.from_file("empty.yaml", b"").scenario
    large = Choice("large.yaml", "# " + "x" * (MOST_YAML_BYTES + 1))
    with pytest.raises(UserError, match="the address"):
        through_address(large)
    for packed in ("%%%", "AAAA", "eJw"):
        with pytest.raises(UserError, match="the address"):
            Choice.from_query({"yaml": [packed]})
