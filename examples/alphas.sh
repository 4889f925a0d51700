#!/usr/bin/env bash
# Shows what alpha does: no guidance, then alpha 1 to 4, at the same seed, on one labelled strip:
#
#     bash examples/alphas.sh "a red bike on a road" wheels
set -euo pipefail
prompt=${1:-a red bike on a road}
negative=${2:-wheels}
outputs=${PATH_OF_OUTPUTS:-outputs}/alphas
seed=${SEED:-1}

vsf image "$prompt" --seed "$seed" --output "$outputs/none.png" --exists overwrite --quiet
pictures=("$outputs/none.png")
for alpha in 1 2 3 4; do
    vsf image "$prompt" --neg "$negative" --alpha "$alpha" --seed "$seed" --output "$outputs/$alpha.png" --exists overwrite --quiet
    pictures+=("$outputs/$alpha.png")
done
python -m vsf_cli.media.montage "$outputs/strip.png" "${pictures[@]}" --columns 5
