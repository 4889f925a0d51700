"""Files that are never incomplete: each is written under another name in its folder and then renamed."""

import glob
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vsf_cli.errors import MediaError

__all__ = ["check_writable", "partial_prefix", "remove_partials", "write_atomically", "write_bytes", "write_error"]


def partial_prefix() -> str:
    """Returns the prefix of the names of this machine's unfinished files, which the id of their process follows."""
    return f".vsf-{platform.node()}-"


def write_error(path: Path, error: OSError) -> MediaError:
    """Returns the error for a file or folder that cannot be written."""
    return MediaError(f"{path} cannot be written: {error.strerror or error}; choose another place with -o")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Makes the folder of a file, writes it under another name, and renames it, so that its path never has half a file.

    Raises:
        MediaError: If the folder cannot be made or the file cannot be written.
    """
    partial = path.with_name(f"{partial_prefix()}{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes as `write_atomically` does.

    Raises:
        MediaError: If the file cannot be written.
    """
    write_atomically(path, lambda file: file.write(data))


def remove_partials(folder: Path) -> None:
    """Removes unfinished files of this machine's dead processes from a folder and its subfolders."""
    import psutil

    for path in folder.rglob(f"{glob.escape(partial_prefix())}*.partial"):
        number = path.name.removeprefix(partial_prefix()).removesuffix(".partial").split("-")[0]
        if not number.isdigit() or psutil.pid_exists(int(number)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raises a `MediaError` before the work if a file could not be written after it; leaves nothing behind."""
    parent = next(folder for folder in (path.parent, *path.parent.parents, Path()) if folder.exists())
    try:
        # Permissions alone do not tell: a disk may be read-only, and root may write to /proc.
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        why = f"cannot be written to ({error.strerror})" if parent.is_dir() else "is not a folder"
        raise MediaError(f"{path} cannot be written: {parent} {why}; choose another place with -o") from error
