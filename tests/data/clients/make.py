"""Makes the files of guidellm and AIPerf in this folder: runs the real clients against a small
server that answers in a fixed time, and leaves out of their files what nobody reads.

    python make.py PATH/TO/guidellm PATH/TO/aiperf     # needs their packages, transformers among them

The files of `vllm bench serve` and of inference-perf beside it were written by hand, key by key after
their sources (vllm/benchmarks/serve.py; inference_perf/reportgen/base.py and apis/base.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

HERE = Path(__file__).parent

FIRST_S, NEXT_S = 0.02, 0.004
MODEL = "tiny"
WORDS = [f"w{i}" for i in range(64)]


class Server:
    """Answers `/v1/chat/completions` and `/v1/completions`: the first token after 20 ms, one more
    every 4 ms; every ``fails``-th request gets status 500."""

    def __init__(self, fails: int = 0) -> None:
        self._fails, self._seen = fails, 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readline()
        if not head:
            return False
        method, path, _ = head.decode().split()
        length = 0
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            length = int(value) if name.lower() == "content-length" else length
        body = json.loads(await reader.readexactly(length)) if length else {}
        if method == "GET":
            document = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            self._whole(writer, 200, document)
        else:
            await self._answer(writer, body, chat="chat" in path)
        await writer.drain()
        return True

    def _whole(self, writer: asyncio.StreamWriter, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (status, len(data))
        )
        writer.write(data)

    async def _answer(self, writer: asyncio.StreamWriter, body: dict, *, chat: bool) -> None:
        self._seen += 1
        if self._fails and self._seen % self._fails == 0:
            self._whole(writer, 500, {"error": {"message": "out of order", "code": 500}})
            return
        count = body.get("max_completion_tokens") or body.get("max_tokens") or 8
        texts = body.get("prompt", "")
        if chat:
            parts = [message["content"] for message in body["messages"]]
            texts = " ".join(
                part if isinstance(part, str) else " ".join(p.get("text", "") for p in part)
                for part in parts
            )
        usage = {"prompt_tokens": len(str(texts).split()), "completion_tokens": count}
        usage["total_tokens"] = usage["prompt_tokens"] + count
        base = {"id": f"r{self._seen}", "created": 0, "model": MODEL}
        kind = "chat.completion" if chat else "text_completion"
        if not body.get("stream"):
            await asyncio.sleep(FIRST_S + (count - 1) * NEXT_S)
            text = " ".join(WORDS[i % 64] for i in range(count))
            choice = {"index": 0, "finish_reason": "length"}
            choice |= (
                {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            )
            self._whole(writer, 200, {**base, "object": kind, "choices": [choice], "usage": usage})
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for i in range(count):
            await asyncio.sleep(NEXT_S if i else FIRST_S)
            text = WORDS[i % 64] + " "
            choice = {"index": 0, "finish_reason": "length" if i == count - 1 else None}
            choice |= {"delta": {"content": text}} if chat else {"text": text}
            self._event(writer, {**base, "object": kind + ".chunk", "choices": [choice]})
            await writer.drain()
        self._event(writer, {**base, "object": kind + ".chunk", "choices": [], "usage": usage})
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    def _event(self, writer: asyncio.StreamWriter, document: object) -> None:
        self._chunk(writer, b"data: " + json.dumps(document).encode() + b"\n\n")

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n" % len(data) + data + b"\r\n")


@contextmanager
def serving(fails: int = 0) -> Iterator[str]:
    """A server in a thread of its own; its address."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(Server(fails).connection, "127.0.0.1", 0))
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def tokenizer(folder: Path) -> None:
    """One token a word, in the form that both clients load."""
    words = {word: i for i, word in enumerate([*WORDS, "[UNK]"])}
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
                "post_processor": None, "decoder": None,
                "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
            }
        )
    )  # fmt: skip
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))


def prompts(file: Path) -> None:
    """Prompts of several lengths for guidellm."""
    draw = random.Random(1)
    rows = ["prompt,prompt_tokens_count,output_tokens_count"]
    for _ in range(24):
        count = draw.randint(8, 30)
        text = " ".join(draw.choice(WORDS) for _ in range(count))
        rows.append(f"{text},{count},{draw.randint(3, 9)}")
    file.write_text("\n".join([*rows, ""]))


def guidellm(program: str, work: Path, name: str, profile: str, count: int, **how: Any) -> None:
    """One run of guidellm; its report without figures of pictures, films, sound and tools."""
    out = work / "benchmarks.json"
    with serving(how.get("fails", 0)) as url:
        subprocess.run(
            [program, "run", "--disable-console",
             "--backend", f"kind=openai_http,target={url},model={MODEL}{how.get('backend', '')}",
             "--profile", profile, "--constraint", f"kind=max_requests,count={count}",
             "--tokenizer", f"kind=huggingface_auto,model={work}",
             "--data", f"kind=csv_file,path={work / 'prompts.csv'}",
             "--output", f"kind=json,path={out}"],
            check=True,
        )  # fmt: skip
    report = json.loads(out.read_text().replace(str(work), "."))
    del report["config"]
    for benchmark in report["benchmarks"]:
        for part in ("text", "image", "video", "audio", "tool_call"):
            del benchmark["metrics"][part]
        for distributions in benchmark["metrics"].values():
            for part in ("errored", "incomplete", "total"):
                if isinstance(distributions, dict):
                    distributions.pop(part, None)
        for request in benchmark["requests"]["errored"]:
            request["info"]["traceback"] = None
        for request in benchmark["requests"]["successful"]:
            for part in ("request_args", "output", "input_metrics", "output_metrics"):
                del request[part]
    (HERE / name).write_text(json.dumps(report) + "\n")


def aiperf(program: str, work: Path, name: str, *options: str, fails: int = 0) -> None:
    """One run of AIPerf; its files without figures of the transport."""
    out = work / name
    with serving(fails) as url:
        subprocess.run(
            [program, "profile", "-m", MODEL, "--url", url, "--endpoint-type", "chat",
             "--tokenizer", str(work), "--isl", "20", "--isl-stddev", "4", "--osl", "6",
             "--osl-stddev", "2", "--num-dataset-entries", "12", "--no-gpu-telemetry",
             "--no-server-metrics", "--output-artifact-dir", str(out), *options],
            check=True,
        )  # fmt: skip
    (HERE / name).mkdir(exist_ok=True)
    lines = []
    for line in (out / "profile_export.jsonl").read_text().splitlines():
        record = json.loads(line)
        metrics = record["metrics"]
        record["metrics"] = {k: v for k, v in metrics.items() if not k.startswith("http_")}
        lines.append(json.dumps(record))
    (HERE / name / "profile_export.jsonl").write_text("\n".join([*lines, ""]))
    summary = json.loads((out / "profile_export_aiperf.json").read_text().replace(str(work), "."))
    unread = ("http_", "active_", "effective_", "theoretical_")
    kept = {k: v for k, v in summary.items() if not k.startswith(unread)}
    (HERE / name / "profile_export_aiperf.json").write_text(json.dumps(kept) + "\n")


def main(first: str, second: str) -> None:
    """All files."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        tokenizer(work)
        prompts(work / "prompts.csv")
        guidellm(first, work, "guidellm-0.8.1.json", "kind=concurrent,streams=2", 8, fails=5)
        guidellm(first, work, "guidellm-0.8.1-plain.json", "kind=poisson,rate=20", 6,
                 backend=",stream=false")  # fmt: skip
        aiperf(second, work, "aiperf-0.13.0", "--streaming", "--concurrency", "2",
               "--request-count", "8", fails=5)  # fmt: skip
        aiperf(second, work, "aiperf-0.13.0-warm", "--streaming", "--request-rate", "20",
               "--arrival-pattern", "poisson", "--request-count", "8",
               "--warmup-request-count", "2")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
