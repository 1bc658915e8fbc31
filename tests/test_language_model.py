"""Opening and saving models: our folders, transformers' folders, runs, shipped checkpoints, and what is wrong."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import bedplate
from bedplate.data.text import open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import continuation_logprobs
from bedplate.generate import Sampling
from bedplate.language_model import LanguageModel, load, shipped_checkpoints
from bedplate.models.gpt2 import GPT2, Config

TEXT = "def f(x):\n    return x + 1\n\nThe answer is 42, isn't it? " * 30


@pytest.fixture
def language_model() -> LanguageModel:
    torch.manual_seed(0)
    config = Config(vocab_size=280, context_length=32, dim=16, num_layers=2, num_heads=2)
    return LanguageModel(GPT2(config).eval(), ByteBPE.train([TEXT], vocab_size=280))


def test_a_saved_folder_opens_in_transformers_with_equal_logits(language_model: LanguageModel, tmp_path: Path) -> None:
    language_model.save(tmp_path / "model")
    reference = GPT2LMHeadModel.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = language_model.tokenizer.encode("def f(y):\n  ")
    assert tokenizer("def f(y):\n  ")["input_ids"] == ids
    with torch.no_grad():
        ours, theirs = language_model.model(torch.tensor([ids])), reference(torch.tensor([ids])).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert reference.config.eos_token_id == language_model.tokenizer.end_id


def test_a_folder_of_transformers_opens_here(language_model: LanguageModel, tmp_path: Path) -> None:
    config = GPT2Config(
        vocab_size=280, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=279, eos_token_id=279
    )
    reference = GPT2LMHeadModel(config).eval()
    reference.save_pretrained(tmp_path)
    language_model.tokenizer.save(tmp_path)
    opened = bedplate.load(tmp_path)
    ids = torch.randint(280, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids), reference(ids).logits, rtol=1e-5, atol=1e-6)
    assert opened.config.dim == 16


def test_saving_after_generating_keeps_every_bit(language_model: LanguageModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in language_model.model.state_dict().items()}
    language_model.generate("The answer", max_new_tokens=3)
    language_model.save(tmp_path / "model")
    after = load(tmp_path / "model").model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_shipped_model_knows_how_texts_begin() -> None:
    """An empty prompt is an end mark; what follows it must have been learned, not be worse than guessing."""
    opened = load("gpt2-tiny")
    beginnings = [document.text for document in open_corpus("pydocs").held_out]
    pairs = [([opened.tokenizer.end_id], opened.tokenizer.encode(text)[:1]) for text in beginnings]
    logprobs = continuation_logprobs(opened.model, pairs)
    assert sum(logprobs) / len(logprobs) > -math.log(opened.config.vocab_size) + 2  # measured: 3.2 better


def test_one_string_in_one_generation_out(language_model: LanguageModel) -> None:
    one = language_model.generate("The", max_new_tokens=4, seed=7)
    assert one == language_model.generate(["The", "def"], max_new_tokens=4, seed=7)[0]
    assert "".join(language_model.stream("The", max_new_tokens=4, seed=7)) == one.text


def test_an_unknown_option_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(TypeError, match="temprature"):
        language_model.generate("The", temprature=0.5)


def test_the_shipped_checkpoint_opens_and_is_small() -> None:
    assert "gpt2-tiny" in shipped_checkpoints()
    opened = load("gpt2-tiny")
    folder = Path(bedplate.__file__).parent / "checkpoints" / "gpt2-tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 2_000_000
    assert (folder / "receipt.json").exists()
    text = opened.generate("Return True if the", max_new_tokens=20, temperature=0).text
    assert text.isascii() and len(text) > 20


@pytest.mark.parametrize("target", ["no-such-model", "/no/such/folder", "./here", "a/b/c"])
def test_unknown_targets_name_what_exists(target: str) -> None:
    with pytest.raises(UserError, match="gpt2-tiny"):
        load(target)


def test_a_hub_id_without_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise ConnectionError("network is unreachable\nlong story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match="network is unreachable") as caught:
        load("openai-community/gpt2")
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_fetched_once_and_opened(
    language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model.save(tmp_path / "fetched")
    asked = []

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(tmp_path / "fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert load("gpt2").config.dim == 16
    assert asked == ["openai-community/gpt2"]


def test_a_vocabulary_larger_than_the_model_is_refused(language_model: LanguageModel, tmp_path: Path) -> None:
    language_model.save(tmp_path / "model")
    ByteBPE.train([TEXT], vocab_size=281).save(tmp_path / "model")
    with pytest.raises(UserError, match="281"):
        load(tmp_path / "model")


def test_save_refuses_a_folder_with_other_files(language_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        language_model.save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_file_given_for_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file"):
        load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["thesis.txt", "package.json", "README.md"])
def test_save_keeps_what_lies_beside_a_model(language_model: LanguageModel, tmp_path: Path, name: str) -> None:
    language_model.save(tmp_path / "model")
    language_model.save(tmp_path / "model")  # a model alone may be replaced
    (tmp_path / "model" / name).write_text("mine")
    with pytest.raises(UserError, match=name):
        language_model.save(tmp_path / "model")
    assert (tmp_path / "model" / name).read_text() == "mine"


def test_save_onto_a_file_is_a_user_error(language_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        language_model.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_in_training_can_write_and_goes_on_training(language_model: LanguageModel) -> None:
    expected = language_model.generate("The", max_new_tokens=4, temperature=0).ids
    fresh = LanguageModel(GPT2(language_model.config).train(), language_model.tokenizer)
    fresh.model.load_state_dict(language_model.model.state_dict())
    assert fresh.generate("The", max_new_tokens=4, temperature=0).ids == expected
    assert fresh.model.training and fresh.model(torch.tensor([[1, 2]])).requires_grad


def test_a_sampling_can_be_handed_over_whole(language_model: LanguageModel) -> None:
    whole = language_model.generate("The", sampling=Sampling(temperature=0.5, top_k=7), seed=2)
    assert whole == language_model.generate("The", temperature=0.5, top_k=7, seed=2)
    assert whole == language_model.generate("The", sampling=Sampling(temperature=0.5), top_k=7, seed=2)
