#!/usr/bin/env python3
"""Compares two files of bench/results: bench_compare.py OLD.json NEW.json [--all]

Rows are matched by their names (or by all their fields that are not measurements). Times are compared: a row is slower if its
time grew by more than 5 % and by more than 10 microseconds. Exit status 1 if any row is slower, 2 if the files cannot be compared.
"""
import json
import sys

MICROSECONDS = {"nanoseconds": 1e-3, "microseconds": 1.0, "milliseconds": 1e3, "seconds": 1e6, "ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
SLOWER, LEAST_MICROSECONDS = 1.05, 10.0


def time_field(row):
    """The field that holds a row's time, and what one of it is in microseconds."""
    for field in row:
        if field in MICROSECONDS or (field.rsplit("_", 1)[-1] in MICROSECONDS and isinstance(row[field], (int, float))):
            return field, MICROSECONDS[field if field in MICROSECONDS else field.rsplit("_", 1)[-1]]
    return None, 0


def name_of(row):
    if "name" in row:
        return row["name"]
    return " ".join(f"{k}={v}" for k, v in row.items() if isinstance(v, (str, int)) and not isinstance(v, bool))


def times_of(path):
    try:
        record = json.load(open(path))
        rows = record["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"bench_compare.py: {path} is not a file of bench results ({error!r})")
    times = {}
    for row in rows:
        field, unit = time_field(row)
        if field:
            times[name_of(row)] = row[field] * unit
    if not times:
        print(f"bench_compare.py: {path} holds no times", file=sys.stderr)
        sys.exit(2)
    return record.get("hardware", "?"), times


def main():
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    (old_hardware, old), (new_hardware, new) = map(times_of, arguments)
    if old_hardware != new_hardware:
        print(f"note: measured on {old_hardware} and on {new_hardware}")
    both = [name for name in old if name in new]
    if not both:
        print("bench_compare.py: the files have no row in common", file=sys.stderr)
        sys.exit(2)
    slower = 0
    for name in both:
        ratio = new[name] / old[name] if old[name] > 0 else float("inf")
        is_slower = ratio > SLOWER and new[name] - old[name] > LEAST_MICROSECONDS
        slower += is_slower
        if is_slower or "--all" in sys.argv:
            print(f"{name:<70}{old[name]:>14.1f} us{new[name]:>14.1f} us{ratio:>8.2f}x{'  SLOWER' if is_slower else ''}")
    print(f"{len(both)} rows compared, {slower} slower; only in one file: {len(old) + len(new) - 2 * len(both)}")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
