#!/usr/bin/env bash
# Makes a picture for each row of a table with the columns `prompt` and `negative`:
#
#     bash examples/prompts.sh examples/prompts.csv
#
# Run again, it goes on: a picture that exists is skipped. Cells hold no commas here; `vsf batch` will read any table.
set -euo pipefail
table=${1:-examples/prompts.csv}
outputs=${PATH_OF_OUTPUTS:-outputs}

tail -n +2 "$table" | while IFS=, read -r prompt negative; do
    vsf image "$prompt" --neg "$negative" --seed 1 --output "$outputs/prompts/{slug}.png" --exists skip --quiet
done
