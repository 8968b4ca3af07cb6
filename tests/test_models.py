"""Loading models by name, alias and path; what happens when that fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.errors import UnknownNameError, UserError
from simulator.models import load_model, preset_names

PRESETS = Path(__file__).parents[1] / "simulator" / "models" / "presets"


def message(name: str, base: Path | None = None, kind: type[UserError] = UserError) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name, base)
    assert type(caught.value) is kind
    return str(caught.value)


def test_names_are_the_files():
    assert preset_names() == sorted(file.stem for file in PRESETS.glob("*.json"))
    assert len(preset_names()) >= 50


def test_names_and_aliases_are_unambiguous():
    spellings = [name.lower() for name in preset_names()]
    for file in PRESETS.glob("*.json"):
        spellings += [alias.lower() for alias in json.loads(file.read_text())["_aliases"]]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b",
        "Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "META-LLAMA/meta-llama-3.1-8b-instruct",
    ],
)
def test_one_model_by_many_names(name):
    assert load_model(name) is not None
    assert load_model(name) == load_model("llama-3.1-8b")
    assert load_model(name).name == "llama-3.1-8b"


def test_every_alias_leads_to_its_preset():
    for file in PRESETS.glob("*.json"):
        for alias in json.loads(file.read_text())["_aliases"]:
            assert load_model(alias).name == file.stem


def test_unknown_names_suggest_the_closest():
    listing = "`simulate list models` shows all presets"
    own = "for any other model give the path of its config.json"
    assert message("llama3.1-8b", kind=UnknownNameError) == (
        f"there is no model 'llama3.1-8b'; did you mean llama-3.1-8b or llama-3-8b or "
        f"llama-3.1-70b? {listing}"
    )
    assert message("mixtral", kind=UnknownNameError).startswith(
        "there is no model 'mixtral'; did you mean mixtral-8x22b or mixtral-8x7b or "
    )
    assert message("Qwen/Qwen2.5-7B", kind=UnknownNameError).startswith(
        "there is no model 'Qwen/Qwen2.5-7B'; did you mean qwen2.5-7b or "
    )
    assert message("gpt4", kind=UnknownNameError) == f"there is no model 'gpt4'; {listing}"
    assert message("", kind=UnknownNameError) == f"there is no model ''; {listing}"
    assert message("me/mine", kind=UnknownNameError) == (
        f"there is no model 'me/mine'; {listing}; {own}"
    )


def test_file_and_folder_relative_to_base(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    preset = json.loads((PRESETS / "qwen3-8b.json").read_text())
    published = {key: value for key, value in preset.items() if not key.startswith("_")}
    (folder / "config.json").write_text(json.dumps(published))
    for way in ("my-model", "./my-model", "my-model/config.json", str(folder)):
        model = load_model(way, tmp_path)
        assert model.name == "my-model"
        assert model.groups == load_model("qwen3-8b").groups
        assert model.parameters_published is None
        assert model.source == str(folder / "config.json")


def test_missing_files(tmp_path):
    assert message("./nope", tmp_path) == f"{tmp_path / 'nope'}: no such file or folder"
    assert message("nope.json", tmp_path) == f"{tmp_path / 'nope.json'}: no such file or folder"
    assert message(".", tmp_path) == f"{tmp_path}: the folder holds no config.json"


def test_files_that_are_no_configuration(tmp_path):
    file = tmp_path / "model.json"
    for content, sentence in {
        b'{"a": 1,\n "b": }': f"{file}:2: not valid JSON: Expecting value",
        b'{"rope_theta": NaN}': f"{file}: not valid JSON: NaN is not a number",
        b"[1, 2]": f"{file}: must hold a mapping of keys to values",
        b"\xff\xfe\x00": f"{file}: cannot be read: it is not a text file",
        b"[" * 100_000: f"{file}: not valid JSON: ",
    }.items():
        file.write_bytes(content)
        assert message("model.json", tmp_path).startswith(sentence)


def test_loading_needs_no_heavy_import():
    program = (
        "import sys\n"
        "from simulator.models import load_model, counting\n"
        "from simulator.models.layout import Layout\n"
        "model = load_model('meta-llama/Llama-3.1-8B')\n"
        "counting.weight_bytes_per_rank(model, 'fp8', Layout(2))\n"
        "print(sorted({'numpy', 'pydantic', 'yaml', 'pandas'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
