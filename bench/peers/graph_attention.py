"""Attention along the edges of N320 / icosahedron 6 as users run it today: forward, and forward + backward.

The edge projection (11 attributes to heads * size) is timed with it, because every layer pays for it.
"""
import argparse

import torch
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.utils import softmax

import graphs
import timing

HEADS, EDGE_ATTRIBUTES = 16, 11


class PygAttention(MessagePassing):
    def __init__(self, size):
        super().__init__(node_dim=0, aggr="add")
        self.scale = size**-0.5

    def forward(self, q, k, v, e, edge_index, size):
        return self.propagate(edge_index, size=size, q=q, k=k, v=v, e=e)

    def message(self, q_i, k_j, v_j, e, index, ptr, size_i):
        weights = softmax((q_i * (k_j + e)).sum(-1) * self.scale, index, ptr, size_i)
        return (v_j + e) * weights.unsqueeze(-1)


def pointers(ids, count):
    out = torch.zeros(count + 1, dtype=torch.long, device="cuda")
    out[1:] = torch.bincount(ids, minlength=count).cumsum(0)
    return out


def measure(name, edges, num_src, num_dst, size, with_pyg, repeats):
    from anemoi.models.triton.gt import graph_transformer_attention_conv

    kind = dict(device="cuda", dtype=torch.bfloat16)
    src, dst = (torch.tensor(x, device="cuda") for x in edges)
    q = torch.randn(num_dst, HEADS, size, requires_grad=True, **kind)
    k, v = (torch.randn(num_src, HEADS, size, requires_grad=True, **kind) for _ in range(2))
    attributes = torch.randn(len(src), EDGE_ATTRIBUTES, requires_grad=True, **kind)
    project = torch.nn.Linear(EDGE_ATTRIBUTES, HEADS * size, **kind)
    d_o = torch.randn(num_dst, HEADS, size, **kind)
    by_dst = (src, pointers(dst, num_dst))
    by_src = (pointers(src, num_src), torch.argsort(src, stable=True), dst)
    edge_index, pyg = torch.stack([src, dst]), PygAttention(size)

    def edges_of():
        return project(attributes).view(-1, HEADS, size)

    def triton():
        return graph_transformer_attention_conv(q, k, v, edges_of(), by_dst, by_src)

    def message_passing():
        return pyg(q, k, v, edges_of(), edge_index, (num_src, num_dst))

    def both_ways(forward):
        def call():
            for leaf in (q, k, v, attributes, project.weight, project.bias):
                leaf.grad = None
            forward().backward(d_o)

        return call

    row = {"graph": name, "d": size, "edges": len(src)}
    with torch.no_grad():
        row["triton_fwd_ms"] = timing.median_ms(triton, repeats)
    row["triton_fwd_bwd_ms"] = timing.median_ms(both_ways(triton), repeats)
    row["triton_extra_gib"] = timing.extra_memory_gib(both_ways(triton))
    if with_pyg:
        try:
            row["pyg_fwd_bwd_ms"] = timing.median_ms(both_ways(message_passing), 5, 2)
        except torch.OutOfMemoryError:
            row["pyg_fwd_bwd_ms"] = float("nan")
    timing.show(row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--pyg", action="store_true", help="also PyG message passing (slow, much memory)")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    mesh = graphs.mesh("n320", 6)
    num_data, num_hidden = len(mesh["data"]), len(mesh["hidden"])
    cases = (("era_to_h", mesh["encoder"], num_data, num_hidden), ("h_to_h", mesh["processor"], num_hidden, num_hidden),
             ("h_to_era", mesh["decoder"], num_hidden, num_data))
    rows = [measure(*case, size, options.pyg, options.repeats) for size in (32, 64) for case in cases]
    timing.write_record(options.json, "python3 bench/peers/graph_attention.py", rows)


if __name__ == "__main__":
    main()
