"""Load clients that others wrote, run as processes of their own: guidellm and AIPerf.

Both replay a trace: requests at given times with given lengths. Neither needs a network: their
prompts are made with a tokenizer in a local folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from simulator.measured import Records, read_measurements

END = "<end>"

LAST_TOKENS = 60
"""Output tokens of the request that comes last and does not count; others have fewer."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a client is to send. Shapes (n,).

    Args:
        at_s: when, from the start on.
        input_tokens, output_tokens: lengths.
    """

    at_s: npt.NDArray[np.float64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at_s)

    def closed(self) -> Traffic:
        """With one more request that ends after all others: guidellm may be gone before it has
        counted the last answer."""
        return Traffic(
            np.append(self.at_s, self.at_s[-1] + 0.5),
            np.append(self.input_tokens, 32),
            np.append(self.output_tokens, LAST_TOKENS),
        )

    def write(self, file: Path, *, per_second: float) -> Path:
        """As lines of JSON, with times in such units."""
        rows = zip(
            (self.at_s * per_second).tolist(),
            self.input_tokens.tolist(),
            self.output_tokens.tolist(),
            strict=True,
        )
        keys = ("timestamp", "input_length", "output_length")
        file.write_text(
            "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)
        )
        return file


def make_tokenizer(folder: Path, text: str, vocabulary: int = 2000) -> Path:
    """A small byte-level BPE tokenizer, learned from a text, as ``transformers`` reads it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(), trainer)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def guidellm(url: str, trace: Path, tokenizer: Path, folder: Path, executable: str | None) -> Path:
    """A replay by guidellm; returns its report."""
    report = folder / "guidellm.json"
    _run(
        folder,
        [
            executable or str(Path(sys.executable).with_name("guidellm")), "run",
            "--disable-console",
            "--backend", f"kind=openai_http,target={url},request_format=/v1/completions",
            "--profile", "kind=replay,schedule_turn=timestamp",
            "--tokenizer", f"kind=hf_auto,model={tokenizer}",
            "--data", f"kind=trace_synthetic,source.kind=json_file,source.path={trace}",
            "--output", f"kind=json,path={report}",
        ],
        {"GUIDELLM__MAX_WORKER_PROCESSES": "1"},
    )  # fmt: skip
    return report


def aiperf(url: str, trace: Path, tokenizer: Path, folder: Path, executable: str | None) -> Path:
    """A replay by AIPerf; returns the folder of its reports."""
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    report = folder / "aiperf"
    _run(
        folder,
        [
            executable or "aiperf", "profile", "--ui", "none", "--model", model, "--url", url,
            "--endpoint-type", "completions", "--streaming", "--extra-inputs", "ignore_eos:true",
            "--use-server-token-count", "--tokenizer", str(tokenizer),
            "--input-file", str(trace), "--custom-dataset-type", "mooncake_trace",
            "--fixed-schedule", "--artifact-dir", str(report),
        ],
        {},
    )  # fmt: skip
    return report


CLIENTS = {"guidellm": (guidellm, 1.0), "aiperf": (aiperf, 1e3)}
"""Clients, and how many of their units of time a second has."""


def replay(
    client: str, url: str, traffic: Traffic, tokenizer: Path, folder: Path,
    executable: str | None = None,
) -> Records:  # fmt: skip
    """What a client measured of a replay, in the order in which it sent. Behind the traffic it
    sends one more request, which may be missing. All its files stay in ``folder``."""
    run, per_second = CLIENTS[client]
    file = folder / f"{client}-trace.jsonl"
    report = run(url, traffic.closed().write(file, per_second=per_second), tokenizer, folder,
                 executable)  # fmt: skip
    (measured,) = read_measurements(report)
    if measured.records is None or len(measured.records) < len(traffic) or measured.failed:
        raise RuntimeError(
            f"of {len(traffic) + 1} requests {measured.completed} came back: {report}"
        )
    return measured.records


def _run(folder: Path, command: Sequence[str], environment: dict[str, str]) -> None:
    log = folder / "client.log"
    with log.open("w") as said:
        done = subprocess.run(
            command, cwd=folder, stdout=said, stderr=said, check=False, timeout=300,
            env={**os.environ, **environment},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {log.read_text()[-2000:]}")
