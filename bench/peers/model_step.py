"""The reference's own model, end to end on one GPU: training step and inference of the shapes that bench_step measures.

bf16-mixed as its trainer does it: f32 parameters, forward and loss under autocast, backward, fused AdamW; batch 1, resident. 214 inputs, 89 outputs.
"""
import argparse
import gc
import importlib.util
import logging
import sys
import types
import warnings

import numpy as np
import torch
import torch.distributed.distributed_c10d as c10d

warnings.filterwarnings("ignore")
logging.getLogger("anemoi").setLevel(logging.ERROR)
# The packages ask for names that moved between versions of PyTorch; neither is used on one GPU.
if not hasattr(c10d, "_resolve_process_group"):
    c10d._resolve_process_group = lambda name: None
if not hasattr(torch, "get_autocast_gpu_dtype"):
    torch.get_autocast_gpu_dtype = lambda: torch.get_autocast_dtype("cuda")

from anemoi.models.data_indices.collection import IndexCollection
from anemoi.models.models import AnemoiModelEncProcDec
from anemoi.utils.config import DotDict
from omegaconf import OmegaConf
from torch_geometric.data import HeteroData

import graphs
import timing

LAYERS = "anemoi.models.layers."
KERNELS = {
    "LayerNorm": {"_target_": "torch.nn.LayerNorm"}, "Linear": {"_target_": "torch.nn.Linear"}, "Activation": {"_target_": "torch.nn.GELU"},
    "QueryNorm": {"_target_": LAYERS + "normalization.AutocastLayerNorm", "bias": False},
    "KeyNorm": {"_target_": LAYERS + "normalization.AutocastLayerNorm", "bias": False},
}
PROGNOSTIC, FORCING, DIAGNOSTIC = 85, 16, 4
HEADS, TRAINABLE = 16, 8
class FlashAttention(torch.autograd.Function):
    """FlashAttention-2 as PyTorch carries it, for machines without the flash_attn package."""

    @staticmethod
    def forward(ctx, q, k, v, left, right):
        out, stats, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, False, False, window_size_left=left, window_size_right=right)
        ctx.save_for_backward(q, k, v, out, stats, seed, offset)
        ctx.window = (left, right)
        return out

    @staticmethod
    def backward(ctx, d_out):
        q, k, v, out, stats, seed, offset = ctx.saved_tensors
        d_q, d_k, d_v = torch.ops.aten._flash_attention_backward(
            d_out.contiguous(), q, k, v, out, stats, None, None, q.shape[1], k.shape[1], 0.0, False, seed, offset,
            window_size_left=ctx.window[0], window_size_right=ctx.window[1])
        return d_q, d_k, d_v, None, None


def provide_flash_attention():
    if importlib.util.find_spec("flash_attn"):
        return
    module = types.ModuleType("flash_attn")
    module.flash_attn_func = lambda q, k, v, causal=False, window_size=(-1, -1), **_: FlashAttention.apply(q, k, v, *window_size)
    sys.modules["flash_attn"] = module


SHAPES = {  # data, hidden, channels, mapper and processor chunks, processor, window
    "A": ("n320", 6, 512, 2, "graph", 0), "B": ("n320", 6, 1024, 4, "graph", 0),
    "C": ("n320", "o96", 1024, 4, "window", 512), "C1120": ("n320", "o96", 1024, 4, "window", 1120),
    "D": ("o1280", "o320", 512, 16, "none", 0),
}


def config(channels, chunks, processor, window):
    common = {"gradient_checkpointing": True, "cpu_offload": False, "layer_kernels": KERNELS, "mlp_implementation": "mlp", "mlp_hidden_ratio": 4,
              "num_heads": HEADS, "qk_norm": False, "num_chunks": chunks}
    edges = {"trainable_size": TRAINABLE, "sub_graph_edge_attributes": ["edge_length", "edge_dirs"], "shard_strategy": "edges",
             "graph_attention_backend": "triton", "edge_pre_mlp": False}
    if processor == "graph":
        proc = {**common, **edges, "num_layers": 16, "_target_": LAYERS + "processor.GraphTransformerProcessor"}
    elif processor == "window":
        proc = {**common, "num_layers": 16, "window_size": window, "dropout_p": 0.0, "softcap": 0.0, "attention_implementation": "flash_attention",
                "use_alibi_slopes": False, "_target_": LAYERS + "processor.TransformerProcessor"}
    else:
        proc = {"_target_": LAYERS + "processor.NoOpProcessor"}
    return DotDict(model={
        "num_channels": channels, "model": {"hidden_nodes_name": "hidden", "latent_skip": True}, "bounding": [],
        "encoder": {**common, **edges, "_target_": LAYERS + "mapper.GraphTransformerForwardMapper"},
        "decoder": {**common, **edges, "_target_": LAYERS + "mapper.GraphTransformerBackwardMapper"}, "processor": proc,
        "residual": {"_target_": LAYERS + "residual.SkipConnection", "step": -1}, "trainable_parameters": {"data": TRAINABLE, "hidden": TRAINABLE}})


def hetero(mesh):
    graph = HeteroData()
    for name in ("data", "hidden"):
        p = mesh[name]
        graph[name].x = torch.tensor(np.stack([np.arcsin(np.clip(p[:, 2], -1, 1)), np.arctan2(p[:, 1], p[:, 0])], 1), dtype=torch.float32)
        graph[name].num_nodes = len(p)
    for key, src, dst in (("encoder", "data", "hidden"), ("processor", "hidden", "hidden"), ("decoder", "hidden", "data")):
        if mesh[key] is None:
            continue
        edge = graph[(src, "to", dst)]
        edge.edge_index = torch.tensor(np.stack(mesh[key]))
        edge.edge_length = torch.rand(len(mesh[key][0]), 1)
        edge.edge_dirs = torch.randn(len(mesh[key][0]), 2)
    return graph


def indices():
    names = [f"{k}{i}" for k, n in (("p", PROGNOSTIC), ("f", FORCING), ("d", DIAGNOSTIC)) for i in range(n)]
    kinds = OmegaConf.create({"forcing": [n for n in names if n[0] == "f"], "diagnostic": [n for n in names if n[0] == "d"]})
    return IndexCollection(kinds, {n: i for i, n in enumerate(names)})


def fresh_peak():
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def measure(shape, mesh, graph, options):
    data, hidden, channels, chunks, processor, window = SHAPES[shape]
    torch.manual_seed(0)
    net = AnemoiModelEncProcDec(model_config=config(channels, chunks, processor, window), data_indices={"data": indices()}, statistics={"data": None},
                                graph_data=graph, n_step_input=2, n_step_output=1).cuda()
    cells = len(mesh["data"])
    x = torch.randn(1, 2, 1, cells, PROGNOSTIC + FORCING, device="cuda")
    y = torch.randn(1, 1, 1, cells, PROGNOSTIC + DIAGNOSTIC, device="cuda")
    area = (torch.rand(cells, device="cuda") / cells).view(1, 1, 1, -1, 1)
    weight = torch.rand(PROGNOSTIC + DIAGNOSTIC, device="cuda") / (PROGNOSTIC + DIAGNOSTIC)
    row = {"shape": shape, "channels": channels, "window": window, "parameters": sum(p.numel() for p in net.parameters())}

    def forward():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return net({"data": x})["data"]

    net.eval()
    fresh_peak()
    with torch.no_grad():
        row["inference_ms"] = timing.median_ms(forward, options.repeats, 2, flush=False)
    row["inference_gib"] = torch.cuda.max_memory_allocated() / 2**30
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, betas=(0.9, 0.95), fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = net({"data": x})["data"]
            loss = ((out.float() - y) ** 2 * weight * area).sum()
        loss.backward()
        optimizer.step()

    for recompute in (True, False) if not options.recompute_only else (True,):
        for module in net.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = recompute
        name = "recompute" if recompute else "keep"
        fresh_peak()
        try:
            row[f"step_{name}_ms"] = timing.median_ms(step, options.repeats, 2, flush=False)
            row[f"step_{name}_gib"] = torch.cuda.max_memory_allocated() / 2**30
        except torch.OutOfMemoryError:
            row[f"step_{name}_ms"] = float("nan")
    timing.show(row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recompute-only", action="store_true", help="only with recompute on, as users train")
    options = parser.parse_args()
    provide_flash_attention()
    rows, built = [], None
    for shape in options.shapes:
        if built is None or built[0] != SHAPES[shape][:2]:
            mesh = graphs.mesh(*SHAPES[shape][:2])
            built = (SHAPES[shape][:2], mesh, hetero(mesh))
        rows.append(measure(shape, built[1], built[2], options))
        fresh_peak()
        timing.write_record(options.json, "python3 bench/peers/model_step.py " + " ".join(options.shapes), rows)


if __name__ == "__main__":
    main()
