"""Checks that Zarr packages for Python read what boreas writes. Run by hand:

    BOREAS_ZARR_SAMPLE=sample.zarr build/cpu/tests/test_zarr --gtest_filter=Zarr.WritesAndReadsEveryDataType
    boreas dataset create dataset.yaml
    python tools/check_zarr_interop.py sample.zarr dataset.zarr [forecast.zarr ...]

Every array of each folder is read in full by the zarr package that is installed, of version 2 or 3, through a second
decoder written here on numcodecs alone, and, where it is installed, by xarray. All must agree bit by bit; the arrays of the
sample also with the formula of tests/golden/make_zarr_fixtures.py. The exit status is 0 when they do. For the meaning of a
dataset there is check_anemoi_interop.py.
"""

import argparse
import itertools
import json
import pathlib
import sys

import numcodecs
import numpy as np
import zarr


sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests" / "golden"))
from make_zarr_fixtures import values as expected_values  # noqa: E402


def same(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def decode(folder):
    """An array of format 2 by its specification: metadata, then one file per chunk."""
    meta = json.loads((folder / ".zarray").read_text())
    dtype, shape, chunks = np.dtype(meta["dtype"]), meta["shape"], meta["chunks"]
    fill = meta["fill_value"]
    array = np.full(shape, np.array(fill if fill is not None else 0, dtype=dtype), dtype=dtype)
    codec = numcodecs.get_codec(meta["compressor"]) if meta["compressor"] else None
    separator = meta.get("dimension_separator", ".")
    num_missing = 0
    for index in itertools.product(*[range(-(-n // c)) for n, c in zip(shape, chunks)]):
        path = folder / (separator.join(map(str, index)) or "0")
        if not path.exists():
            num_missing += 1
            continue
        raw = path.read_bytes()
        chunk = np.frombuffer(codec.decode(raw) if codec else raw, dtype=dtype)
        assert chunk.size == int(np.prod(chunks)), f"{path}: {chunk.size} elements"
        where = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape))
        array[where] = chunk.reshape(chunks, order=meta["order"])[tuple(slice(0, s.stop - s.start) for s in where)]
    return array, num_missing


def check(path):
    failures = 0
    group = zarr.open_group(str(path), mode="r")
    names = sorted(name for name, _ in group.arrays())
    if not names:
        print(f"{path}: no arrays")
        return 1
    for name in names:
        by_zarr = group[name][...]
        by_hand, num_missing = decode(path / name)
        agrees = same(by_zarr, by_hand)
        if name.startswith(("dtype_", "codec_", "rank_")):
            agrees = agrees and same(by_zarr, expected_values(by_hand.shape, by_hand.dtype.str))
        failures += not agrees
        print(f"{path}/{name}: {by_hand.dtype.str} {by_hand.shape}, {num_missing} chunks absent:",
              f"zarr {zarr.__version__} {'agrees' if agrees else 'DIFFERS'}")
    print(f"{path}: {len(dict(group.attrs))} attributes")

    try:
        import xarray
    except ImportError:
        print("xarray: not installed, skipped")
    else:
        # No scaling, no decoding of times: the arrays as they are stored.
        with xarray.open_zarr(str(path), consolidated=False, decode_cf=False) as dataset:
            for name in names:
                is_float = group[name].dtype.kind == "f"
                agrees = name in dataset.variables and np.array_equal(dataset[name].values, group[name][...], equal_nan=is_float)
                failures += not agrees
                if not agrees:
                    print(f"{path}/{name}: xarray DIFFERS")
        print(f"{path}: xarray {xarray.__version__} opened {len(dataset.variables)} variables")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    failures = sum(check(folder) for folder in parser.parse_args().folders)
    print("all agree" if failures == 0 else f"{failures} arrays differ")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
