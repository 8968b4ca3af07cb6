"""Datasets: what is read, what is skipped, and what is said about a wrong cell."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from calibration.validate import read_dataset
from calibration.validate.formats import formats, target
from calibration.validate.point import Point
from calibration.validate.protocol import scenario_of
from calibration.validate.splits import half_of
from simulator.errors import UserError

SAMPLE = Path(__file__).parent.parent / "calibration/datasets/served_points_sample.csv"
HEADER = "model,system,engine,isl,osl,concurrency,ttft_ms,tpot_ms"
ROW = "llama-3.1-8b,h100,vllm,1000,200,8,50,9"


def write(folder: Path, *lines: str) -> Path:
    file = folder / "mine.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def one(folder: Path, header: str = HEADER, row: str = ROW) -> Point:
    (point,) = read_dataset(write(folder, header, row)).points
    return point


def test_published_columns_are_accepted_as_they_stand() -> None:
    dataset = read_dataset(SAMPLE)
    assert (len(dataset.points), len(dataset.skipped), dataset.ignored) == (49, 3, ())
    reasons = Counter(row.reason.partition(" over ")[0] for row in dataset.skipped)
    assert reasons == {
        "prefill and decode apart, and the number of workers is not given": 1,
        "a single server with 64 devices is beyond one node: the label is in doubt": 1,
        "neither concurrency nor rate_per_s is given": 1,
    }
    assert {point.origin for point in dataset.points} == {"sweep", "vendor"}
    for point in dataset.points:
        assert point.measured.ttft_ms["mean"] > 0
        assert target(point).hardware.name in ("b200-sxm", "h100-sxm", "h200-sxm")


def test_own_rows(tmp_path: Path) -> None:
    point = one(
        tmp_path,
        HEADER + ",tp,precision,version,num_prompts,range_ratio,statistic,e2e_ms,prefix_caching",
        ROW + ",2,fp8,0.25,64,0.5,median,2000,off",
    )
    assert (point.id, point.origin, point.tp, point.num_prompts) == ("line 2", "own", 2, 64)
    assert (point.range_ratio, point.statistic, point.prefix_caching) == (0.5, "p50", False)
    assert point.measured.e2e_ms == {"p50": 2000.0}
    assert point.group == "llama-3.1-8b / h100 / vllm / 0.25 / fp8"


APART = HEADER + ",mode,prefill_num_workers,prefill_tp_size,decode_num_workers,decode_tp_size"


def test_prefill_and_decode_apart(tmp_path: Path) -> None:
    point = one(tmp_path, APART, ROW + ",disagg,3,2,1,8")
    assert (point.ways, point.devices, point.spread) == ("3 × TP 2 + 1 × TP 8", 14, True)
    pools = scenario_of(point, target(point)).deployment.pools
    assert [(p.role, p.replicas) for p in pools] == [("prefill", 3), ("decode", 1)]
    assert [p.parallelism.tp for p in pools if p.parallelism] == [2, 8]
    assert half_of(point) == "validation"


def test_few_users_need_one_worker_of_each_kind(tmp_path: Path) -> None:
    for users, known in ((4, True), (5, False)):
        row = ROW.replace(",200,8,", f",200,{users},") + ",disagg,,8,,8"
        dataset = read_dataset(write(tmp_path, APART, row))
        assert [p.ways for p in dataset.points] == ["1 × TP 8 + 1 × TP 8"] * known
    (skipped,) = dataset.skipped
    assert "number of workers is not given" in skipped.reason


def test_other_names_of_columns_and_gzip(tmp_path: Path) -> None:
    text = "gpu,model_path,backend,input_tokens,output_tokens,request_rate,tpot_ms\n"
    file = tmp_path / "mine.csv.gz"
    file.write_bytes(gzip.compress((text + "h100,llama-3.1-8b,vllm,10,20,2.5,9\n").encode()))
    dataset = read_dataset(file)
    assert dataset.name == "mine"
    assert (dataset.points[0].rate_per_s, dataset.points[0].concurrency) == (2.5, None)


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    dataset = read_dataset(write(tmp_path, HEADER + ",remark", ROW + ",slow day"))
    assert dataset.ignored == ("remark",)


def test_a_models_file_is_found_beside_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    point = one(tmp_path, row=ROW.replace("llama-3.1-8b", "config.json"))
    assert point.model == str(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (HEADER, ROW.replace(",50,", ",fast,"), ":2, ttft_ms: must be a number, got 'fast'"),
        (HEADER, ROW.replace(",50,", ",-5,"), ":2, ttft_ms: should be greater than 0, got"),
        (HEADER, ROW.replace(",50,", ",inf,"), ":2, ttft_ms: must be a finite number, got inf"),
        (HEADER, ROW.replace(",8,", ",8.5,"), ":2, concurrency: must be a whole number, got 8.5"),
        (HEADER, ROW.replace(",8,", ",0,"), ":2, concurrency: should be greater than or equal"),
        (HEADER, ROW + ",7", ":2: has 9 cells, the header 8"),
        (HEADER + ",statistic", ROW + ",max", ":2, statistic: must be one of mean, average"),
        (HEADER + ",prefix_caching", ROW + ",perhaps", ":2, prefix_caching: must be true or false"),
        (HEADER + ",rate_per_s", ROW + ",3", ":2: give concurrency or rate_per_s, not both"),
        (HEADER + ",range_ratio", ROW + ",1.5", ":2, range_ratio: should be less than or equal"),
        (HEADER.replace("engine", "motor"), ROW, ":1: has no column 'engine' or 'backend'"),
        (HEADER + ",concurency2", ROW + ",1", ""),
        (HEADER.replace("tpot_ms", "tpot_m"), ROW, ":1: has an unknown column 'tpot_m'; did you mean 'tpot_ms'?"),
        (HEADER + ",gpu", ROW + ",h100", ":1: has two columns for system, one is 'gpu'"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_told_with_its_line(
    tmp_path: Path, header: str, row: str, message: str
) -> None:
    file = write(tmp_path, header, row)
    if not message:  # a column like one that is there is no typing error
        assert read_dataset(file).ignored == ("concurency2",)
        return
    with pytest.raises(UserError) as caught:
        read_dataset(file)
    assert f"{file}{message}" in str(caught.value)


def test_ids_are_unique(tmp_path: Path) -> None:
    file = write(tmp_path, "id," + HEADER, "a," + ROW, "a," + ROW)
    with pytest.raises(UserError, match="'a' is on line 2 too"):
        read_dataset(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "has no rows"), (b"\xff\xfe", "is not UTF-8"), (b'a,"b\n1,2\n', "is not CSV")],
)
def test_files_that_are_no_tables(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "broken.csv"
    file.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_dataset(file)
    with pytest.raises(UserError, match="No such file"):
        read_dataset(tmp_path / "none.csv")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(b"a,b\n1,2\n")[:-6])
    with pytest.raises(UserError, match="gzip"):
        read_dataset(broken)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",1,1,1,", ""),
        (",2,1,1,", "pipeline parallelism over 2 devices is not replayed yet"),
        (",1,4,1,", ""),
        (",1,8,8,1", ""),
        (",1,8,8,2", "experts on 16 devices and attention on 8 contradict each other"),
        (",1,16,16,1",
         "a single server with 16 devices is beyond one node: the label is in doubt"),
    ],
)  # fmt: skip
def test_what_is_not_replayed_is_skipped(tmp_path: Path, row: str, reason: str) -> None:
    dataset = read_dataset(write(tmp_path, HEADER + ",pp,attention_dp,ep,moe_tp", ROW + row))
    assert [s.reason for s in dataset.skipped] == ([reason] if reason else [])
    assert len(dataset.points) == (0 if reason else 1)


@pytest.mark.parametrize(
    ("model", "gpu", "precision", "expected"),
    [
        ("llama-3.1-70b", "h200", "", ("bf16", None)),
        ("llama-3.1-70b", "h200", "fp8", ("fp8", "fp8")),
        ("llama-3.1-70b", "a100", "fp8", ("fp8", "bf16")),
        ("llama-3.1-70b", "b200_sxm", "fp4", ("fp4", "fp4")),
        ("llama-3.1-70b", "h200", "nvfp4", ("fp4", "bf16")),
        ("openai/gpt-oss-120b", "h200", "fp4", ("fp4", "bf16")),
        ("llama-3.1-70b", "h200", "awq", ("int4", "bf16")),
        ("llama-3.1-70b", "a100", "w8a8", ("int8", "int8")),
    ],
)
def test_number_formats_behind_a_label(
    tmp_path: Path, model: str, gpu: str, precision: str, expected: tuple[str, str | None]
) -> None:
    row = f"{model},{gpu},vllm,1000,200,8,50,9,{precision}"
    point = one(tmp_path, HEADER + ",precision", row)
    found = formats(point, target(point))
    assert (found.weights, found.activations) == expected


def test_an_unknown_precision_and_names_with_additions(tmp_path: Path) -> None:
    point = one(tmp_path, HEADER + ",precision", ROW + ",fp3")
    with pytest.raises(UserError, match="unknown precision 'fp3'"):
        formats(point, target(point))
    row = "llama-3.1-8b,RTX 4090 24GB,TensorRT-LLM (in-flight batching),1000,200,8,50,9"
    found = target(one(tmp_path, row=row))
    assert (found.hardware.name, found.engine.name) == ("rtx-4090", "tensorrt-llm")
