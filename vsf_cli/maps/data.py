"""Saves and loads attention maps, which say what the image attends to at each step and in each block, without torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsf_cli.config.names import check_choice
from vsf_cli.config.values import parse_numbers
from vsf_cli.errors import MediaError, RequestError
from vsf_cli.media.files import write_atomically, write_bytes
from vsf_cli.methods import METHODS, Method
from vsf_cli.prompts.tokens import Token

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["AXES", "EVERYTHING", "PROMPTS", "Maps", "Selection", "Token", "check_method", "load", "save"]

SCHEMA = 1
ALL, SPECIAL = "all", "special"
"""Values of `--tokens` that are not words."""
ARRAYS, SUMMARY = "maps.npz", "summary.json"

PROMPTS = ("positive", "negative", "kept")
"""The kinds of prompts, in the order of their tokens."""
SHARE = ("step", "block", "head", "frame", "row", "column")
AXES: Mapping[str, tuple[str, ...]] = {
    "logits": ("step", "block", "head", "token", "frame", "row", "column"),
    "share": SHARE,
    "kept_share": SHARE,
}
"""The axes of the arrays."""


@dataclass(frozen=True)
class Selection:
    """The part of the maps that is kept. Numbers count from 1, and None means all.

    Arguments:
        steps: The denoising steps.
        blocks: The blocks.
        heads: The heads that are kept separately; None keeps the mean over all heads.
        words: The words whose tokens are kept; "special" adds the tokens for beginning and end, and "all" means every word.
    """

    steps: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    words: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, steps: str | None, blocks: str | None, heads: str | None, words: str | None) -> "Selection":
        """Parses numbers such as "1,2,5..8" and words such as "wheels,red"; raises a `ValueError` for others."""
        names = tuple(word.strip().lower() for word in words.split(",")) if words else None
        return cls(parse_numbers(steps, "step"), parse_numbers(blocks, "block"), parse_numbers(heads, "head"), names)

    def tokens(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Returns the tokens that are kept; special ones get their piece as their word.

        Raises:
            RequestError: If a word is in no prompt.
        """
        chosen = self.words or (ALL,)
        known = list(dict.fromkeys(token.word for token in tokens if token.word))
        for word in chosen:
            if word not in (*known, ALL, SPECIAL):
                raise RequestError(
                    f"--tokens names '{word}', but the prompts have {', '.join(known)}; or write {ALL}, {SPECIAL}"
                )
        named = (replace(token, word=token.piece) if token.special and SPECIAL in chosen else token for token in tokens)
        return tuple(token for token in named if token.word and (token.special or token.word in chosen or ALL in chosen))

    def check(self, blocks: int, heads: int) -> None:
        """Raises a `RequestError` if a model with that many blocks and heads lacks a selected one."""
        _check_range("blocks", self.blocks, blocks)
        _check_range("heads", self.heads, heads)

    def check_steps(self, steps: int, guided: Sequence[int]) -> None:
        """Raises a `RequestError` if a selected step is not among those of a run, or not among the guided ones."""
        _check_range("steps", self.steps, steps)
        for number in self.steps or ():
            if number not in guided:
                window = "--stop 1" if guided[0] == 1 else "--start 0 --stop 1"
                raise RequestError(
                    f"--steps has {number}, but guided steps are {guided[0]} to {guided[-1]}; {window} guides all"
                )


EVERYTHING = Selection()


def _check_range(name: str, chosen: Sequence[int] | None, maximum: int) -> None:
    for number in chosen or ():
        if not 1 <= number <= maximum:
            raise RequestError(f"--{name} has {number}, but there are {name} 1 to {maximum}")


def check_method(method: Method | type[Method]) -> None:
    """Raises a `RequestError` if a method acts outside of attention."""
    if _acts_outside(method):
        others = ", ".join(name for name, one in METHODS.items() if not _acts_outside(one))
        raise RequestError(f"method {method.name} acts outside of attention, and has no maps: choose one of {others}")


def _acts_outside(method: Method | type[Method]) -> bool:
    return method.passes_negative_prompt or method.flips_embedding


@dataclass(frozen=True, eq=False)
class Maps:
    r"""The attention maps of a run.

    Arguments:
        logits: The unnormalised attention :math:`q k^T / \sqrt{D}` of image tokens to text tokens, in nats, as float16 with
            the axes `AXES["logits"]`. `products` has it without the root, as in the paper's Figure 4.
        share: The share :math:`w` of each image token's attention that goes to the negative prompt, 0 to 1, as float32 with
            the axes `AXES["share"]`.
        kept_share: The share that the kept prompts would have in its place, in the same form; None if there are none.
        tokens: The tokens of the token axis.
        steps, blocks: The steps and blocks, counted from 1.
        sigmas: The noise level of each step; 1 is pure noise.
        heads: The heads, counted from 1; empty if the head axis has one entry, the mean over all heads.
        head_dim: The width D of a head.
        settings: The JSON of the image's or video's file.
    """

    logits: "ndarray"
    share: "ndarray"
    tokens: tuple[Token, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    head_dim: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept_share: "ndarray | None" = None

    def __repr__(self) -> str:
        sizes = (f"{name} {' x '.join(map(str, array.shape))}" for name, array in self.arrays.items())
        return f"Maps({', '.join(self.words())}: {', '.join(sizes)})"

    @property
    def arrays(self) -> "dict[str, Any]":
        """The arrays that there are, by the names in `AXES`."""
        return {name: array for name in AXES if (array := getattr(self, name)) is not None}

    @property
    def products(self) -> "ndarray":
        """The quantity of the paper, :math:`q k^T` without the root, as float32 with the axes of `logits`."""
        return self.logits.astype("float32") * self.head_dim**0.5

    def words(self, prompt: str = "negative") -> list[str]:
        """Returns the words of a prompt in their order, each once."""
        tokens = [token for token in self.tokens if token.prompt == prompt and token.word]
        return list(dict.fromkeys(token.word for token in sorted(tokens, key=attrgetter("start"))))

    def encoders(self, word: str, prompt: str = "negative") -> list[str]:
        """Returns the text encoders that have tokens of a word."""
        return sorted({token.encoder for token in self.tokens if (token.prompt, token.word) == (prompt, word)})

    def word(self, word: str, prompt: str = "negative", encoder: str | None = None) -> "ndarray":
        """Returns the logits of a word, summed over its tokens and repetitions in a prompt, for one or all text encoders.

        Returns:
            float32 with the axes (step, block, head, frame, row, column).

        Raises:
            RequestError: If the prompt has no such word, or the encoder no token of it.
        """
        check_choice("prompt", prompt, PROMPTS)
        if not (encoders := self.encoders(word, prompt)):
            raise RequestError(f"the {prompt} prompt has no '{word}' in these maps: it has {', '.join(self.words(prompt))}")
        if encoder is not None:
            check_choice("encoder", encoder, encoders)
        same = [(token.prompt, token.word) == (prompt, word) and encoder in (None, token.encoder) for token in self.tokens]
        return self.logits[:, :, :, same].astype("float32").sum(3)


def save(maps: Maps, folder: Path) -> None:
    """Writes `maps.npz` and `summary.json` to a folder, which is made if it does not exist.

    Raises:
        MediaError: If they cannot be written.
    """
    import numpy as np

    write_atomically(
        folder / ARRAYS,
        lambda file: np.savez_compressed(
            file, **maps.arrays, sigmas=np.array(maps.sigmas), steps=maps.steps, blocks=maps.blocks
        ),
    )
    summary = json.dumps(_summary(maps), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / SUMMARY, summary.encode())


def _summary(maps: Maps) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "axes": {name: AXES[name] for name in maps.arrays},
        "units": {
            "logits": f"q k^T / sqrt({maps.head_dim}), nats",
            "products": f"q k^T: logits * sqrt({maps.head_dim})",
            **{name: "0 to 1" for name in maps.arrays if name != "logits"},
        },
        "shape": {name: array.shape for name, array in maps.arrays.items()},
        "tokens": [asdict(token) for token in maps.tokens],
        "steps": maps.steps,
        "sigmas": maps.sigmas,
        "blocks": maps.blocks,
        "heads": maps.heads or "mean",
        "head_dim": maps.head_dim,
        **{
            f"mean_{name}": {"per step": _means(share, 0), "per block": _means(share, 1)}
            for name, share in maps.arrays.items()
            if name != "logits"
        },
        "settings": maps.settings,
    }


def _means(share: "ndarray", axis: int) -> Sequence[float]:
    others = tuple(other for other in range(share.ndim) if other != axis)
    return share.mean(axis=others, dtype="float64").round(6).tolist()


def load(folder: str | Path) -> Maps:
    """Returns the maps in a folder; raises a `MediaError` if there are none, or they have another schema."""
    import numpy as np

    folder = Path(folder)
    try:
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in AXES if name in arrays or name != "kept_share"}
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(f"{folder} has no maps that can be read: {error}; write some with 'vsf attn-map'") from error
    if summary.get("schema") != SCHEMA:
        raise MediaError(f"{folder / SUMMARY} has schema {summary.get('schema')}, but this version reads {SCHEMA}")
    tokens = tuple(Token(**token) for token in summary["tokens"])
    steps, sigmas, blocks = (tuple(summary[name]) for name in ("steps", "sigmas", "blocks"))
    heads = () if summary["heads"] == "mean" else tuple(summary["heads"])
    facts = {"steps": steps, "sigmas": sigmas, "blocks": blocks, "heads": heads, "head_dim": summary["head_dim"]}
    return Maps(**found, **facts, tokens=tokens, settings=summary["settings"])
