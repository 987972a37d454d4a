#!/usr/bin/env bash
# From real observations to a verified forecast: installs what is missing, builds, then makes a dataset of 132 months of
# global winds, trains on the first 96, forecasts the last 36 and scores them. Ends with a table, maps and an HTML report.
#   tools/quickstart.sh           about 5 minutes on 2 cores, the build included
#   tools/quickstart.sh --fast    about 3 minutes: a smaller model, trained shortly
#   tools/quickstart.sh --cuda    computes on the GPU (needs one, and nvcc)
#   tools/quickstart.sh --ranks=2 splits each sample over so many ranks on the CPU
set -euo pipefail
cd "$(dirname "$0")/.."

fast=()
device=()
launch=()
output=quickstart
for option in "$@"; do
  case "$option" in
    --fast)
      output=quickstart-fast
      fast=(--set "output=$output/run" --set "data.dataset.path=$output/winds.zarr" --set model.num_channels=32 --set model.processor.num_layers=1
            --set training.max_steps=150 --set training.learning_rate.warmup_steps=20 --set training.ema_decay=0.9) ;;
    --cuda) device=(--set device=cuda) ;;
    --ranks=*)
      ranks="${option#--ranks=}"
      launch=(env "OMP_NUM_THREADS=$((($(nproc) + ranks - 1) / ranks))" mpirun -n "$ranks" --bind-to none --oversubscribe)
      if [ "$(id -u)" = 0 ]; then launch+=(--allow-run-as-root); fi ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $option; see $0 --help" >&2; exit 2 ;;
  esac
done
step() { printf '\n== %s (%d min %02d s so far)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step "dependencies"
tools/install_deps.sh --data

step "build"
cuda=(-DBOREAS_CUDA=OFF)
if [ ${#device[@]} -gt 0 ]; then
  command -v nvcc >/dev/null || { echo "--cuda: nvcc is not on the PATH" >&2; exit 2; }
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) || true
  [ -n "$capability" ] || { echo "--cuda: no GPU is visible" >&2; exit 2; }
  if [ "$capability" = 90 ]; then capability=90a; fi
  cuda=(-DBOREAS_CUDA=ON "-DBOREAS_CUDA_ARCHITECTURES=$capability")
fi
cmake -S . -B build/quickstart -G Ninja -DCMAKE_BUILD_TYPE=Release -DBOREAS_TESTS=OFF "${cuda[@]}" >build-quickstart.log 2>&1 ||
  { tail -20 build-quickstart.log; exit 1; }
rm -f build-quickstart.log
cmake --build build/quickstart --target boreas_cli
boreas=build/quickstart/boreas
config=(tools/quickstart.yaml "${fast[@]}" "${device[@]}")

step "dataset: monthly winds, 1982 to 1992"
mkdir -p "$output"
winds=/usr/share/ferret-vis/data/monthly_navy_winds.cdf
$boreas dataset create "$output/winds.zarr" --from "$winds" --variables UWND,VWND --rename UWND=u,VWND=v \
  --forcings cos_julian_day,sin_julian_day,insolation \
  --statistics-end 1989-12 --overwrite
$boreas dataset inspect "$output/winds.zarr"

step "graph"
$boreas graph "${config[@]}"

step "train"
"${launch[@]}" $boreas train "${config[@]}" --resume

step "forecast"
"${launch[@]}" $boreas forecast "${config[@]}"

step "evaluate"
"${launch[@]}" $boreas evaluate "${config[@]}"
step "done"
