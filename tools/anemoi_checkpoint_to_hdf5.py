#!/usr/bin/env python3
"""Turns an Anemoi checkpoint into weights that `boreas import` reads.

    anemoi_checkpoint_to_hdf5.py checkpoint.ckpt weights.h5 [--graph graph.pt] [--dataset data]

Reads training checkpoints (Lightning: a dictionary with `state_dict`) and inference checkpoints (a pickled module), and
writes an HDF5 file with one array `weights/<name>` for each array of the network, under its present name:

  - the prefixes `model.model.` and `model.` go;
  - names of older versions become present ones (see rename());
  - rows of trainable edge arrays that are not yet sorted by destination (`trainable_layout_version` absent or 0) are
    sorted, stably; this needs the graph: the one in the checkpoint, or --graph;
  - arrays of pre- and post-processors are left out, and listed.

Needs Python with torch, numpy and h5py. Neither anemoi-models nor torch_geometric is needed: classes that are not
installed are replaced by stand-ins that only keep their attributes. A checkpoint is a pickle: open only those you trust.
"""

import argparse
import collections
import pickle
import re
import sys

import h5py
import numpy as np
import torch

PROVIDERS = {  # provider -> (source node set, destination node set)
    "encoder": ("{data}", "{hidden}"),
    "processor": ("{hidden}", "{hidden}"),
    "decoder": ("{hidden}", "{data}"),
}


class StandIn(dict):
    """In the place of an object whose class is not installed."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.arguments = args

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def append(self, item):
        self.__dict__.setdefault("items_", []).append(item)

    def extend(self, items):
        self.__dict__.setdefault("items_", []).extend(items)

    def __call__(self, *args, **kwargs):
        return StandIn(*args)

    def __hash__(self):
        return id(self)


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name.rsplit(".", 1)[-1], (StandIn,), {"__module__": module})


def load(path):
    original, pickle.Unpickler = pickle.Unpickler, Unpickler  # torch.load makes its own from this one
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    finally:
        pickle.Unpickler = original


def arrays_of(module, prefix=""):
    """Parameters and persistent buffers of a module or its stand-in, by name."""
    found = collections.OrderedDict()
    state = vars(module)
    left_out = state.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if value is not None and name not in left_out:
                found[prefix + name] = value
    for name, child in (state.get("_modules") or {}).items():
        if child is not None:
            found.update(arrays_of(child, f"{prefix}{name}."))
    return found


def state_of(checkpoint):
    if isinstance(checkpoint, dict) and "state_dict" in checkpoint:
        return checkpoint["state_dict"]
    if isinstance(checkpoint, dict) and not isinstance(checkpoint, StandIn):
        return {name: value for name, value in checkpoint.items() if torch.is_tensor(value)}
    return arrays_of(checkpoint)


def without_prefix(name):
    for prefix in ("model.model.", "model."):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def blocks_per_chunk(names):
    found = [re.match(r"processor\.proc\.(\d+)\.blocks\.(\d+)\.", name) for name in names]
    return 1 + max((int(match[2]) for match in found if match), default=-1)


def rename(name, dataset, chunk_size):
    """The present name of an array."""
    name = re.sub(r"^(encoder|decoder)\.trainable\.trainable$", r"\1_graph_provider.trainable.trainable", name)
    name = re.sub(r"^processor\.trainable\.trainable$", "processor_graph_provider.trainable.trainable", name)
    # one dataset, before datasets had names
    own = r"emb_nodes_src|emb_nodes_dst|emb_edges|proc|node_data_extractor"
    name = re.sub(rf"^(encoder|decoder)\.(?=(?:{own})\.)", rf"\1.{dataset}.", name)
    name = re.sub(r"^((?:encoder|decoder)_graph_provider)\.(?=trainable)", rf"\1.{dataset}.", name)
    name = re.sub(r"^boundings\.(?=\d)", f"boundings.{dataset}.", name)
    # layers grouped in chunks
    name = re.sub(
        r"^processor\.proc\.(\d+)\.blocks\.(\d+)\.",
        lambda match: f"processor.proc.{int(match[1]) * chunk_size + int(match[2])}.",
        name,
    )
    # MLPs that were a plain sequence
    return re.sub(r"(?<!mlp)\.(node_dst_mlp|node_src_mlp|mlp)\.(?=\d)", r".\1.mlp.", name)


def find_graph(checkpoint):
    """The graph of a checkpoint: its hyper-parameters, or an attribute of the module or of one below it."""
    if isinstance(checkpoint, dict) and "hyper_parameters" in checkpoint:
        return checkpoint["hyper_parameters"].get("graph_data")
    waiting = [checkpoint]
    while waiting:
        module = waiting.pop()
        state = getattr(module, "__dict__", {})
        for key in ("graph_data", "_graph_data"):
            if state.get(key) is not None:
                return state[key]
        waiting.extend((state.get("_modules") or {}).values())
    return None


def destinations(graph, source, target):
    """Destination of each edge, in the graph's own order. Works on HeteroData and on its stand-in."""
    if isinstance(graph, dict) and not isinstance(graph, StandIn):
        graph = next(iter(graph.values()))
    stores = vars(graph).get("_edge_store_dict", {})
    for key, edges in stores.items():
        if (key[0], key[2]) == (source, target):
            mapping = vars(edges).get("_mapping", {})
            return np.asarray(mapping["edge_index"][1])
    sys.exit(f"the graph has no edges {source} -> {target}; it has {[(k[0], k[2]) for k in stores]}")


def sort_trainables(weights, graph, names):
    for name in [n for n in weights if re.match(r"(encoder|processor|decoder)_graph_provider\..*trainable\.trainable$", n)]:
        version = name[: -len("trainable.trainable")] + "trainable_layout_version"
        if version in weights and int(weights[version]) == 1:
            continue
        if graph is None:
            sys.exit(f"{name} is not sorted by destination and the checkpoint holds no graph: give --graph")
        source, target = (part.format(**names) for part in PROVIDERS[name.split("_")[0]])
        dst = destinations(graph, source, target)
        if len(dst) != len(weights[name]):
            sys.exit(f"{name} has {len(weights[name])} rows but the graph has {len(dst)} edges {source} -> {target}")
        weights[name] = weights[name][np.argsort(dst, kind="stable")]
        weights[version] = np.int64(1)
        print(f"sorted by destination: {name}")


def to_numpy(value):
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    parser.add_argument("--graph", help="graph file (HeteroData saved by torch), if the checkpoint holds none")
    parser.add_argument("--dataset", default="data", help="name of the dataset and of its nodes (default: data)")
    parser.add_argument("--hidden", default="hidden", help="name of the hidden nodes (default: hidden)")
    options = parser.parse_args()

    checkpoint = load(options.checkpoint)
    state = {without_prefix(name): value for name, value in state_of(checkpoint).items()}
    chunk_size = blocks_per_chunk(state)
    weights, left_out = {}, []
    for old, value in state.items():
        name = rename(old, options.dataset, chunk_size)
        if re.match(r"(pre_processors|post_processors|loss|metrics|scalers)(\.|_)", name):
            left_out.append(name)
            continue
        if name in weights:
            sys.exit(f"two arrays would be called {name}")
        weights[name] = to_numpy(value)
        if name != old:
            print(f"renamed: {old} -> {name}")
    if not weights:
        sys.exit(f"{options.checkpoint} holds no arrays")

    graph = load(options.graph) if options.graph else find_graph(checkpoint)
    sort_trainables(weights, graph, {"data": options.dataset, "hidden": options.hidden})

    with h5py.File(options.output, "w") as file:
        file.attrs["source"] = options.checkpoint
        for name, value in sorted(weights.items()):
            file[f"weights/{name}"] = value
    for name in left_out:
        print(f"left out: {name}")
    print(f"{options.output}: {len(weights)} arrays, {sum(v.size for v in weights.values())} values")


if __name__ == "__main__":
    main()
