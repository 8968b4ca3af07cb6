"""What can be downloaded of a search: the report in three forms, and what starts a deployment."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import streamlit as st

import simulator
from dashboard import look
from simulator import UserError

ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM"}
"""Engines that deployment files are written for, and what they are called."""

WHY_NOT = "not-written.txt"
"""Instead of files, the reason why there are none."""


def reports(report: dict[str, Any], key: str) -> None:
    """Buttons that give the report; each file is made when it is asked for."""
    with st.container(horizontal=True):
        st.download_button(
            "plan.json", lambda: document(report), file_name="plan.json", key=f"{key} json",
            mime="application/json", on_click="ignore", icon=":material/download:",
            help="All of it, as `simulate plan --json` prints it",
        )  # fmt: skip
        st.download_button(
            "deployments.csv", lambda: simulator.plan_table(report).to_csv(index=False),
            file_name="deployments.csv", mime="text/csv", key=f"{key} csv", on_click="ignore",
            icon=":material/download:", help="One row a simulated deployment",
        )  # fmt: skip
        st.download_button(
            "plan.html", lambda: simulator.plan_page(report), file_name="plan.html",
            mime="text/html", key=f"{key} html", on_click="ignore", icon=":material/download:",
            help="The report that `simulate plan` writes: one page with plots, for any browser",
        )  # fmt: skip


def document(report: dict[str, Any]) -> str:
    """The report as ``plan.json`` has it."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)


def deployment(yaml: str, key: str) -> None:
    """What starts a deployment, for each engine.

    Args:
        yaml: the deployment as a scenario.
        key: names the widgets.
    """
    found = files_of(yaml)
    st.download_button(
        "All of them, zipped", lambda: zipped(found, yaml), file_name="deploy.zip",
        mime="application/zip", key=f"{key} zip", on_click="ignore", icon=":material/download:",
        help="A folder for each engine, each with its launch script and Kubernetes manifest, and "
        "the scenario",
    )  # fmt: skip
    for tab, (engine, title) in zip(st.tabs(list(ENGINES.values())), ENGINES.items(), strict=True):
        with tab:
            files = found[engine]
            if WHY_NOT in files:
                st.info(look.plain(files[WHY_NOT]), icon=":material/block:")
                continue
            name = st.selectbox("File", list(files), key=f"{key} {engine} file")
            text = files[str(name)]
            st.download_button(
                f"Download {name}", text, file_name=str(name), key=f"{key} {engine} one",
                mime="text/plain", on_click="ignore", icon=":material/download:",
            )  # fmt: skip
            st.code(text, language="sh" if str(name).endswith(".sh") else "yaml", height=360)
            st.caption(f"As `simulate export winner.yaml --for {engine}` writes it for {title}.")


def files_of(yaml: str) -> dict[str, dict[str, str]]:
    """Every engine's files by name; where it cannot run the deployment, the reason alone."""
    scenario = simulator.parse_scenario(yaml, "winner.yaml")
    found = {}
    for engine in ENGINES:
        try:
            found[engine] = simulator.launch_files(scenario, engine=engine)
        except UserError as error:
            found[engine] = {WHY_NOT: f"{ENGINES[engine]} does not start this: {error}"}
    return found


def zipped(found: dict[str, dict[str, str]], yaml: str) -> bytes:
    """All files in one, with a folder for each engine; scripts can be run."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = {"winner.yaml": yaml}
        entries |= {
            f"{e}/{name}": text for e, files in found.items() for name, text in files.items()
        }
        for name, text in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            archive.writestr(info, text)
    return packed.getvalue()
