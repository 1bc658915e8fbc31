"""`bedplate diff MODEL URL`: every fault that a server commits is named by its cause, and nothing else is."""

import copy
import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluate.fake_server import Service, running

from bedplate.cli import main
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.golden import Golden, golden_prompts
from bedplate.evaluate.replay import in_words, replay
from bedplate.evaluate.server import CompletionServer
from bedplate.language_model import LanguageModel, load


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load("gpt2-tiny")


@pytest.fixture(scope="module")
def golden(tiny: LanguageModel) -> Golden:
    return golden_prompts(tiny)


def compare(golden: Golden, language_model: LanguageModel, **faults: Any) -> dict[str, Any]:
    service = Service(language_model=language_model, **({"tokenizer": language_model.tokenizer} | faults))
    with running(service) as url:
        return replay(golden, CompletionServer(url))


def changed(language_model: LanguageModel, *, dtype: torch.dtype = torch.float32, noise: float = 0.0) -> LanguageModel:
    """The same model in another number format, or with other weights."""
    model = copy.deepcopy(language_model.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * parameter.std() * torch.randn_like(parameter))
    return LanguageModel(model.to(dtype), language_model.tokenizer)


TELLING = {
    "everything": {},
    "rows of chat": {"content": True},
    "no usage": {"counts": False},
    "no echo": {"refuses": ("echo",)},
    "echo ignored": {"ignores": ("echo",)},
    "no likeliest tokens": {"tops": False},
    "a wrong echo": {"shifted": True},
    "no log-probabilities": {"refuses": ("logprobs",)},
    "log-probabilities ignored": {"ignores": ("echo", "logprobs")},
    "nothing but text": {"refuses": ("logprobs",), "counts": False},
}


@pytest.mark.parametrize("telling", TELLING)
def test_a_right_server_is_equal_however_much_it_tells(telling: str, golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, **TELLING[telling])
    assert found["same"] and found["first"] is None
    assert [row["verdict"] for row in found["prompts"]] == ["equal"] * len(golden.prompts) == ["equal"] * 5
    silent = telling in ("no log-probabilities", "log-probabilities ignored", "nothing but text")
    assert any("only texts were compared" in limit for limit in found["limits"]) == silent
    assert any("only counted" in limit for limit in found["limits"]) == (telling in ("no echo", "echo ignored"))
    assert any("only be suspected" in limit for limit in found["limits"]) == (telling == "nothing but text")
    assert any("contradict" in limit for limit in found["limits"]) == (telling == "a wrong echo")
    for row in found["prompts"]:
        assert (row["largest"] is None or row["largest"] < 1e-4) and (row["largest"] is None) == silent


@pytest.mark.parametrize("telling", ["everything", "rows of chat", "no usage", "no echo", "no log-probabilities"])
def test_a_bos_is_named(telling: str, golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, bos=True, **TELLING[telling])
    assert not found["same"] and found["first"]["cause"] == "BOS"
    seen = "begins with '<|endoftext|>'" if telling in ("everything", "rows of chat", "no usage") else "one more"
    assert seen in found["first"]["evidence"]
    assert {row["cause"] for row in found["prompts"] if row["prompt"] != "empty"} == {"BOS"}


@pytest.mark.parametrize("telling", ["everything", "no echo", "no log-probabilities"])
def test_a_template_is_named(telling: str, golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, before="<user>\n", after="\n<model>\n", **TELLING[telling])
    assert found["first"]["cause"] == "template"
    expected = r"'<user>\n' before ours and '\n<model>\n' after" if telling == "everything" else "more than ours"
    assert expected in found["first"]["evidence"]


def test_another_tokenizer_is_named(golden: Golden, tiny: LanguageModel) -> None:
    vocabulary = tiny.tokenizer.vocabulary
    other = ByteBPE(dataclasses.replace(vocabulary, merges=vocabulary.merges[:300]))
    for telling in ("everything", "no echo"):
        found = compare(golden, tiny, tokenizer=other, **TELLING[telling])
        assert found["first"]["cause"] == "tokenizer", telling


def test_half_precision_is_named(golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, changed(tiny, dtype=torch.bfloat16))
    causes = {row["cause"] for row in found["prompts"]}
    assert "dtype" in causes and causes <= {"dtype", "near tie"}
    largest = max(row["largest"] for row in found["prompts"])
    assert 5e-3 < largest < 0.5


@pytest.mark.parametrize("telling", ["everything", "no echo", "no likeliest tokens", "no log-probabilities"])
def test_a_near_tie_is_named(telling: str, tiny: LanguageModel) -> None:
    """Two tokens whose rows differ by less than bfloat16 holds: rounded, they tie, and the lower id wins."""
    model = copy.deepcopy(tiny.model)
    before = golden_prompts(tiny).prompts[0].continuation[0].id
    (lower,) = tiny.tokenizer.encode("~")  # which no golden prompt holds
    assert lower < before
    with torch.no_grad():
        rows = model.token_embedding.weight
        rows[before] = rows[before].bfloat16().float()
        rows[lower] = rows[before] * (1 - 1e-5)
    tied = LanguageModel(model, tiny.tokenizer)
    golden = golden_prompts(tied)
    first = golden.prompts[0].continuation[0]
    assert first.id == before and first.runner_up is not None and first.runner_up.id == lower
    found = compare(golden, changed(tied, dtype=torch.bfloat16), **TELLING[telling])
    row = found["prompts"][0]
    assert (row["cause"], row["place"]) == ("near tie", 0), row


@pytest.mark.parametrize("telling", ["everything", "no echo", "no likeliest tokens", "no log-probabilities"])
def test_sampling_is_named(telling: str, golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, temperature=1.0, **TELLING[telling])
    first = found["first"]
    assert first["cause"] == "sampling" and first["place"] is not None and first["ours"] != first["theirs"]
    assert [row["cause"] for row in found["prompts"]].count("sampling") >= 3


def test_other_weights_are_named(golden: Golden, tiny: LanguageModel) -> None:
    for telling in ("everything", "no log-probabilities"):
        found = compare(golden, changed(tiny, noise=0.3), **TELLING[telling])
        assert found["first"]["cause"] == "weights", telling


def test_a_template_that_the_server_hides_is_suspected(golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, before="Answer:\n", counts=False, refuses=("echo",))
    assert found["first"]["cause"] == "weights"
    assert "tokens that it does not report" in " ".join(in_words(found))
    assert "only be suspected" in " ".join(in_words(found))


def test_an_answer_cut_short_is_named(golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, stop_after=5)
    assert (found["first"]["cause"], found["first"]["place"]) == ("length", 5)


def test_the_first_different_token_is_told_with_both_probabilities(golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, temperature=1.0)
    first = found["first"]
    token = next(prompt for prompt in golden.prompts if prompt.name == first["prompt"]).continuation[first["place"]]
    assert (first["ours"], first["ours_logprob"]) == (token.text, token.logprob)
    ours = f"ours {token.text!r} ({token.logprob:.3f})"
    assert f"{ours}, theirs {first['theirs']!r} ({first['theirs_logprob']:.3f})" in " ".join(in_words(found))


def test_a_prompt_that_is_refused_is_said_not_compared(golden: Golden, tiny: LanguageModel) -> None:
    found = compare(golden, tiny, refuses=("empty",))
    assert found["same"] and [row["verdict"] for row in found["prompts"]] == ["equal"] * 4 + ["not compared"]
    assert "prompt is empty" in found["limits"][0]
    with pytest.raises(UserError, match="answers no prompt"):
        compare(golden, tiny, refuses=("prompt",))


def test_the_command_tells_by_its_exit_code(tiny: LanguageModel, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", "gpt2-tiny", str(tmp_path / "hf")]) == 0
    with running(Service(language_model=tiny, tokenizer=tiny.tokenizer)) as url:
        assert main(["diff", str(tmp_path / "hf"), f"{url}/v1", "--json", str(tmp_path / "same.json")]) == 0
        assert main(["diff", "gpt2-tiny", url]) == 0  # golden prompts made on the fly
        capsys.readouterr()
        assert main(["diff", "gpt2-tiny", url, "--served", "tinny"]) == 2
        assert "did you mean 'tiny'?" in capsys.readouterr().err
    assert json.loads((tmp_path / "same.json").read_text())["same"] is True
    (tmp_path / "key").write_text("secret\n")
    with running(Service(language_model=tiny, tokenizer=tiny.tokenizer, bos=True, key="secret")) as url:
        assert main(["diff", str(tmp_path / "hf"), url]) == 2
        assert "answers 401 (who are you?)" in capsys.readouterr().err
        assert main(["diff", str(tmp_path / "hf"), url, "--key", str(tmp_path / "key")]) == 1
    assert "Likely cause: BOS" in capsys.readouterr().out
    assert main(["diff", "one", "two", "--served", "tiny"]) == 2
    assert "--served and --key are for servers" in capsys.readouterr().err


@pytest.fixture
def stranger() -> Iterator[str]:
    """A server that speaks HTTP, but not this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_no_such_server_is_one_clear_line(stranger: str, capsys: Any, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # a port at which nobody listens
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
        cases = [(nobody, "no server answers"), (stranger, "OpenAI-style"), ("http://", "no server answers")]
        for url, words in cases:
            assert main(["diff", "gpt2-tiny", url]) == 2
            error = capsys.readouterr().err
            assert words in error and error.count("\n") == 1
    (tmp_path / "golden.json").write_text('{"prompts": [{}], "receipt": {}}')
    service = Service(language_model=load("gpt2-tiny"), tokenizer=load("gpt2-tiny").tokenizer)
    with running(service) as url:
        assert main(["diff", str(tmp_path), url]) == 2
    assert "does not hold golden prompts" in capsys.readouterr().err
