#!/usr/bin/env bash
# Installs what boreas needs from Debian's or Ubuntu's packages, and only what is missing. Needs root or sudo.
#   tools/install_deps.sh            to build and run
#   tools/install_deps.sh --data     and the quickstart's data
#   tools/install_deps.sh --tests    and what the tests need
set -euo pipefail

packages=(cmake ninja-build g++ pkg-config libopenblas-openmp-dev libfmt-dev libspdlog-dev libcli11-dev
          nlohmann-json3-dev libyaml-cpp-dev libnanoflann-dev libhdf5-dev libblosc-dev libzstd-dev
          zlib1g-dev libopenmpi-dev openmpi-bin libminizip-dev libnetcdf-dev libeccodes-dev libpng-dev)
for option in "$@"; do
  case "$option" in
    --data) packages+=(ferret-datasets) ;;
    --tests) packages+=(gfortran libgtest-dev libbenchmark-dev clang-format netcdf-bin) ;;
    *) echo "usage: $0 [--data] [--tests]" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "dependencies: all ${#packages[@]} packages are there"
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "dependencies: this system has no apt-get; install the equivalents of: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "dependencies: run as root, or install sudo: ${missing[*]} are missing" >&2; exit 1; }
  as_root=(sudo)
fi
echo "dependencies: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${as_root[@]}" apt-get update -qq &&
       "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -20 "$log" >&2
  echo "dependencies: apt-get failed (see above)" >&2
  exit 1
fi
