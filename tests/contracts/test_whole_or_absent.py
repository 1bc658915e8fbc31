"""Files and folders that are whole or absent, whatever stops the process that writes them."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.errors import UserError
from bedplate.files import (
    atomic_folder,
    read_json,
    read_json_object,
    remove_folder,
    remove_leftovers,
    sha256_file,
    write_json,
)

SOURCE = Path(__file__).resolve().parents[2] / "src"
WRITE = """
import os, sys
from pathlib import Path
from bedplate.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("new")
    os._exit(9)
"""


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(path: Path, **files: str) -> None:
    with atomic_folder(path) as folder:
        assert folder.parent == path.parent and not (folder / "a").exists()
        for name, text in files.items():
            (folder / name).write_text(text)


def test_a_folder_appears_with_its_parents_and_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "there"
    fill(path, a="1", b="2")
    assert content(path) == {"a": "1", "b": "2"}
    fill(path, c="3")
    assert content(path) == {"c": "3"} and os.listdir(path.parent) == ["there"]
    assert path.stat().st_mode & 0o777 == 0o755 and (path / "c").stat().st_mode & 0o777 == 0o644


def test_everything_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not find empty files: all are synced before, and the rename itself after."""
    events: list[int | str] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    fill(tmp_path / "x", a="1", b="2")
    before, after = events[: events.index("rename")], events[events.index("rename") :]
    assert {path.stat().st_ino for path in (tmp_path / "x", tmp_path / "x" / "a", tmp_path / "x" / "b")} <= set(before)
    assert tmp_path.stat().st_ino in after
    events.clear()
    write_json(tmp_path / "a.json", 1)
    assert events == [(tmp_path / "a.json").stat().st_ino, "rename"]


def test_folders_inside_are_kept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "a").write_text("1")
    assert content(tmp_path / "x") == {"deep/er/a": "1"}


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("mistake", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_exception_inside_changes_nothing(tmp_path: Path, existing: bool, mistake: BaseException) -> None:
    path = tmp_path / "x"
    if existing:
        fill(path, a="old")
    with pytest.raises(BaseException), atomic_folder(path) as folder:  # noqa: B017
        (folder / "a").write_text("new")
        raise mistake
    assert content(tmp_path) == ({"x/a": "old"} if existing else {})


def test_a_failed_exchange_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "x", Path.replace
    fill(path, a="old")

    def failing(self: Path, target: Path) -> Path:
        if target == path and (self / "b").exists():
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"):
        fill(path, b="new")
    assert content(tmp_path) == {"x/a": "old"}


@pytest.mark.parametrize("existing", [False, True])
def test_a_kill_inside_changes_nothing_but_leftovers(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "x"
    if existing:
        fill(path, a="old")
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    assert subprocess.run([sys.executable, "-c", WRITE, path], env=environment).returncode == 9
    assert path.exists() == existing
    assert not existing or content(path) == {"a": "old"}
    left = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == 1 and left[0].name.startswith(".x.")
    remove_leftovers(tmp_path)
    assert content(tmp_path) == ({"x/a": "old"} if existing else {})


def test_leftover_files_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".run.json.17.tmp", ".hidden", "x.tmp"):
        (tmp_path / name).write_text("1")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "x.tmp"]
    remove_leftovers(tmp_path / "nowhere")


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"text": "ö 🙂", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == read_json_object(tmp_path / "a.json")
    assert os.listdir(tmp_path) == ["a.json"]


def test_json_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": 1, "odd": object()})
    assert read_json(tmp_path / "a.json") == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"{", "line 1"), (b'{"a": 1,\n"b": }', "line 2"), (b"\xff\xfe", "not UTF-8"), (b"", "not valid JSON")],
)
def test_broken_json_is_named_with_its_place(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(caught.value)


def test_json_that_is_missing_a_folder_or_no_object(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.json does not exist"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="no JSON object"):
        read_json_object(tmp_path / "c.json")


def test_a_hash_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_removed_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off while its files go one by one, it is nowhere that anyone looks; the next one cleans up."""
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "weights").write_text("all of them")

    def cut_off(path: Path, **options: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == [".step-1.old.tmp"]
    folder.mkdir()
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
