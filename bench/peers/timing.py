"""Timing on one GPU, and the record that every peer script writes."""
import datetime
import json
import statistics

import torch

L2_FLUSH_BYTES = 256 << 20


def median_ms(call, repeats=20, warm_up=5, flush=True):
    """Median of CUDA-event times of call(), in ms; the L2 cache is overwritten before each."""
    scratch = torch.empty(L2_FLUSH_BYTES // 4, device="cuda") if flush else None
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        if flush:
            scratch.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def extra_memory_gib(call):
    """Peak of what call() allocates beyond what is allocated already."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def write_record(path, command, rows):
    if not path:
        return
    record = {
        "hardware": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "command": command,
        "results": rows,
    }
    with open(path, "w") as file:
        json.dump(record, file, indent=1)
        file.write("\n")


def show(row):
    print("  ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
