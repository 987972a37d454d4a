#!/usr/bin/env bash
# Checks the CUDA backend on a machine with a GPU: builds what it needs, runs the GPU tests, runs them again under
# compute-sanitizer (memcheck, racecheck), and writes the benches' numbers to bench/results/.
#
#   tools/gpu_check.sh [--build-dir DIR] [--no-build] [cmake options, such as -DBOREAS_CUDA_ARCHITECTURES=90a]
#
# --no-build: the tests and benches in DIR (default build/gpu) were built before, perhaps on another machine.
set -euo pipefail
cd "$(dirname "$0")/.."

build_dir=build/gpu
build=yes
cmake_options=()
while [ $# -gt 0 ]; do
  case $1 in
    --build-dir) build_dir=$2; shift 2 ;;
    --no-build) build=no; shift ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) cmake_options+=("$1"); shift ;;
    *) echo "unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done

if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) || [ -z "$gpu" ]; then
  echo "no GPU is visible: nvidia-smi lists none" >&2
  exit 2
fi
echo "GPU: $gpu"

tests=()
for source in tests/kernels/test_*_cuda.cpp; do tests+=("$(basename "$source" .cpp)"); done
benches=(bench_layer_norm)

if [ $build = yes ]; then
  cmake --preset gpu -B "$build_dir" -DBOREAS_TEST_AREAS=kernels "${cmake_options[@]}"
  cmake --build "$build_dir" --target "${tests[@]}" "${benches[@]}"
fi

for test in "${tests[@]}"; do
  echo "== $test"
  "$build_dir/tests/$test" --gtest_brief=1 | tee /tmp/gpu_check.$$
  if grep -q SKIPPED /tmp/gpu_check.$$; then
    echo "$test skipped tests although a GPU is visible: was it built with BOREAS_CUDA=ON?" >&2
    exit 1
  fi
done
rm -f /tmp/gpu_check.$$

if command -v compute-sanitizer > /dev/null; then
  for test in "${tests[@]}"; do
    for tool in memcheck racecheck; do
      echo "== $test under compute-sanitizer $tool"
      compute-sanitizer --tool $tool --error-exitcode 1 "$build_dir/tests/$test" --gtest_brief=1 | tail -4
    done
  done
else
  echo "compute-sanitizer is not installed: skipped" >&2
fi

mkdir -p bench/results
for bench in "${benches[@]}"; do
  echo "== $bench"
  raw=$(mktemp)
  "$build_dir/bench/$bench" --benchmark_filter=/gpu/ --benchmark_min_time=0.1 --benchmark_repetitions=5 --benchmark_report_aggregates_only=true \
    --benchmark_out="$raw" --benchmark_out_format=json > /dev/null
  python3 - "$raw" "$bench" "$gpu" <<'PY'
import datetime, json, re, sys

raw, bench, gpu = sys.argv[1:]
report = json.load(open(raw))
context = report["context"]
copy = float(context["gpu_copy_gbps"])
rows = []
for entry in report["benchmarks"]:
    if entry.get("aggregate_name") != "median":
        continue
    rows.append({"name": re.sub(r"/(real_time|manual_time|min_time:[0-9.]+)", "", entry["run_name"]),
                 "microseconds": round(entry["real_time"], 2),
                 "gbps": round(entry["GB/s"], 1),
                 "fraction_of_copy": round(entry["GB/s"] / copy, 3)})
slug = re.sub(r"[^a-z0-9]+", "_", gpu.lower()).strip("_")
path = f"bench/results/{bench.removeprefix('bench_')}_{slug}.json"
with open(path, "w") as out:
    json.dump({"hardware": gpu, "date": datetime.date.today().isoformat(), "command": "tools/gpu_check.sh",
               "gpu_copy_gbps": copy, "what": "median of 5 repetitions; bytes are those that the op must read and write",
               "results": rows}, out, indent=1)
    out.write("\n")
print(f"{'copy':<60}{copy:>10.0f} GB/s")
for row in rows:
    print(f"{row['name']:<60}{row['gbps']:>10.0f} GB/s {row['fraction_of_copy']:>6.2f} of copy {row['microseconds']:>10.1f} us")
print(f"written: {path}")
PY
  rm -f "$raw"
done
echo "GPU check passed."
