"""Records what the commands and the library give, and says what is not as in an older record.

    python benchmarks/golden.py make RECORD.json           # some minutes; arrays go to RECORD.npz beside it
    python benchmarks/golden.py compare OLD.json NEW.json  # exit code 1 if something differs

It runs the `vsf_cli` that Python finds: `PYTHONPATH=TREE` chooses a tree. Commands run in this process, but for a few, each in
a folder of its own under a temporary one, which has their home, too; what they print and every file that they write is kept.
Pixels may differ by 1 of 255, which is said, numbers by 1e-5, and text not at all, once `VOLATILE` is taken out of it.
"""

import argparse
import csv
import difflib
import hashlib
import importlib
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
"""How far pixels, of 255, and numbers may be apart."""

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
"""What is taken out of texts: embedded pictures but for their hash, times, machines, versions, and columns as wide as those."""

WORDS = {
    "BIKE": 'image "a red bike on a road" --neg wheels --seed 1 --steps 3',
    "CAR": 'video "a red car drives on a road" --neg wheels --seed 1 --steps 2 --frames 5',
    "MAP": 'attn-map "a red car on a road" --neg wheels --seed 24 --num-inference-steps 2',
    "PICTURE": "../../image/vsf/outputs/a-red-bike-on-a-road-1.png",
    "CLIP": "../../video/vsf/outputs/a-red-car-drives-on-a-road-1.mp4",
}
"""What these words stand for in commands."""

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
no-mask: --no-mask
no-duplication: --no-duplication --no-mask
reference-layout: --reference-layout
two: --neg basket
json: --json -q
"""
"""The options that are tried with pictures and clips."""

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
video/cache-text: CAR --cache-text
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
"""What commands read."""

LIBRARY = (("pipelines", "load"), ("weights", "parse_weights"), ("maps", "load"))
"""What the library part uses beside the top of the package."""

LORA = ("builtin:tiny-wan-causvid-lora.safetensors",)


def _commands() -> dict[str, str]:
    both = [line.split(": ", 1) if ": " in line else [line.rstrip(":"), ""] for line in BOTH.strip().splitlines()]
    found = {
        f"{kind}/{name}": f"{word} {options}" for kind, word in (("image", "BIKE"), ("video", "CAR")) for name, options in both
    }
    found |= dict(line.split(": ", 1) for line in COMMANDS.strip().splitlines())
    mistakes, helps = (" ".join(text.split()).split(";") for text in (MISTAKES, HELPS))
    found |= {f"mistakes/{number} vsf {mistake.strip()}": mistake for number, mistake in enumerate(mistakes)}
    found |= {f"help/vsf {command.strip()}": f"{command} --help" for command in helps}
    found |= dict(line.split(": ", 1) for line in APART.strip().splitlines())
    for word, meant in WORDS.items():
        found = {name: command.replace(word, meant) for name, command in found.items()}
    return found


class Recorder:
    """Gathers texts, by lines, and arrays, by name; `folder` is the temporary one."""

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
        for pattern, instead in VOLATILE:
            text = re.sub(pattern, instead, text)
        self.texts[name] = text.splitlines()

    def run(self, name: str, command: str, apart: bool = False) -> bytes:
        """Runs a command, keeps what it prints and writes, and gives its stdout."""
        from typer.testing import CliRunner

        place = self.folder / "work" / name.split(" ")[0]
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        before = _stamps(place)
        if apart:
            done = subprocess.run([sys.executable, "-m", "vsf_cli", *shlex.split(command)], capture_output=True, check=False)
            code, out, err, bug = done.returncode, done.stdout, done.stderr.decode(), None
        else:
            found = CliRunner().invoke(self.app, shlex.split(command))
            code, out, err, bug = found.exit_code, found.stdout_bytes, found.stderr, found.exception
        said = f"sha256 {hashlib.sha256(out).hexdigest()}" if out.startswith(b"\x89PNG") else out.decode()
        if name == "doctor/keys" and not code:
            said = "\n".join(json.loads(said))
        failed = f"{bug!r}\n" if isinstance(bug, Exception) else ""
        changed = [path for path, stamp in _stamps(place).items() if before.get(path) != stamp]
        names = "".join(f"\n{path.relative_to(place)}" for path in changed)
        self.text(name, f"$ vsf {command}\nexit code {code}\n--- stdout\n{said}\n--- stderr\n{err}\n{failed}--- files{names}")
        for path in changed:
            self.file(f"{name}: {path.relative_to(place)}", path)
        return out

    def file(self, name: str, path: Path) -> None:
        """Keeps a file: pixels and arrays as they are, text as text, the seconds of a table left out."""
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
        """Keeps what the file itself says of how it was made."""
        from typer.testing import CliRunner

        self.text(f"{name}: info", CliRunner().invoke(self.app, ["info", "--json", str(path)]).output)

    def library(self) -> None:
        """Keeps the latents of guided calls, and the text that the model got in their first step."""
        import vsf_cli

        kinds, vsf, guided = vsf_cli.METHODS, vsf_cli.VSF, vsf_cli.guided
        methods = {name: kind() for name, kind in kinds.items() if name != "cfg"}
        methods |= {"beta": vsf(3, 0.3), "part": vsf(2, 0.5, special_tokens=False, stop=0.6, slope=0.5, tau=2.0, blend=0.5)}
        methods |= {"layout": vsf(reference_layout=True), "no-mask": vsf(mask=False), "blocks": vsf(guided_blocks="1..2")}
        methods |= {"nag-plain": kinds["nag"](padding=False), "nasa-plain": kinds["nasa"](padding=False)}
        methods |= {"no-duplication": vsf(duplication=False, mask=False)}
        prompts, negatives = ["a red bike", "a person", "a car on a road"], ["wheels", "", ["a hat with feathers", "road"]]
        sizes = {"tiny-sd3-turbo": (20, {}, ()), "tiny-wan": (24, {"num_frames": 5, "height": 32, "width": 32}, LORA)}
        for model, (most, size, loras) in sizes.items():
            pipe = self.load(f"builtin:{model}", "float32", loras=loras)
            for name, method in methods.items():
                try:
                    with guided(pipe, "wheels", method, most):
                        self.call(f"library/{model}/{name}", pipe, "a red bike on a road", max_sequence_length=most, **size)
                except vsf_cli.VSFError as error:
                    self.text(f"library/{model}/{name}", f"{type(error).__name__}: {error}")
            for name in ("vsf", "nag", "nasa", "none"):
                with guided(pipe, negatives, methods[name], most):
                    self.call(f"library/{model}/batch-{name}", pipe, prompts, max_sequence_length=most, **size)
            with guided(pipe, self.weighted("a (red:2) wheel:0.5"), vsf(), most):
                self.call(f"library/{model}/weights", pipe, "a red bike", max_sequence_length=most, **size)
            self.call(f"library/{model}/after", pipe, "a red bike", max_sequence_length=most, **size)
        with guided(pipe, "wheels", vsf(), most, cache_text=True):
            self.call("library/tiny-wan/cache-text", pipe, "a red bike", max_sequence_length=most, **size)
        pipe, cfg = self.load("builtin:tiny-sd3", "float32"), {"guidance_scale": 3.0, "negative_prompt": "wheels"}
        self.call("library/tiny-sd3/cfg", pipe, "a bike", max_sequence_length=20, **cfg)
        for path in sorted((self.folder / "work" / "maps").glob("*/outputs/*/maps.npz")):
            name, found = path.parts[-4], self.load_maps(path.parent)
            if name in ("vsf", "chosen"):
                self.text(f"library/maps/{name}", f"{found.words()} {found.share.shape} {found.steps} {found.sigmas}")
                self.arrays[f"library/maps/{name}: wheels"] = found.word("wheels", encoder="t5")

    def call(self, name: str, pipe: Any, prompt: str | list[str], **options: Any) -> None:
        """Keeps the latents of three steps of a pipeline, and the text that its transformer got."""
        import torch

        texts: list[np.ndarray] = []

        def see(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
            texts.append(kwargs["encoder_hidden_states"].detach().float().numpy().copy())

        hook = pipe.transformer.register_forward_pre_hook(see, with_kwargs=True)
        generator = torch.Generator().manual_seed(3)
        options = {"guidance_scale": 0.0, "num_inference_steps": 3, "output_type": "latent", "generator": generator, **options}
        with torch.no_grad():
            made = pipe(prompt, **options)[0]
        hook.remove()
        self.arrays |= {name: made.float().numpy(), f"{name}: text": texts[0]}


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _pixels(path: Path) -> np.ndarray:
    """All frames of a picture or clip, with shape (frames, height, width, 3)."""
    from PIL import Image, ImageSequence

    if path.suffix in (".mp4", ".webm"):
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(path))
        width, height = next(reader)["size"]
        return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def _public(place: str, name: str) -> Any:
    """Something of a module, wherever in the package that stands: in one of that name, or in a package of that name."""
    import vsf_cli

    root = Path(vsf_cli.__file__).parent
    files = [path for path in root.rglob("*.py") if re.search(rf"(?m)^(def {name}\(|{name} = )", path.read_text("utf-8"))]
    for path in sorted(files, key=lambda path: len(path.parts)):
        parts = path.relative_to(root.parent).with_suffix("").parts
        if any(place in part for part in parts):
            return getattr(importlib.import_module(".".join(part for part in parts if part != "__init__")), name)
    raise ImportError(f"no module of {place} has {name}")


def make(record: Path) -> None:
    """Runs everything, and writes the record."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name).resolve()
        for variable in [key for key in os.environ if key.startswith(("VSF_", "HF_", "XDG_", "SLURM_", "FORCE_COLOR"))]:
            del os.environ[variable]
        places = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "MPLCONFIGDIR": "cache/mpl"}
        os.environ |= {key: str(folder / place) for key, place in places.items()}
        os.environ |= {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
        # Imported here, so that their loggers do not write to the stderr of one command.
        for package in ("diffusers", "transformers"):
            importlib.import_module(f"{package}.utils.logging").get_logger(package)
        recorder = Recorder(folder)
        os.environ["PYTHONPATH"] = str(recorder.tree)
        print(f"recording {recorder.tree}", file=sys.stderr)
        for place, text in FILES.items():
            (folder / "work").mkdir(exist_ok=True)
            (folder / "work" / place).write_text(text)
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
    """Says what differs, and how many items do."""
    texts = [json.loads(path.read_text("utf-8"))["texts"] for path in (old, new)]
    different = [0, 0]
    for name in dict.fromkeys(name for found in texts for name in found):
        lines = [found.get(name, ["(not there)"]) for found in texts]
        if lines[0] != lines[1]:
            different[0] += 1
            print(f"differs: {name}")
            for line in list(difflib.unified_diff(lines[0], lines[1], lineterm="", n=0))[2:40]:
                print(f"    {line[:400]}")
    with np.load(old.with_suffix(".npz")) as first, np.load(new.with_suffix(".npz")) as second:
        names = dict.fromkeys([*first.files, *second.files])
        for name in names:
            if said := _apart(*(found[name] if name in found.files else None for found in (first, second))):
                allowed = said.startswith("allowed")
                different[1] += not allowed
                print(f"{'' if allowed else 'differs: '}{name}: {said}")
    counts = f"{different[0]} of {len(texts[0])} texts and {different[1]} of {len(names)} arrays differ"
    print(counts if any(different) else f"equal: {counts}")
    return sum(different)


def _apart(first: np.ndarray | None, second: np.ndarray | None) -> str:
    """How far two arrays are apart; empty if they are equal."""
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        known = [f"{found.dtype} {found.shape}" if found is not None else "not there" for found in (first, second)]
        return f"{known[0]} and {known[1]}"
    if first.tobytes() == second.tobytes():
        return ""
    if first.dtype.kind not in "uif":
        return "other values"
    distance = np.abs(first.astype(float) - second.astype(float))
    most, where = distance.max(), np.count_nonzero(distance.max(-1) if first.dtype == np.uint8 else distance)
    if first.dtype == np.uint8:
        return f"{'allowed, ' * bool(most <= PIXELS)}at most {most:.0f} of 255 in {where} pixels"
    return f"{'allowed, ' * bool(most <= NUMBERS)}at most {most:.2g} in {where} numbers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("record", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "make":
        make(chosen.record.resolve())
    else:
        sys.exit(compare(chosen.old, chosen.new) > 0)


if __name__ == "__main__":
    main()
