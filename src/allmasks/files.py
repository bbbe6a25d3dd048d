"""Output files: checked before the work, and either whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "check_writable", "naming", "write_text"]


def check_writable(path: str | Path, option: str) -> Path:
    """The path, if a file can be written there; else an OSError that names the option and says why not."""
    target = Path(path)
    if _is_device(target):
        return target
    if target.is_dir():
        raise IsADirectoryError(f"{option} {target} is a folder: give a file name")
    folder = target.resolve().parent if target.is_symlink() else target.parent
    if not folder.exists():
        raise FileNotFoundError(f"{option} {target}: the folder {folder} does not exist; create it first")
    if not folder.is_dir():
        raise NotADirectoryError(f"{option} {target}: {folder} is not a folder")
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.")
    except OSError as problem:
        raise PermissionError(
            f"{option} {target}: cannot write in {folder} ({problem.strerror}); choose another folder"
        ) from None
    os.close(handle)
    os.unlink(name)
    return target


def _is_device(path: Path) -> bool:
    """Devices and pipes, such as /dev/null: written to as they are, never replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An OSError raised inside says which file could not be written, and what to do: a full disk's own does not."""
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise type(problem)(
            problem.errno, f"{reason}: cannot write {path}; free some space there or choose another folder"
        ) from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that replaces `path` when the block ends well, and vanishes when not."""
    # A link keeps pointing where it did, and the file behind it is replaced.
    target = Path(path).resolve()
    if _is_device(target):
        yield target
        return
    with naming(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files private; the finished one gets the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file at once: readers see the old file or the whole new one."""
    with atomic_path(path) as temporary, naming(path):
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
