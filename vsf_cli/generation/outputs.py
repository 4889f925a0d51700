"""The files of images and videos: templates of their names, their formats, and what happens if one exists."""

import hashlib
import os
import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from vsf_cli.config.names import check_choice, nearest_or_all
from vsf_cli.config.values import parse_path
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.formats import IMAGE_FORMATS
from vsf_cli.media.frames import holds_frames
from vsf_cli.settings.options import IN_NAMES

__all__ = ["EXISTS", "Outputs", "numbered", "slug"]

EXISTS = ("suffix", "skip", "overwrite", "error")
FIELDS = ("slug", "words", "date", "n", "ext", *IN_NAMES)
MAX_NAME_BYTES = 200


def slug(prompt: str) -> str:
    """Returns a prompt as part of a file name: letters and digits of any script, 48 bytes at most."""
    plain = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-") or "picture"
    return plain.encode()[:48].decode(errors="ignore").strip("-")


@dataclass(frozen=True)
class Outputs:
    """The files of the images or videos of a run.

    Arguments:
        template: A file, a folder (with a slash at its end, or one that exists), or a template with fields in braces.
        exists: What happens if a file exists: one of `EXISTS`.
        format: A key of `IMAGE_FORMATS`; None takes it from the ending.
        varying: The fields in which the images of the run differ. Those that the template lacks are added to it.
        formats: The possible formats, with the endings of their files; the first one is the default.

    Raises:
        RequestError: If a field or a value is not known.
    """

    template: str
    exists: str = "suffix"
    format: str | None = None
    varying: tuple[str, ...] = ()
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: IMAGE_FORMATS)

    def __post_init__(self) -> None:
        check_choice("--exists", self.exists, EXISTS)
        if self.format is not None:
            check_choice("--format", self.format, self.formats)
        if self.template == "-" and self.file_format == "frames":
            raise RequestError("-o - takes the bytes of one file, but frames are a folder: choose another --format, or -o")
        path = parse_path(self.template)
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise RequestError(f"--output '{self.template}' is a device or a pipe: name a file, or - for stdout")
        for name in self._fields(self.template):
            if name not in FIELDS:
                raise RequestError(f"--output has {{{name}}}, which is no field.{nearest_or_all(name, FIELDS, 'Fields')}")

    @staticmethod
    def _fields(template: str) -> list[str]:
        """Returns the names of the fields of a template."""
        try:
            fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
        except ValueError as error:
            raise RequestError(f"--output '{template}' is not a template: {error}; double a brace that is meant") from error
        if any(spec or conversion for _, spec, conversion in fields):
            raise RequestError(f"--output '{template}' has a field with a format: fields are plain, such as {{seed}}")
        return [name for name, _, _ in fields if name is not None]

    @property
    def file_format(self) -> str:
        """The format of the files.

        Raises:
            RequestError: If the ending is not that of a known format.
        """
        if self.format is not None:
            return self.format
        suffix = Path(self.template).suffix.lower()
        if not suffix or self._is_folder or "{" in suffix:
            return next(iter(self.formats))
        for format, endings in self.formats.items():
            if suffix in endings:
                return format
        raise RequestError(
            f"--output '{self.template}' ends on {suffix}, but formats are {', '.join(self.formats)}: add --format"
        )

    @property
    def _is_folder(self) -> bool:
        path = parse_path(self.template)
        if self.template.endswith(("/", "\\")):
            return True
        # A folder that holds the frames of a video is that video. `Path.is_dir` raises for names that are too long.
        return os.path.isdir(path) and not (self.format == "frames" and holds_frames(path))

    def path(self, values: Mapping[str, Any], number: int) -> Path:
        """Returns the path of the image or video with these values of fields; `number` is its number in the run, from 1."""
        template = self._with_ending(str(parse_path(self.template)))
        fields = set(self._fields(template))
        missing = [] if "n" in fields else [name for name in self.varying if name not in fields]
        unlabelled = {"seed", "words"}
        added = "".join(f"-{{{name}}}" if name in unlabelled else f"-{name.replace('_', '-')}{{{name}}}" for name in missing)
        template = str(Path(template).with_name(Path(template).stem + added + Path(template).suffix))

        ending = self.formats[self.file_format][0].removeprefix(".")
        all_values = {**values, "n": number, "ext": ending, "date": date.today().isoformat()}
        texts = {key: f"{value:.10g}" if isinstance(value, float) else str(value) for key, value in all_values.items()}
        return _filled(Path(template), {key: re.sub(r"[/\\\0]", "-", text) for key, text in texts.items()})

    def _with_ending(self, template: str) -> str:
        """Returns the template of a file, with an ending of its format."""
        ending = self.formats[self.file_format][0]
        if self._is_folder:
            return str(Path(template) / ("{slug}-{seed}" + ending))
        old = Path(template).suffix
        if old == ".{ext}" or old.lower() in self.formats[self.file_format]:
            return template
        known = [suffix for endings in self.formats.values() for suffix in endings]
        return (template.removesuffix(old) if old.lower() in known else template) + ending

    @property
    def notes(self) -> tuple[str, ...]:
        """A note if the template has the ending of another format than the one that was chosen."""
        ended = self._with_ending(self.template)
        if self._is_folder or ended.startswith(self.template):
            return ()
        return (f"--format {self.format} counts before the ending of --output '{self.template}': '{ended}' is written",)

    def free(self, path: Path, is_ours: Callable[[Path], bool] | None = None, taken: Collection[Path] = ()) -> Path | None:
        """Returns the path to write to; None if the file exists and is skipped.

        `is_ours` says whether a folder may be overwritten; by default it may if it is a video of ours, and is to be one.
        Files of `taken` will exist when this one is written.

        Raises:
            MediaError: If the file exists and that is an error, or the path is a folder of other things.
        """
        if not os.path.lexists(path) and path not in taken:
            return path
        if self.exists == "overwrite":
            if path.is_dir() and not (is_ours or self._is_video)(path):
                raise MediaError(f"{path} is a folder that holds other things, and stays: choose another place with -o")
            return path
        if self.exists == "skip":
            return None
        if self.exists == "error":
            exists = "is the file of several of this run" if path in taken else "exists"
            raise MediaError(f"{path} {exists}: choose --exists suffix, skip or overwrite")
        return next(candidate for candidate in numbered(path) if not os.path.lexists(candidate) and candidate not in taken)

    def _is_video(self, path: Path) -> bool:
        return self.file_format == "frames" and holds_frames(path)

    def write(self, path: Path, write: Callable[[Path, bool], object]) -> Path | None:
        """Writes to the path that `free` returns, and returns it; another process may have written it since it was free.

        `write` takes a path and whether it may replace a file, and raises `FileExistsError` if it may not, and there is one.
        The errors are those of `free` and `write`.
        """
        while (chosen := self.free(path)) is not None:
            with suppress(FileExistsError):
                write(chosen, self.exists == "overwrite")
                return chosen
        return None


def numbered(path: Path) -> Iterator[Path]:
    """Yields the names that a file may have beside one of its own name: `a-2.png`, `a-3.png` and so on."""
    return (path.with_name(f"{path.stem}-{count}{path.suffix}") for count in range(2, 1_000_000))


def _filled(template: Path, texts: Mapping[str, str]) -> Path:
    """Returns the path of a template with a name of at most `MAX_NAME_BYTES`: its longest parts are cut, and not the seed."""
    ending = template.suffix.format(**texts)
    fields = [(literal, name) for literal, name, _, _ in string.Formatter().parse(template.stem)]
    parts = [part for literal, name in fields for part in (literal, texts[name] if name else "")]
    for _ in parts:
        if (excess := sum(len(part.encode()) for part in (*parts, ending)) - MAX_NAME_BYTES) > 0:
            longest = max(range(len(parts)), key=lambda index: len(parts[index].encode()))
            parts[longest] = _cut(parts[longest], excess)
    return Path(str(template.parent).format(**texts)) / ("".join(parts) + ending)


def _cut(text: str, excess: int) -> str:
    """Returns a text with fewer bytes, which end with a digest: texts that differ stay different."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    room = max(0, len(text.encode()) - excess - len(digest) - 1)
    return f"{text.encode()[:room].decode(errors='ignore')}-{digest}"
