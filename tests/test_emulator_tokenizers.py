"""Tokenizers of models, from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.filler import Filler
from emulator.tokens import chat_tokens, from_file
from simulator.errors import UserError

WORDS = "the of and a to in is you that it he was for on are as with they I at be this have"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer, trained on a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.BPE())
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    cutter.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, show_progress=False, special_tokens=["<|im_start|>", "<|im_end|>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    cutter.train_from_iterator([WORDS] * 8, trainer)
    cutter.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", cutter.token_to_id("<s>"))]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    cutter.save(str(folder / "tokenizer.json"))
    return folder


def say(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def test_a_tokenizer_from_a_folder(bpe: Path) -> None:
    tokenizer = from_file(bpe)
    text = "that you was é 中 👍 \ud83d"
    assert "".join(map(tokenizer.piece, tokenizer.encode("that you was"))) == "that you was"
    assert tokenizer.decode(tokenizer.encode("it é 中 👍")) == "it é 中 👍"
    assert tokenizer.decode([*tokenizer.encode("it"), 1 << 40]) == "it\ufffd"
    assert tokenizer.prompt(text)[1:] == tokenizer.encode(text)
    assert tokenizer.piece(tokenizer.prompt("a")[0]) == "<s>"
    # One byte of a longer character has no text by itself; nor has a number beyond the vocabulary.
    assert tokenizer.piece(tokenizer.encode("中")[0]) == "\ufffd" == tokenizer.piece(1 << 40)


@pytest.mark.parametrize("count", [1, 2, 3, 50, 400])
def test_answers_are_cut_as_the_model_cuts_them(bpe: Path, count: int) -> None:
    tokenizer = from_file(bpe)
    filler = Filler(tokenizer)
    pieces, tokens = filler.write(count, 5, 99, behind=False)
    assert tokenizer.encode("".join(pieces)) == tokens
    asked = [say("user", "was it he?")]
    told = [*asked, say("assistant", "".join(pieces)), say("user", "yes")]
    before, after = chat_tokens(asked, tokenizer), chat_tokens(told, tokenizer)
    assert after[: len(before) + count] == before + tokens
    assert len({filler.write(8, place, 5, behind=False)[0][0] for place in range(3)}) > 1


def test_a_tokenizer_of_other_words(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"zwei": 0, "drei": 1, "<unk>": 2, "vier": 3}
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    cutter.save(str(tmp_path / "tokenizer.json"))
    tokenizer = from_file(tmp_path / "tokenizer.json")
    pieces, tokens = Filler(tokenizer).write(20, 1, 1, behind=False)
    assert tokenizer.encode("".join(pieces)) == tokens
    assert set(tokens) <= {0, 1, 3}


LLAMA_LIKE = """{{- bos_token }}
{{- strftime_now("%Y")[:1] }}
{%- if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}
    {{- '[' + messages[0]['content'] | trim + ']' }}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] not in ['user', 'assistant'] %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message['role'] + '\n\n' }}
    {%- generation %}
    {{- message['content'] | trim }}
    {%- endgeneration %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{% endif %}
"""
"""Everything that templates of models use."""


@pytest.mark.parametrize("beside", [True, False])
def test_a_chat_template_is_followed(bpe: Path, tmp_path: Path, beside: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    config: dict[str, object] = {"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"}
    if beside:
        (tmp_path / "chat_template.jinja").write_text(LLAMA_LIKE)
    else:
        other = {"name": "tool_use", "template": "x"}
        config["chat_template"] = [other, {"name": "default", "template": LLAMA_LIKE}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = from_file(tmp_path)
    pieces, tokens = Filler(tokenizer).write(40, 1, 2, behind=False)
    asked = [say("system", "be"), say("user", "was it he? ")]
    told = [*asked, say("assistant", "".join(pieces)), say("user", "yes")]
    before, after = chat_tokens(asked, tokenizer), chat_tokens(told, tokenizer)
    assert after[: len(before) + 40] == before + tokens
    texts, _ = utils.render_jinja_template(
        [asked, told], chat_template=LLAMA_LIKE, add_generation_prompt=True, bos_token="<s>"
    )
    assert [tokenizer.encode(text) for text in texts] == [before, after]
    with pytest.raises(UserError) as caught:
        chat_tokens([*told, told[-1]], tokenizer)
    assert str(caught.value) == "messages: the model's chat template: roles must alternate"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("chat_template.jinja", "{% for %}", "is no chat template: "),
        ("chat_template.jinja", "{{ messages.x.y }}", "the chat template fails on a plain message"),
        (
            "chat_template.jinja",
            "{{ ''.__class__.__mro__ }}",
            "the chat template fails on a plain message: the model's chat template: access to",
        ),
        ("tokenizer_config.json", "{", "is not JSON: "),
        ("tokenizer_config.json", "[]", "is not the settings of a tokenizer"),
    ],
)
def test_chat_templates_that_are_refused(
    bpe: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((bpe / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        from_file(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {told}")
    assert len(from_file(tmp_path / "tokenizer.json").encode("it")) > 0


def broken(folder: Path, content: str | None) -> Path:
    file = folder / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    return file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file; give the tokenizer.json of a model, or the folder it is in"),
        ("{", "is no tokenizer that the package tokenizers reads"),
        (json.dumps({"model_type": "llama"}), "is no tokenizer that the package tokenizers reads"),
        (
            '{"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "vocab": {"the": 0}, "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}}',
            "is no tokenizer that the package tokenizers reads (WordPiece error: Missing [UNK]",
        ),
        ("\0\0", "is no tokenizer that the package tokenizers reads"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: str | None, told: str) -> None:
    with pytest.raises(UserError) as caught:
        from_file(broken(tmp_path, content))
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: {told}")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with file.open("wb") as hole:
        hole.truncate(1 << 30)
    with pytest.raises(UserError, match="is too large for a tokenizer: 1,074 MB of at most 134"):
        from_file(file)


def test_the_missing_package_is_told(bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="reading a tokenizer needs the package tokenizers; pip"):
        from_file(bpe)


def test_a_vocabulary_without_words(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    cutter.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="has no words that are one token each"):
        Filler(from_file(tmp_path))
