"""The methods that the benchmark measures: those of the paper's Table 2, and all others that run on the same model."""

from dataclasses import dataclass, replace

from vsf_cli.bench.masked import MaskedVSF
from vsf_cli.config.names import check_choice
from vsf_cli.errors import RequestError
from vsf_cli.methods import METHODS, VSF, Method

__all__ = ["UNGUIDED", "BenchMethod", "bench_methods", "select_methods"]

UNGUIDED = "none"
"""The method that all others are compared with."""


@dataclass(frozen=True)
class BenchMethod:
    """A method under its name on the command line; its label stands in tables.

    With `keeps`, something must stay, for which there are as many tokens as for the negative prompt. With `folds`, the padding
    of the text is one key.
    """

    name: str
    implementation: Method
    label: str
    keeps: bool = False
    folds: bool = False


def bench_methods(preset_method: Method | None = None, folds: bool = False) -> dict[str, BenchMethod]:
    """Returns all methods by name: every method that runs with the model as it is, and four forms of VSF.

    With `folds`, for models whose padding can be folded, the unguided model and VSF with it are two more.

    If the method of the preset is VSF, the forms have its alpha and beta, but guide all steps.
    """
    vsf = preset_method if isinstance(preset_method, VSF) else VSF()
    # Unguided steps would make guidance look cheaper than it is.
    biased = VSF(vsf.alpha, vsf.beta or VSF().beta)
    others = {
        name: BenchMethod(name, method(), method.label)
        for name, method in METHODS.items()
        if method is not VSF and not method.flips_embedding
    }
    forms = (
        BenchMethod("vsf", replace(biased, beta=0.0), "VSF"),
        BenchMethod("vsf-bias", biased, "VSF with bias"),
        BenchMethod("vsf-keep", biased, "VSF with bias and --keep", keeps=True),
        BenchMethod("vsf-masked", MaskedVSF(biased.alpha, biased.beta), "VSF masked"),
    )
    unguided = others.pop(UNGUIDED)
    folded = (
        BenchMethod("none-folded", unguided.implementation, "none, padding folded", folds=True),
        BenchMethod("vsf-folded", biased, "VSF with bias, padding folded", folds=True),
    )
    inside = [method for method in others.values() if method.implementation.guides_attention]
    outside = [method for method in others.values() if not method.implementation.guides_attention]
    return {method.name: method for method in (unguided, *inside, *forms, *outside, *(folded if folds else ()))}


def select_methods(names: str, preset_method: Method, folds: bool = False) -> list[BenchMethod]:
    """Returns methods of `bench_methods` by their names, joined by commas, or "all"; the unguided one is always the first.

    Raises:
        RequestError: If a name is not known.
    """
    known = bench_methods(preset_method, folds)
    chosen = list(known) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        check_choice("--method", name, known)
    if not chosen:
        raise RequestError(f"--method names nothing: write all, or some of {', '.join(known)}")
    return [method for name, method in known.items() if name == UNGUIDED or name in chosen]
