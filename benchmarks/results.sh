#!/bin/sh
# Measures the built-in models again: makes every table of docs/ about them, and the figures of docs/results.md.
#
#     sh benchmarks/results.sh [FOLDER [PART...]]
#
# It goes on where it was stopped. RESULTS_JOBS parts are made at a time, two by default, with a thread each: digits depend on
# the number of threads. Needs the extra: pip install -e ".[sweep]". Without parts, it makes all of them:
#     table, search: the comparison of methods, docs/results.md
#     auto, auto-clips: docs/auto.md        contrast, contrast-clips, settings: docs/contrast.md
#     score: docs/embedded-models.md        options: docs/methods.md
#     localise: docs/maps.md                video, video-settings: docs/video.md
#     flux: docs/flux.md
# TRIALS and ABLATION_TRIALS are the trials of each method and of each ablation, LIMIT the prompts of a trial. Not made here:
# auto-by-eye.json and auto-clips-by-eye.json of docs/results, which are of labels by eye (docs/labels).
set -eu
cd "$(dirname "$0")/.."
if [ "${1:-}" != --part ]; then
    out=${1:-outputs/results}
    [ $# -eq 0 ] || shift
fi
trials=${TRIALS:-30}
ablation_trials=${ABLATION_TRIALS:-16}
limit=${LIMIT:-48}
keep=docs/results
bike="a red bike on a road"
of_clips="--preset tiny-wan-causvid --seeds 1"

# evaluate NAME JUDGE WORD...: makes, judges and reports; the report is docs/results/NAME.json
evaluate() {
    name=$1 judge=$2
    shift 2
    vsf eval run "$@" -o "$out/$name" -q > /dev/null
    report "$name" "$judge" "$name"
}

# report NAME JUDGE RESULT: the report of a run by a judge
report() {
    vsf eval judge "$out/$1" --judge "$2" -q
    vsf eval report "$out/$1" --judge "$2" > /dev/null
    cp "$out/$1/report-$2.json" "$keep/$3.json"
}

search() {
    # Figures 8 and 9: the same number of runs for each method, and for each ablation
    vsf eval sweep scenes-dev --method vsf,vsf-whole,vsf-orthogonal,nag-trimmed,nasa-trimmed,ong-trimmed,ong-heads-trimmed,angular-trimmed \
        --trials "$trials" --limit "$limit" --storage "$out/sweep.db" -q
    vsf eval tradeoff "$out/sweep.db" --first "$trials" -o "$out/tradeoff" --quality 0.85
    # The best trial of each method, on the prompts that did not choose it
    evaluate chosen scenes scenes --methods-file "$out/tradeoff/chosen.toml" --method all
    vsf eval sweep scenes-dev --method vsf-no-bias,vsf-no-mask,vsf-flip-alone,vsf-reference,wef --trials "$ablation_trials" --limit "$limit" \
        --storage "$out/ablation.db" -q
    vsf eval tradeoff "$out/sweep.db" "$out/ablation.db" --first "$ablation_trials" \
        --method vsf,vsf-no-bias,vsf-no-mask,vsf-flip-alone,vsf-reference,wef -o "$out/ablation"
    cp "$out/tradeoff/both.json" $keep/best-trials.json
    for figure in positive-negative quality-negative; do
        cp "$out/tradeoff/$figure.json" $keep/$figure.json
        cp "$out/ablation/$figure.json" $keep/ablation-$figure.json
    done
    cp "$out/tradeoff/positive-negative.png" docs/images/results-positive.png
    cp "$out/tradeoff/quality-negative.png" docs/images/results-quality.png
    cp "$out/ablation/quality-negative.png" docs/images/results-ablation.png
}

table() {
    # Table 1
    evaluate table scenes scenes --method everything

    # The layouts with guidance in all steps
    evaluate layouts scenes scenes --methods-file benchmarks/layouts.toml --method all

    # Figure 2: CFG forced on the few-step model
    vsf image "$bike" --neg wheels --seed 7 --method none -o "$out/cfg/0.png" --exists skip -q
    vsf image "$bike" --neg wheels --seed 7 --method cfg --guidance 1.5,2,2.8,4,6 -o "$out/cfg/{n}.png" --exists skip -q
    python -m vsf_cli.media.montage docs/images/results-cfg.png "$out"/cfg/*.png --columns 6 --label guidance_scale

    # Figure 5: alpha and beta
    vsf image "$bike" --neg wheels --seed 7 --alpha 0..5/6 --beta 0..2/5 -o "$out/grid/{beta}-{alpha}.png" --exists skip -q
    python -m vsf_cli.media.montage docs/images/results-grid.png "$out"/grid/*.png --columns 6 --label alpha,beta

    # Figure 10: the whole embedding flipped
    vsf image "$bike" --neg wheels --seed 7 --method wef --wef-alpha 0,0.5,1,1.5,2,3 -o "$out/wef/{n}.png" --exists skip -q
    python -m vsf_cli.media.montage docs/images/results-wef.png "$out"/wef/*.png --columns 6 --label method,alpha
}

auto() {
    evaluate auto scenes scenes-600 --methods-file benchmarks/auto.toml --method all --seeds 1
    report auto scenes-2 auto-second
}

auto_clips() {
    evaluate auto-clips scenes-video clips $of_clips --methods-file benchmarks/auto.toml --method none,vsf,auto
}

contrast() { evaluate contrast scenes scenes-600 --methods-file benchmarks/contrast.toml --method all --seeds 1; }
contrast_clips() { evaluate contrast-clips scenes-video clips $of_clips --method none,vsf,vsf-keep --limit 80; }
settings() { evaluate settings scenes scenes-dev --methods-file benchmarks/settings.toml --method all --seeds 1; }
options() { evaluate options scenes scenes-dev --methods-file benchmarks/options.toml --method all --seeds 1; }

# made FILE COMMAND...: the output of a command, unless an earlier run has made it
made() {
    file=$1
    shift
    [ -s "$file" ] || { "$@" > "$file.partial" && mv "$file.partial" "$file"; }
}

score() {
    for method in none vsf; do
        made "$out/score-$method.json" python -m training.score --split test --pairs 600 --method $method --json
    done
    join='import json, sys; print(json.dumps({name: json.load(open(f"{sys.argv[1]}/score-{name}.json")) for name in ("none", "vsf")}, indent=1))'
    made "$out/score.json" python -c "$join" "$out"
    cp "$out/score.json" $keep
}

localise() {
    made "$out/localise.json" python -m training.localise --scenes 200 --json
    cp "$out/localise.json" $keep
}

flux() {
    flux="--preset tiny-flux-schnell"
    vsf eval sweep scenes-dev $flux --methods-file benchmarks/flux.toml --method vsf,vsf-double,vsf-single,public-code,nag,nag-trimmed \
        --trials "$trials" --limit "$limit" --storage "$out/flux.db" -q
    vsf eval tradeoff "$out/flux.db" --first "$trials" -o "$out/flux-tradeoff" --quality 0.8
    compare="python -m training.score $flux --split test --pairs 600 --json --methods-file"
    made "$out/flux.json" $compare benchmarks/flux.toml
    # Another search chooses other numbers.
    cmp -s "$out/flux-tradeoff/chosen.toml" "$out/flux-chosen.toml" || rm -f "$out/flux-searched.json"
    cp "$out/flux-tradeoff/chosen.toml" "$out/flux-chosen.toml"
    made "$out/flux-searched.json" $compare "$out/flux-chosen.toml"
    made "$out/localise-flux.json" python -m training.localise $flux --scenes 200 --json
    cp "$out/flux.json" "$out/flux-searched.json" "$out/localise-flux.json" $keep
}

video() {
    evaluate video scenes-video clips $of_clips --method none,nag,nag-clips,vsf
    # The paper's Appendix A.1: frames of a clip by each method
    for scene in "car:a red car drives on a road:wheels" "cake:a pink cake stands on sand:candles"; do
        rest=${scene#*:}
        vsf video "${rest%:*}" --neg "${rest#*:}" --seed 1 --compare none,nag,vsf -o "docs/images/video-${scene%%:*}.png" --exists overwrite -q
    done
}

video_settings() { evaluate video-settings scenes-video clips-dev $of_clips --limit 100 --methods-file benchmarks/video-settings.toml --method all; }

if [ "${1:-}" = --part ]; then
    trap '[ $? -eq 0 ] || echo "part $2 failed: run the same command again, it goes on" >&2' EXIT
    "$(echo "$2" | tr - _)"
    exit
fi
all="table search auto auto-clips contrast contrast-clips settings options score localise flux video video-settings"
[ $# -gt 0 ] || set -- $all
for part in "$@"; do
    case " $all " in
    *" $part "*) ;;
    *) echo "there is no part $part: the parts are $all" >&2 && exit 2 ;;
    esac
done
case " $all " in
*" $out "*) echo "$out is a part, but the folder comes first: sh benchmarks/results.sh outputs/results $out" >&2 && exit 2 ;;
esac
mkdir -p "$out"
export out OMP_NUM_THREADS=1
printf '%s\n' "$@" | awk '!made[$0]++' | xargs -n 1 -P "${RESULTS_JOBS:-2}" sh benchmarks/results.sh --part
python benchmarks/tables.py
