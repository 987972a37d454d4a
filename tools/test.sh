#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests: the optimised build, then io and kernels under the address and
# undefined-behaviour sanitizers; the CUDA sources are compiled where nvcc is found (their tests need a GPU to run).
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%d min %02d s so far)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

step "dependencies"
tools/install_deps.sh --tests --data

step "format"
git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror

step "build"
cmake --preset cpu
cmake --build --preset cpu

step "sanitizers: build of io and kernels"
cmake --preset asan -DBOREAS_TEST_AREAS="kernels;io"
cmake --build --preset asan --target boreas_tests

if command -v nvcc >/dev/null; then
  step "CUDA: compile for compute capability 8.0 and 9.0"
  cmake --preset gpu -DBOREAS_BENCHES=OFF -DBOREAS_TEST_AREAS=kernels
  cmake --build --preset gpu --target boreas_kernels boreas_comm
else
  step "CUDA: not compiled, nvcc is not on the PATH"
fi

step "sanitizers: tests of io and kernels"
ctest --preset asan -j"$(nproc)"

step "tests"
ctest --preset cpu -j"$(nproc)"
step "done"
