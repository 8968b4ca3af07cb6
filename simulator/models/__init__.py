"""Model architectures: presets, Hugging Face configurations, and what they count up to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from simulator.models.huggingface import Decoder
    from simulator.models.spec import ModelSpec

__all__ = ["load_decoder", "load_model", "preset_file", "preset_names", "repositories"]

_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(file.name.removesuffix(".json") for file in _PRESETS.glob("*.json"))


def load_model(name_or_path: str, base: Path | None = None) -> ModelSpec:
    """A model by name or from its configuration.

    Args:
        name_or_path: a preset (``llama-3.1-8b``), a Hugging Face repository that a preset stands
            for (``meta-llama/Llama-3.1-8B-Instruct``), in any case; or the path of a
            ``config.json`` or of the folder it lies in.
        base: folder that a relative path starts from; default: the current one.

    Raises:
        UnknownNameError: neither a preset nor a path; names the closest presets.
        UserError: the file is not there or does not describe a model that can be read.
    """
    preset = preset_file(name_or_path)
    if preset is not None:
        return _preset_spec(preset)
    return load_decoder(name_or_path, base).spec


@lru_cache(maxsize=256)
def _preset_spec(file: Path) -> ModelSpec:
    """Of a preset; read once, for searches ask for the same model again and again."""
    return _preset(file).spec


def _preset(file: Path) -> Decoder:
    from simulator.models.huggingface import parse_decoder, parse_json

    text = file.read_text(encoding="utf-8")
    name = file.name.removesuffix(".json")
    return parse_decoder(parse_json(text, str(file)), name, str(file), text)


def load_decoder(name_or_path: str, base: Path | None = None) -> Decoder:
    """A model as `load_model` finds it, with its layers one by one: what it takes to run it.

    Raises:
        UnknownNameError, UserError: see `load_model`.
    """
    from simulator.models.huggingface import read_config
    from simulator.paths import expanded, is_there

    preset = preset_file(name_or_path)
    if preset is not None:
        return _preset(preset)
    path = (base or Path()) / expanded(name_or_path)
    if name_or_path and is_there(path):
        return read_config(path)
    if name_or_path.endswith(".json") or name_or_path.startswith((".", "~", "/")):
        raise UserError("no such file or folder", where=str(path))
    raise _unknown(name_or_path)


def preset_file(name: str) -> Path | None:
    """File of the preset called ``name``, by its own name or a repository that it stands for; None
    if there is none."""
    from simulator.paths import is_there

    wanted = name.lower()
    if "/" not in wanted:
        file = _PRESETS / f"{wanted}.json"
        return file if wanted and is_there(file) else None
    return next((file for alias, file in _aliases() if alias.lower() == wanted), None)


def repositories() -> list[tuple[str, str]]:
    """Hugging Face repositories that presets stand for, with the names of these."""
    return [(alias, file.name.removesuffix(".json")) for alias, file in _aliases()]


def _aliases() -> list[tuple[str, Path]]:
    import json

    return [
        (alias, file)
        for file in sorted(_PRESETS.glob("*.json"))
        for alias in json.loads(file.read_text(encoding="utf-8")).get("_aliases", ())
    ]


def _unknown(name: str) -> UnknownNameError:
    """Names the presets that ``name`` may have meant."""
    ways = "`simulate list models` shows all presets"
    if "/" in name:
        ways += "; for any other model give the path of its config.json"
    meant = _near(name.lower())[:3]
    hint = f"did you mean {' or '.join(meant)}? {ways}" if meant else ways
    return UnknownNameError(f"there is no model {name!r}", hint=hint)


def _near(wanted: str) -> list[str]:
    """Presets spelled like ``wanted``, the likeliest first: those it abbreviates, then others."""
    import difflib

    spelled = {alias.lower(): file.name.removesuffix(".json") for alias, file in _aliases()}
    spelled |= {preset: preset for preset in preset_names()}
    bare = wanted.rpartition("/")[2]
    longer = [preset for preset in preset_names() if bare and preset.startswith(bare)]
    near = difflib.get_close_matches(wanted, spelled, n=6, cutoff=0.6)
    return list(dict.fromkeys([*longer, *(spelled[spelling] for spelling in near)]))
