#!/usr/bin/env bash
# Makes the picture of the README: three seeds of three prompts, by no guidance, NAG and VSF.
#
#     bash examples/front.sh
set -euo pipefail
outputs=${PATH_OF_OUTPUTS:-outputs}/front

for method in none nag vsf; do
    for pair in "a red car on a road=wheels" "a red bike on a road=wheels" "a blue clock on a road=legs"; do
        vsf image "${pair%=*}" --neg "${pair#*=}" --method "$method" --seed 1..3 \
            --output "$outputs/$method-{slug}-{seed}.png" --exists overwrite --quiet
    done
done
python -m vsf_cli.media.montage "$outputs/front.png" \
    "$outputs"/{none,nag,vsf}-{a-red-car,a-red-bike,a-blue-clock}-on-a-road-?.png --columns 9 --scale 1 --label method
