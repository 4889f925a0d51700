#!/usr/bin/env bash
# Makes the pictures of README.md and docs/ that the built-in image model draws, apart from those of docs/results.md:
#
#     bash benchmarks/pictures.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-outputs/pictures}
export PATH_OF_OUTPUTS=$out
montage() { python -m vsf_cli.media.montage "docs/images/$1.png" "${@:2}"; }
make() { vsf image "$@" --exists overwrite --quiet; }

bash examples/front.sh && cp "$out/front/front.png" docs/images/front.png
bash examples/alphas.sh && cp "$out/alphas/strip.png" docs/images/alphas.png

make "a red bike on a road" --seed 1..20 -o "$out/bikes/none-{seed}.png"
make "a red bike on a road" --neg wheels --seed 1..20 -o "$out/bikes/vsf-{seed}.png"
for method in none vsf; do montage "bikes-$method" "$out"/bikes/$method-{1..20}.png --columns 10 --scale 1 --label seed; done

clock="a blue clock on a road"
make "$clock" --seed 1..8 -o "$out/clocks/none-{seed}.png"
make "$clock" --neg hands --seed 1..8 -o "$out/clocks/vsf-{seed}.png"
make "$clock" --neg hands --keep "bells, legs" --seed 1..8 -o "$out/clocks/keep-{seed}.png"
montage contrast-strip "$out"/clocks/{none,vsf,keep}-{1..8}.png --columns 8 --scale 1 --label negative,keep

vsf attn-map "a red car on a road" --neg wheels --seed 24 -o "$out/maps" --exists overwrite --quiet
cp "$out/maps/grid.png" docs/images/attn-grid.png
python -m training.wall docs/images/wall.png

car="a red car on a road" flux="--preset tiny-flux-schnell"
make "$car" $flux --seed 1..8 -o "$out/flux/none-{seed}.png"
make "$car" $flux --neg wheels --seed 1..8 -o "$out/flux/all-{seed}.png"
make "$car" $flux --neg wheels --guided-blocks 1..2 --seed 1..8 -o "$out/flux/double-{seed}.png"
make "$car" $flux --neg wheels --guided-blocks 1..2 --reference-layout --alpha 3.5 --beta 0 --stop 1 --seed 1..8 -o "$out/flux/public-{seed}.png"
make "$car" $flux --neg wheels --method nag-flux --seed 1..8 -o "$out/flux/nag-{seed}.png"
montage flux-strip "$out"/flux/{none,all,double,public,nag}-{1..8}.png --columns 8 --scale 1 --label seed
for blocks in 1..2 3..7; do
    vsf attn-map "$car" $flux --neg wheels --seed 1 --blocks $blocks -o "$out/flux-maps-$blocks" --exists overwrite --quiet
done
montage flux-maps "$out"/flux-maps-{1..2,3..7}/grid.png --columns 1 --scale 1 --label ""
