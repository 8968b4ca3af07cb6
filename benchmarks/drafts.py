"""Servers that ran with MTP modules, predicted with an acceptance that was published, not fitted:
``python benchmarks/drafts.py SERVED_POINTS.csv``.

The rows are those that ``simulate validate`` leaves out because they speculate. Nobody says how
many tokens they drafted or what was accepted, so several are shown.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from calibration.validate.formats import target
from calibration.validate.measured import read_dataset
from calibration.validate.prediction import predict
from calibration.validate.protocol import exclusion, scenario_of
from simulator.errors import UserError

DRAFTS = {
    "none": None,
    "1 at 0.85": {"kind": "mtp", "tokens": 1, "acceptance": 0.85},
    "2 at 0.85": {"kind": "mtp", "tokens": 2, "acceptance": 0.85},
    "3 at 0.85": {"kind": "mtp", "tokens": 3, "acceptance": 0.85},
}
METRICS = ("ttft_ms", "tpot_ms")


def main(file: Path) -> None:
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    users: list[int] = []
    for point in read_dataset(file).points:
        try:
            found = target(point)
        except UserError:
            continue
        if "speculative" not in exclusion(point, found):
            continue
        scenario = scenario_of(point, found)
        for name, drafts in DRAFTS.items():
            plain = scenario.model_dump(mode="json")
            plain["engine"]["speculative"] = drafts
            prediction = predict(type(scenario).model_validate(plain))
            if "refused" in prediction:
                print(point.id, name, prediction["refused"], file=sys.stderr)
                continue
            for metric in METRICS:
                for statistic, measured in getattr(point.measured, metric).items():
                    ratios[name, metric].append(prediction[metric][statistic] / measured)
        users.append(point.concurrency or 0)
    print(f"{len(users)} rows, {min(users)} to {max(users)} users")
    print("drafts      metric    median of predicted / measured   median error   10 to 90%")
    for (name, metric), found_ratios in ratios.items():
        r = np.array(found_ratios)
        low, high = np.percentile(r, (10, 90))
        print(f"{name:11s} {metric:9s} {np.median(r):8.2f} {100 * np.median(abs(r - 1)):30.1f}%"
              f"       {low:.2f} to {high:.2f}")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
