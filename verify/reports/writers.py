"""Files that are whole or not there, and text that every format can hold."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# What XML 1.0 has no way to write, and what HTML forbids: most control characters, halves of
# surrogate pairs (Python has them in names that are no UTF-8) and two that are no characters.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """The text with what JSON, XML or HTML cannot hold written as Python would: \\x1b, \\ud800."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def check_target(path: str | Path) -> None:
    """OSError, naming the path, where a file cannot be written: to be called before a long run."""
    target = Path(path)
    with _errors_naming(target):
        if not is_special(target):
            descriptor, name = _temporary_beside(target)
            os.close(descriptor)
            os.unlink(name)


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8 with all its text, or leave what was there before.

    OSError, naming the path, where that is not possible: there is no such folder, the path is a
    folder, or it may not be written to.
    """
    target = Path(path)
    data = text.encode()
    with _errors_naming(target):
        if is_special(target):
            target.write_bytes(data)
            return
        descriptor, name = _temporary_beside(target)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            if target.exists():
                os.chmod(name, stat.S_IMODE(target.stat().st_mode))
            os.replace(name, os.path.realpath(target))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


@contextlib.contextmanager
def _errors_naming(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        folder = Path(os.path.realpath(target)).parent
        if isinstance(error, FileNotFoundError) and not folder.is_dir():
            reason = f"there is no folder {folder}"
        elif isinstance(error, IsADirectoryError):
            reason = "it is a folder"
        raise type(error)(f"{target} cannot be written: {reason}") from error


def is_special(target: Path) -> bool:
    """Whether this is a terminal, a pipe or the like, which has no place for a file beside it."""
    return target.exists() and not target.is_file() and not target.is_dir()


def _temporary_beside(target: Path) -> tuple[int, str]:
    """A new file in the folder of the target, behind symbolic links: open, and its name."""
    target = Path(os.path.realpath(target))
    if target.is_symlink():  # what it leads to would have been here
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if target.is_dir():
        raise IsADirectoryError
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError("the file may not be written to")
    name = target.with_name(f".{target.name[:50]}-{secrets.token_hex(4)}.tmp")
    # Not by tempfile, whose files only their owner may read.
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), str(name)
