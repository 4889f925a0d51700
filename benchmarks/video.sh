#!/bin/sh
# Makes the table and the strips of docs/video.md again, on the built-in video model: about ten minutes on two cores.
# It goes on where it was stopped.
set -eu
out=${1:-outputs/clips}

vsf eval run clips --preset tiny-wan-causvid --method none,nag,nag-clips,vsf --seeds 1 -o "$out/table" -q > "$out.log"
vsf eval judge "$out/table" -q
vsf eval report "$out/table"

# The paper's Appendix A.1: frames of a clip by each method
vsf video "a red car drives on a road" --neg wheels --seed 1 --compare none,nag,vsf -o "$out/car.png" --exists overwrite -q
vsf video "a pink cake stands on sand" --neg candles --seed 1 --compare none,nag,vsf -o "$out/cake.png" --exists overwrite -q
