"""Records the outputs of the commands and of the library, and compares two records.

    python benchmarks/golden.py make RECORD.json           # some minutes; arrays go to RECORD.npz beside it
    python benchmarks/golden.py compare OLD.json NEW.json  # exit code 1 if something differs

It runs the `vsf_cli` that Python finds: `PYTHONPATH=TREE` chooses a tree. Most commands run in this process, each in a
folder of its own under a temporary one, which also holds their home. The record has all that they print, and every file that
they write. Pixels may differ by 1 of 255, which is printed, numbers by 1e-5, and text not at all, apart from `VOLATILE`.
"""

import argparse
import csv
import difflib
import hashlib
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PIXELS, NUMBERS = 1, 1e-5
"""The largest allowed differences of pixels, of 255, and of numbers."""

VOLATILE = (
    (r"data:image/\w+;base64,[A-Za-z0-9+/=]+", lambda match: f"data:{hashlib.sha256(match[0].encode()).hexdigest()}"),
    (r'("(?:versions|machine)": ?)\{[^{}]*\}', r"\1{}"),
    (r'("(?:seconds|estimated_seconds|date|time|host|pid|commit)": ?)("[^"]*"|[^,}\]\n]+)', r"\1~"),
    (r'("stamp": "\d+) \d+', r"\1 ~"),
    (r"\b\d+(\.\d+)? (h|min|s)\b( \d+ (min|s)\b)*", "~ s"),
    (r"\bvsf \d+\.\d+\.\d+", "vsf ~"),
    (r"(?m)^(vsf|python|torch|diffusers|transformers|accelerate|peft)( +)\S+$", r"\1 ~"),
    (r"0x[0-9a-f]{6,}", "0x~"),
    (r"(?m)^.*~ s.*$", lambda match: re.sub(r"  +", "  ", match[0])),
)
"""What is replaced in texts: embedded images by their hash, times, machines, versions, and the widths of columns with those."""

WORDS = {
    "BIKE": 'image "a red bike on a road" --neg wheels --seed 1 --steps 3',
    "CAR": 'video "a red car drives on a road" --neg wheels --seed 1 --steps 2 --frames 5',
    "MAP": 'attn-map "a red car on a road" --neg wheels --seed 24 --num-inference-steps 2',
    "PICTURE": "../../image/vsf/outputs/a-red-bike-on-a-road-1.png",
    "CLIP": "../../video/vsf/outputs/a-red-car-drives-on-a-road-1.mp4",
}
"""The words of commands, with their replacements."""

BOTH = """
vsf:
nag: --method nag
nag++: --method nag++
nag-original: --method nag-original
nag-strong: --method nag-strong
nag-quality: --method nag-quality
nasa: --method nasa
wef: --method wef
none: --method none
nag-options: --method nag --nag-scale 3 --nag-tau 2 --nag-alpha 0.3 --no-nag-padding
nasa-options: --method nasa --nasa-alpha 0.4 --no-nasa-padding
wef-options: --method wef --wef-alpha 0.5 --no-wef-padding
alpha-0: --alpha 0
beta-0: --beta 0
beta-inf: --beta inf
no-special-tokens: --no-special-tokens
start-stop: --start 0.3 --stop 1
slope: --slope 0.5 --stop 1
tau-blend: --tau 2 --blend 0.5
guided-blocks: --guided-blocks 1..3,6
no-mask: --no-attention-mask
no-duplication: --no-duplication --no-attention-mask
reference-layout: --reference-layout
two: --neg basket
json: --json -q
"""
"""The options that are run with images and videos."""

COMMANDS = r"""
image/cfg: BIKE --preset tiny-sd3
image/cfg-vsf: BIKE --preset tiny-sd3 --method vsf --alpha 2 --guidance 0
image/defaults: image "a red bike on a road" --neg wheels --seed 2
image/weight: image "a red bike" --neg wheels:2 --seed 1 --steps 3
image/weighted-words: image "a red bike" --neg "a hat (with wheels:0.5)" --alpha 2 --seed 1 --steps 3
image/negpip: image "a red bike (wheels:-1.5) on a road" --seed 1 --steps 3
image/no-negative: image "a red bike" --seed 1 --steps 3
image/bfloat16: BIKE --dtype bfloat16
image/long: image "a bike, a car, a hat, a tree, a cat, a dog, a sun, a cup, a pen, a bag, box" --neg wheels --seed 1 --steps 2
image/own-preset: image "a red bike" --neg wheels --seed 1 --preset ../../own.toml
image/sweep: BIKE --alpha 1,2
image/two-sweeps: BIKE --alpha 0..4/3 --beta 0,0.5 --stop 1
image/sr: BIKE --sr "wheels=>basket,bike"
image/seeds: BIKE --seeds 2
image/seed-range: BIKE --seed 1..2,5 -o "{method}-{alpha}-{seed}.png"
image/png: BIKE --format png --sidecar
image/jpeg: BIKE --format jpeg --sidecar
image/webp: BIKE --format webp --sidecar
image/no-metadata: BIKE --no-metadata
image/sizes: BIKE --size 64x96 --vae-tiling
image/dump-attn: BIKE --dump-attn
image/compare: BIKE --compare none,nag,vsf
image/bytes: BIKE -o -
image/from-file: image @../../prompt.txt --neg wheels --seed 1 --steps 2
image/vsf once more: BIKE --exists skip
image/vsf beside: BIKE
video/cfg: CAR --preset tiny-wan
video/weight: video "a red car drives" --neg wheels:2 --neg "a (red:0.5) basket" --seed 1 --steps 2 --frames 5
video/gif: CAR --format gif --sidecar
video/webp: CAR --format webp --sidecar
video/webm: CAR --format webm --sidecar
video/frames: CAR --format frames --sidecar
video/shift: CAR --shift 2,3 --fps 4 --drop-frames 1
video/seconds: video "a red car" --neg wheels --seed 1 --steps 2 --seconds 1 --crf 20,40 --size 32x32
video/compare: CAR --compare none,nag,vsf
video/dump-attn: CAR --dump-attn --size 32x32
maps/vsf: MAP
maps/chosen: MAP --stop 1 --steps 1,2 --blocks 1,2 --heads 1,2 --tokens wheels --json
maps/nag: MAP --method nag
maps/file: attn-map PICTURE -o maps
maps/clip: MAP --preset tiny-wan-causvid --size 32x32
again/picture: again PICTURE -o y.png
again/sidecar: again ../../image/webp/outputs/a-red-bike-on-a-road-1.webp.json -o y.png --json
again/other: again PICTURE --alpha 1 --seed 4 -n basket -o y.png
again/plan: again PICTURE --method nag --dry-run
again/clip: again CLIP -o y.mp4
info/picture: info PICTURE
info/clip: info CLIP
batch/plan: batch ../../table.csv --seed 7,8 --dry-run
batch/plan json: batch ../../table.csv --steps 2,3 --dry-run --json
batch/run: batch ../../table.csv --steps 2 --sheet --sidecar -o run
batch/run again: batch ../../table.csv --steps 2 --sheet --sidecar -o run
batch/run third: batch ../../table.csv --steps 2 -o run --dry-run
batch/together: batch ../../table.csv --steps 2 --batch-size 4 --format webp --json -o run
batch/shard: batch ../../table.csv --steps 2 --shard 2/3 -o run
batch/sr: batch ../../roads.csv --steps 2 --sr "road=>grass,road" --seed 1 -o run
eval-negation/1: eval run negation-200 --limit 3 --method none,vsf,nag --seeds 1 --steps 2 --batch-size 2 -o run
eval-negation/1 judge: eval judge run
eval-scenes/1: eval run scenes-dev --limit 6 --method none,vsf,nag --seeds 1 --steps 3 --batch-size 2 -o run
eval-scenes/1 judge: eval judge run
eval-scenes/1 report: eval report run
eval-scenes/1 json: eval report run --json
eval-clips/1: eval run clips-dev --limit 1 --method none,vsf --seeds 1 --steps 2 --json -o run
eval-clips/1 judge: eval judge run
eval-clips/1 report: eval report run
eval-sweep/1: eval sweep scenes-dev --method vsf,nag --trials 2 --limit 3 --storage s.db
eval-sweep/1 tradeoff: eval tradeoff s.db --json
plans/image: BIKE --alpha 1,2 --dry-run
plans/image-json: BIKE --alpha 1,2 --dry-run --json --preset sd3.5-large-turbo
plans/video: CAR --frames 17 --dry-run --preset wan2.1-1.3b-causvid
plans/video-json: CAR --dry-run --json
plans/compare: BIKE --compare none,vsf --dry-run
presets/list: presets list
presets/list-json: presets list --json
presets/use: presets use tiny-sd3
presets/used: presets list --json
presets/where-used: presets where steps
presets/use-turbo: presets use tiny-sd3-turbo
presets/where: presets where alpha
doctor/keys: doctor --json
bench/sd3: bench --count --json --preset sd3.5-large-turbo
bench/wan: bench --count --preset wan2.1-1.3b-causvid
"""
"""The commands, by a name whose first word is also the folder that they run in."""

MISTAKES = """
; nothing; image; image car --unknwon 1; image car --alpha many; image car --alpha 1,; image car --seed a;
image car --size 10; image car --size 97x96; image car --size 16x16 -W 3; image car --preset unknown;
image car --neg roof --method none --steps 2 --seed 1; image car --method vfs; image car --neg roof --alpha -1;
image car --neg roof --method nag --alpha 2; image car --neg roof --nasa-alpha 1; image car --steps 0;
image car --neg roof --guided-blocks 1..99 --seed 1; image car --neg roof --start 0.9 --stop 0.1; image @nothing.txt;
image car --format bmp; image car --dtype int8; image car --device moon; image car --offload some; image car -m nothing/;
image car --lora none.safetensors; image car --neg roof --guidance 3 --seed 1; image car --sr y;
image car --neg horse --seed 1; image car --sr "a=>b"; image car --compare none,all; image car -o a.txt;
image car --preset tiny-wan; video car --frames 5 --seconds 1; image car --neg roof --no-duplication; video car --crf 99;
video car --preset tiny-sd3; video car --format gif --fps 99; attn-map car;
attn-map car --neg roof --method none --seed 1 --steps 99; attn-map car --neg roof --method cfg;
attn-map car --neg roof --seed 1,2; again nothing.png; info nothing.png; batch nothing.csv; batch ../../bad.csv;
batch ../../table.csv --shard 3/2; batch ../../own.toml; presets show unknown; presets where unknown; eval run unknown;
eval judge nothing; eval report nothing; eval run scenes --method unknown; bench --method unknown; bench --preset unknown;
doctor --preset y
"""

HELPS = """
; image; video; attn-map; again; batch; info; doctor; bench; presets; presets list; presets show; presets where; presets use;
eval; eval run; eval judge; eval report; eval sweep; eval tradeoff
"""

APART = """
process/version: --version
process/image: BIKE
process/verbose: BIKE --verbose
process/verbose clip: CAR --verbose
process/help: image --help
process/offline: image car -m a/b --offline
"""
"""The commands that get a process of their own; --verbose sets up logging for all of one."""

FILES = {
    "table.csv": """prompt,negative,seed,method,alpha,preset,frames,name,note
a red bike on a road,wheels,1,,,,,,first
a red bike on a road,wheels,,,"1,2",,,,without a seed
a person on grass,umbrella,3,nag,,,,by-nag,other method
a person on grass,hat:0.5,3,,,,,weighed,a weight
a blue house,,4,none,,,,,nothing against
a red car drives on a road,wheels:2,5,,,tiny-wan-causvid,5,clip,a clip
""",
    "roads.csv": "prompt,negative\na red bike on a road,wheels\na car on a road,road\n",
    "bad.csv": "prompt,alpha\na bike,many\n,1\n",
    "own.toml": """about = "mine"
family = "sd3"
model = "builtin:tiny-sd3-turbo"
license = "none"
dtype = "float32"
guidance_scale = 0.0
num_inference_steps = 3
width = 64
height = 96
max_sequence_length = 20
method = { name = "nag", scale = 3.0 }
""",
    "prompt.txt": "a red bike on a road\n",
}
"""The files that commands read."""

LIBRARY = (("pipelines", "load"), ("weights", "parse_weights"), ("maps", "load"))
"""The names that the library part uses from modules of the package."""

LORA = ("builtin:tiny-wan-causvid-lora.safetensors",)


def _commands() -> dict[str, str]:
    both = [line.split(": ", 1) if ": " in line else [line.rstrip(":"), ""] for line in BOTH.strip().splitlines()]
    commands = {
        f"{kind}/{name}": f"{word} {options}" for kind, word in (("image", "BIKE"), ("video", "CAR")) for name, options in both
    }
    commands |= dict(line.split(": ", 1) for line in COMMANDS.strip().splitlines())
    mistakes, helps = (" ".join(text.split()).split(";") for text in (MISTAKES, HELPS))
    commands |= {f"mistakes/{number} vsf {mistake.strip()}": mistake for number, mistake in enumerate(mistakes)}
    commands |= {f"help/vsf {command.strip()}": f"{command} --help" for command in helps}
    commands |= dict(line.split(": ", 1) for line in APART.strip().splitlines())
    for word, replacement in WORDS.items():
        commands = {name: command.replace(word, replacement) for name, command in commands.items()}
    return commands


class Recorder:
    """Collects texts, as lines, and arrays, by name. `folder` is the temporary one."""

    def __init__(self, folder: Path) -> None:
        import vsf_cli

        self.folder, self.tree = folder, Path(vsf_cli.__file__).parent.parent
        # A module in one tree, and a package that hands the command on in the other.
        self.app = importlib.import_module("vsf_cli.cli").app
        self.load, self.weighted, self.load_maps = (_public(*names) for names in LIBRARY)
        self.texts: dict[str, list[str]] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def text(self, name: str, text: str) -> None:
        text = text.replace(str(self.folder), "FOLDER").replace(str(self.tree), "TREE")
        for pattern, replacement in VOLATILE:
            text = re.sub(pattern, replacement, text)
        self.texts[name] = text.splitlines()

    def run(self, name: str, command: str, apart: bool = False) -> bytes:
        """Runs a command, records its output and its files, and returns its stdout."""
        from typer.testing import CliRunner

        folder = self.folder / "work" / name.split(" ")[0]
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        before = _stamps(folder)
        if apart:
            done = subprocess.run([sys.executable, "-m", "vsf_cli", *shlex.split(command)], capture_output=True, check=False)
            code, out, err, exception = done.returncode, done.stdout, done.stderr.decode(), None
        else:
            result = CliRunner().invoke(self.app, shlex.split(command))
            code, out, err, exception = result.exit_code, result.stdout_bytes, result.stderr, result.exception
        shown = f"sha256 {hashlib.sha256(out).hexdigest()}" if out.startswith(b"\x89PNG") else out.decode()
        if name == "doctor/keys" and not code:
            shown = "\n".join(json.loads(shown))
        failed = f"{exception!r}\n" if isinstance(exception, Exception) else ""
        changed = [path for path, stamp in _stamps(folder).items() if before.get(path) != stamp]
        names = "".join(f"\n{path.relative_to(folder)}" for path in changed)
        self.text(name, f"$ vsf {command}\nexit code {code}\n--- stdout\n{shown}\n--- stderr\n{err}\n{failed}--- files{names}")
        for path in changed:
            self.file(f"{name}: {path.relative_to(folder)}", path)
        return out

    def file(self, name: str, path: Path) -> None:
        """Records a file: pixels and arrays as they are, text as text, tables without seconds."""
        if path.suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm"):
            self.arrays[name] = _pixels(path)
            self.info(name, path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                self.arrays |= {f"{name}: {key}": arrays[key] for key in arrays.files}
        elif path.suffix == ".csv":
            rows = [
                {**row, **{key: "~" for key in row if "seconds" in key}}
                for row in csv.DictReader(io.StringIO(path.read_text()))
            ]
            self.text(name, "\n".join(json.dumps(row) for row in rows))
        elif path.suffix not in (".db", ".pdf", ".lock"):
            self.text(name, path.read_text("utf-8"))

    def info(self, name: str, path: Path) -> None:
        """Records the metadata in a file."""
        from typer.testing import CliRunner

        self.text(f"{name}: info", CliRunner().invoke(self.app, ["info", "--json", str(path)]).output)

    def library(self) -> None:
        """Records the latents of guided calls, and the text embeddings of their first step."""
        import vsf_cli

        kinds, vsf, guided = vsf_cli.METHODS, vsf_cli.VSF, vsf_cli.guided
        methods = {name: kind() for name, kind in kinds.items() if name != "cfg"}
        methods |= {"beta": vsf(3, 0.3), "part": vsf(2, 0.5, special_tokens=False, stop=0.6, slope=0.5, tau=2.0, blend=0.5)}
        methods |= {"layout": vsf(reference_layout=True), "blocks": vsf(guided_blocks="1..2")}
        methods |= {"no-mask": vsf(attention_mask=False)}
        methods |= {"nag-plain": kinds["nag"](padding=False), "nasa-plain": kinds["nasa"](padding=False)}
        methods |= {"no-duplication": vsf(duplication=False, attention_mask=False)}
        prompts, negatives = ["a red bike", "a person", "a car on a road"], ["wheels", "", ["a hat with feathers", "road"]]
        sizes = {"tiny-sd3-turbo": (20, {}, ()), "tiny-wan": (24, {"num_frames": 5, "height": 32, "width": 32}, LORA)}
        for model, (max_length, size, loras) in sizes.items():
            pipe = self.load(f"builtin:{model}", "float32", loras=loras)
            for name, method in methods.items():
                try:
                    with guided(pipe, "wheels", method, max_length):
                        self.call(
                            f"library/{model}/{name}", pipe, "a red bike on a road", max_sequence_length=max_length, **size
                        )
                except vsf_cli.VSFError as error:
                    self.text(f"library/{model}/{name}", f"{type(error).__name__}: {error}")
            for name in ("vsf", "nag", "nasa", "none"):
                with guided(pipe, negatives, methods[name], max_length):
                    self.call(f"library/{model}/batch-{name}", pipe, prompts, max_sequence_length=max_length, **size)
            with guided(pipe, self.weighted("a (red:2) wheel:0.5"), vsf(), max_length):
                self.call(f"library/{model}/weights", pipe, "a red bike", max_sequence_length=max_length, **size)
            self.call(f"library/{model}/after", pipe, "a red bike", max_sequence_length=max_length, **size)
        pipe, cfg = self.load("builtin:tiny-sd3", "float32"), {"guidance_scale": 3.0, "negative_prompt": "wheels"}
        self.call("library/tiny-sd3/cfg", pipe, "a bike", max_sequence_length=20, **cfg)
        for path in sorted((self.folder / "work" / "maps").glob("*/outputs/*/maps.npz")):
            name, maps = path.parts[-4], self.load_maps(path.parent)
            if name in ("vsf", "chosen"):
                self.text(f"library/maps/{name}", f"{maps.words()} {maps.share.shape} {maps.steps} {maps.sigmas}")
                self.arrays[f"library/maps/{name}: wheels"] = maps.word("wheels", encoder="t5")

    def call(self, name: str, pipe: Any, prompt: str | list[str], **options: Any) -> None:
        """Records the latents of three steps of a pipeline, and the text embeddings of its transformer."""
        import torch

        texts: list[np.ndarray] = []

        def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            texts.append(given["encoder_hidden_states"].detach().float().numpy().copy())

        hook = pipe.transformer.register_forward_pre_hook(see, with_kwargs=True)
        generator = torch.Generator().manual_seed(3)
        options = {"guidance_scale": 0.0, "num_inference_steps": 3, "output_type": "latent", "generator": generator, **options}
        with torch.no_grad():
            latents = pipe(prompt, **options)[0]
        hook.remove()
        self.arrays |= {name: latents.float().numpy(), f"{name}: text": texts[0]}


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _pixels(path: Path) -> np.ndarray:
    """All frames of an image or a video, with shape (frames, height, width, 3)."""
    from PIL import Image, ImageSequence

    if path.suffix in (".mp4", ".webm"):
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(path))
        width, height = next(reader)["size"]
        return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def _public(module: str, name: str) -> Any:
    """The object `name` of a module whose path has `module` in it, so that trees with other modules can be recorded."""
    import vsf_cli

    root = Path(vsf_cli.__file__).parent
    files = [path for path in root.rglob("*.py") if re.search(rf"(?m)^(def {name}\(|{name} = )", path.read_text("utf-8"))]
    for path in sorted(files, key=lambda path: len(path.parts)):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if any(module in part for part in parts):
            return getattr(importlib.import_module(".".join(part for part in parts if part != "__init__")), name)
    raise ImportError(f"no module of {module} has {name}")


def make(record: Path) -> None:
    """Runs all commands and calls, and writes the record."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name).resolve()
        for variable in [key for key in os.environ if key.startswith(("VSF_", "HF_", "XDG_", "SLURM_", "FORCE_COLOR"))]:
            del os.environ[variable]
        folders = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "MPLCONFIGDIR": "cache/mpl"}
        os.environ |= {key: str(folder / path) for key, path in folders.items()}
        os.environ |= {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        # Imported here, so that their loggers do not write to the stderr of one command.
        for package in ("diffusers", "transformers"):
            importlib.import_module(f"{package}.utils.logging").get_logger(package)
        recorder = Recorder(folder)
        os.environ["PYTHONPATH"] = str(recorder.tree)
        print(f"recording {recorder.tree}", file=sys.stderr)
        for path, text in FILES.items():
            (folder / "work").mkdir(exist_ok=True)
            (folder / "work" / path).write_text(text)
        commands = _commands()
        for number, (item, command) in enumerate(commands.items(), 1):
            print(f"{number}/{len(commands)} {item}", file=sys.stderr)
            out = recorder.run(item, command, apart=item.startswith("process/"))
            if item == "batch/run":
                (folder / "work" / "batch" / "run" / "run" / "by-nag.png").unlink(missing_ok=True)
            if item == "presets/list-json":
                for preset in json.loads(out):
                    recorder.run(f"presets/{preset['name']}", f"presets show {preset['name']}")
                    recorder.run(f"presets/{preset['name']}-json", f"presets show {preset['name']} --json")
        try:
            recorder.library()
        except Exception as error:
            recorder.text("library", f"stopped: {error!r}")
        os.chdir(here)
    record.write_text(
        json.dumps({"texts": recorder.texts, "arrays": list(recorder.arrays)}, indent=1, ensure_ascii=False) + "\n"
    )
    np.savez_compressed(record.with_suffix(".npz"), allow_pickle=False, **recorder.arrays)


def compare(old: Path, new: Path) -> int:
    """Prints the differences of two records. Returns the number of items that differ."""
    texts = [json.loads(path.read_text("utf-8"))["texts"] for path in (old, new)]
    different = [0, 0]
    for name in dict.fromkeys(name for record in texts for name in record):
        lines = [record.get(name, ["(not there)"]) for record in texts]
        if lines[0] != lines[1]:
            different[0] += 1
            print(f"differs: {name}")
            for line in list(difflib.unified_diff(lines[0], lines[1], lineterm="", n=0))[2:40]:
                print(f"    {line[:400]}")
    with np.load(old.with_suffix(".npz")) as first, np.load(new.with_suffix(".npz")) as second:
        names = dict.fromkeys([*first.files, *second.files])
        for name in names:
            if difference := _difference(*(record[name] if name in record.files else None for record in (first, second))):
                allowed = difference.startswith("allowed")
                different[1] += not allowed
                print(f"{'' if allowed else 'differs: '}{name}: {difference}")
    counts = f"{different[0]} of {len(texts[0])} texts and {different[1]} of {len(names)} arrays differ"
    print(counts if any(different) else f"equal: {counts}")
    return sum(different)


def _difference(first: np.ndarray | None, second: np.ndarray | None) -> str:
    """The difference of two arrays in words. It is empty if they are equal."""
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        shapes = [f"{array.dtype} {array.shape}" if array is not None else "not there" for array in (first, second)]
        return f"{shapes[0]} and {shapes[1]}"
    if first.tobytes() == second.tobytes():
        return ""
    if first.dtype.kind not in "uif":
        return "other values"
    distance = np.abs(first.astype(float) - second.astype(float))
    largest, count = distance.max(), np.count_nonzero(distance.max(-1) if first.dtype == np.uint8 else distance)
    if first.dtype == np.uint8:
        return f"{'allowed, ' * bool(largest <= PIXELS)}at most {largest:.0f} of 255 in {count} pixels"
    return f"{'allowed, ' * bool(largest <= NUMBERS)}at most {largest:.2g} in {count} numbers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("record", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    options = parser.parse_args()
    if options.command == "make":
        make(options.record.resolve())
    else:
        sys.exit(compare(options.old, options.new) > 0)


if __name__ == "__main__":
    main()
