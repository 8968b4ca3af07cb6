"""``simulate dashboard``: what it says when it cannot start, whom it answers, and how it ends."""

from __future__ import annotations

import socket
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from subprocess import run

import pytest
from click.testing import CliRunner
from conftest import ROOT
from dashboard_server import Server, free_port, serving

from simulator.cli import cli


def refused(*args: str) -> str:
    """What it says instead of starting."""
    done = CliRunner().invoke(cli, ["dashboard", "--no-browser", *args])
    assert done.exit_code == 2, done.output
    assert not done.stdout
    return done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


# --- what is wrong is told in a sentence ---------------------------------------------------------


def test_without_streamlit_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["simulator.cli.dashboard"], "find_spec", lambda _: None)
    assert refused() == (
        "Error: the dashboard needs Streamlit, which is not installed;"
        " pip install 'servecast[dashboard]'\n"
    )


def test_a_port_that_is_taken_is_told_with_one_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused("--port", str(port))
    start = f"Error: --port: port {port} is taken; "
    assert said.startswith(start)
    free = int(said.removeprefix(start).partition(" ")[0])
    assert free > port
    assert said.endswith(f"{free} is free: --port {free}\n")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "Error: --host: '192.0.2.1' is no address of this machine\n"),
        ("no such host", "Error: --host: there is no address 'no such host'; 127.0.0.1 is this machine alone, 0.0.0.0 every address of it\n"),
        ("a" * 70, f"Error: --host: there is no address '{'a' * 70}'; 127.0.0.1 is this machine alone, 0.0.0.0 every address of it\n"),
    ],
)  # fmt: skip
def test_a_host_that_cannot_be_listened_on_is_told(host: str, said: str) -> None:
    assert refused("--host", host, "--port", str(free_port())) == said


def test_a_wrong_scenario_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    good = (ROOT / "examples" / "chat-8b-h100.yaml").read_text(encoding="utf-8")
    file.write_text(good + "modle: llama\n", encoding="utf-8")
    line = len(good.splitlines()) + 1
    assert refused(str(file)).startswith(f"Error: {file}:{line}: modle: unknown key")
    assert "did you mean" in refused("chat-8b-h10")
    assert refused("--set", "hardware=l4").startswith("Error: --set changes a scenario")


# --- whom it answers -----------------------------------------------------------------------------


def answer(server: Server, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and beginning of what it answers; ``Host`` and ``Origin`` as given."""
    line = HTTPConnection("127.0.0.1", server.port, timeout=30)
    line.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        line.putheader(name.replace("_", "-"), value)
    line.endheaders()
    with closing(line), line.getresponse() as response:
        return response.status, b"" if response.status == 101 else response.read(2000)


def handshake(server: Server, **headers: str) -> int:
    """Status of a request for the stream that pages are drawn from."""
    status, _ = answer(
        server, "GET", "/_stcore/stream", Connection="Upgrade", Upgrade="websocket",
        Sec_WebSocket_Version="13", Sec_WebSocket_Key="MDEyMzQ1Njc4OWFiY2RlZg==", **headers,
    )  # fmt: skip
    return status


def test_it_says_where_it_is_and_answers_there(server: Server) -> None:
    assert server.said == f"The dashboard is at {server.address}\n"
    status, page = answer(server, "GET", "/")
    assert status == 200
    assert b"<html" in page
    assert answer(server, "GET", "/", Host=f"localhost:{server.port}")[0] == 200


def test_only_its_own_pages_are_connected(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    assert handshake(server, Origin=f"http://{own}") == 101
    # Another server of this machine is another origin, and so is a file.
    for origin in ("http://example.org", "http://127.0.0.1:1", "http://localhost:3000", "null"):
        assert handshake(server, Origin=origin) == 403, origin


def test_names_that_were_made_to_lead_here_are_refused(server: Server) -> None:
    for host in ("example.org", f"example.org:{server.port}", "127.0.0.1.example.org", ""):
        assert handshake(server, Host=host, Origin=f"http://{host}") == 403, host
        assert answer(server, "GET", "/", Host=host)[0] == 403, host


def test_a_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/compare", "/_stcore/health"):
        line = HTTPConnection("127.0.0.1", server.port, timeout=30)
        line.request("GET", path)
        with closing(line), line.getresponse() as response:
            told = response.headers
        rules = dict(rule.split(" ", 1) for rule in told["Content-Security-Policy"].split("; "))
        assert "script-src" not in rules
        assert "img-src" not in rules, "the default is for all of them"
        assert set(rules["default-src"].split()) == {
            "'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:",
        }  # fmt: skip
        own = f"127.0.0.1:{server.port}"
        assert set(rules["connect-src"].split()) == {
            "'self'", "data:", "blob:", f"ws://{own}", f"wss://{own}",
        }  # fmt: skip
        assert rules["frame-ancestors"] == "'self'"
        assert told["Referrer-Policy"] == "no-referrer"
        assert told["X-Content-Type-Options"] == "nosniff"


def test_uploads_need_the_page_s_token(server: Server) -> None:
    there = f"/_stcore/upload_file/{'0' * 8}/{'1' * 8}"
    assert answer(server, "PUT", there, Content_Length="0")[0] == 403
    assert answer(server, "PUT", there, Origin="http://example.org")[0] == 403


def test_what_streamlit_may_do_is_said_in_its_settings() -> None:
    settings = tomllib.loads((ROOT / "dashboard/.streamlit/config.toml").read_text("utf-8"))
    assert settings["browser"]["gatherUsageStats"] is False
    server = settings["server"]
    assert server["enableXsrfProtection"] is True
    assert server["enableCORS"] is True
    assert server["showEmailPrompt"] is False
    assert server["maxUploadSize"] <= 50


def test_others_are_let_in_with_a_warning_and_ctrl_c_ends_it() -> None:
    with serving("--host", "0.0.0.0") as server:
        assert server.said == f"The dashboard is at {server.address}\n"
        assert handshake(server, Host="a.lan", Origin="http://a.lan") == 101
        assert handshake(server, Host="a.lan", Origin="http://example.org") == 403
        code, errors = server.stop()
    assert code == 0
    assert errors == (
        f"Warning: everybody who reaches port {server.port} of 0.0.0.0 can use it;"
        " there are no passwords.\n"
    )


# --- what is installed ---------------------------------------------------------------------------


def test_the_wheel_holds_all_of_the_app(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        file.relative_to(ROOT).as_posix()
        for folder in ("dashboard", "emulator")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {
        "dashboard/.streamlit/config.toml", "dashboard/icon.svg", "emulator/app.py"
    } <= wanted  # fmt: skip
    assert wanted <= packed
