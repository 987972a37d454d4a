"""Reads with TensorStore the files that `bench_dataset_read FOLDER --keep --out BOREAS.json` left, in the same way, and prints the ratio.

    python tensorstore_read.py FOLDER [--boreas BOREAS.json] [--repeats 3] [--json FILE]

Needs tensorstore and numpy. Best of the repeats after one that does not count; all dates are asked for at once.
"""
import argparse
import json
import os
import time
from importlib.metadata import version

import tensorstore as ts


def hardware():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() + ", " for line in file if line.startswith("model name")), "")
    return f"{model}{os.cpu_count()} threads"


def measure(array, count, repeats):
    dates, variables = array.shape[:2]
    best = processor = float("inf")
    for repeat in range(repeats + 1):
        begin, processor_begin = time.perf_counter(), time.process_time()
        for future in [array[date, :, 0, :count].read() for date in range(dates)]:
            future.result()
        if repeat > 0:
            best = min(best, time.perf_counter() - begin)
            processor = min(processor, time.process_time() - processor_begin)
    gigabytes = dates * variables * count * 4e-9
    return gigabytes / best, gigabytes / processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--boreas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    ours = {}
    if options.boreas:
        with open(options.boreas) as file:
            ours = {(row["chunks"], row["cells"]): row for row in json.load(file)["results"]}
    results = []
    print(f"{'chunks':>6} {'cells':>5} {'GB/s':>8} {'GB/s/processor':>14} {'boreas/tensorstore':>18} {'/processor':>10}")
    for parts in (1, 4, 8, 16, 32):
        path = os.path.join(options.folder, f"cells_in_{parts}")
        if not os.path.isdir(path):
            continue
        array = ts.open({"driver": "zarr", "kvstore": {"driver": "file", "path": path}}).result()
        for share in (1, 4, 16):
            gbps, gbps_a_processor = measure(array, array.shape[3] // share, options.repeats)
            row = {"chunks": parts, "cells": f"1/{share}", "gbps": gbps, "gbps_a_processor": gbps_a_processor}
            results.append(row)
            own = ours.get((parts, row["cells"]))
            ratios = f"{own['gbps'] / gbps:>18.2f} {own['gbps_a_processor'] / gbps_a_processor:>10.2f}" if own else ""
            print(f"{parts:>6} {row['cells']:>5} {gbps:>8.2f} {gbps_a_processor:>14.2f} {ratios}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"hardware": hardware(), "tensorstore": version("tensorstore"), "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
