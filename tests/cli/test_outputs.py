"""A folder of results after anything that can happen while it is written: the old ones whole, or the new ones whole."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zsu_fast import folder
from zsu_fast.cli.manifest import FILES
from zsu_fast.cli.manifest import NAMES as PATTERNS
from zsu_fast.cli.outputs import OutputFolder

SHARDS = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
NAMES = [*SHARDS, *FILES.values()]


def write(path: Path, text: str, names: list[str], undo: Path | None = None) -> None:
    new = folder.begin(path)
    if undo is not None:
        folder.elsewhere(new, undo).write_text(text)
    for name in names:
        (new / name).write_text(text)
    folder.commit(path, PATTERNS)


def state(path: Path, *others: Path) -> dict[str, str]:
    """What a reader finds, who settles first as every command does."""
    folder.settle(path, PATTERNS)
    return {file.name: file.read_text() for place in (path, *others) for file in sorted(place.iterdir())}


OLD = dict.fromkeys(NAMES, "old")
# Without a report, and with fewer files of weights, over one that has them.
NEW_NAMES = [name for name in NAMES if name not in ("report.html", SHARDS[1])]
NEW = dict.fromkeys(NEW_NAMES, "new")


def test_the_new_files_replace_the_old_ones(tmp_path: Path) -> None:
    write(tmp_path, "old", NAMES)
    assert state(tmp_path) == dict(sorted(OLD.items()))
    write(tmp_path, "new", NEW_NAMES)
    assert state(tmp_path) == dict(sorted(NEW.items()))


def test_what_was_being_written_when_a_run_was_killed_goes_away(tmp_path: Path) -> None:
    write(tmp_path, "old", NAMES)
    (tmp_path / ".patch.0a.zsu-part").mkdir()  # of `Patch.save_sharded`
    (tmp_path / ".patch.0a.zsu-part" / "part-1-of-2.safetensors").touch()
    (tmp_path / ".patch.0b.zsu-part").touch()
    assert state(tmp_path) == dict(sorted(OLD.items()))


def test_a_queue_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").touch()
    for force in (False, True):
        with pytest.raises(FileExistsError, match="--out: .* is the folder of a queue of requests, .*--requests"):
            OutputFolder(tmp_path, force)


def test_a_file_that_is_to_be_kept_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "old", NAMES)
    new = folder.begin(tmp_path)
    (new / "result.json").write_text("new")
    folder.commit(tmp_path, PATTERNS, keep=["config.json"])
    assert state(tmp_path) == {"config.json": "old", "result.json": "new"}


@pytest.mark.parametrize("with_undo", [False, True], ids=["folder", "folder and undo file elsewhere"])
def test_failing_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_undo: bool
) -> None:
    found = []
    for at in range(1, 80):
        here, there = tmp_path / str(at), tmp_path / f"undo {at}"
        here.mkdir()
        there.mkdir()
        undo = there / "safe" if with_undo else None
        old, new = (dict(sorted(texts.items())) for texts in (OLD, NEW))
        if with_undo:
            old, new = old | {"safe": "old"}, new | {"safe": "new"}
        write(here, "old", NAMES, undo)
        calls = 0

        def step(real, *arguments, at=at):
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patched:
            for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
                real = getattr(os, name)
                patched.setattr(os, name, lambda *a, real=real, **k: step(lambda *b: real(*b, **k), *a))
            with contextlib.suppress(OSError):
                write(here, "new", NEW_NAMES, undo)
        found.append(state(here, there))
        assert found[-1] in (old, new), f"step {at}"
        if calls < at:
            break
    assert found[0] == old and found[-1] == new and 8 < len(found) < 79


WRITER = """
import sys
from pathlib import Path
from tests.cli.test_outputs import NAMES, write
path = Path(sys.argv[1])
print("ready", flush=True)
for i in range(10**9):
    write(path, str(i) * 2000, NAMES if i % 2 == 0 else ["model.safetensors", "result.json"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")
def test_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A process that does nothing but write results is killed at 40 moments."""
    root = Path(__file__).parents[2]
    for moment in range(40):
        here, there = tmp_path / str(moment), tmp_path / f"undo {moment}"
        here.mkdir()
        there.mkdir()
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        if moment == 0:
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(here)], env=environment, stdout=subprocess.PIPE
            )
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(0.2)
            process.kill()
            process.wait()
        else:  # forked: the imports take seconds
            child = os.fork()
            if child == 0:
                i = 0
                while True:
                    names = NAMES if i % 2 == 0 else ["model.safetensors", "result.json"]
                    write(here, str(i) * 2000, names, there / "safe")
                    i += 1
            time.sleep(0.02 + 0.0037 * moment)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        found = state(here, there)
        assert len(set(found.values())) <= 1, f"a mixture of runs after {moment}"
        assert not found or set(found) - {"safe"} in (set(NAMES), {"model.safetensors", "result.json"})
        assert not found or ("safe" in found) == (moment > 0)


def test_a_second_run_is_kept_out_from_the_start(tmp_path: Path) -> None:
    first = OutputFolder(tmp_path / "out", force=False)
    with pytest.raises(BlockingIOError, match="another run is writing"):
        OutputFolder(tmp_path / "out", force=True)
    first.close()
    assert not (tmp_path / "out").exists()  # made for nothing
    OutputFolder(tmp_path / "out", force=False).close()


def test_folders_made_for_nothing_go_away_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    OutputFolder(tmp_path / "mine" / "a" / "b", force=False).close()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"] and not any((tmp_path / "mine").iterdir())
    with pytest.raises(OSError, match=r"^--out: .* is not a folder that can be opened or made: File name too long"):
        OutputFolder(tmp_path / "mine" / "a" / ("b" * 300), force=False)
    assert not any((tmp_path / "mine").iterdir())
    kept = OutputFolder(tmp_path / "mine" / "a" / "b", force=False)
    (tmp_path / "mine" / "a" / "of another").touch()
    kept.close()
    assert [path.name for path in (tmp_path / "mine" / "a").iterdir()] == ["of another"]


def test_a_note_that_is_not_ours_moves_and_removes_nothing(tmp_path: Path) -> None:
    """Folders come from strangers too: the note in one must not reach what they know of by name."""
    valued = tmp_path / "home" / "valued"
    valued.mkdir(parents=True)
    (valued / "file").write_text("mine")
    link = tmp_path / f"{folder.ELSEWHERE}1"
    link.symlink_to(valued)
    for note in (valued, valued / "file", link, "", f"{folder.ELSEWHERE}1"):
        for hidden in (folder.WRITING, folder.READY):
            place = tmp_path / "result" / hidden
            place.mkdir(parents=True)
            (place / "elsewhere").write_text(str(note))
            folder.settle(place.parent, PATTERNS)
            assert not place.exists() and (valued / "file").read_text() == "mine"


def test_weights_that_came_from_elsewhere_are_not_taken_for_an_earlier_results(tmp_path: Path) -> None:
    """Neither overwritten by what is made of them, nor removed as what an earlier run had written."""
    for name in SHARDS:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="the weights to start from"):
        OutputFolder(tmp_path, force=True, weights=tmp_path)
    with pytest.raises(FileExistsError, match="holds model-00001"):
        OutputFolder(tmp_path, force=False)
    (tmp_path / "result.json").write_text(json.dumps({"record": {}, "manifest": {SHARDS[0]: {}}}))
    output = OutputFolder(tmp_path, force=True)
    assert output._not_ours() == SHARDS[1:]
    output.close()


def test_the_old_result_stays_if_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path, "old", NAMES)

    class Patch:
        entries = (1,)

        def save(self, path: Path) -> None:
            raise OSError(28, "No space left on device")

    class Run:
        class result:
            patch, reached = Patch(), True

    output = OutputFolder(tmp_path, force=True)
    with pytest.raises(OSError, match="No space"):
        output.write(None, Run, 0.0)  # type: ignore[arg-type]
    output.close()
    assert state(tmp_path) == dict(sorted(OLD.items()))


def test_the_umask_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zsu_fast.report.files import write_text

    old = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changes the umask of the whole process"))
        write_text("x", tmp_path / "a.txt")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    finally:
        monkeypatch.undo()
        os.umask(old)
