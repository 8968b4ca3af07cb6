"""The page Trace: upload, describe, slice, replay; every mistake is one sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

import simulator
from dashboard.bounds import MOST_MB, check_size
from simulator import UserError
from simulator.cli import cli
from tests.dashboard_app import errors, finish, open_app

ROWS = "arrival_s,input_tokens,output_tokens\n" + "".join(
    f"{0.5 * i + 0.1 * (i % 3)},{100 + 7 * i},{20 + i % 9}\n" for i in range(60)
)
PACKED = gzip.compress(ROWS.encode(), mtime=0)
RATES = "start_s,rate_per_s\n0,1.0\n30,3.0\n60,0.5\n"


@pytest.fixture(scope="module")
def app() -> AppTest:
    return open_app("trace")


def upload(app: AppTest, content: bytes, name: str = "mine.csv") -> AppTest:
    app.file_uploader[0].set_value((name, content, "text/csv")).run()
    return finish(app)


def tiles(app: AppTest) -> dict[str, str]:
    return {tile.label: tile.value for tile in app.metric}


def told_by_the_command(file: Path | str, *options: str) -> Any:
    result = CliRunner().invoke(cli, ["trace", str(file), "--json", *options], prog_name="simulate")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def click(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click().run()
    return finish(app)


def number(app: AppTest, label: str) -> Any:
    return next(box for box in app.number_input if box.label == label)


def test_a_shipped_trace_is_described_and_replayed(app: AppTest) -> None:
    assert not errors(app)
    assert json.loads(app.json[0].value) == told_by_the_command("azure-llm-2023-code")
    shown = tiles(app)
    assert shown["Requests"] == "8,819"
    assert shown["Mean rate"] == "2.57 requests/s"
    result = simulator.simulate(
        simulator.load_scenario(
            "chat-8b-h100", ["workload={kind: trace, file: azure-llm-2023-code}"]
        )
    )
    assert shown["TTFT p99"] == f"{result.summary()['latency']['ttft_ms']['p99']:,.0f} ms"


def test_an_upload_says_what_the_command_says_and_goes_into_the_scenario(
    app: AppTest, tmp_path: Path
) -> None:
    upload(app, PACKED, "mine.csv.gz")
    assert not errors(app)
    (tmp_path / "mine.csv.gz").write_bytes(PACKED)
    expected = told_by_the_command(tmp_path / "mine.csv.gz")
    assert json.loads(app.json[0].value) == expected | {"name": "mine.csv.gz"}

    # A part: the figures are the command's with the same part, and the replay is of it.
    number(app, "Start, s").set_value(10.0).run()
    number(app, "Duration, s").set_value(12.0).run()
    number(app, "Most requests").set_value(20).run()
    finish(app)
    assert not errors(app)
    cut = ("--start-s", "10", "--duration-s", "12", "--requests", "20")
    part = told_by_the_command(tmp_path / "mine.csv.gz", *cut)
    assert json.loads(app.json[0].value) == part | {"name": "mine.csv.gz"}
    assert app.slider[0].value == (10.0, 22.0)
    click(app, "Use in the scenario")
    said = "".join(app.query_params["set"])
    path, _, value = said.partition("=")
    assert path == "workload"
    workload = json.loads(value)
    assert Path(workload["file"]).is_file()
    assert workload["slice"] == {"start_s": 10.0, "duration_s": 12.0, "requests": 20}
    assert "Used in the scenario" in [button.label for button in app.button]

    # Another page simulates it; another session, at the same address, cannot.
    app.switch_page("views/what_if.py").run()
    finish(app)
    assert not errors(app)
    other = open_app("what_if", set=[said])
    (sentence,) = errors(other)
    assert "lies outside the folder that this server was started in" in sentence
    other.switch_page("views/trace.py").run()
    finish(other)
    for box in other.selectbox:
        assert "mine.csv.gz" not in str(box.options)
        assert workload["file"] not in str(box.options)
    app.switch_page("views/trace.py").run()


def test_a_part_beyond_the_end_is_one_sentence(app: AppTest) -> None:
    upload(app, ROWS.encode())
    number(app, "Start, s").set_value(5000.0).run()
    finish(app)
    assert errors(app) == [
        "mine.csv: no request arrives at or after 5000 s; the rows read reach to 29.7 s: move or "
        "widen the slice"
    ]
    number(app, "Start, s").set_value(0.0).run()
    assert not errors(finish(app))


def test_bad_files_are_one_sentence(app: AppTest) -> None:
    bad = ROWS.replace("121,", "soon,", 1)
    for content, name, sentence in (
        (bad.encode(), "bad.csv", "bad.csv:5: input_tokens is 'soon'; expected a whole number of"),
        (b"", "empty.csv", "empty.csv: the file is empty"),
        (b"\n\n", "blank.csv", "blank.csv: the file is empty"),
        (b"PAR1\x00\x00", "data.parquet", "data.parquet: is a file of Parquet; traces are CSV"),
        (b"a,b\n1,2\n", "other.csv", "other.csv:1: the columns are 'a,b'; expected"),
        (b"\xff\xfe\x00", "words.csv", "words.csv:1: byte 0xff is not valid UTF-8"),
        (b'{"timestamp": ' + b"[" * 100_000, "deep.jsonl", "deep.jsonl:1: the line is not JSON"),
        (gzip.compress(b"0" * 201_000_000), "bomb.gz", "bomb.gz: unpacks to more than 200 MB"),
        (gzip.compress(ROWS.encode())[:-20], "cut.gz", "cut.gz: the gzip data ends too early"),
        (b"0" * (MOST_MB * 1_000_000 + 1), "huge.csv", "huge.csv: has 50 MB; at most 50 MB"),
    ):
        upload(app, content, name)
        assert len(errors(app)) == 1, name
        assert errors(app)[0].startswith(sentence), errors(app)[0]
        assert len(errors(app)[0]) < 300
    upload(app, ROWS.encode())
    assert not errors(app)
    next(box for box in app.selectbox if box.label == "Format").set_value("burstgpt").run()
    finish(app)
    assert errors(app)[0].startswith("mine.csv:1: the columns are 'arrival_s,input_tokens")


def test_a_table_of_rates_and_a_file_of_lengths(app: AppTest, tmp_path: Path) -> None:
    upload(app, RATES.encode(), "rates.csv")
    assert not errors(app)
    (tmp_path / "rates.csv").write_text(RATES)
    expected = told_by_the_command(tmp_path / "rates.csv")
    assert json.loads(app.json[0].value) == expected | {"name": "rates.csv"}
    assert tiles(app)["Highest rate"] == "3.00 requests/s"
    assert "TTFT p99" in tiles(app)
    app.selectbox(key="trace file").set_value("sharegpt-lengths").run()
    (sentence,) = errors(finish(app))
    assert "no arrival times, and the scenario's workload, which is trace" in sentence
    assert json.loads(app.json[0].value)["arrivals"] is None


def test_many_gzip_files_in_a_row_are_refused() -> None:
    check_size("few.gz", gzip.compress(b"a") * 1000 + b"\0\0")
    with pytest.raises(UserError, match=r"gzip files in a row"):
        check_size("many.gz", gzip.compress(b"") * 1001)
