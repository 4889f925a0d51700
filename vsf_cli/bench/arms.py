"""The methods that are measured, by name: those of the paper's Table 2, and every other that acts on the same model."""

from dataclasses import dataclass, replace

from vsf_cli.bench.masked import MaskedVSF
from vsf_cli.errors import RequestError
from vsf_cli.methods import METHODS, VSF, Method

__all__ = ["BASELINE", "Arm", "arms", "arms_named"]

BASELINE = "none"


@dataclass(frozen=True)
class Arm:
    """A method that is measured.

    Arguments:
        name: Its name on the command line.
        method: The method with its numbers.
        label: Its name in a table.
    """

    name: str
    method: Method
    label: str


def arms(guidance: Method | None = None) -> dict[str, Arm]:
    """All arms by name: every method that runs with the model as it is, and VSF in three forms.

    Arguments:
        guidance: A preset's own method; if it is VSF, its alpha and beta are taken, and all steps are guided.
    """
    vsf = guidance if isinstance(guidance, VSF) else VSF()
    # Steps without guidance would make guidance look cheaper than it is.
    biased = VSF(vsf.alpha, vsf.beta or VSF().beta)
    others = {name: Arm(name, one(), one.label) for name, one in METHODS.items() if one is not VSF and not one.flips_embedding}
    forms = (
        Arm("vsf", replace(biased, beta=0.0), "VSF"),
        Arm("vsf-bias", biased, "VSF with bias"),
        Arm("vsf-masked", MaskedVSF(biased.alpha, biased.beta), "VSF masked"),
    )
    inside = [arm for arm in others.values() if arm.method.guides_attention]
    outside = [arm for arm in others.values() if not arm.method.guides_attention and arm.name != BASELINE]
    return {arm.name: arm for arm in (others[BASELINE], *inside, *forms, *outside)}


def arms_named(names: str, guidance: Method) -> list[Arm]:
    """The arms that are asked for, the baseline first, which is always among them.

    Arguments:
        names: "all", or names joined by commas.
        guidance: A preset's own method, as `arms` takes it.

    Raises:
        RequestError: If a name is not known.
    """
    known = arms(guidance)
    asked = list(known) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in known]:
        raise RequestError(f"--method names '{unknown[0]}', but methods of the benchmark are all, {', '.join(known)}")
    return [arm for name, arm in known.items() if name == BASELINE or name in asked]
