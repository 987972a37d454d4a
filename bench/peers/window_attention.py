"""Sliding-window attention, bf16: FlashAttention-2 inside PyTorch, FlexAttention compiled, and cuDNN dense as the peak."""
import argparse

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import timing

HEADS = 16


def pairs(length, window):
    return sum(min(length, i + window + 1) - max(0, i - window) for i in range(length))


def flash(row, flops, q, k, v, d_o, window, repeats):
    length = q.shape[1]
    band = dict(window_size_left=window, window_size_right=window)

    def forward():
        return torch.ops.aten._flash_attention_forward(q, k, v, None, None, length, length, 0.0, False, False, **band)

    with torch.no_grad():
        row["fa2_fwd_ms"] = timing.median_ms(forward, repeats)
        o, stats, seed, offset, _ = forward()

        def backward():
            return torch.ops.aten._flash_attention_backward(d_o, q, k, v, o, stats, None, None, length, length, 0.0, False, seed, offset, **band)

        row["fa2_bwd_ms"] = timing.median_ms(backward, repeats)
    row["fa2_fwd_tflops"], row["fa2_bwd_tflops"] = flops / row["fa2_fwd_ms"] / 1e9, 2.5 * flops / row["fa2_bwd_ms"] / 1e9


def flex(row, flops, q, k, v, d_o, window, repeats):
    length = q.shape[1]
    mask = create_block_mask(lambda b, h, i, j: (i - j).abs() <= window, None, None, length, length, device="cuda")
    heads_first = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
    d = d_o.transpose(1, 2).contiguous()
    attend = torch.compile(flex_attention)
    with torch.no_grad():
        row["flex_fwd_ms"] = timing.median_ms(lambda: attend(*heads_first, block_mask=mask), repeats)
    o = attend(*heads_first, block_mask=mask)
    row["flex_bwd_ms"] = timing.median_ms(lambda: torch.autograd.grad(o, heads_first, d, retain_graph=True), repeats)
    row["flex_fwd_tflops"], row["flex_bwd_tflops"] = flops / row["flex_fwd_ms"] / 1e9, 2.5 * flops / row["flex_bwd_ms"] / 1e9


def dense_peak(size, repeats, length=8192):
    q, k, v = (torch.randn(1, HEADS, length, size, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION), torch.no_grad():
        ms = timing.median_ms(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), repeats)
    return {"case": "cudnn dense forward", "S": length, "d": size, "ms": ms, "tflops": 4 * length**2 * size * HEADS / ms / 1e9}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--no-flex", action="store_true", help="without FlexAttention (its compilation takes a while)")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    rows = []
    for size in (64, 32):
        for window in (512, 1120):
            length = 40320
            q, k, v, d_o = (torch.randn(1, length, HEADS, size, device="cuda", dtype=torch.bfloat16) for _ in range(4))
            flops = 4 * pairs(length, window) * size * HEADS
            row = {"S": length, "W": window, "d": size}
            flash(row, flops, q, k, v, d_o, window, options.repeats)
            if not options.no_flex:
                flex(row, flops, q, k, v, d_o, window, options.repeats)
            timing.show(row)
            rows.append(row)
        rows.append(dense_peak(size, options.repeats))
        timing.show(rows[-1])
    timing.write_record(options.json, "python3 bench/peers/window_attention.py", rows)


if __name__ == "__main__":
    main()
