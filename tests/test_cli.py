"""The command line as a user meets it: real processes, exit codes, one-line errors, nothing lost."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ["model.dim=16", "model.num_layers=1", "model.num_heads=2", "model.vocab_size=300", "model.context_length=32"]
FAST = [*TINY, "steps=6", "batch_size=4", "micro_batch_size=4", "evaluate_every=3", "checkpoint_every=2"]
pytestmark = pytest.mark.xdist_group("cli")  # one worker makes what these tests share, once


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("".join(f"The {n}th day was like the {n + 1}th day, and it rained again.\n" for n in range(400)))
    return path


@pytest.fixture(scope="module")
def run_folder(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    result = bedplate("train", "gpt2.quickstart", *FAST, f"data.corpus={text}", "--out", folder)
    assert result.returncode == 0, result.stderr
    return folder


def children_seconds() -> float:
    """Processor time of all child processes so far: unlike the time on the wall, it is theirs alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bedplate(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bedplate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, (result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from bedplate.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'rich', 'pydantic'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert bedplate("--help").returncode == 0
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3


def test_papers_lists_every_system() -> None:
    result = bedplate("papers")
    assert result.returncode == 0
    assert "GPT-2" in result.stdout and "not yet" in result.stdout and " of 58 working" in result.stdout


def test_train_leaves_a_whole_run_folder(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"run.json", "metrics.jsonl", "checkpoints", "tokenizer", "report.html", "result.json"} <= names
    record = json.loads((run_folder / "run.json").read_text())
    assert record["settings"]["model.dim"] == 16 and record["data"]["corpus"]["sha256"]
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) == 6


def test_training_in_an_existing_run_folder_is_refused(run_folder: Path, text: Path) -> None:
    before = (run_folder / "metrics.jsonl").read_bytes()
    result = bedplate("train", "gpt2.quickstart", *FAST, f"data.corpus={text}", "--out", run_folder)
    assert_one_line_error(result, "already holds a run", "--resume")
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_from_repeats_a_run(run_folder: Path, tmp_path: Path) -> None:
    result = bedplate("train", "--from", run_folder / "run.json", "--out", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run_folder, tmp_path / "again")
    ]
    assert losses[0] == losses[1]


def test_interrupted_training_saves_and_resumes_to_the_same_end(run_folder: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    long = [*FAST, "steps=3000", "checkpoint_every=3000", "evaluate_every=3000", f"data.corpus={text}", "--out", folder]
    command = [sys.executable, "-m", "bedplate", "train", "gpt2.quickstart", *map(str, long)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    log = folder / "metrics.jsonl"  # exists, empty, just before signals are watched
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"bedplate train --resume {folder}" in output
    assert "Traceback" not in errors
    steps = len((folder / "metrics.jsonl").read_text().splitlines())
    assert (folder / "checkpoints" / f"step-{steps:08d}").is_dir()


def test_resume_of_a_finished_run_changes_nothing(run_folder: Path) -> None:
    before = (run_folder / "metrics.jsonl").read_bytes()
    assert bedplate("train", "--resume", run_folder).returncode == 0
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_runs_are_listed_and_compared(run_folder: Path, text: Path, tmp_path: Path) -> None:
    again = tmp_path / "runs" / "a-name-that-is-so-long-that-it-takes-two-lines"
    assert bedplate("train", "--from", run_folder, "optimizer.lr=0.002", "--out", again).returncode == 0
    before = children_seconds()
    listed = bedplate("runs", "--json", "rows.json", cwd=tmp_path)
    assert children_seconds() - before < 0.5
    assert listed.returncode == 0 and max(map(len, listed.stdout.splitlines())) <= 80
    assert re.search(r"^a-name[-a-z]* +gpt2.quickstart +finished +6/6 ", listed.stdout, re.MULTILINE)
    assert json.loads((tmp_path / "rows.json").read_text())[0]["state"] == "finished"
    compared = bedplate("diff", run_folder, again, "--json", tmp_path / "diff.json")
    assert compared.returncode == 1, compared.stderr
    assert "optimizer.lr" in compared.stdout and "Loss: first differs at step 2 of 6" in compared.stdout
    assert json.loads((tmp_path / "diff.json").read_text())["loss"]["first_different_step"] == 2
    same = bedplate("diff", run_folder, run_folder)
    assert same.returncode == 0 and "bit for bit" in same.stdout and "agree in everything" in same.stdout


def test_a_killed_run_is_listed_as_stopped_with_its_command(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    words = [*FAST, "steps=3000", "evaluate_every=3000", f"data.corpus={text}", "--out", str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "bedplate", "train", "gpt2.quickstart", *words])
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running = bedplate("runs", cwd=tmp_path).stdout
    assert_one_line_error(bedplate("train", "--resume", folder), f"is being trained by process {process.pid}")
    process.kill()
    process.wait()
    assert "running" in running and "--resume" not in running
    stopped = bedplate("runs", folder).stdout
    assert "stopped" in stopped and f"  bedplate train --resume {folder}\n" in stopped


def test_a_place_without_runs_is_one_clear_line(tmp_path: Path) -> None:
    for words in (["runs"], ["runs", tmp_path]):
        result = bedplate(*words, cwd=tmp_path)
        assert result.returncode == 0
        assert result.stdout.startswith("There are no runs in ") and result.stdout.count("\n") == 1


def test_generate_from_a_run_is_deterministic(run_folder: Path) -> None:
    words = ("generate", "The 3th day", "--model", run_folder, "--max-new-tokens", 12, "--seed", 5)
    first, second = bedplate(*words), bedplate(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("The 3th day") and first.stdout == second.stdout


def test_generate_answers_with_the_shipped_model() -> None:
    result = bedplate("generate", "def read(", "--max-new-tokens", 8)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > len("def read(\n")


def test_chat_continues_each_line(run_folder: Path) -> None:
    result = bedplate("chat", "--model", run_folder, "--max-new-tokens", 5, input="The 1th\nThe 2th\n\n")
    assert result.returncode == 0 and result.stdout.count("> ") == 3


def test_verify_writes_the_table(run_folder: Path, tmp_path: Path) -> None:
    result = bedplate("verify", run_folder, "--json", tmp_path / "rows.json")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["verdict"] for row in rows} == {"pass"}
    assert "reference" in {row["contract"] for row in rows}


def test_show_counts_the_published_parameters(tmp_path: Path) -> None:
    result = bedplate("show", "gpt2", "--json", tmp_path / "show.json")
    assert result.returncode == 0 and "124,439,808" in result.stdout
    assert json.loads((tmp_path / "show.json").read_text())["parameters"][-1]["parameters"] == 124_439_808


def test_show_batch_names_the_policy(text: Path) -> None:
    result = bedplate("show-batch", "gpt2.quickstart", *TINY, f"data.corpus={text}")
    assert result.returncode == 0, result.stderr
    assert "<|endoftext|>" in result.stdout and "no padding" in result.stdout


def test_a_terminal_without_unicode_gets_escapes(run_folder: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = bedplate("generate", "caf\u00e9", "--model", run_folder, "--max-new-tokens", "3", env=environment)
    assert result.returncode == 0 and result.stdout.startswith("caf\\xe9"), result.stderr


def test_a_name_with_broken_bytes_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("some text\n" * 50)
    result = bedplate("train", "gpt2.quickstart", f"data.corpus={path}", "--out", tmp_path / "run")
    assert_one_line_error(result, "rename it")


def test_a_closed_pipe_is_no_error(run_folder: Path) -> None:
    command = f"{sys.executable} -m bedplate papers | head -1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "'train'"),
        (["train", "gpt2.quikstart"], "'gpt2.quickstart'"),
        (["train", "gpt2.quickstart", "step=3"], "'steps'"),
        (["train", "gpt2.quickstart", "optimizer.lrr=3"], "'optimizer.lr'"),
        (["train", "gpt2.quickstart", "steps"], "key=value"),
        (["train", "gpt2.quickstart", "steps=abc"], "whole number"),
        (["train", "gpt2.quickstart", "optimizer.lr=fast"], "number"),
        (["train", "gpt2.quickstart", "optimizer.betas=0.9"], "0.9,0.95"),
        (["train", "gpt2.quickstart", "precision=fp61"], "'fp32'"),
        (["train", "gpt2.quickstart", "steps=0"], "from 1 up"),
        (["train", "gpt2.quickstart", "model.num_heads=5"], "num_heads"),
        (["train", "gpt2.quickstart", "model.activation=glu"], "activation"),
        (["train", "gpt2.quickstart", "model.norm_eps=1"], "fixed by the paper"),
        (["train", "gpt2.quickstart", "data.corpus=/no/such/file"], "/no/such/file"),
        (["train", "gpt2.quickstart", "data.tokenizer=/no/such/folder"], "/no/such/folder"),
        (["train", "--resume", "/no/such/run"], "/no/such/run"),
        (["generate", "x", "--model", "/no/such/model"], "/no/such/model"),
        (["generate", "x", "--temperature", "-1"], "temperature"),
        (["generate", "x", "--top-p", "7"], "top_p"),
        (["generate", "x", "--max-new-tokens", "zero"], "--max-new-tokens"),
        (["generate", "word " * 5000], "context"),
        (["verify", "gtp2"], "gtp2"),
        (["show", "gpt2-larg"], "gpt2-larg"),
        (["reproduce", "gpt22"], "'gpt2'"),
        (["reproduce", "gpt2", "--scale", "smal"], "'small'"),
        (["bench", "trian"], "'train'"),
        (["show-batch", "gpt2.nothing"], "gpt2"),
        (["show-batch", "gpt2.quickstart", "--step", "-1"], "--step from 0"),
        (["bench", "decode", "--size", "gpt2-smal"], "'gpt2"),
        (["bench", "decode", "--repeats", "0"], "below 1"),
        (["train", "gpt2.quickstart", "--step", "3"], "bedplate train --help"),
        (["train", "gpt2.quickstart", "seed=99999999999999999999"], "2**63"),
        (["train", "gpt2.quickstart", "optimizer.lr=0"], "above 0"),
        (["train", "gpt2.quickstart", "data.corpus="], "no text is named"),
        (["train", "gpt2.quickstart", "--out", "x" * 5000], "File name too long"),
        (["train", "gpt2.quickstart", "data.corpus=" + "x" * 5000], "File name too long"),
        (["verify", "src/nothing"], "src/nothing"),
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["diff", "nowhere", "."], "nowhere is not a run folder"),
        (["diff", "nowhere"], "bedplate diff --help"),
        (["train", "gpt2.quickstart", "--track", "wandbb"], "'wandb'"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], expected: str, tmp_path: Path) -> None:
    assert_one_line_error(bedplate(*words, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}), expected)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", "empty"),
        ("binary.txt", b"\x00\x01\x02" * 100, "binary"),
        ("latin.txt", "caf\u00e9 ".encode("latin-1") * 300, "UTF-8"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2"),
        ("field.jsonl", b'{"body": "fine"}\n', "text"),
        ("short.txt", b"too short\n" * 2, "fix"),
    ],
)
def test_bad_text_is_one_clear_line(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = bedplate("train", "gpt2.quickstart", *FAST, f"data.corpus={path}", "--out", tmp_path / "run")
    assert_one_line_error(result, *([] if expected == "fix" else [expected]))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_one_clear_line(text: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = bedplate("train", "gpt2.quickstart", *FAST, f"data.corpus={text}", "--out", tmp_path / "run")
    assert_one_line_error(result, "cannot write")


def test_a_file_in_the_way_is_one_clear_line(text: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    result = bedplate("train", "gpt2.quickstart", *FAST, f"data.corpus={text}", "--out", tmp_path / "taken" / "run")
    assert_one_line_error(result, "cannot write")
    assert (tmp_path / "taken").read_text() == "mine"
