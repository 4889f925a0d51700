"""`vsf bench`: its options. Thin, and without torch until something is measured."""

from typing import Annotated, Any

import typer

from vsf_cli.cli.error_boundary import bounded

__all__ = ["bench"]


@bounded
def bench(
    preset: Annotated[str | None, typer.Option("--preset", help="A preset's name, or the path of its file.")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="A hub id, or a folder.")] = None,
    method: Annotated[str, typer.Option("--method", help="all, or some: none,nasa,nag,vsf,vsf-bias,vsf-masked,cfg")] = "all",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The real architecture with random weights: no download.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count FLOPs and bytes of any size on paper; time nothing.")] = False,
    layers: Annotated[int | None, typer.Option("--layers", help="Build so many blocks alone; of random weights.")] = None,
    negative_tokens: Annotated[
        int | None, typer.Option("--negative-tokens", min=1, help="Of random weights; 8 if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each method is timed, in turn.")] = 5,
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps of a picture.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WxH in pixels.")] = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Frames of a clip.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option("-d", "--device", help="auto, cpu, cuda, cuda:1, mps ...")] = None,
    offload: Annotated[str | None, typer.Option("--offload", help="auto, none, model, group or sequential.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the blocks first, with every method.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    output: Annotated[str | None, typer.Option("-o", "--output", help="A file for the results as JSON.")] = None,
    plot: Annotated[str | None, typer.Option("--plot", help="A PNG with bars of the times.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
) -> None:
    """Time methods side by side, the paper's Table 2: vsf bench --preset sd3.5-large-turbo --random-weights"""
    from vsf_cli.cli import bench_run as command
    from vsf_cli.cli.console import Talk
    from vsf_cli.config.values import parse_size

    asked: dict[str, Any] = {"preset": preset, "model": model, "method": method, "random_weights": random_weights}
    asked |= {"count": count, "layers": layers, "negative_tokens": negative_tokens, "rounds": rounds, "steps": steps}
    asked |= {"size": size, "frames": frames, "dtype": dtype, "device": device, "offload": offload}
    asked |= {"compile": compile or None, "offline": offline or None, "output": output, "plot": plot, "as_json": as_json}
    try:
        parse_size(size) if size else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from error
    command.run(asked, Talk(quiet, verbose))
