"""Engine profiles: every file loads, every fact is sourced, nothing claims a fit it has not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import simulator.engines.profiles
from simulator.engines import load_engine, profile_names
from simulator.errors import UnknownNameError, UserError
from simulator.resolve import resolve
from tests.results_support import scenario

FOLDER = Path(simulator.engines.profiles.__file__).parent
NAMES = profile_names()


def test_the_engines_people_ask_for_are_there() -> None:
    assert set(NAMES) == {
        "vllm", "sglang", "tensorrt-llm", "tgi", "deepspeed-inference", "onnxruntime",
        "transformers", "micro-engine",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_profile(name: str) -> None:
    engine = load_engine(name)
    assert engine.name == name
    assert all(len(text) > 10 for text in engine.sources.values())
    for entry in engine.overheads:
        assert entry.fit or "prior" in entry.source
    assert engine.fitted == (engine.overheads[-1].fit is not None)
    if engine.cuda_graphs.enabled:
        assert engine.cuda_graphs.sizes[0] == 1


def test_vllm_takes_smaller_defaults_on_smaller_devices() -> None:
    engine = load_engine("vllm")
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (1024, 8192)
    assert engine.on("h100-sxm", 79.1) is engine
    for device, memory in (("l4", 22.0), ("a100-sxm-80gb", 79.3)):
        small = engine.on(device, memory)
        assert (small.max_num_seqs, small.max_num_batched_tokens) == (256, 2048)
        assert (
            small.model_copy(update={"max_num_seqs": 1024, "max_num_batched_tokens": 8192})
            == engine
        )


def test_vllm_graph_sizes_follow_its_rule() -> None:
    expected = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    assert list(load_engine("vllm").cuda_graphs.sizes) == expected


def test_aliases_and_unknown_names() -> None:
    assert load_engine("TRTLLM").name == "tensorrt-llm"
    with pytest.raises(UnknownNameError, match="did you mean 'vllm'"):
        load_engine("vlm")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("sizes: [1, 2, 4", "sizes: [1, 4, 2", "sizes must rise"),
        ("enabled: true", "enabled: perhaps", "cuda_graphs.enabled: must be"),
        ("fraction: 0.92", "fraction: 92", "memory.fraction: must be less than or equal to 1"),
        (
            "rule: of_total",
            "rule: of_totl",
            "memory.rule: must be one of of_total, of_free, static",
        ),
        ("kind: continuous", "kind: continous", "did you mean 'continuous'"),
        ('  memory: "', '  memories: "', "sources: 'memories' is none of"),
        ("step_ms:", "step_us:", "unknown key; did you mean 'step_ms' \\(milliseconds\\)"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    text = (FOLDER / "vllm.yaml").read_text()
    assert old in text
    path = tmp_path / "engine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=sentence) as caught:
        load_engine("engine.yaml", tmp_path)
    assert str(caught.value).startswith(f"{path}:")


def test_a_release_has_its_own_defaults_and_overheads() -> None:
    newest = load_engine("vllm")
    old = newest.at("0.11.2")
    assert newest.async_scheduling
    assert not old.async_scheduling
    assert old.version == "0.11.2"
    assert newest.at("0.14.0rc1").async_scheduling is False
    assert newest.at("0.14.0").async_scheduling is True
    assert newest.at("99").overheads == newest.overheads[-1:]
    assert old.at("0.11.2") == old
    with pytest.raises(ValueError, match="must be a release number"):
        newest.at("nightly")


def test_ranges_of_releases_must_rise(tmp_path: Path) -> None:
    document = load_engine("vllm").model_dump(mode="json")
    entry = document["overheads"][-1]
    path = tmp_path / "engine.yaml"
    for befores, sentence in (
        (["0.9", "0.10"], "the last entry, and only that, has no 'before'"),
        ([None, None], "the last entry, and only that, has no 'before'"),
        (["0.10", "0.9", None], "must rise"),
        (["0.ten", None], "must be a release number"),
    ):
        document["overheads"] = [entry | {"before": before} for before in befores]
        path.write_text(yaml.safe_dump(document))
        with pytest.raises(UserError, match=sentence):
            load_engine(str(path))


def test_a_scenario_names_a_release_by_number() -> None:
    with pytest.raises(UserError, match=r"engine\.version: must be a release number"):
        resolve(scenario(engine={"version": "latest"}))


def test_graphs_are_refused_where_an_engine_has_none() -> None:
    with pytest.raises(UserError, match=r"engine\.cuda_graphs: .* has no CUDA graphs"):
        resolve(scenario(engine={"profile": "transformers", "cuda_graphs": "piecewise"}))


def test_a_processor_launches_nothing_on_itself() -> None:
    chosen = {"hardware": "xeon-6980p-2s", "model": "llama-3.2-1b"}
    limits = resolve(scenario(**chosen)).deployment.limits
    assert not limits.cuda_graphs
    assert not limits.async_scheduling
    for key in ("cuda_graphs", "async_scheduling"):
        with pytest.raises(UserError, match=rf"engine\.{key}: .*the processor is the device"):
            resolve(scenario(**chosen, engine={key: True}))


def test_an_engine_takes_its_overheads_on_a_machine_where_they_were_measured(
    tmp_path: Path,
) -> None:
    """Under ``efficiency.engines`` of a hardware profile; others keep their own."""
    from simulator.hardware import load_hardware

    data = load_hardware("xeon-6980p-2s").model_dump(mode="json", exclude_none=True)
    entry = load_engine("micro-engine").overheads[-1].model_dump(mode="json", exclude_none=True)
    entry["host"]["step_ms"] = 77.0
    data["efficiency"]["engines"] = {
        "micro-engine": {"provenance": data["efficiency"]["provenance"], "overheads": entry}
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    for name, step_ms in (("micro-engine", 77.0), ("vllm", load_engine("vllm").host.step_ms)):
        resolved = resolve(
            scenario(hardware=str(path), model="llama-3.2-1b", engine={"profile": name})
        )
        assert resolved.deployment.engine.host.step_ms == step_ms
