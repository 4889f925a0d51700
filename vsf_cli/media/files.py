"""Files that are never incomplete: each is written under another name in its folder and then renamed."""

import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from vsf_cli.errors import MediaError

__all__ = [
    "check_writable",
    "encode_json",
    "partial_prefix",
    "remove_partials",
    "write_atomically",
    "write_bytes",
    "write_error",
]


def partial_prefix() -> str:
    """Returns the prefix of the names of this machine's unfinished files, which the id of their process follows."""
    return f".vsf-{platform.node()}-"


def write_error(path: Path, error: OSError | ValueError) -> MediaError:
    """Returns the error for a file or folder that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return MediaError(f"{path} cannot be written: {reason}; choose another place with -o")


def encode_json(value: Any, indent: int | None = None) -> bytes:
    """Returns JSON in UTF-8. Half a letter, as of a name of a file that is not UTF-8, is an escape."""
    return json.dumps(value, indent=indent, ensure_ascii=False).encode(errors="backslashreplace")


def write_atomically(path: Path, write: Callable[[BinaryIO], object], replace: bool = True) -> None:
    """Makes the folder of a file, writes it under another name, and renames it, so that its path never has half a file.

    Raises:
        MediaError: If the folder cannot be made or the file cannot be written.
        FileExistsError: If there is such a file and `replace` is false, even if another process has just written it.
    """
    taken = False
    partial = path.with_name(f"{partial_prefix()}{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            taken = not replace and not _name_new(partial, path)
            if not taken:
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    if taken:
        raise FileExistsError(path)


def _name_new(partial: Path, path: Path) -> bool:
    """Returns whether a file has got a name that no file had; by a link, which fails where another process was faster."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # Not every file system has links.
        return not os.path.lexists(path)
    return True


def write_bytes(path: Path, data: bytes, replace: bool = True) -> None:
    """Writes bytes as `write_atomically` does, with its errors."""
    write_atomically(path, lambda file: file.write(data), replace)


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
    parent = next(folder for folder in (path.parent, *path.parent.parents, Path()) if os.path.exists(folder))
    _check_names(path, parent)
    try:
        # Permissions alone do not tell: a disk may be read-only, and root may write to /proc.
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        why = f"cannot be written to ({error.strerror})" if parent.is_dir() else "is not a folder"
        raise MediaError(f"{path} cannot be written: {parent} {why}; choose another place with -o") from error


def _check_names(path: Path, parent: Path) -> None:
    """Raises a `MediaError` if the system could not hold the name of a file, or of one of its folders."""
    # One by one, since the system looks for nothing below a folder that is missing.
    for one in (path, *(parent / name for name in path.parts)):
        try:
            one.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise write_error(path, error) from error
