"""Every option by its key, derived from the fields of requests, methods, the runtime and the files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vsf_cli.config.option import CHOICE, FILES, MODEL, Option, Value, by_key, given_of, option, options_of, run_option
from vsf_cli.config.ranges import ValueList
from vsf_cli.loading.runtime import Runtime
from vsf_cli.media.formats import CRF_FORMATS, FORMATS
from vsf_cli.methods import method_options
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.request import request_options

__all__ = ["COLUMNS", "DEFAULTS", "IN_NAMES", "NOTHING", "OF_REQUEST", "SETTINGS", "FileOptions", "Given", "OutputSettings"]


_CRFS = " and ".join(f"{name} ({codec.min_crf} to {codec.max_crf})" for name in CRF_FORMATS if (codec := FORMATS[name].codec))


@dataclass(frozen=True)
class OutputSettings:
    """The options of where files go, and in which format."""

    output: str = run_option(
        "outputs/{slug}-{seed}",
        *("-o", "--output"),
        help="File, folder/, - for stdout, or template: {alpha}, {slug} (the prompt) ...",
        panel=FILES,
        setting=True,
    )
    exists: str = run_option("suffix", "--exists", help="suffix, skip, overwrite or error.", panel=FILES, setting=True)
    format: str | None = option(
        None, "--format", help="Format of the files, such as png, webp or mp4.", panel=FILES, in_name=False, label=False
    )
    crf: int | None = option(
        None,
        "--crf",
        help=f"Quality of {_CRFS}: lower is better and larger.",
        panel=FILES,
        sweep=True,
        video=True,
        label=False,
    )


@dataclass(frozen=True)
class FileOptions:
    """The options of what is written for each image."""

    metadata: bool = run_option(True, "--metadata", help="Whether files say how they were made.", panel=FILES)
    sidecar: bool = run_option(False, "--sidecar", off=None, help="Write a JSON file beside each file.", panel=FILES)
    dump_attn: bool = run_option(False, "--dump-attn", off=None, help="Write attention maps beside each file.", panel=FILES)
    keep_all: bool = run_option(
        False,
        "--keep-all",
        off=None,
        help="Write a strip of all images that a judge chose from beside each file.",
        panel=FILES,
        needs=(CHOICE,),
    )

    @property
    def given(self) -> list[Option]:
        """The options that do not have their default."""
        return given_of(self)


@dataclass(frozen=True)
class Given:
    """The options that were given on the command line.

    Arguments:
        settings: The settings, by key; the first value of a sweep.
        sweeps: The settings with several values.
        negative, keep: The negative and the kept prompts; None means that none were given.
        loras: The LoRA files; None means that none were given.
        seeds: The seeds; None means that none were given, and empty that random ones are wanted.
    """

    settings: Mapping[str, Value] = field(default_factory=dict)
    sweeps: Mapping[str, ValueList] = field(default_factory=dict)
    negative: tuple[str, ...] | None = None
    keep: tuple[str, ...] | None = None
    loras: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def texts(self, prompt: str) -> Texts:
        """Returns a prompt with the given negative and kept prompts that are not blank."""
        negative, keep = (tuple(text.strip() for text in texts or () if text.strip()) for texts in (self.negative, self.keep))
        return Texts(prompt, negative, keep)

    def blank(self) -> list[str]:
        """Returns a message for each of `--neg` and `--keep` that was given a blank text."""
        texts = {"--neg": self.negative, "--keep": self.keep}
        blank = [flag for flag, given in texts.items() if not all(text.strip() for text in given or ())]
        return [f"{flag} is empty, and has no effect" for flag in blank]


NOTHING = Given()
"""No option was given."""

_VIDEO_PRESET = Option(
    field="video_preset", key="video_preset", type=str, panel=MODEL, column=False, in_name=False, label=False
)
"""The default preset of videos, which the user's file and the environment can set."""

_OF_METHODS = tuple(one for _, one in method_options().values())
_OF_OUTPUTS = options_of(OutputSettings)
_ALL = (*request_options(), *options_of(Runtime), *_OF_OUTPUTS, *_OF_METHODS, _VIDEO_PRESET)

OF_REQUEST: Mapping[str, Option] = MappingProxyType(by_key(*request_options(), *_OF_METHODS))
"""The options of a request."""

SETTINGS: Mapping[str, Option] = MappingProxyType(by_key(*(one for one in _ALL if one.setting)))
"""The options that the environment and the user's file can set."""

DEFAULTS: Mapping[str, Value | None] = MappingProxyType({one.key: one.default for one in (*options_of(Runtime), *_OF_OUTPUTS)})
"""The values of settings that are not set anywhere."""

COLUMNS: Mapping[str, Option] = MappingProxyType(by_key(*(one for one in _ALL if one.column)))
"""The options that a table of prompts can have as columns."""

IN_NAMES: Mapping[str, Option] = MappingProxyType(by_key(*(one for one in _ALL if one.in_name)))
"""The options that the template of a file name can have as fields."""
