"""Where pictures go: templates of file names, formats, and what happens if a file exists."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from vsf_cli.config.values import parse_path
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.formats import IMAGE_FORMATS
from vsf_cli.media.frames import holds_frames
from vsf_cli.settings.options import IN_NAMES

__all__ = ["EXISTS", "Outputs", "slug"]

EXISTS = ("suffix", "skip", "overwrite", "error")
FIELDS = ("slug", "words", "date", "n", "ext", *IN_NAMES)
NAME_BYTES = 200


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters and digits of any script, 48 bytes at most."""
    plain = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-") or "picture"
    return plain.encode()[:48].decode(errors="ignore").strip("-")


@dataclass(frozen=True)
class Outputs:
    """Where the pictures of a run go.

    Arguments:
        template: A file, a folder (with a slash at its end, or one that exists), or a template with fields in braces.
        exists: What happens if a file exists: one of `EXISTS`.
        format: A key of `IMAGE_FORMATS`; None takes it from the ending.
        varying: The fields in which the pictures of the run differ: those that the template lacks are added to it.
        formats: The formats that there are, with the endings of their files; the first is the default.

    Raises:
        RequestError: If a field or a value is not known.
    """

    template: str
    exists: str = "suffix"
    format: str | None = None
    varying: tuple[str, ...] = ()
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: IMAGE_FORMATS)

    def __post_init__(self) -> None:
        if self.exists not in EXISTS:
            raise RequestError(f"--exists is '{self.exists}', but must be one of {', '.join(EXISTS)}")
        if self.format is not None and self.format not in self.formats:
            raise RequestError(f"--format is '{self.format}', but must be one of {', '.join(self.formats)}")
        if self.template == "-" and self.file_format == "frames":
            raise RequestError("-o - takes the bytes of one file, but frames are a folder: choose another --format, or -o")
        for name in self._fields(self.template):
            if name not in FIELDS:
                raise RequestError(f"--output has the field {{{name}}}, but fields are {', '.join(FIELDS)}")

    @staticmethod
    def _fields(template: str) -> list[str]:
        try:
            found = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
        except ValueError as error:
            raise RequestError(f"--output '{template}' is not a template: {error}; double a brace that is meant") from error
        if any(spec or conversion for _, spec, conversion in found):
            raise RequestError(f"--output '{template}' has a field with a format: fields are plain, such as {{seed}}")
        return [name for name, _, _ in found if name is not None]

    @property
    def file_format(self) -> str:
        """The format of the files.

        Raises:
            RequestError: If the ending is of no format that is known.
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
        # A folder that holds the frames of a clip is that clip.
        return path.is_dir() and not (self.format == "frames" and holds_frames(path))

    def path(self, values: Mapping[str, Any], number: int) -> Path:
        """The path of a picture, whether or not it exists.

        Arguments:
            values: The values of the fields.
            number: The picture's number in the run, from 1.
        """
        template = self._with_ending(str(parse_path(self.template)))
        named = set(self._fields(template))
        missing = [] if "n" in named else [name for name in self.varying if name not in named]
        bare = {"seed", "words"}
        added = "".join(f"-{{{name}}}" if name in bare else f"-{name.replace('_', '-')}{{{name}}}" for name in missing)
        template = str(Path(template).with_name(Path(template).stem + added + Path(template).suffix))

        ending = self.formats[self.file_format][0].removeprefix(".")
        everything = {**values, "n": number, "ext": ending, "date": date.today().isoformat()}
        texts = {key: f"{value:.10g}" if isinstance(value, float) else str(value) for key, value in everything.items()}
        return _shorten(Path(template.format(**{key: re.sub(r"[/\\\0]", "-", text) for key, text in texts.items()})))

    def _with_ending(self, template: str) -> str:
        ending = self.formats[self.file_format][0]
        if self._is_folder:
            return str(Path(template) / ("{slug}-{seed}" + ending))
        old = Path(template).suffix
        if old == ".{ext}" or old.lower() in self.formats[self.file_format]:
            return template
        known = [suffix for endings in self.formats.values() for suffix in endings]
        return (template.removesuffix(old) if old.lower() in known else template) + ending

    def free(self, path: Path) -> Path | None:
        """The path to write to; None if the file exists and is to be skipped.

        Raises:
            MediaError: If the file exists and that is an error, or a folder that is no clip of ours stands in its place.
        """
        if not path.exists():
            return path
        if self.exists == "overwrite":
            if path.is_dir() and not (self.file_format == "frames" and holds_frames(path)):
                raise MediaError(f"{path} is a folder that holds other things, and stays: choose another place with -o")
            return path
        if self.exists == "skip":
            return None
        if self.exists == "error":
            raise MediaError(f"{path} exists: choose --exists suffix, skip or overwrite")
        return next(
            candidate
            for count in range(2, 1_000_000)
            if not (candidate := path.with_name(f"{path.stem}-{count}{path.suffix}")).exists()
        )


def _shorten(path: Path) -> Path:
    room = NAME_BYTES - len(path.suffix.encode())
    return path.with_name(path.stem.encode()[:room].decode(errors="ignore") + path.suffix)
