#!/usr/bin/env bash
# Checks and measures the CUDA backend on a machine with a GPU; goes on after a failure, and ends with one table.
#
#   tools/gpu_check.sh [options] [cmake options, such as -DBOREAS_CUDA_ARCHITECTURES=90a]
#
#   --only LIST       comma-separated parts, in this order: tests, ranks, ptx, sanitizers, benches (default: all)
#   --filter REGEX    only the tests and benches whose name matches
#   --no-build        the programs were built before, perhaps on another machine
#   --build-dir DIR   where they are (default build/gpu); those of `ptx` are in DIR-ptx
#   --jobs N          tests at a time (default: half of the processors, at most 8); benches always run alone
#   --out DIR         where the benches' results go (default bench/results)
#
#   tests       every tests/*/test_*_cuda.cpp: parity with the CPU, repeatability, planned memory
#   ranks       every tests/*/test_*_cuda_ranks.cpp on 2 and 3 ranks; where there are fewer GPUs they share one, which is
#               slow: then in short form, and on 3 ranks the communicator's only
#   ptx         the kernels' tests, in short form, from a build that has compute_80 PTX alone: what GPUs before Hopper
#               run, compiled by the driver
#   sanitizers  the kernels' tests, in short form (BOREAS_QUICK_TESTS=1), under compute-sanitizer memcheck, racecheck,
#               initcheck; what the last two report in cuBLASLt's own kernels does not count
#   benches     benches with GPU cases, and the engine's longer ones: NAME_GPU.json with hardware, driver, date, command
#
# Logs are kept in DIR/gpu_check. Exit status: 0 if nothing failed, 1 if something did, 2 for wrong usage or no GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

parts=tests,ranks,ptx,sanitizers,benches
filter=.
build=yes
build_dir=build/gpu
jobs=$(($(nproc) / 2))
out=bench/results
cmake_options=()
command_line="tools/gpu_check.sh $*"
while [ $# -gt 0 ]; do
  case $1 in
    --only) parts=$2; shift 2 ;;
    --filter) filter=$2; shift 2 ;;
    --no-build) build=no; shift ;;
    --build-dir) build_dir=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -D*) cmake_options+=("$1"); shift ;;
    *) echo "unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done
jobs=$((jobs < 1 ? 1 : jobs > 8 ? 8 : jobs))
for part in ${parts//,/ }; do
  case $part in
    tests | ranks | ptx | sanitizers | benches) ;;
    *) echo "unknown part '$part'; see --help" >&2; exit 2 ;;
  esac
done
wants() { [[ ,$parts, == *,$1,* ]]; }

if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -1) || [ -z "$gpu" ]; then
  echo "no GPU is visible: nvidia-smi lists none" >&2
  exit 2
fi
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)
echo "GPU: $gpu, driver $driver"

logs=$build_dir/gpu_check
rm -rf "$logs"
mkdir -p "$logs" "$out"
touch "$logs/table"
export logs BOREAS_GOLDEN_DIR="$PWD/tests/golden"  # the programs may have been built elsewhere

names() { for source in $1; do [ -e "$source" ] && basename "${source%.*}"; done | grep -E "$filter"; }
tests=$(names 'tests/*/test_*_cuda.cpp')
rank_tests=$(names 'tests/*/test_*_cuda_ranks.cpp')
kernel_tests=$(names 'tests/kernels/test_*_cuda.cpp')
benches=$(names 'bench/*/bench_*.c[pu]*')

# record PART NAME RESULT SECONDS NOTE: a row of the table.
record() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >> "$logs/table"; }
# only_foreign LOG: the tests passed, and all that was printed lies in cuBLASLt's own kernels: races, or reads of what its
# products wrote to its workspace in bulk, which initcheck does not see.
only_foreign() {
  local at='Race reported between|^=========     at '
  grep -qE "$at" "$1" && ! grep -E "$at" "$1" | grep -qvE 'nvjet|cublasLt' &&
    grep -q 'PASSED' "$1" && ! grep -qE 'FAILED|Failure|Internal Sanitizer Error|Target application returned an error' "$1"
}
# attempt PART NAME LIMIT COMMAND...: runs it, keeps its log, records how it ended; "not run" and why where the tool
# itself does not work here.
attempt() {
  local part=$1 name=$2 limit=$3 log=$logs/$1_$2.log begin=$SECONDS status=0 result=ok note=
  shift 3
  timeout -k 5 "$limit" "$@" > "$log" 2>&1 || status=$?
  if [ $status -eq 124 ] || [ $status -eq 137 ]; then
    result=TIMEOUT note="after $limit s"
  elif [ "$1" = compute-sanitizer ] && note=$(grep -m1 -E "$no_sanitizer" "$log"); then
    result="not run"
  elif [ $status -eq 9 ] && [ "$part" != memcheck ] && only_foreign "$log"; then
    note="only in cuBLASLt's kernels: $(grep -E '(RACECHECK|ERROR) SUMMARY' "$log" | head -1 | tr -s ' =' ' ')"
  elif note=$(grep -m1 -o 'this build has no NCCL' "$log"); then
    result="not run"
  elif [ $status -ne 0 ]; then
    result=FAILED note="exit status $status: $(grep -m1 -E 'error|ERROR|Failure|FAILED|========= [A-Z]' "$log")"
  elif grep -qE 'PASSED +\] 0 tests' "$log"; then
    result=FAILED note="all tests were skipped although a GPU is visible: $(grep -m1 -A1 Skipped "$log" | tail -1)"
  else
    note=$(grep -E 'PASSED|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tr -s ' =\n' ' ')
  fi
  record "$part" "$name" "$result" $((SECONDS - begin)) "${note:0:100}"
  echo "$part $name: $result"
}
export no_sanitizer='Device not supported|Unable to (find|load)|Failed to initialize'
export -f record attempt only_foreign

if [ $build = yes ]; then
  echo "== build"
  targets=
  wants benches && targets=$benches
  wants ranks && targets+=" $rank_tests"
  # What does not compile must not keep the rest from being checked.
  cmake --preset gpu -B "$build_dir" -DBOREAS_WERROR=OFF "${cmake_options[@]}" > "$logs/build.log" 2>&1 &&
    cmake --build "$build_dir" --target $tests $targets -- -k 0 >> "$logs/build.log" 2>&1 &&
    record build main ok $SECONDS "" || record build main FAILED $SECONDS "see $logs/build.log"
  if wants ptx && [ -n "$kernel_tests" ]; then
    begin=$SECONDS
    cmake --preset gpu -B "$build_dir-ptx" -DBOREAS_WERROR=OFF "${cmake_options[@]}" -DBOREAS_CUDA_ARCHITECTURES=80-virtual \
      -DBOREAS_BENCHES=OFF -DBOREAS_TEST_AREAS=kernels > "$logs/build_ptx.log" 2>&1 &&
      cmake --build "$build_dir-ptx" --target $kernel_tests -- -k 0 >> "$logs/build_ptx.log" 2>&1 &&
      record build ptx ok $((SECONDS - begin)) "" || record build ptx FAILED $((SECONDS - begin)) "see $logs/build_ptx.log"
  fi
fi

# each LIMIT DIRECTORY: for every line "PART TEST [WRAPPER...]" on standard input, several at a time.
each() {
  xargs -r -L 1 -P "$jobs" bash -c 'limit=$1 program=$2/tests/$4 part=$3 name=$4; shift 4
    if [ -x "$program" ]; then attempt "$part" "$name" "$limit" "$@" "$program" --gtest_brief=1
    else result=FAILED; [ "$part" = ptx ] && result="not run"
      record "$part" "$name" "$result" 0 "$program was not built"; fi' _ "$1" "$2"
}

export OMP_NUM_THREADS=$((($(nproc) + jobs - 1) / jobs))
if wants tests; then for test in $tests; do echo tests "$test"; done | each 300 "$build_dir"; fi
if wants ranks; then
  num_gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
  for test in $rank_tests; do
    for ranks in 2 3; do
      if ! command -v mpirun > /dev/null; then record ranks "$test" "not run" 0 "mpirun is not installed"; continue; fi
      share=
      if [ "$ranks" -gt "$num_gpus" ]; then
        [ "$ranks" -eq 2 ] || [ "$test" = test_communicator_cuda_ranks ] || continue
        share="BOREAS_SHARE_GPU=1 BOREAS_QUICK_TESTS=1"
      fi
      attempt ranks "${test}_$ranks" 300 env $share mpirun -n $ranks "$build_dir/tests/$test" --gtest_brief=1
    done
  done
fi
if wants ptx; then for test in $kernel_tests; do echo ptx "$test"; done | BOREAS_QUICK_TESTS=1 each 150 "$build_dir-ptx"; fi
if wants sanitizers; then
  for tool in memcheck racecheck initcheck; do
    if command -v compute-sanitizer > /dev/null; then
      for test in $kernel_tests; do echo $tool "$test" compute-sanitizer --tool $tool --print-limit 5000 --error-exitcode 9; done
    else
      record $tool all "not run" 0 "compute-sanitizer is not installed"
    fi
  done | BOREAS_QUICK_TESTS=1 each 300 "$build_dir"
fi
unset OMP_NUM_THREADS

# result_file NAME: where the numbers of a bench are kept.
slug=$(tr '[:upper:]' '[:lower:]' <<< "$gpu" | sed -E 's/[^a-z0-9]+/_/g; s/^_|_$//g')
result_file() { echo "$out/${1#bench_}_$slug.json"; }

# A Google benchmark's report, shortened to the medians of its GPU cases.
shorten() {
  python3 - "$1" "$2" "$gpu" "$driver" "$command_line" << 'PY'
import datetime, json, re, sys

raw, path, gpu, driver, command = sys.argv[1:]
text = open(raw).read()
try:
    report = json.loads(text)
except json.JSONDecodeError:  # stopped at its limit: what is complete counts
    end = text.rfind("\n    }")
    if end < 0:
        sys.exit(f"{raw}: no complete result")
    report = json.loads(text[:end] + "\n    }]}")
usual = {"name", "run_name", "run_type", "family_index", "per_family_instance_index", "repetitions", "repetition_index",
         "threads", "iterations", "real_time", "cpu_time", "time_unit", "aggregate_name", "aggregate_unit"}
microseconds = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}
rows = []
for entry in report["benchmarks"]:
    name = re.sub(r"/(real_time|manual_time|min_time:[0-9.]+|repeats:[0-9]+|iterations:[0-9]+)", "", entry["run_name"])
    if entry.get("error_occurred"):
        rows.append({"name": name, "error": entry.get("error_message", "failed")})
    elif entry.get("aggregate_name") == "median":
        rows.append({"name": name, "microseconds": round(entry["real_time"] * microseconds[entry["time_unit"]], 2),
                     **{key: float(f"{value:.4g}") for key, value in entry.items() if key not in usual}})
with open(path, "w") as out:
    json.dump({"hardware": gpu, "driver": driver, "date": datetime.date.today().isoformat(), "command": command,
               "what": "medians of repeated runs; bytes and operations are those that the op must move and do",
               "gpu_copy_gbps": float(report["context"].get("gpu_copy_gbps", 0)), "results": rows}, out, indent=1)
    out.write("\n")
for row in rows:
    values = "  ".join(f"{key} {value}" for key, value in row.items() if key != "name")
    print(f"  {row['name']:<72} {values}")
PY
}

# program NAME LABEL LIMIT ARGUMENT...: a bench of the engine, which writes its own results to the file after --out; what
# they were measured on, when and how is put before them.
program() {
  local name=$1 label=$2 limit=$3 file
  shift 3
  [[ $name =~ $filter ]] && [ -x "$build_dir/bench/$name" ] || return 0
  file=$(result_file "${name}_$label")
  rm -f "$file"  # an older one must not pass for this run's
  attempt bench "${name}_$label" "$limit" "$build_dir/bench/$name" "$@" --out "$file"
  [ -s "$file" ] || return 0
  python3 - "$file" "$gpu" "$driver" "$command_line" "$name $*" << 'PY'
import datetime, json, sys

path, gpu, driver, command, program = sys.argv[1:]
measured = json.load(open(path))
head = {"hardware": gpu, "driver": driver, "date": datetime.date.today().isoformat(), "command": command, "program": program}
with open(path, "w") as out:
    json.dump({**head, **{key: value for key, value in measured.items() if key not in head}}, out, indent=1)
    out.write("\n")
PY
}

if wants benches; then
  for bench in $benches; do
    grep -qE 'benchmark/benchmark\.h|bench_support\.h|bench/graph_attention\.h' bench/*/"$bench".c* || continue  # see program
    [ -x "$build_dir/bench/$bench" ] || { record bench "$bench" "not run" 0 "not built"; continue; }
    list=$logs/list_$bench.log
    if ! timeout -k 5 60 "$build_dir/bench/$bench" --benchmark_list_tests=true --benchmark_filter=/gpu/ > "$list" 2>&1; then
      record bench "$bench" FAILED 60 "could not list its cases, see $list"
      continue
    fi
    grep -q '/gpu/.*_time' "$list" || continue  # it has none
    raw=$logs/$bench.json
    attempt bench "$bench" 150 "$build_dir/bench/$bench" --benchmark_filter=/gpu/ --benchmark_repetitions=3 \
      --benchmark_report_aggregates_only=true --benchmark_out="$raw" --benchmark_out_format=json
    [ -s "$raw" ] && shorten "$raw" "$(result_file "$bench")" | tee -a "$logs/numbers"
  done
  free=$(df --output=avail -k /dev/shm 2> /dev/null | tail -1)  # the dataset takes 3.5 GB
  scratch=$(mktemp -d "$( [ "${free:-0}" -gt 8000000 ] && echo /dev/shm || echo /tmp )/gpu_check.XXXXXX")
  for shape in A B C C1120 D E; do program bench_step $shape 120 $shape --device cuda; done
  program bench_loss_curves quickstart 120 quickstart --config tools/quickstart.yaml
  program bench_loss_curves n320 120 n320
  program bench_disk_to_loss n320 120 "$scratch"
  for shape in A B D; do program bench_forecast $shape 120 $shape --device cuda --folder "$scratch" --compressor none --threads 14; done
  rm -rf "$scratch"
fi

echo
sort -s -k1,1 "$logs/table" | awk -F'\t' '{ printf "%-10s %-36s %-8s %4s s  %s\n", $1, $2, $3, $4, $5 }' | tee "$logs/summary"
echo "total: $SECONDS s; logs: $logs"
if grep -qE $'\t(FAILED|TIMEOUT)\t' "$logs/table"; then exit 1; fi
grep -v '^build' "$logs/table" | grep -q $'\tok\t' || { echo "nothing was checked" >&2; exit 1; }
echo "GPU check passed."
