#!/bin/sh
# Makes every table and figure of docs/results.md again, on the built-in image model: about an hour on two cores.
# It goes on where it was stopped. Needs the extra: pip install -e ".[sweep]"
set -eu
out=${1:-outputs/results}
bike="a red bike on a road"

# Table 1
vsf eval run scenes --method everything -o "$out/table" -q > "$out.log"
vsf eval judge "$out/table" -q
vsf eval report "$out/table"

# Figures 8 and 9: the same number of runs for each method, and for each ablation
vsf eval sweep scenes-dev --method vsf,vsf-whole,nag-trimmed,nasa-trimmed --trials 60 --limit 48 --storage "$out/sweep.db" -q
vsf eval tradeoff "$out/sweep.db" -o "$out/tradeoff"
vsf eval sweep scenes-dev --method vsf-no-bias,vsf-no-mask,vsf-flip-alone,vsf-reference,wef --trials 16 --limit 48 \
    --storage "$out/ablation.db" -q
vsf eval tradeoff "$out/sweep.db" "$out/ablation.db" --first 16 \
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
