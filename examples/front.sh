#!/usr/bin/env bash
# Makes the picture of the README: four seeds of two prompts, by no guidance, NAG and VSF.
#
#     bash examples/front.sh
set -euo pipefail
outputs=${PATH_OF_OUTPUTS:-outputs}/front

for method in none nag vsf; do
    for pair in "a red car on a road=wheels" "a pink cake on sand=candles"; do
        vsf image "${pair%=*}" --neg "${pair#*=}" --method "$method" --seed 1..4 \
            --output "$outputs/$method-${pair#*=}-{seed}.png" --exists overwrite --quiet
    done
done
# Wheels stand at the left, candles at the right.
python -m vsf_cli.media.montage "$outputs/front.png" "$outputs"/{none,nag,vsf}-{wheels,candles}-?.png --columns 8 --scale 1 --label method
