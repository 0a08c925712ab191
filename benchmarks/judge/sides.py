"""What is compared: a revision, a wheel, a folder, an environment, or what is installed.

All but an environment are a folder with the package in it, beside which the packages of the
running environment are used. What is installed is copied, so that both sides are loaded in the same
way and nobody's editing changes one of them in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import pkgutil
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from fastxent.benchmarks.measure.processes import launched, run_program

import fastxent

# What the benchmarks of this package import beside it.
NEEDED: Final = ("pytest", "pytest_benchmark", "numpy", "scipy", "ml_dtypes")
_NEEDED_TO_BUILD: Final = ("mesonpy", "mesonbuild", "Cython", "numpy")
_INSTALLED: Final = "installed"
_LAST_LINES: Final = 15


@dataclass(frozen=True)
class Side:
    """A version of the package that processes can measure, by `launched(side.python, ...)`."""

    name: str  # of the revision, the wheel or the folder
    version: str
    python: str
    environment: dict[str, str]  # all variables of its processes


@contextlib.contextmanager
def open_side(
    text: str | None = None, *, cache: Path | None = None, needs: Sequence[str] = NEEDED
) -> Iterator[Side]:
    """A side, as long as the context lasts.

    `text` is a revision of the checkout one stands in, a wheel, a folder with the package in it, or
    the folder of a Python environment; None is what is installed. A revision is built once; its
    wheel stays in `cache`. ValueError where it cannot be had, where its package cannot be imported
    or where it lacks one of the modules that it needs; OSError where a file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="fastxent-side-") as folder:
        yield _checked(_make(text, Path(folder), cache or default_cache()), needs)


def default_cache() -> Path:
    """The folder of wheels built for comparisons, of this user."""
    return platformdirs.user_cache_path("fastxent") / "wheels"


def _make(text: str | None, folder: Path, cache: Path) -> Side:
    if text is None:
        copy_installed(folder)
        return _from_folder(_INSTALLED, folder)
    path = Path(text)
    if path.suffix == ".whl":
        if not path.is_file():
            raise ValueError(f"there is no wheel {text}")
        _unpack(path, folder)
        return _from_folder(path.name, folder)
    if python := _python_of(path):
        return Side(path.resolve().name, "", python, _environment(None))
    if (path / "csrc_pyx" / "meson.build").is_file():
        raise ValueError(f"{text} is a checkout of fastxent: go there and name a revision of it")
    if (path / "fastxent" / "__init__.py").is_file():
        return _from_folder(path.resolve().name, path.resolve())
    root, commit, name = _find_commit(text)
    is_here = commit == _git("rev-parse", "HEAD").strip()
    if is_here and _git("status", "--porcelain", "--untracked-files=no"):
        print(f"what has not been committed in {root} is not part of {text}", file=sys.stderr)
    _unpack(_wheel_of(root, commit, cache), folder)
    return _from_folder(name, folder)


def _from_folder(name: str, folder: Path) -> Side:
    return Side(name, "", sys.executable, _environment(folder))


def _environment(folder: Path | None) -> dict[str, str]:
    environment = dict(os.environ)
    # Another Python's packages, or another fastxent, would come before those of the side.
    for name in ("PYTHONPATH", "PYTHONHOME", "FASTXENT_BENCH_PACKAGE"):
        environment.pop(name, None)
    if folder:
        environment["PYTHONPATH"] = str(folder)
        environment["FASTXENT_BENCH_PACKAGE"] = str(folder.resolve())
    return environment


def _python_of(folder: Path) -> str | None:
    """The interpreter of a virtual environment, or of what looks like one."""
    for name in ("bin/python", "Scripts/python.exe"):
        if (folder / name).is_file():
            # Not resolved: a link leads out of its environment.
            return str((folder / name).absolute())
    return None


def _checked(side: Side, needs: Sequence[str]) -> Side:
    """The same with its version: its package is imported, and what it lacks is said."""
    command = launched(side.python, "fastxent.benchmarks.measure.probe", *needs)
    done = subprocess.run(
        command, env=side.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{side.name}: its fastxent cannot be imported: {_last_line(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["missing"]:
        raise ValueError(
            f"{side.name}: {side.python} lacks {', '.join(found['missing'])}, which the benchmarks "
            f"need: {side.python} -m pip install 'fastxent[bench]'"
        )
    return Side(side.name, found["version"], side.python, side.environment)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it says nothing"


# ---- what is installed --------------------------------------------------------------------------


def copy_installed(folder: Path) -> None:
    """Copy the modules of the package into a folder.

    Module by module: those of an editable installation are in several folders.
    """
    specs = [importlib.util.find_spec("fastxent")]
    for module in pkgutil.walk_packages(fastxent.__path__, "fastxent."):
        specs.append(importlib.util.find_spec(module.name))
    for spec in specs:
        if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
            continue
        inside = spec.name if spec.submodule_search_locations is not None else spec.parent
        target = folder.joinpath(*str(inside).split("."), os.path.basename(spec.origin))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(spec.origin, target)


# ---- revisions and wheels -----------------------------------------------------------------------


def _find_commit(text: str) -> tuple[Path, str, str]:
    """The root of the checkout one stands in, the commit, and its short name."""
    other = "a wheel, a folder with the package in it, or the folder of a Python environment"
    try:
        root = _git("rev-parse", "--show-toplevel").strip()
    except OSError as error:
        raise ValueError(
            f"{text!r} is neither {other}; it could be a revision, but git does not run: "
            f"{error.strerror}"
        ) from None
    except ValueError:
        raise ValueError(
            f"{text!r} is neither {other}; it could be a revision, but {Path.cwd()} is in no git "
            "checkout"
        ) from None
    try:
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
        commit = _git(*asked).strip()
    except ValueError:
        shallow = _git("rev-parse", "--is-shallow-repository").strip() == "true"
        hint = " (the checkout is shallow: git fetch --unshallow brings the others)"
        raise ValueError(
            f"{text!r} is no revision of {root}{hint if shallow else ''}, and neither {other}"
        ) from None
    return Path(root), commit, _git("rev-parse", "--short", commit).strip()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise ValueError(_last_line(done.stderr))
    return done.stdout


def _wheel_of(root: Path, commit: str, cache: Path) -> Path:
    """The wheel of a commit, built unless it was before."""
    kept = cache / f"{commit}-{_build_key()}"
    if not (wheels := list(kept.glob("*.whl"))):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as folder:
            sources, built = Path(folder, "sources"), Path(folder, "wheel")
            _export(root, commit, sources)
            _build(sources, built, commit)
            # Whole or not at all; another process may have been quicker, with an equal one.
            try:
                os.rename(built, kept)
            except OSError:
                if not any(kept.glob("*.whl")):
                    raise
        wheels = list(kept.glob("*.whl"))
    return wheels[0]


def _build_key() -> str:
    """What a wheel depends on besides its commit, as far as it can be seen from here."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    facts = [
        sys.version,
        str(sysconfig.get_config_var("EXT_SUFFIX")),
        *(f"{name}={os.environ.get(name)}" for name in ("CC", "CFLAGS", "LDFLAGS")),
        *(f"{name} {version}" for name, version in _build_tools()),
        _first_line([*compiler, "--version"]) if shutil.which(compiler[0]) else "",
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def _build_tools() -> Iterable[tuple[str, str]]:
    """Where the running environment has them, both sides are built with the same ones."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED_TO_BUILD):
        return []
    names = ("meson-python", "meson", "cython", "numpy")
    return [(name, importlib.metadata.version(name)) for name in names]


def _export(root: Path, commit: str, sources: Path) -> None:
    """The files of a commit, without a worktree, of which an interrupted run would leave traces."""
    done = subprocess.run(
        ["git", "-C", str(root), "archive", commit], capture_output=True, check=False
    )
    if done.returncode:
        raise ValueError(f"git archive {commit}: {_last_line(done.stderr.decode())}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(sources, filter="data")
    project = sources / "pyproject.toml"
    facts = tomllib.loads(project.read_text("utf-8")) if project.is_file() else {}
    if facts.get("project", {}).get("name") != "fastxent":
        raise ValueError(f"{root} is no checkout of fastxent at {commit[:10]}")


def _build(sources: Path, built: Path, commit: str) -> None:
    isolation = ["--no-build-isolation"] if _build_tools() else []
    _pip(
        f"{commit[:10]} cannot be built",
        *("wheel", "--no-deps", *isolation, "--wheel-dir", str(built), str(sources)),
    )


def _unpack(wheel: Path, folder: Path) -> None:
    _pip(
        f"{wheel.name} cannot be installed",
        *("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)),
    )


def _pip(what_fails: str, *arguments: str) -> None:
    # meson finds cython and ninja on PATH, where an environment that is not active is missing.
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    done = run_program(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        environment={**os.environ, "PATH": path},
        quiet=True,
    )
    if done.returncode:
        # Those of pip itself say least: before them are the compiler's, or the backend's.
        lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
        raise ValueError(f"{what_fails}: " + "\n".join(lines[-2 * _LAST_LINES :]))
