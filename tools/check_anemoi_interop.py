#!/usr/bin/env python3
"""Opens a dataset that boreas wrote with zarr-python and, if it is installed, anemoi-datasets, and compares both with the
attributes, statistics and (if given) the NetCDF file that the dataset was made from. Prints one line per check; the exit
status is 1 if one fails. docs/data.md has the outcome.

    boreas dataset create --input winds.nc --output winds.zarr ...
    tools/check_anemoi_interop.py winds.zarr --source winds.nc --names u=UWND,v=VWND
"""

import argparse
import sys

import numpy as np
import zarr

FAILED = []


def check(what, ok, detail=""):
    print(f"{'ok  ' if ok else 'FAIL'}  {what}{': ' if detail else ''}{detail}")
    if not ok:
        FAILED.append(what)


def equal(a, b, tolerance=0.0):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def moments(values):
    values = values.astype("f8")
    axes = (0, 2, 3)
    return {"mean": np.nanmean(values, axes), "stdev": np.nanstd(values, axes),
            "minimum": np.nanmin(values, axes), "maximum": np.nanmax(values, axes)}


def check_zarr(path):
    """Everything that zarr-python can see; returns what the other checks compare with."""
    z = zarr.open(path, mode="r")
    attributes = dict(z.attrs)
    data, dates = z["data"][:], z["dates"][:].astype("datetime64[s]")
    names, missing = attributes["variables"], set(np.array(attributes["missing_dates"], "datetime64[s]"))
    print(f"zarr {zarr.__version__}: data {data.shape}, chunks {z['data'].chunks}")
    check("shape agrees with the attributes and coordinates",
          data.shape[:2] == (len(dates), len(names)) and data.shape[3] == z["latitudes"].shape[0] == z["longitudes"].shape[0]
          == int(np.prod(attributes["field_shape"])))
    present = np.array([d not in missing for d in dates])
    check("dates are regular", len(set(np.diff(dates))) <= 1 or attributes["frequency"].startswith("P"), attributes["frequency"])
    check("missing dates hold NaN, the others do not", bool(np.isnan(data[~present]).all())
          and (attributes["allow_nans"] or bool(np.isfinite(data[present]).all())), f"{(~present).sum()} missing")
    first, last = (np.datetime64(attributes[f"statistics_{k}_date"], "s") for k in ("start", "end"))
    inside = (dates >= first) & (dates <= last)
    for name, expected in moments(data[inside & present]).items():
        check(f"array {name}", equal(z[name][:], expected, 1e-9))
    step = dates[1] - dates[0]
    for array in sorted(z.array_keys()):
        if array.startswith("statistics_tendencies_") and array.endswith("_mean"):
            prefix = array[: -len("mean")]
            lag = int(prefix.split("_")[2][:-1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[prefix.split("_")[2][-1]]
            k = int(np.timedelta64(lag, "s") / step)
            both = (inside & present)[k:] & (inside & present)[:-k]
            difference = data[k:].astype("f8")[both] - data[:-k].astype("f8")[both]
            for name, expected in moments(difference).items():
                check(f"array {prefix}{name}", equal(z[prefix + name][:], expected, 1e-9))
    return attributes, data, dates, present, z


def check_anemoi(path, attributes, data, dates, present, z):
    try:
        import anemoi.datasets
        from anemoi.datasets import open_dataset
    except ImportError:
        print("anemoi-datasets is not installed: skipped")
        return
    print(f"anemoi-datasets {anemoi.datasets.__version__}")
    ds = open_dataset(path)
    check("anemoi: shape, variables, dates", ds.shape == data.shape and list(ds.variables) == attributes["variables"]
          and (np.asarray(ds.dates).astype("datetime64[s]") == dates).all(), str(ds.shape))
    check("anemoi: frequency", ds.frequency.total_seconds() == (dates[1] - dates[0]).astype(int), str(ds.frequency))
    check("anemoi: missing dates", set(ds.missing) == set(np.flatnonzero(~present).tolist()), str(sorted(ds.missing)))
    check("anemoi: coordinates", equal(ds.latitudes, z["latitudes"][:]) and equal(ds.longitudes, z["longitudes"][:]))
    check("anemoi: statistics", all(equal(ds.statistics[k], z[k][:]) for k in ("mean", "stdev", "minimum", "maximum")))
    for array in z.array_keys():
        if array.startswith("statistics_tendencies_") and array.endswith("_mean"):
            found = ds.statistics_tendencies(array.split("_")[2])
            prefix = array[: -len("mean")]
            check(f"anemoi: {prefix[:-1]}", all(equal(found[k], z[prefix + k][:]) for k in found))
    check("anemoi: constant fields", sorted(ds.constant_fields) == sorted(attributes["constant_fields"]))
    check("anemoi: field shape", tuple(ds.field_shape) == tuple(attributes["field_shape"]), str(ds.field_shape))
    some = np.flatnonzero(present)[[0, len(np.flatnonzero(present)) // 2, -1]]
    check("anemoi: values", all(equal(ds[int(i)], data[i]) for i in some))
    if present[1:-1].any():
        check_subset(path, attributes, data, dates, present)
    if (~present).any():
        try:
            ds[int(np.flatnonzero(~present)[0])]
            check("anemoi: reading a missing date raises", False)
        except Exception as error:  # its own exception type
            check("anemoi: reading a missing date raises", True, type(error).__name__)


def check_subset(path, attributes, data, dates, present):
    from anemoi.datasets import open_dataset

    chosen = attributes["variables"][::-1][:2]
    sub = open_dataset(path, select=chosen, start=str(dates[1]), end=str(dates[-2]))
    columns = [attributes["variables"].index(v) for v in chosen]
    i = int(np.flatnonzero(present[1:-1])[0])
    check("anemoi: select, start and end", sub.shape[0] == len(dates) - 2 and equal(sub[i], data[i + 1][columns]))


def check_source(source, names, attributes, data, dates):
    import netCDF4

    with netCDF4.Dataset(source) as f:
        for ours, theirs in names.items():
            v = f.variables[theirs]
            time = f.variables[v.dimensions[0]]
            times = netCDF4.num2date(time[:], time.units, getattr(time, "calendar", "standard"))
            times = np.array([np.datetime64(t.strftime("%Y-%m-%dT%H:%M:%S")) for t in times])
            field = np.ma.filled(v[:].astype("f4"), np.nan).reshape(len(times), -1)
            rows = np.searchsorted(times, dates)
            check(f"source: dates of {theirs}", bool((times[rows] == dates).all()))
            check(f"source: values of {theirs}", equal(data[:, attributes["variables"].index(ours), 0], field[rows]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--source", help="NetCDF file that the dataset was made from")
    parser.add_argument("--names", default="", help="variables to compare with the source: ours=theirs,...")
    arguments = parser.parse_args()
    attributes, data, dates, present, z = check_zarr(arguments.dataset)
    check_anemoi(arguments.dataset, attributes, data, dates, present, z)
    if arguments.source:
        check_source(arguments.source, dict(pair.split("=") for pair in arguments.names.split(",")), attributes, data, dates)
    print(f"{len(FAILED)} checks failed" if FAILED else "all checks passed")
    return 1 if FAILED else 0


sys.exit(main())
