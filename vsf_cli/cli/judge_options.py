"""The options of a judge, which several commands of `vsf eval` take."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from vsf_cli.cli.options import Takes
from vsf_cli.config.names import BUILT_IN_JUDGES
from vsf_cli.config.option import JUDGE, Need, run_option
from vsf_cli.judges.judgement import EVEN, Judge
from vsf_cli.settings.presets import Settings

__all__ = ["JUDGE_OF_SWEEP", "WHICH_JUDGE", "JudgeOptions"]

VLM, MLLM = Need("is_vlm", "the judge vlm: add --judge vlm"), Need("is_mllm", "the judge mllm: add --judge mllm")
MODELS = Need("has_models", "the judges mllm, vlm and clip: choose one by --judge")
LOCAL = Need("is_local", "the judges vlm and clip: choose one by --judge")
WHICH_JUDGE = Takes(only=("judge", "judge_model", "base_url", "judge_threshold"))
JUDGE_OF_SWEEP = Takes(only=(*WHICH_JUDGE.only, "judge_batch_size"))


@dataclass(frozen=True)
class JudgeOptions:
    """The options of the judge."""

    name: str | None = run_option(
        None,
        "--judge",
        help=f"{', '.join(BUILT_IN_JUDGES)} (for built-in models), mllm, vlm (on this machine), or clip. If not given, that of"
        " the preset, or scenes where there is none.",
        panel=JUDGE,
    )
    model: str | None = run_option(
        None,
        "--judge-model",
        help="For mllm, a name at the endpoint; for vlm and clip, a hub id or a folder.",
        panel=JUDGE,
        needs=(MODELS,),
    )
    threshold: float | None = run_option(
        None,
        "--judge-threshold",
        help="For vlm: the probability above which a thing is absent; 0.5 if not given.",
        panel=JUDGE,
        min=0,
        max=1,
        needs=(VLM,),
    )
    device: str | None = run_option(
        None, "-d", "--device", help="For vlm: auto, cpu, cuda, cuda:1, mps ...", panel=JUDGE, needs=(VLM,)
    )
    batch_size: int | None = run_option(
        None,
        "--judge-batch-size",
        help="For vlm and clip: images in one pass through the model; for vlm on a GPU 8 if not given, else 1.",
        panel=JUDGE,
        min=1,
        needs=(LOCAL,),
    )
    base_url: str | None = run_option(
        None, "--base-url", help="For mllm: URL with OpenAI's protocol.", panel=JUDGE, needs=(MLLM,)
    )
    workers: int | None = run_option(None, "--workers", help="For mllm: images at a time.", panel=JUDGE, min=1, needs=(MLLM,))
    retries: int | None = run_option(
        None, "--retries", help="For mllm: retries after 429, 5xx and time-outs.", panel=JUDGE, min=0, needs=(MLLM,)
    )
    timeout: float | None = run_option(
        None, "--timeout", help="For mllm: seconds until a request is given up.", panel=JUDGE, min=0.1, needs=(MLLM,)
    )

    def with_default(self, name: str) -> "JudgeOptions":
        """Returns the options with a judge, if none is given."""
        return self if self.name else replace(self, name=name)

    @property
    def has_models(self) -> bool:
        """Whether the judge is one of several models."""
        return self.name is not None and self.name not in BUILT_IN_JUDGES

    @property
    def is_mllm(self) -> bool:
        """Whether the judge is a model behind an endpoint."""
        return self.name == "mllm"

    @property
    def is_vlm(self) -> bool:
        """Whether the judge runs a model on a device."""
        return self.name == "vlm"

    @property
    def is_local(self) -> bool:
        """Whether the judge runs a model of one's choice on this machine."""
        return self.name in ("vlm", "clip")

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings that tell judges of one name apart; None means any."""
        return {"model": self.model, "base_url": self.base_url, "threshold": self.threshold}

    @property
    def words(self) -> str:
        """The options of the command line that choose its answers in a report."""
        model = f" --judge-model {self.model}" if self.model else ""
        threshold = f" --judge-threshold {self.threshold:g}" if self.threshold not in (None, EVEN) else ""
        return f"--judge {self.name}{model}{threshold}"

    def judge(self, device: Any = None) -> Judge:
        """Returns the judge; `device` is that of the pipeline, if a command has one.

        Raises:
            RequestError: If there is none of that name, or an option is not its own.
        """
        # Imported here, since judges import torch, which `--help` does not need.
        from vsf_cli.judges import judge_named

        options = {name: value for name, value in asdict(self).items() if name != "name"}
        if self.is_vlm:
            options["device"] = self.device or device or Settings({}, video=False)["device"]
        return judge_named(str(self.name), options)
