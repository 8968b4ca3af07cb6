"""Fleet: the deployment over a day or a week, its replicas, its SLO and its bill."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import knobs, look, scaling, session
from dashboard.background import DONE
from dashboard.choice import Choice
from dashboard.fleet_charts import Course
from dashboard.following import follow
from simulator import UserError, definition_of, duration, value_at

_AUTOSCALING = (
    ("min", "Fewest"), ("max", "Most"), ("target", "Target"), ("requests_per_s", "Requests/s each"),
    ("interval_s", "Decision every, s"), ("cooldown_s", "Cooldown, s"),
    ("down_window_s", "Calm before fewer, s"),
)  # fmt: skip
_COLD_START = (
    ("provisioning_s", "Provisioning, s"),
    ("boot_s", "Boot, s"),
    ("warmup_s", "Warm-up, s"),
)
_FAILURES = (("mtbf_h", "Time between crashes, h"), ("repair_s", "Repair, s"))
_SPOT = (
    ("interruptions_per_hour", "Interruptions/h"), ("notice_s", "Notice, s"),
    ("replacement_s", "Replacement, s"),
)  # fmt: skip


def page() -> None:
    """Draws the page."""
    st.caption("The deployment over time: load, replicas, SLO, cost and power of the whole run.")
    choice = session.choice()
    try:
        key = choice.key
    except UserError as error:
        look.wrong(error)
        return
    knobs, course, beside = st.container(), st.container(), st.container()
    with knobs:
        _knobs(choice)
    job = session.ask("fleet", key, scaling.day(choice))
    with course:
        follow("fleet", job, lambda day: _draw(day, choice))
    if job.state == DONE and job.latest is not None:
        with beside:
            _compare(choice, job.latest)


# --- knobs ---------------------------------------------------------------------------------------


def _knobs(choice: Choice) -> None:
    deployment = choice.scenario.deployment
    if deployment.pools:
        st.caption("Several pools: their numbers, failures and spot devices stand in the sidebar.")
        return
    with st.expander("Autoscaling, failures, spot devices", expanded=True):
        policies = [scaling.FIXED, *scaling.POLICIES]
        now = scaling.policy_of(choice)
        if now not in policies:
            policies.append(now)
        st.session_state["fleet policy"] = now
        st.selectbox(
            "Number of replicas", policies, key="fleet policy", on_change=_policy, width=320,
            help="fixed, or by requests in flight (concurrency), by requests that wait (queue), by "
            "the share of time with work (utilization), or by a forecast of the rate (predictive)",
        )  # fmt: skip
        if deployment.autoscaling is None:
            _numbers(choice, "deployment", (("replicas", "Replicas"),))
        else:
            _numbers(choice, "deployment.autoscaling", _AUTOSCALING)
        for title, path, values, fields in (
            ("Crashes", "deployment.failures", scaling.FAILURES, _FAILURES),
            ("Spot devices", "deployment.spot", scaling.SPOT, _SPOT),
        ):
            there = getattr(deployment, path.rpartition(".")[2]) is not None
            st.session_state[f"fleet {path}"] = there
            st.toggle(title, key=f"fleet {path}", on_change=_switch, args=(path, values))
            if there:
                _numbers(choice, path, fields)
            if path == "deployment.failures":
                _outages(deployment.failures)
        if deployment.autoscaling or deployment.failures or deployment.spot:
            st.markdown("Cold start")
            _numbers(choice, "deployment.cold_start", _COLD_START)


def _numbers(choice: Choice, path: str, fields: tuple[tuple[str, str], ...]) -> None:
    found = []
    for name, label in fields:
        try:
            setting = choice.setting(f"{path}.{name}")
        except UserError:  # this policy has no such value
            continue
        if setting.kind in ("number", "whole"):
            found.append((label, setting))
    for column, (label, setting) in zip(st.columns(max(len(found), 4)), found, strict=False):
        with column:
            knobs.draw(knobs.Knob(label, setting), choice, "fleet")


def _outages(failures: Any) -> None:
    """Crashes and slow replicas at given times, which the scenario's YAML alone can change."""
    for what, key in (("At given times", "outages"), ("Slow", "slowdowns")):
        given = getattr(failures, key, ())
        told = [f"replica {each.replica} at {duration(each.at_s)} for {duration(each.for_s)}"
                + (f", {each.factor:g} times as long" if key == "slowdowns" else "")
                for each in given[:_MOST_TOLD]]  # fmt: skip
        if len(given) > _MOST_TOLD:
            told.append(f"{len(given) - _MOST_TOLD:,} more")
        if told:
            st.caption(f"{what} (deployment.failures.{key}): {' · '.join(told)}")


def _policy() -> None:
    choice, wanted = session.choice(), st.session_state["fleet policy"]
    if wanted == scaling.FIXED:
        most = getattr(choice.scenario.deployment.autoscaling, "most", 1)
        session.choose(scaling.fixed(choice, most))
    elif wanted in scaling.POLICIES:
        session.choose(scaling.scaled(choice, wanted))


def _switch(path: str, values: dict[str, Any]) -> None:
    on = st.session_state[f"fleet {path}"]
    session.choose(scaling.switched(session.choice(), path, values if on else None))


# --- the course ----------------------------------------------------------------------------------

_MOST_TOLD = 4

_TILES = (
    ("SLO met", "slo.goodput_share"),
    ("TTFT p99", "latency.ttft_ms.p99"),
    ("Replicas held, mean", "fleet.replicas_mean"),
    ("Starts", "fleet.starts"),
    ("Crashes", "fleet.crashes"),
    ("Interruptions", "fleet.interruptions"),
    ("Cost of the run", "cost.whole_run_usd"),
    ("Energy of the run", "energy.whole_run_kwh"),
    ("Emitted", "energy.whole_run_gco2e"),
)


def _draw(day: scaling.Day, choice: Choice) -> None:
    if day.preview:
        st.caption(f"Of the first {scaling.PREVIEW_REQUESTS:,} requests; the rest is under way.")
    deployment = choice.scenario.deployment
    unused = {
        key
        for key, cause in (
            ("fleet.crashes", deployment.failures),
            ("fleet.interruptions", deployment.spot),
        )
        if cause is None and not deployment.pools
    }
    wanted = [(label, key) for label, key in _TILES if key not in unused]
    look.tiles([tile for label, key in wanted if (tile := _tile(day.summary, label, key))])
    course, history = Course(day.history), day.history
    course.replicas()
    charts = [course.load]
    if history.met_share:
        charts.append(lambda: course.attainment(choice.scenario.slo.attainment))
    charts.append(course.waiting)
    if history.usd:
        charts += [course.price, course.spent]
    charts.append(course.power)
    if history.gco2e:
        charts.append(course.carbon)
    for first in range(0, len(charts), 2):
        for column, draw in zip(st.columns(2), charts[first : first + 2], strict=False):
            with column:
                draw()


def _tile(summary: dict[str, Any], label: str, key: str) -> tuple[str, str, str] | None:
    section = summary.get(key.split(".")[0])
    if not section or value_at(summary, key) is None:
        return None
    return label, look.told(summary, key), definition_of(key).text


# --- fixed against autoscaled --------------------------------------------------------------------


def _compare(choice: Choice, day: scaling.Day) -> None:
    deployment = choice.scenario.deployment
    if deployment.pools:
        return
    if deployment.autoscaling is None:
        _offer(choice, day)
        return
    most = deployment.autoscaling.most
    st.subheader("Against a fixed fleet")
    st.caption(
        f"The same traffic on {most} replicas, the most that autoscaling may have, all the time."
    )
    other = scaling.fixed(choice, most)
    try:
        key = other.key
    except UserError as error:
        look.wrong(error)
        return
    job = session.ask("fleet fixed", key, scaling.day(other))
    follow("fleet fixed", job, lambda found: _table(day, found, most))


_COMPARED = (
    "slo.goodput_share", "latency.ttft_ms.p50", "latency.ttft_ms.p99", "latency.tpot_ms.p99",
    "cost.whole_run_usd", "cost.usd_per_hour", "cost.usd_per_million_output_tokens",
    "energy.whole_run_kwh",
)  # fmt: skip


def _table(scaled: scaling.Day, fixed: scaling.Day, replicas: int) -> None:
    if fixed.preview:
        return
    st.dataframe(
        [
            {
                "": _label(key),
                "autoscaled": look.told(scaled.summary, key),
                f"fixed, {replicas} replicas": look.told(fixed.summary, key),
            }
            for key in _COMPARED
            if value_at(scaled.summary, key) is not None
        ],
        hide_index=True, width="stretch", height="content",
    )  # fmt: skip


def _label(key: str) -> str:
    name = key.rpartition(".")[2]
    quantile = f" {name}" if name in ("p50", "p99") else ""
    return definition_of(key).label + quantile


def _offer(choice: Choice, day: scaling.Day) -> None:
    target = scaling.fitting_target(day.summary)
    tried = scaling.scaled(choice, "concurrency", target)
    st.subheader("With autoscaling")
    st.caption(
        f"Requests in flight at a replica now, on average: {target:g}. That as the target, one to "
        f"{max(2, 2 * choice.scenario.deployment.replicas)} replicas, and the cold start of the "
        "scenario, or three minutes where it has none. All of it can be changed above."
    )
    if st.button("Try autoscaling", icon=":material/auto_graph:"):
        session.choose(tried)
        st.rerun()


page()
