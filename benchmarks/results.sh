#!/bin/sh
# Makes every table and figure of docs/results.md again, on the built-in image model.
# It goes on where it was stopped. Needs the extra: pip install -e ".[sweep]"
# TRIALS and PARTS are the trials of each method and of each part of VSF, LIMIT the prompts of a trial: TRIALS=30 sh benchmarks/results.sh
set -eu
cd "$(dirname "$0")/.."
out=${1:-outputs/results}
trials=${TRIALS:-60}
parts=${PARTS:-16}
limit=${LIMIT:-48}
bike="a red bike on a road"

# Table 1
vsf eval run scenes --method everything -o "$out/table" -q > "$out.log"
vsf eval judge "$out/table" -q
vsf eval report "$out/table"

# Figures 8 and 9: the same number of runs for each method, and for each ablation
vsf eval sweep scenes-dev --method vsf,vsf-whole,vsf-orthogonal,nag-trimmed,nasa-trimmed,ong-trimmed,ong-heads-trimmed,angular-trimmed \
    --trials "$trials" --limit "$limit" --storage "$out/sweep.db" -q
vsf eval tradeoff "$out/sweep.db" -o "$out/tradeoff" --quality 0.85
# The best trial of each method, on the prompts that did not choose it
vsf eval run scenes --methods-file "$out/tradeoff/chosen.toml" --method all -o "$out/chosen" -q >> "$out.log"
vsf eval judge "$out/chosen" -q
vsf eval report "$out/chosen"
vsf eval sweep scenes-dev --method vsf-no-bias,vsf-no-mask,vsf-flip-alone,vsf-reference,wef --trials "$parts" --limit "$limit" \
    --storage "$out/ablation.db" -q
vsf eval tradeoff "$out/sweep.db" "$out/ablation.db" --first "$parts" \
    --method vsf,vsf-no-bias,vsf-no-mask,vsf-flip-alone,vsf-reference,wef -o "$out/ablation"

# The layouts with guidance in all steps
vsf eval run scenes --methods-file benchmarks/layouts.toml --method all -o "$out/layouts" -q >> "$out.log"
vsf eval judge "$out/layouts" -q
vsf eval report "$out/layouts"

# Figure 2: CFG forced on the few-step model
vsf image "$bike" --neg wheels --seed 7 --method none -o "$out/cfg/0.png" --exists skip -q
vsf image "$bike" --neg wheels --seed 7 --method cfg --guidance 1.5,2,2.8,4,6 -o "$out/cfg/{n}.png" --exists skip -q
python -m vsf_cli.media.montage "$out/cfg.png" "$out"/cfg/*.png --columns 6 --label guidance_scale

# Figure 5: alpha and beta
vsf image "$bike" --neg wheels --seed 7 --alpha 0..5/6 --beta 0..2/5 -o "$out/grid/{beta}-{alpha}.png" --exists skip -q
python -m vsf_cli.media.montage "$out/grid.png" "$out"/grid/*.png --columns 6 --label alpha,beta

# Figure 10: the whole embedding flipped
vsf image "$bike" --neg wheels --seed 7 --method wef --wef-alpha 0,0.5,1,1.5,2,3 -o "$out/wef/{n}.png" --exists skip -q
python -m vsf_cli.media.montage "$out/wef.png" "$out"/wef/*.png --columns 6 --label method,alpha

# The pages: results as JSON, figures, and the tables that are made of them
keep=docs/results
cp "$out/table/report-scenes.json" $keep/table.json
cp "$out/layouts/report-scenes.json" $keep/layouts.json
cp "$out/chosen/report-scenes.json" $keep/chosen.json
cp "$out/tradeoff/both.json" $keep/best-trials.json
for figure in positive-negative quality-negative; do
    cp "$out/tradeoff/$figure.json" $keep/$figure.json
    cp "$out/ablation/$figure.json" $keep/ablation-$figure.json
done
cp "$out/tradeoff/positive-negative.png" docs/images/results-positive.png
cp "$out/tradeoff/quality-negative.png" docs/images/results-quality.png
cp "$out/ablation/quality-negative.png" docs/images/results-ablation.png
for figure in cfg grid wef; do cp "$out/$figure.png" docs/images/results-$figure.png; done
python benchmarks/tables.py
