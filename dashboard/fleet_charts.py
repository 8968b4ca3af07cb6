"""Charts of a run over time."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from dashboard import look
from simulator import History

_STATES = (("up", 2), ("starting", 1), ("draining", 5), ("down", 3))
_MARKS = {"crash": ("x", look.LIMIT), "interruption": ("triangle-down", look.COLOURS[3]),
          "start": ("triangle-up", look.COLOURS[1])}  # fmt: skip
_HEIGHT = 250


class Course:
    """The charts of one history."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.scale, self.unit = look.time_unit(history.edges_s[-1])
        edges = history.edges_s
        self.x = [edge / self.scale for edge in edges]

    def load(self) -> None:
        """Requests sent and completed."""
        chart = self._chart("requests/s")
        self._line(chart, self.history.sent_per_s, "sent", 0)
        self._line(chart, self.history.completed_per_s, "completed", 2)
        look.show(chart, "fleet load", "requests per second sent and completed, over time")

    def replicas(self) -> None:
        """Replicas by state, with what befell them."""
        chart = self._chart("replicas")
        pools = self.history.replicas
        top = [0.0] * (len(self.x) - 1)
        for place, (pool, states) in enumerate(pools.items()):
            for state, colour in _STATES:
                values = states[state]
                if not any(values):
                    continue
                name = state if len(pools) == 1 else f"{pool}: {state}"
                shade = colour if len(pools) == 1 else (colour + place) % len(look.COLOURS)
                self._line(chart, values, name, shade, stackgroup="replicas")
                top = [a + b for a, b in zip(top, values, strict=True)]
        self._marks(chart, max(top, default=1.0))
        look.show(
            chart, "fleet replicas",
            "replicas that are up, starting, draining or down, over time, with crashes, "
            "interruptions and completed starts as marks",
        )  # fmt: skip

    def _marks(self, chart: go.Figure, top: float) -> None:
        for kind, (symbol, colour) in _MARKS.items():
            mine = [event for event in self.history.events if event.kind == kind]
            if not mine:
                continue
            said = [
                f"{kind} of {event.pool} {event.replica}"
                + (f", took {event.took_s:,.0f} s" if event.took_s else "")
                for event in mine
            ]
            chart.add_trace(
                go.Scatter(
                    x=[event.at_s / self.scale for event in mine], y=[1.06 * top] * len(mine),
                    mode="markers", name=kind, text=said,
                    marker={"symbol": symbol, "color": colour, "size": 8},
                    hovertemplate=f"%{{x:.4g}} {self.unit}: %{{text}}<extra></extra>",
                )
            )  # fmt: skip

    def waiting(self) -> None:
        """Requests in queues."""
        chart = self._chart("requests waiting")
        self._line(chart, self.history.waiting, "waiting", 1, fill="tozeroy")
        look.show(chart, "fleet waiting", "requests waiting for their first step, over time")

    def attainment(self, wanted: float) -> None:
        """Share of requests that meet their SLO, by when they were sent."""
        chart = self._chart("SLO met, %")
        met = [None if share is None else 100 * share for share in self.history.met_share]
        self._line(chart, met, "met", 2)
        chart.add_hline(
            y=100 * wanted, line={"dash": "dash", "color": look.LIMIT, "width": 1.5},
            annotation_text=f"wanted {100 * wanted:g}%", annotation_position="bottom left",
        )  # fmt: skip
        chart.update_yaxes(range=[0, 104])
        look.show(
            chart, "fleet slo", "share of requests that met every SLO, by when they were sent"
        )

    def price(self) -> None:
        """What the devices held cost."""
        chart = self._chart("USD/h")
        self._line(chart, self.history.usd_per_hour, "cost", 4, fill="tozeroy")
        look.show(chart, "fleet price", "price of all devices held, in USD per hour, over time")

    def spent(self) -> None:
        """The same, added up."""
        chart = self._chart("USD spent")
        self._line(chart, self.history.usd, "spent", 4)
        look.show(chart, "fleet spent", "USD spent since the start, over time")

    def power(self) -> None:
        """What all devices draw."""
        scale, unit = (1e3, "kW") if max(self.history.power_w) >= 1e3 else (1.0, "W")
        chart = self._chart(f"power, {unit}")
        self._line(chart, [watts / scale for watts in self.history.power_w], "power", 3)
        look.show(chart, "fleet power", f"power of all devices held, in {unit}, over time")

    def carbon(self) -> None:
        """What that emits."""
        chart = self._chart("emitted, kg CO₂e")
        self._line(chart, [g / 1e3 for g in self.history.gco2e], "emitted", 5)
        look.show(chart, "fleet carbon", "emissions since the start, in kg CO₂e, over time")

    def _chart(self, y: str) -> go.Figure:
        chart = look.figure(f"time, {self.unit}", y, height=_HEIGHT, hovermode="x unified")
        chart.update_xaxes(range=[0.0, self.x[-1]])
        return chart

    def _line(
        self, chart: go.Figure, values: Sequence[float | None], name: str, colour: int, **more: str
    ) -> None:
        """Each interval at its end, so that sums over time stand where they are reached."""
        chart.add_trace(
            go.Scatter(
                x=self.x[1:], y=list(values), name=name,
                line={"color": look.COLOURS[colour], "width": 1.5, "shape": "vh"},
                hovertemplate="%{y:,.4g}", **more,
            )
        )  # fmt: skip
        chart.update_layout(showlegend=len(chart.data) > 1)
