#!/usr/bin/env python3
"""Makes tests/golden/datasets: small NetCDF and GRIB files, and Anemoi datasets as zarr-python writes them.

Needs numpy, netCDF4 and zarr 3, and the ecCodes library. The tests in tests/io/test_create_dataset.cpp and
tests/io/test_dataset_fixtures.cpp know the formulae below.
"""

import ctypes
import ctypes.util
import pathlib
import shutil
import zipfile

import netCDF4
import numcodecs
import numpy as np
import zarr

HERE = pathlib.Path(__file__).resolve().parent / "datasets"


def value(time, level, member, cell):
    """Exact in float32 and in steps of 1/8."""
    return 100.0 * time + 10.0 * level + member + cell / 8.0


def regular():
    """NetCDF-3: packed integers, levels in Pa, members, a field without time, mixed Julian/Gregorian origin."""
    lat, lon = [60.0, 0.0, -60.0], [0.0, 90.0, 180.0, 270.0]
    with netCDF4.Dataset(HERE / "regular.nc", "w", format="NETCDF3_CLASSIC") as f:
        for name, size in [("time", None), ("plev", 2), ("number", 2), ("lat", 3), ("lon", 4)]:
            f.createDimension(name, size)
        time = f.createVariable("time", "f8", ("time",))
        time.units, time.calendar = "hours since 1-1-1 00:00:0.0", "standard"
        plev = f.createVariable("plev", "f8", ("plev",))
        plev.units, plev.standard_name = "Pa", "air_pressure"
        for name, values, units in [("lat", lat, "degrees_north"), ("lon", lon, "degrees_east")]:
            v = f.createVariable(name, "f4", (name,))
            v.units, v[:] = units, values
        plev[:] = [50000, 85000]
        # 17593032 hours since 0001-01-01 of the mixed calendar is 2008-01-01T00, 6 hours apart; the third is left out.
        time[:] = netCDF4.date2num(
            [netCDF4.num2date(h, "hours since 2008-01-01", only_use_cftime_datetimes=True) for h in (0, 6, 18)],
            time.units,
            "standard",
        )
        t = f.createVariable("t", "i2", ("time", "number", "plev", "lat", "lon"), fill_value=-32767)
        t.units, t.long_name, t.scale_factor, t.add_offset = "K", "temperature", 0.125, 200.0
        t.set_auto_maskandscale(False)
        for d in range(3):
            for m in range(2):
                for l in range(2):
                    packed = [round(value(d, l, m, c) / 0.125) for c in range(12)]
                    t[d, m, l] = np.array(packed, "i2").reshape(3, 4)
        sst = f.createVariable("sst", "f4", ("time", "lat", "lon"))
        sst.units, sst.missing_value = "degC", np.float32(-99.9)
        orography = f.createVariable("orography", "f4", ("lat", "lon"))
        orography.units = "m"
        orography[:] = np.arange(12).reshape(3, 4)
        for d in range(3):
            field = np.array([value(d, 0, 0, c) for c in range(12)], "f4")
            field[5] = -99.9
            sst[d] = field.reshape(3, 4)


def points():
    """NetCDF-4: a list of points, in two files that follow each other, days as 64-bit integers."""
    for part, days in [("first", [0, 1]), ("second", [2, 3])]:
        with netCDF4.Dataset(HERE / f"points_{part}.nc", "w") as f:
            f.createDimension("time", len(days))
            f.createDimension("cell", 5)
            time = f.createVariable("time", "i8", ("time",))
            time.units, time.calendar, time[:] = "days since 1999-12-31T12:00:00Z", "proleptic_gregorian", days
            lat = f.createVariable("latitude", "f8", ("cell",))
            lat.units, lat[:] = "degrees_north", [80, 40, 0, -40, -80]
            lon = f.createVariable("longitude", "f8", ("cell",))
            lon.units, lon[:] = "degrees_east", [0, 10, 20, 30, 350]
            q = f.createVariable("q", "f8", ("time", "cell"))
            q.units = "kg kg**-1"
            for i, day in enumerate(days):
                q[i] = [value(day, 0, 0, c) for c in range(5)]


def curvilinear():
    with netCDF4.Dataset(HERE / "curvilinear.nc", "w") as f:
        for name, size in [("time", 2), ("y", 2), ("x", 3)]:
            f.createDimension(name, size)
        time = f.createVariable("time", "f4", ("time",))
        time.units, time[:] = "minutes since 2010-01-01 00:00:00 +01:00", [0, 90]
        for name, units, start in [("lat", "degrees_north", 40), ("lon", "degrees_east", 5)]:
            v = f.createVariable(name, "f8", ("y", "x"))
            v.units, v[:] = units, start + np.arange(6).reshape(2, 3) * 0.5
        t2m = f.createVariable("t2m", "f4", ("time", "y", "x"))
        t2m.units, t2m.coordinates = "K", "lat lon"
        for d in range(2):
            t2m[d] = np.array([value(d, 0, 0, c) for c in range(6)]).reshape(2, 3)


class Grib:
    """The few functions of ecCodes that are needed."""

    def __init__(self):
        self.lib = ctypes.CDLL(ctypes.util.find_library("eccodes"))
        self.lib.codes_grib_handle_new_from_samples.restype = ctypes.c_void_p

    def new(self, sample):
        return ctypes.c_void_p(self.lib.codes_grib_handle_new_from_samples(None, sample.encode()))

    def set(self, handle, **keys):
        for key, v in keys.items():
            if isinstance(v, str):
                size = ctypes.c_size_t(len(v))
                status = self.lib.codes_set_string(handle, key.encode(), v.encode(), ctypes.byref(size))
            elif isinstance(v, int):
                status = self.lib.codes_set_long(handle, key.encode(), ctypes.c_long(v))
            elif isinstance(v, float):
                status = self.lib.codes_set_double(handle, key.encode(), ctypes.c_double(v))
            elif v.dtype == np.int64:
                status = self.lib.codes_set_long_array(
                    handle, key.encode(), v.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(v.size))
            else:
                status = self.lib.codes_set_double_array(
                    handle, key.encode(), v.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(v.size))
            assert status == 0, (key, v, status)

    def append(self, handle, path):
        assert self.lib.codes_write_message(handle, str(path).encode(), b"a") == 0


def grib():
    g = Grib()
    path = HERE / "regular_ll.grib"
    path.unlink(missing_ok=True)
    for day in (20200228, 20200229):
        for hour in (0, 12):
            time = (day - 20200228) * 2 + hour // 12
            for name, levels in [("t", (500, 850)), ("2t", (2,))]:
                for index, level in enumerate(levels):
                    h = g.new("regular_ll_pl_grib2" if name == "t" else "regular_ll_sfc_grib2")
                    g.set(h, Ni=4, Nj=3, latitudeOfFirstGridPointInDegrees=60.0, latitudeOfLastGridPointInDegrees=-60.0,
                          longitudeOfFirstGridPointInDegrees=0.0, longitudeOfLastGridPointInDegrees=270.0,
                          iDirectionIncrementInDegrees=90.0, jDirectionIncrementInDegrees=60.0)
                    if name == "t":
                        g.set(h, shortName="t", level=level)
                    else:
                        g.set(h, shortName="2t")
                    g.set(h, dataDate=day, dataTime=hour * 100, bitsPerValue=16)
                    values = np.array([value(time, index, 0, c) for c in range(12)])
                    if name == "2t":
                        g.set(h, bitmapPresent=1, missingValue=9999.0)
                        values[7] = 9999.0
                    g.set(h, values=values)
                    g.append(h, path)

    path = HERE / "octahedral.grib"
    path.unlink(missing_ok=True)
    pl = np.array([20, 24, 28, 32, 32, 28, 24, 20], np.int64)
    for step in (6, 12):
        for member in (1, 2):
            h = g.new("reduced_gg_pl_32_grib2")
            g.set(h, N=4, Nj=8, pl=pl, latitudeOfFirstGridPointInDegrees=73.7992, latitudeOfLastGridPointInDegrees=-73.7992,
                  longitudeOfLastGridPointInDegrees=348.75)
            g.set(h, productDefinitionTemplateNumber=1, perturbationNumber=member, numberOfForecastsInEnsemble=2)
            g.set(h, shortName="q", level=300, dataDate=20211231, dataTime=1800, stepRange=str(step), bitsPerValue=16)
            g.set(h, values=np.array([value(step // 6 - 1, 0, member - 1, c) for c in range(int(pl.sum()))]))
            g.append(h, path)


def anemoi(store, version):
    """A dataset as anemoi-datasets lays it out: 6 dates of 12 hours (one missing), 3 variables, 2 members, 300 cells."""
    dates, names, members, cells = 6, ["t_500", "z", "cos_latitude"], 2, 300
    group = zarr.create_group(store, zarr_format=version)
    c = np.arange(cells)
    lat, lon = 89.5 - c * 0.5, (c * 37 % 360) * 1.0
    data = np.empty((dates, 3, members, cells), "f4")
    for d in range(dates):
        for e in range(members):
            data[d, 0, e] = value(d, 0, e, c)
            data[d, 1, e] = c
            data[d, 2, e] = np.cos(np.deg2rad(lat))
    missing = 4
    options = {}
    if version == 3:
        options = dict(chunks=(1, 3, 1, 75), shards=(1, 3, 2, 300))
    else:
        options = dict(chunks=(1, 3, 1, 128), compressors=numcodecs.Blosc(cname="lz4", clevel=5, shuffle=1))
    array = group.create_array("data", shape=data.shape, dtype="f4", fill_value=np.nan,
                               dimension_names=None if version == 2 else ["time", "variable", "ensemble", "cell"], **options)
    for d in range(dates):
        if d != missing:
            array[d] = data[d]

    def add(name, values, **more):
        a = group.create_array(name, shape=values.shape, dtype=values.dtype, **more)
        a[:] = values

    start = np.datetime64("2019-12-30T00:00:00", "s")
    add("dates", start + np.arange(dates) * np.timedelta64(12, "h").astype("m8[s]"))
    add("latitudes", lat, chunks=(128,))
    add("longitudes", lon, chunks=(128,))
    present = np.delete(data, missing, axis=0).astype("f8")
    for name, function in [("mean", np.mean), ("stdev", np.std), ("minimum", np.min), ("maximum", np.max)]:
        add(name, function(present, axis=(0, 2, 3)))
    group.attrs.update({
        "variables": names, "frequency": "12h", "missing_dates": ["2020-01-01T00:00:00"], "resolution": "o4",
        "field_shape": [cells], "constant_fields": ["z", "cos_latitude"], "ensemble_dimension": 2, "flatten_grid": True,
        "variables_metadata": {"t_500": {"units": "K", "mars": {"param": "t", "levelist": 500}},
                               "cos_latitude": {"computed_forcing": True, "constant_in_time": True}},
        "unknown": {"value": float("nan")},
    })


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    regular()
    points()
    curvilinear()
    grib()
    for version in (2, 3):
        folder = HERE / f"v{version}.zarr"
        anemoi(str(folder), version)
        # One file each: stores of many small files are unwieldy in a repository.
        with zipfile.ZipFile(HERE / f"v{version}.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.writestr(zipfile.ZipInfo(str(path.relative_to(folder))), path.read_bytes())
        shutil.rmtree(folder)


main()
