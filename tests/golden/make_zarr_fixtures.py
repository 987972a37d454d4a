"""Writes the Zarr archives that tests/io/test_zarr.cpp reads, into the folder zarr beside this script.

Run it twice, with either major version of the Zarr package:

    pip install "zarr<3" "numcodecs<0.16"    ->  v2_by_zarr_python_2.zip, deflated.zip, plain.zarr
    pip install "zarr>=3"                    ->  v2_by_zarr_python_3.zip, v3_by_zarr_python_3.zip

There are no files of expected values: element i of an array, counted in C order, holds b = (7 i^2 + 3 i) mod 101 as

    floats    b / 2 - 10          signed integers   b - 50       unsigned integers   b
    bools     b mod 2             times, durations  b half days, in the array's unit

Arrays named partial_* were written up to the middle of their first dimension (which is a border of chunks), and hold
their fill value from there on.
"""

import pathlib
import shutil
import zipfile

import numcodecs
import numpy as np
import zarr

FOLDER = pathlib.Path(__file__).parent / "zarr"
SHAPE, CHUNKS = (4, 70), (3, 40)
BOX, BOX_CHUNKS, BOX_SHARDS = (4, 3, 20), (2, 2, 10), (4, 2, 20)
VERSION = int(zarr.__version__.split(".")[0])

DTYPES = ["<f4", "<f8", ">f4", ">f8", "<f2", "|i1", "<i2", "<i4", "<i8", ">i4", "|u1", "<u2", ">u2", "<u4", "<u8", "|b1"]
TIMES = ["<M8[s]", "<M8[ms]", "<M8[us]", "<M8[ns]", "<M8[m]", "<M8[h]", "<M8[25s]", ">M8[s]", "<m8[s]", "<m8[h]", "<m8[ns]"]


def values(shape, dtype):
    dtype = np.dtype(dtype)
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    b = (7 * i * i + 3 * i) % 101
    if dtype.kind == "f":
        x = b / 2 - 10
    elif dtype.kind == "i":
        x = b - 50
    elif dtype.kind == "b":
        x = b % 2
    elif dtype.kind in "Mm":
        x = (b * 43200).astype("m8[s]").astype(np.dtype("m8[%s]" % dtype.str.split("[")[1][:-1])).astype(np.int64)
        return x.view(np.dtype(dtype.newbyteorder("<"))).astype(dtype).reshape(shape)
    else:
        x = b
    return x.astype(dtype).reshape(shape)


def plain_name(dtype):
    endian = "big_" if dtype[0] == ">" else ""
    return endian + dtype[1:].replace("[", "_").replace("]", "")


def codecs():
    for cname in numcodecs.blosc.list_compressors():
        for shuffle in (0, 1, 2):
            yield f"blosc_{cname}_{shuffle}", numcodecs.Blosc(cname=cname, clevel=5, shuffle=shuffle)
    yield "blosc_level0", numcodecs.Blosc(clevel=0)
    yield "blosc_level9", numcodecs.Blosc(cname="zstd", clevel=9, shuffle=-1)
    yield "blosc_blocks", numcodecs.Blosc(cname="zstd", clevel=5, shuffle=1, blocksize=256)
    yield "zstd", numcodecs.Zstd(level=3)
    yield "zlib", numcodecs.Zlib(level=6)
    yield "gzip", numcodecs.GZip(level=6)
    yield "none", None


def write_v2(root, create):
    for dtype in DTYPES + TIMES:
        create("dtype_" + plain_name(dtype), SHAPE, CHUNKS, dtype)
    for name, codec in codecs():
        create("codec_" + name, SHAPE, CHUNKS, "<f4", compressor=codec)
    for order in "CF":
        for separator in "./":
            name = f"order_{order}_{'dot' if separator == '.' else 'slash'}"
            create(name, BOX, BOX_CHUNKS, "<f4", order=order, dimension_separator=separator)
    create("order_F_blocks", (20, 10, 30), (20, 10, 15), ">f8", order="F",
           compressor=numcodecs.Blosc(cname="zstd", clevel=3, shuffle=2, blocksize=2048))
    create("rank_0", (), (), "<f8")
    create("rank_1", (1000,), (300,), "<f8")
    create("one_chunk", (11, 13), (11, 13), "<f4")
    create("large_chunk", (5, 5), (8, 9), "<i4")
    create("many_blocks", (4, 8192), (4, 8192), "<f4", compressor=numcodecs.Blosc("zstd", 5, 1, 4096))
    create("partial_nan", (8, 6), (2, 5), "<f4", fill_value=np.nan)
    create("partial_infinity", (8, 6), (2, 5), ">f8", fill_value=-np.inf)
    create("partial_int", (8, 6), (2, 5), "<i4", fill_value=-7)
    create("partial_bool", (8, 6), (2, 5), "|b1", fill_value=True)
    create("partial_half", (8, 6), (2, 5), "<f2", fill_value=0.1)


def write_with_zarr_2():
    archive = FOLDER / "v2_by_zarr_python_2.zip"
    archive.unlink(missing_ok=True)
    store = zarr.ZipStore(str(archive), mode="w")
    root = zarr.group(store=store)

    def create(name, shape, chunks, dtype, compressor="default", fill_value=0, **options):
        compressor = numcodecs.Blosc() if compressor == "default" else compressor
        array = root.create_dataset(name, shape=shape, chunks=chunks or None, dtype=dtype, compressor=compressor,
                                    fill_value=fill_value, **options)
        data = values(shape, dtype)
        if name.startswith("partial_"):
            array[: shape[0] // 2] = data[: shape[0] // 2]
        else:
            array[...] = data

    write_v2(root, create)
    # NaN in attributes becomes a bare token.
    root.attrs.put({"title": "fixtures", "nan": float("nan"), "infinities": [float("inf"), float("-inf")], "text": "NaN"})
    array = root.create_dataset("filtered", shape=(4,), dtype="<f4", filters=[numcodecs.Delta("<f4")])
    store.close()

    # A directory, as most datasets are; and an archive whose entries are compressed themselves.
    plain = FOLDER / "plain.zarr"
    shutil.rmtree(plain, ignore_errors=True)
    root = zarr.open_group(str(plain), mode="w")
    root.create_dataset("data", data=values((4, 30), "<f4"), chunks=(2, 30), compressor=numcodecs.Blosc())
    root.create_dataset("nested", data=values((4, 30), "<f4"), chunks=(2, 30), compressor=None, dimension_separator="/")
    with zipfile.ZipFile(FOLDER / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(plain.rglob("*")):
            if path.is_file():
                target.write(path, path.relative_to(plain).as_posix())


def write_with_zarr_3():
    from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

    archive = FOLDER / "v2_by_zarr_python_3.zip"
    archive.unlink(missing_ok=True)
    store = zarr.storage.ZipStore(str(archive), mode="w")
    root = zarr.create_group(store, zarr_format=2)

    def create(name, shape, chunks, dtype, compressor="default", fill_value=0, order="C", dimension_separator="."):
        if np.dtype(dtype).kind in "Mm" and fill_value == 0:
            fill_value = np.array(0, dtype=dtype)[()]
        compressor = numcodecs.Blosc() if compressor == "default" else compressor
        array = root.create_array(name, shape=shape, chunks=chunks, dtype=dtype, compressors=compressor,
                                  fill_value=fill_value, order=order,
                                  chunk_key_encoding={"name": "v2", "separator": dimension_separator})
        data = values(shape, dtype)
        if name.startswith("partial_"):
            array[: shape[0] // 2] = data[: shape[0] // 2]
        else:
            array[...] = data

    write_v2(root, create)
    store.close()

    archive = FOLDER / "v3_by_zarr_python_3.zip"
    archive.unlink(missing_ok=True)
    store = zarr.storage.ZipStore(str(archive), mode="w")
    root = zarr.create_group(store, zarr_format=3, attributes={"title": "fixtures", "nan": float("nan")})

    def create3(name, shape, chunks, dtype, fill_value=0, **options):
        if np.dtype(dtype).kind in "Mm" and fill_value == 0:
            fill_value = np.array(0, dtype=dtype)[()]
        array = root.create_array(name, shape=shape, chunks=chunks, dtype=dtype, fill_value=fill_value, **options)
        data = values(shape, dtype)
        if name.startswith("partial_"):
            array[: shape[0] // 2] = data[: shape[0] // 2]
        else:
            array[...] = data

    for dtype in DTYPES + TIMES:
        create3("dtype_" + plain_name(dtype), SHAPE, CHUNKS, dtype)
    for name, codec in [("blosc", BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4)),
                        ("blosc_zstd", BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=4)),
                        ("gzip", GzipCodec()), ("zstd", ZstdCodec(level=3, checksum=True)), ("none", None),
                        ("crc", [Crc32cCodec()]), ("zstd_crc", [ZstdCodec(), Crc32cCodec()]),
                        ("crc_gzip", [Crc32cCodec(), GzipCodec()]),
                        ("blosc_crc", [BloscCodec(typesize=4), Crc32cCodec()])]:
        create3("codec_" + name, SHAPE, CHUNKS, "<f4", compressors=codec)
    for order in [(2, 0, 1), (1, 2, 0), (2, 1, 0)]:
        create3("transpose_" + "".join(map(str, order)), BOX, BOX_CHUNKS, "<f4", filters=[TransposeCodec(order=order)])
    create3("transpose_twice", BOX, BOX_CHUNKS, "<f4", filters=[TransposeCodec(order=(2, 0, 1)), TransposeCodec(order=(1, 0, 2))])
    create3("big_endian", BOX, BOX_CHUNKS, "<f4", serializer=BytesCodec(endian="big"))
    create3("keys_v2", BOX, BOX_CHUNKS, "<f4", chunk_key_encoding={"name": "v2", "separator": "."})
    create3("keys_dot", BOX, BOX_CHUNKS, "<f4", chunk_key_encoding={"name": "default", "separator": "."})
    create3("rank_0", (), (), "<f8")
    create3("names", (4, 6), (2, 3), "<f4", dimension_names=["time", "cell"])
    shards = BOX_SHARDS
    create3("sharded", BOX, BOX_CHUNKS, "<f4", shards=shards)
    create3("sharded_blosc", BOX, BOX_CHUNKS, "<f4", shards=shards, compressors=BloscCodec(typesize=4))
    create3("sharded_raw", BOX, BOX_CHUNKS, "<f4", shards=shards, compressors=None)
    for name, codec in [
        ("sharded_start", ShardingCodec(chunk_shape=BOX_CHUNKS, index_location="start")),
        ("sharded_plain_index", ShardingCodec(chunk_shape=BOX_CHUNKS, index_codecs=[BytesCodec()])),
        ("sharded_transpose", ShardingCodec(chunk_shape=BOX_CHUNKS, codecs=[TransposeCodec(order=(1, 2, 0)), BytesCodec(), ZstdCodec()])),
        ("sharded_big_endian", ShardingCodec(chunk_shape=BOX_CHUNKS, codecs=[BytesCodec(endian="big"), GzipCodec()])),
        ("sharded_nested", ShardingCodec(chunk_shape=(4, 2, 10), codecs=[ShardingCodec(chunk_shape=BOX_CHUNKS)])),
    ]:
        create3(name, BOX, BOX_SHARDS, "<f4", serializer=codec, compressors=None)
    create3("partial_nan", (8, 6), (2, 5), "<f4", fill_value=np.nan)
    create3("partial_sharded", (8, 6), (2, 2), "<i4", fill_value=-7, shards=(8, 4))
    create3("partial_int", (8, 6), (2, 5), "<i8", fill_value=-7)
    create3("partial_bool", (8, 6), (2, 5), "|b1", fill_value=True)
    store.close()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_with_zarr_2() if VERSION == 2 else write_with_zarr_3()
