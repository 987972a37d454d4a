"""Graphs of the measured shapes: the same nodes and edges as boreas builds, with SciPy."""
import pathlib
import re

import numpy as np
from scipy.spatial import cKDTree


def n320_rows():
    """Row lengths of N320, read from the one table that the benches have."""
    text = (pathlib.Path(__file__).parent.parent / "grids.h").read_text()
    body = re.search(r"kRowsOfN320\{(.*?)\}", text, re.S).group(1)
    north = [int(n) for n in body.replace("\n", " ").split(",")]
    return north + north[::-1]


def reduced_gaussian(name):
    """Latitudes and longitudes in radians, north to south; n320 or o<number>."""
    number = int(name[1:])
    if name[0] == "o":
        north = [20 + 4 * i for i in range(number)]
        rows = north + north[::-1]
    else:
        assert name == "n320", name
        rows = n320_rows()
    latitudes = np.arcsin(np.polynomial.legendre.leggauss(2 * number)[0])[::-1]
    return np.repeat(latitudes, rows), np.concatenate([2 * np.pi * np.arange(n) / n for n in rows])


def on_sphere(latitudes, longitudes):
    return np.stack([np.cos(latitudes) * np.cos(longitudes), np.cos(latitudes) * np.sin(longitudes), np.sin(latitudes)], 1)


def by_destination(src, dst):
    order = np.lexsort((src, dst))
    return src[order], dst[order]


def icosphere(level):
    """Points north to south, and the edges of all levels 1..level in both directions."""
    golden = (1 + 5**0.5) / 2
    points = np.array([p for a in (-1, 1) for b in (-golden, golden) for p in ((0, a, b), (a, b, 0), (b, 0, a))], float)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    side = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.isclose(side, side[side > 0].min())
    faces = np.array([(a, b, c) for a in range(12) for b in range(a + 1, 12) for c in range(b + 1, 12) if near[a, b] and near[b, c] and near[a, c]])
    edges = []
    for step in range(level + 1):
        pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        if step > 0:
            edges.append(unique)
        if step == level:
            break
        middle = points[unique].mean(1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        ab, bc, ca = (inverse.reshape(-1)[i * len(faces):(i + 1) * len(faces)] + len(points) for i in range(3))
        a, b, c = faces.T
        faces = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
        points = np.concatenate([points, middle])
    all_edges = np.unique(np.concatenate(edges), axis=0)
    all_edges = np.concatenate([all_edges, all_edges[:, ::-1]])
    order = np.lexsort((np.arctan2(points[:, 1], points[:, 0]), -np.round(points[:, 2], 12)))
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return points[order], by_destination(*position[all_edges].T)


def mesh(data, hidden, cutoff=0.6, num_nearest=3):
    """Data grid and hidden mesh (icosahedron level or grid name); edges are (src, dst), sorted by destination."""
    d = on_sphere(*reduced_gaussian(data))
    processor = None
    if isinstance(hidden, int):
        h, processor = icosphere(hidden)
    else:
        h = on_sphere(*reduced_gaussian(hidden))
    data_tree, hidden_tree = cKDTree(d), cKDTree(h)
    spacing = hidden_tree.query(h, k=2, workers=-1)[0][:, 1].max()
    near = data_tree.query_ball_point(h, cutoff * spacing, workers=-1)
    counts = np.fromiter((len(n) for n in near), np.int64, len(near))
    sources = np.fromiter((i for n in near for i in n), np.int64, counts.sum())
    nearest = hidden_tree.query(d, k=num_nearest, workers=-1)[1]
    return {
        "data": d, "hidden": h, "processor": processor,
        "encoder": by_destination(sources, np.repeat(np.arange(len(h)), counts)),
        "decoder": by_destination(nearest.reshape(-1), np.repeat(np.arange(len(d)), num_nearest)),
    }
