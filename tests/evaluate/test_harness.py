"""lm-evaluation-harness drives our models: on three types of task with the numbers that its own `hf` model gives."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import UserError
from bedplate.evaluate.harness import model_class, run
from bedplate.language_model import load

pytestmark = pytest.mark.xdist_group("harness")
LONG = " ".join(
    f"The {number}th item is written to the file, and the list is returned." for number in range(20)
)  # 1.5 contexts
CHOICES = [
    {"query": "def read_text(self):\n    Return", "choices": [" the text", " a list", "z"], "gold": 0},
    {"query": "If the file does not exist,", "choices": [" it is created", " raise an error.", " 日本語"], "gold": 1},
    {"query": "Return a list of", "choices": [" the", " file", " the list of the list"], "gold": 1},
    {"query": "Trailing space ", "choices": ["and so on", "x"], "gold": 0},
    {"query": "", "choices": ["Return True", "<"], "gold": 0},
    {"query": LONG, "choices": [" It is the last one", " None"], "gold": 1},
]
TEXTS = [{"text": LONG}, {"text": "Return the value of the option."}, {"text": "Größe 🙂"}, {"text": LONG[:600]}]
QUESTIONS = [
    {"question": "Return a list of", "answer": " the"},
    {"question": "The following", "answer": " x"},
    {"question": LONG, "answer": "."},
]
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n", ". "], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
ROWS = {"tiny_choice": CHOICES, "tiny_rolling": TEXTS, "tiny_answers": QUESTIONS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    load("gpt2-tiny").save(folder)
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in ROWS.items():
        data = folder / f"{name}.json"
        data.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        source = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test", **TASKS[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return folder


def evaluate(model: Any, tasks: Path, **options: Any) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, **options)


DTYPES = ["float32", "float64"]


@pytest.fixture(scope="module")
def ours(exported: Path, tasks: Path) -> dict[str, Any]:
    """Results by number format."""
    model = model_class(load)
    return {dtype: evaluate(model(str(exported), dtype=dtype, batch_size=3), tasks) for dtype in DTYPES}


@pytest.fixture(scope="module")
def theirs(exported: Path, tasks: Path) -> dict[str, Any]:
    arguments = [{"pretrained": str(exported), "dtype": dtype} for dtype in DTYPES]
    found = [evaluate("hf", tasks, model_args=one, device="cpu", batch_size=1) for one in arguments]
    return dict(zip(DTYPES, found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_likelihoods_and_answers_equal_those_of_hf(
    dtype: str, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    # A sum over hundreds of nats, which hf adds up in float32, has but seven digits.
    bounds = {"float32": {"abs": 1e-4, "rel": 1e-6}, "float64": {"abs": 1e-8}}[dtype]
    greedy_seen = set()
    for name, rows in ROWS.items():
        samples = [side[dtype]["samples"][name] for side in (ours, theirs)]
        mine, others = (sorted(side, key=lambda row: row["doc_id"]) for side in samples)
        assert len(mine) == len(others) == len(rows)
        for own, other in zip(mine, others, strict=True):
            assert own["arguments"] == other["arguments"]
            if name == "tiny_answers":
                assert own["resps"] == other["resps"]
            elif name == "tiny_rolling":
                assert own["resps"][0][0] == pytest.approx(other["resps"][0][0], **bounds)
            else:
                for (own_value, own_greedy), (value, greedy) in zip(flat(own), flat(other), strict=True):
                    assert own_value == pytest.approx(value, **bounds) and own_greedy == greedy
                    greedy_seen.add(greedy)
    assert greedy_seen == {True, False}


def flat(row: dict[str, Any]) -> list[tuple[float, bool]]:
    return [response[0] for response in row["resps"]]


def test_metrics_equal_those_of_hf(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name in TASKS:
        mine, others = (side["float64"]["results"][name] for side in (ours, theirs))
        assert mine.keys() == others.keys()
        for metric, value in mine.items():
            if isinstance(value, float):
                assert value == pytest.approx(others[metric], rel=1e-9), metric


def test_too_long_contexts_are_cut_and_said_once(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = model_class(load)(str(exported), batch_size="auto")
    ids = model.tok_encode(LONG)
    assert len(ids) > model.max_length == 256
    with caplog.at_level(logging.WARNING):
        whole = model._loglikelihood_tokens([(None, ids, [5, 6])] * 3, disable_tqdm=True)
        cut = model._loglikelihood_tokens([(None, ids[-255:], [5, 6])], disable_tqdm=True)
    assert whole == cut * 3
    assert [record.message for record in caplog.records] == [
        "contexts are longer than the model reads: their beginnings are dropped"
    ]
    with pytest.raises(UserError, match="a continuation has 257 tokens"):
        model._loglikelihood_tokens([(None, [1], [2] * 257)], disable_tqdm=True)


def test_a_continuation_without_tokens_has_no_score(exported: Path) -> None:
    with pytest.raises(UserError, match="a continuation has 0 tokens"):
        model_class(load)(str(exported))._loglikelihood_tokens([(None, [1, 2], [])])


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_answers_do_not_depend_on_the_batch(batch_size: int, exported: Path) -> None:
    model: Any = model_class(load)(str(exported), batch_size=batch_size)
    requests = [(None, model.tok_encode(LONG[start : 50 + 37 * start]), [start, 7]) for start in range(1, 8)]
    alone = [model._loglikelihood_tokens([request], disable_tqdm=True)[0][0] for request in requests]
    together = [score for score, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_gen_toks": 256}, "answers of 256 tokens leave no room in a context of 256"),
        ({}, "answers of 256 tokens"),
        ({"max_gen_toks": 9, "num_beams": 4}, "no setting 'num_beams'"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(given: dict[str, Any], words: str, exported: Path) -> None:
    with pytest.raises(UserError, match=words):
        model_class(load)(str(exported))._settings(given)


def test_settings_mean_what_tasks_mean_by_them(exported: Path) -> None:
    settings = model_class(load)(str(exported))._settings
    expected = {"max_new_tokens": 9, "stop": ["\n", "<|endoftext|>"], "temperature": 0.0}
    assert settings({"until": "\n", "max_tokens": 9}) == settings({"until": ["\n", ""], "max_gen_toks": 9}) == expected
    assert settings({"max_gen_toks": 9, "do_sample": False, "temperature": 0.7, "until": "\n"}) == expected
    drawn = settings({"max_gen_toks": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9})
    assert (drawn["temperature"], drawn["top_p"]) == (0.7, 0.9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "no model is named"),
        ({"target": "gpt2-tiny", "dtyp": "x"}, "did you mean 'dtype'"),
        ({"target": "gpt2-tiny", "dtype": "float31"}, "did you mean 'float32'"),
        ({"target": "nowhere"}, "gpt2-tiny"),
        ({"target": "gpt2-tiny", "batch_size": "0"}, "--batch_size is '0'"),
    ],
)
def test_mistakes_in_model_args_are_user_errors(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        model_class(load)(**{"batch_size": 1, "max_batch_size": None, "device": "cuda:0"} | arguments)


@pytest.mark.slow
def test_the_command_line_of_lm_eval_knows_our_models(
    exported: Path, tasks: Path, ours: dict[str, Any], tmp_path: Path
) -> None:
    words = ["--model", "bedplate", "--model_args", f"target={exported}", "--tasks", *TASKS, "--include_path", tasks]
    words += ["--output_path", tmp_path / "out.json", "--batch_size", "4"]
    command = [sys.executable, "-m", "bedplate", "lm-eval", *map(str, words)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    (written,) = tmp_path.rglob("out*.json")
    results = json.loads(written.read_text())
    assert results["config"]["model_sha"] == ours["float32"]["config"]["model_sha"]
    for name in TASKS:
        for metric, value in results["results"][name].items():
            if isinstance(value, float):
                assert value == pytest.approx(ours["float32"]["results"][name][metric], rel=1e-6)


def test_unknown_tasks_are_a_user_error() -> None:
    with pytest.raises(UserError, match="Tasks not found.*nonesuch"):
        run(["--model", "bedplate", "--model_args", "target=gpt2-tiny", "--tasks", "nonesuch"], load)
