"""The methods that are measured, by name: those of the paper's Table 2."""

from dataclasses import dataclass, replace

from vsf_cli.bench.masked import MaskedVSF
from vsf_cli.errors import RequestError
from vsf_cli.methods import CFG, NAG, NASA, VSF, Method, NoGuidance

__all__ = ["ARMS", "BASELINE", "Arm", "arms_named"]

BASELINE = "none"

ARMS = {
    "none": "none",
    "nasa": "NASA",
    "nag": "NAG",
    "vsf": "VSF",
    "vsf-bias": "VSF with bias",
    "vsf-masked": "VSF masked",
    "cfg": "CFG",
}
"""The names, and how a table has them."""


@dataclass(frozen=True)
class Arm:
    """A method that is measured.

    Arguments:
        name: A key of `ARMS`.
        method: The method with its numbers.
    """

    name: str
    method: Method

    @property
    def label(self) -> str:
        """Its name in a table."""
        return ARMS[self.name]


def arms_named(names: str, guidance: Method) -> list[Arm]:
    """The arms that are asked for, the baseline first, which is always among them.

    Arguments:
        names: "all", or names joined by commas.
        guidance: A preset's own method; if it is VSF, its alpha and beta are taken, and all steps are guided.

    Raises:
        RequestError: If a name is not known.
    """
    asked = list(ARMS) if names == "all" else [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in ARMS]:
        raise RequestError(f"--method names '{unknown[0]}', but methods of the benchmark are all, {', '.join(ARMS)}")
    methods = _methods(guidance)
    return [Arm(name, methods[name]) for name in ARMS if name == BASELINE or name in asked]


def _methods(guidance: Method) -> dict[str, Method]:
    vsf = guidance if isinstance(guidance, VSF) else VSF()
    # Steps without guidance would make guidance look cheaper than it is.
    biased = VSF(vsf.alpha, vsf.beta or VSF().beta)
    return {
        "none": NoGuidance(),
        "nasa": NASA(),
        "nag": NAG(),
        "vsf": replace(biased, beta=0.0),
        "vsf-bias": biased,
        "vsf-masked": MaskedVSF(biased.alpha, biased.beta),
        "cfg": CFG(),
    }
