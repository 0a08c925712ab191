"""`fastxent bench compare`: sides, real runs, the table, and what is wrong with the command."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fastxent.benchmarks.commands.errors import ending_with_a_message
from fastxent.benchmarks.draw.compared import as_table, summary
from fastxent.benchmarks.draw.markdown import verdict_text
from fastxent.benchmarks.judge.paired import Compared, Comparison, Options, compare
from fastxent.benchmarks.judge.sides import Side, copy_installed, open_side
from fastxent.benchmarks.judge.statistics import Interval, Verdict
from fastxent.benchmarks.judge.verdicts import verdict_of
from rich.console import Console

ONE = "8x10-float32-1thread-loss-cython"


def bench_compare(
    *arguments: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "fastxent", "bench", "compare", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of what is installed."""
    folder = tmp_path_factory.mktemp("copied")
    copy_installed(folder)
    return folder


@pytest.fixture
def slow_package(tmp_path: Path) -> Path:
    """The same, with a millisecond of nothing in every call of the loss."""
    folder = tmp_path / "slowed"
    copy_installed(folder)
    losses = folder / "fastxent" / "losses.py"
    text = losses.read_text("utf-8")
    losses.write_text(
        text + "\n\nimport time as _time\n\n_quick = cross_entropy\n\n\n"
        "def cross_entropy(*arguments, **options):\n"
        "    _time.sleep(1e-3)\n    return _quick(*arguments, **options)\n",
        "utf-8",
    )
    return folder


# ---- sides ---------------------------------------------------------------------------------------


def imported_file(side: Side) -> Path:
    """What a process of the benchmarks really measures."""
    from fastxent.benchmarks.measure.processes import launched

    command = launched(side.python, "fastxent.benchmarks.measure.probe")
    done = subprocess.run(
        command, env=side.environment, capture_output=True, text=True, check=True, timeout=60
    )
    return Path(json.loads(done.stdout)["file"])


def test_a_side_measures_its_own_package_even_beside_an_editable_installation(
    package: Path,
) -> None:
    with open_side(str(package)) as folder, open_side() as installed:
        assert imported_file(folder) == package / "fastxent" / "__init__.py"
        assert imported_file(installed) != imported_file(folder)
        assert (folder.name, installed.name) == ("copied0", "installed")
        copied = imported_file(installed)
    assert not copied.exists(), "the copy goes with the side"


def test_a_module_that_a_side_lacks_is_not_taken_from_the_installation(tmp_path: Path) -> None:
    copy_installed(tmp_path)
    (tmp_path / "fastxent" / "softmax.py").unlink()
    with (
        pytest.raises(ValueError, match=r"cannot be imported: .*fastxent\.softmax"),
        open_side(str(tmp_path)),
    ):
        pass


def test_the_folder_of_an_environment_is_a_side() -> None:
    environment = Path(sys.executable).parent.parent
    with open_side(str(environment)) as side:
        assert side.python == str(environment / "bin" / "python")
        assert "FASTXENT_BENCH_PACKAGE" not in side.environment


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


PROJECT = """
[build-system]
requires = []
backend-path = ["."]
build-backend = "backend"

[project]
name = "NAME"
version = "1"
"""

# A build backend that makes a wheel of a package with nothing but a version and a count.
BACKEND = """
import pathlib, zipfile

def build_wheel(folder, settings=None, metadata=None):
    log = pathlib.Path("LOG")
    log.write_text(log.read_text() + "built\\n" if log.exists() else "built\\n")
    name = "fastxent-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("fastxent/__init__.py", pathlib.Path("package.py").read_text())
        info = "fastxent-1.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: fastxent\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: a\\n"
                       "Root-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two commits that are built in no time."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    log = tmp_path / "builds.log"
    (folder / "backend.py").write_text(BACKEND.replace("LOG", str(log)))
    (folder / "pyproject.toml").write_text(PROJECT.replace("NAME", "fastxent"))
    for version in ("1", "2"):
        (folder / "package.py").write_text(f"__version__ = {version!r}\n")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", version)
        git(folder, "tag", f"v{version}")
    monkeypatch.chdir(folder)
    return folder


def test_a_revision_is_built_once_and_leaves_nothing_in_the_checkout(
    checkout: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):
        with open_side("v1", cache=cache) as old, open_side("HEAD", cache=cache) as new:
            assert (old.version, new.version) == ("1", "2")
    assert (tmp_path / "builds.log").read_text() == "built\n" * 2
    assert sorted(wheel.parent.parent for wheel in cache.rglob("*.whl")) == [cache, cache]
    assert len(list(cache.iterdir())) == 2, "no folder in which something was built"
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout, capture_output=True, check=True
    )
    assert done.stdout == b""


def test_a_new_compiler_builds_a_revision_anew(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, cache = tmp_path / "compiler", tmp_path / "cache"
    # in two words, as `ccache cc`
    monkeypatch.setenv("CC", f"env {compiler}")
    for n_wheels, version in enumerate((1, 2, 2), 1):
        compiler.write_text(f"#!/bin/sh\necho version {version}\n")
        compiler.chmod(0o755)
        with open_side("v1", cache=cache):
            assert len(list(cache.rglob("*.whl"))) == min(n_wheels, 2)


def test_what_is_not_committed_is_said_to_be_left_out(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "package.py").write_text("__version__ = 'edited'\n")
    with open_side("v1", cache=tmp_path / "cache"):
        assert capsys.readouterr().err == "", "nobody expects the edit there"
    with open_side("HEAD", cache=tmp_path / "cache") as side:
        assert side.version == "2"
    assert "what has not been committed in" in capsys.readouterr().err


def test_what_is_no_side_is_said(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(text: str) -> str:
        with pytest.raises(ValueError) as raised, open_side(text, cache=tmp_path / "cache"):  # noqa: PT011
            pass
        return str(raised.value)

    assert "'v3' is no revision of" in error("v3")
    assert "'--all' is no revision of" in error("--all")
    assert error("not_there.whl") == "there is no wheel not_there.whl"
    (tmp_path / "fastxent-1-cp39-cp39-win32.whl").write_bytes(b"")
    assert "not a supported wheel" in error(str(tmp_path / "fastxent-1-cp39-cp39-win32.whl"))
    (checkout / "package.py").write_text("import no_such_module\n")
    git(checkout, "commit", "-qam", "broken")
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'" in error(
        "HEAD"
    )
    (checkout / "backend.py").write_text("raise RuntimeError('nothing is built')\n")
    git(checkout, "commit", "-qam", "no build")
    assert re.search("cannot be built: (?s:.*)nothing is built", error("HEAD"))
    printing = "def build_wheel(*_):\n    print('kernels.c:7: error')\n    raise SystemExit(1)\n"
    (checkout / "backend.py").write_text(printing)
    git(checkout, "commit", "-qam", "what the compiler says")
    assert re.search("cannot be built: (?s:.*)kernels.c:7: error", error("HEAD"))
    (checkout / "pyproject.toml").write_text(PROJECT.replace("NAME", "other"))
    git(checkout, "commit", "-qam", "another project")
    assert "is no checkout of fastxent" in error("HEAD")
    monkeypatch.chdir(tmp_path)
    assert "is in no git checkout" in error("v1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git does not run: No such file or directory" in error("v1")


def test_an_environment_that_lacks_pytest_benchmark_is_said(tmp_path: Path, package: Path) -> None:
    import venv

    venv.create(tmp_path / "bare", symlinks=True)
    bare = tmp_path / "bare"
    with pytest.raises(ValueError, match=r"cannot be imported: .*fastxent"), open_side(str(bare)):
        pass
    (site_packages,) = bare.glob("lib/python*/site-packages")
    (site_packages / "fastxent").mkdir()
    (site_packages / "fastxent" / "__init__.py").write_text("__version__ = '1'")
    lacking = pytest.raises(ValueError, match=r"lacks pytest, pytest_benchmark, .*pip install")
    with lacking, open_side(str(bare)):
        pass


# ---- real runs -----------------------------------------------------------------------------------


def test_a_package_against_itself_is_measured_and_shown(tmp_path: Path, package: Path) -> None:
    done = bench_compare(
        *(str(package), "--backend", "cython", "-k", ONE, "--blocks", "2"),
        *("--threshold", "900", "--json", "a.json", "--markdown", "a.md"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["kind"], found["verdict"], found["blocks"]) == ("compare", "pass", 2)
    assert (found["base"]["name"], found["head"]["name"]) == (package.name, "installed")
    (entry,) = found["benchmarks"]
    assert entry["name"].endswith(f"[{ONE}]")
    assert entry["verdict"] == "same"
    assert 0 < entry["low"] <= entry["ratio"] <= entry["high"] < 10
    assert entry["base_median"] > 0
    assert not entry["repeated"]
    assert ONE in done.stdout
    assert "load" in done.stdout
    assert (tmp_path / "a.md").read_text().startswith("## No slowdown found")


LOSS = """
import fastxent, numpy as np

def test_loss(benchmark):
    logits, labels = np.zeros((8, 10), np.float32), np.zeros(8, np.int64)
    benchmark.pedantic(fastxent.cross_entropy, (logits, labels), rounds=20, iterations=5)
"""


def test_a_planted_slowdown_is_found(
    tmp_path: Path, package: Path, slow_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a relative path, as one would type it: the repeat must find the same benchmark again.
    monkeypatch.chdir(tmp_path)
    file = Path("test_mine.py")
    file.write_text(LOSS)
    # 1 ms beside some microseconds; the threshold leaves room for a machine that is busy.
    options = Options(files=(file,), blocks=2, threshold=3.0)
    found = compare(str(package), str(slow_package), options)
    (each,) = found.benchmarks
    assert (each.name, each.verdict, each.repeated) == ("test_loss", "slower", True)
    assert each.measured.ratio > 20
    assert found.verdict == "fail"


OWN = """
import time
import pytest
import fastxent

def test_plain(): assert False, "it is no benchmark"

def test_own(benchmark): benchmark.pedantic(time.sleep, (5e-3,), rounds=5)

@pytest.mark.skipif(not hasattr(fastxent, "extra"), reason="base has it")
def test_of_base(benchmark): benchmark.pedantic(time.sleep, (5e-3,), rounds=5)

@pytest.mark.skipif(hasattr(fastxent, "extra"), reason="head has it")
def test_of_head(benchmark): benchmark.pedantic(time.sleep, (5e-3,), rounds=5)
"""


def test_benchmarks_of_others_are_compared_and_those_of_one_side_named(
    tmp_path: Path, package: Path
) -> None:
    base = tmp_path / "base"
    copy_installed(base)
    with (base / "fastxent" / "__init__.py").open("a") as file:
        file.write("\nextra = 1\n")
    (tmp_path / "test_mine.py").write_text(OWN)
    done = bench_compare(
        *(str(base), str(package), "--benchmarks", "test_mine.py", "--blocks", "2"),
        *("--threshold", "500", "--json", "a.json"),
        folder=tmp_path,
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert [entry["name"] for entry in found["benchmarks"]] == ["test_own"]
    assert found["only_in_base"] == ["test_mine.py::test_of_base"]
    assert found["only_in_head"] == ["test_mine.py::test_of_head"]
    assert found["verdict"] == "inconclusive", "what only base can do was not measured in head"
    assert done.returncode == 3
    assert "run in BASE only: test_mine.py::test_of_base" in " ".join(done.stdout.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_process_and_no_folder(
    tmp_path: Path, package: Path, number: signal.Signals
) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import pathlib, os, time\n"
        "def test_long(benchmark):\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    benchmark.pedantic(time.sleep, (100,), rounds=1)\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = ("-m", "fastxent", "bench", "compare", str(package), "--benchmarks", "test_mine.py")
    with subprocess.Popen(
        [sys.executable, "-P", *command],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(600):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == "fastxent bench compare: interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list(temporary.iterdir()) == []


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", "0"), "threshold must be above 0, not 0"),
        (("--blocks", "0"), "blocks must be at least 1, not 0"),
        (("--set", "huge"), "set must be one of smoke, "),
        (("--backend", "torch"), "backend must be one of cython, numba, not 'torch'"),
        (("--benchmarks", "not_there.py"), "there are no benchmarks at not_there.py"),
        (("--json", "no/such/folder.json"), "cannot be written: there is no folder"),
        (("-k", "nothing_is_called_so", "--blocks", "1"), "no benchmark is selected"),
    ],
)
def test_a_wrong_command_ends_with_2_before_anything_is_measured(
    arguments: tuple[str, ...], message: str, tmp_path: Path, package: Path
) -> None:
    done = bench_compare(str(package), *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("load", [3.0, 0.1, None])
def test_a_busy_machine_is_said_before_anything_is_measured(
    load: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastxent.benchmarks import machine
    from fastxent.benchmarks.commands import compare as command

    def measure(*_: object) -> None:
        raise ValueError("measured")

    monkeypatch.setattr(machine, "load", lambda: load)
    monkeypatch.setattr(command, "_with_progress", measure)
    with pytest.raises(SystemExit):
        command.compare_command("base")
    warning = "The machine is busy (load 3.0): this may take longer and end without a verdict."
    lines = ["fastxent bench compare: error: measured"]
    assert capsys.readouterr().err.splitlines() == ([warning] if load == 3.0 else []) + lines


def test_a_fault_of_the_program_does_not_end_as_a_slowdown_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end, ending_with_a_message("fastxent bench compare"):
        raise KeyError("a mistake of ours")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "KeyError: 'a mistake of ours'" in said
    assert "fastxent bench compare: a fault of the program itself" in said


# ---- what is shown -------------------------------------------------------------------------------

QUIET = Interval(1.0, 0.99, 1.01)


def compared(name: str, ratio: float, verdict: Verdict) -> Compared:
    measured = Interval(ratio, ratio * 0.99, ratio * 1.01)
    return Compared(name, "a group", 1e-3, ratio * 1e-3, measured, QUIET, verdict)


def comparison(*benchmarks: Compared, **others: Any) -> Comparison:
    side = Side("abc", "1", "python", {})
    facts = {"blocks": 5, "seconds": 90.0, "load": (0.25, 1.5), "machine": {}}
    return Comparison(side, side, Options(), benchmarks=benchmarks, **facts, **others)


def text_of(found: Comparison) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(as_table(found))
    return captured.get()


def test_the_table_has_what_matters_first() -> None:
    found = comparison(
        compared("steady", 1.001, "same"),
        compared("quick", 0.8, "faster"),
        compared("a bit slow", 1.2, "slower"),
        compared("doubtful", 1.05, "unclear"),
        compared("very slow", 2.0, "slower"),
    )
    lines = text_of(found).splitlines()
    order = ["very slow", "a bit slow", "doubtful", "quick", "steady"]
    assert [name for line in lines for name in order if f" {name} " in line] == order
    assert "2.000 (1.980 to 2.020)" in text_of(found)
    assert "load 0.2 before and 1.5 after" in summary(found)


def comment(*each: Compared) -> str:
    return verdict_text(verdict_of(comparison(*each).as_json()))


def test_the_comment_has_only_what_changed() -> None:
    same = [compared(f"steady[{i}]", 1.0, "same") for i in range(100)]
    assert "|" not in comment(*same)
    assert comment(*same).startswith("## No slowdown found\n\n**Time (compare): pass.**")
    slow = [compared(f"slow|{i}", 1.2, "slower") for i in range(100)]
    text = comment(*same, *slow)
    assert "steady" not in text
    assert "| `slow\\|3` | slower | 1 ms | 1.2 ms | +20 % | +19 % to +21 % |" in text
    assert "and 92 more" in text
    assert "load of the machine before and after: 0.25, 1.5" in text
    assert len(text) < 3000


def test_what_is_no_verdict_says_what_to_do() -> None:
    found = comparison(
        compared("a", 1.4, "inconclusive"), compared("b", 1.1, "inconclusive"),
        compared("c", 1.05, "unclear"),
    )  # fmt: skip
    for text in (summary(found), verdict_text(verdict_of(found.as_json()))):
        assert "2 inconclusive: BASE was not as fast as itself" in text
        assert "1 unclear: the interval contains the threshold" in text
    assert "not as fast as itself" not in summary(comparison(compared("d", 1.0, "same")))


def test_a_name_shows_its_brackets_and_cannot_command_a_terminal() -> None:
    name = "test_read[/x]"
    assert "a\\x1b[31mb" in text_of(comparison(compared("a\x1b[31mb", 1.0, "same")))
    found = comparison(compared(name, 1.0, "same"), failed_in_head=("test_sort[large]",))
    assert name in text_of(found)
    assert "failed in HEAD: test_sort[large]" in " ".join(text_of(found).split())


def test_what_fails_in_head_keeps_the_verdict_from_pass() -> None:
    good = compared("a", 1.0, "same")
    assert comparison(good, failed_in_base=("b",)).verdict == "pass", "it is mended"
    assert comparison(good, failed_in_head=("b",)).verdict == "inconclusive"
    found = verdict_of(comparison(good, failed_in_head=("b",)).as_json())
    assert "failed in HEAD: b" in found.notes


def test_an_unbounded_interval_is_shown_and_written_as_unknown() -> None:
    unknown = Interval(1.0, 0.0, math.inf)
    each = Compared("a", None, 1.0, 1.0, unknown, unknown, "inconclusive")
    found = comparison(each)
    assert "1.000 (?)" in text_of(found)
    entry = json.loads(json.dumps(found.as_json(), allow_nan=False))["benchmarks"][0]
    assert (entry["low"], entry["high"], entry["control_high"]) == (0.0, None, None)


def test_what_only_base_can_run_keeps_the_verdict_from_pass() -> None:
    steady = compared("steady", 1.0, "same")
    assert comparison(steady).verdict == "pass"
    assert comparison(steady, only_in_head=("new",)).verdict == "pass"
    assert comparison(steady, only_in_base=("gone",)).verdict == "inconclusive"
    assert comparison(steady, unreliable=("moody",)).verdict == "inconclusive"
