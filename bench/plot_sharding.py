#!/usr/bin/env python3
"""Draws the volume of communication against the number of ranks: plot_sharding.py sharding_volume.json OUT.svg"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 960, 360, 62, 48, 40, 40
COLOURS = {"halo_bytes": "#1f6fb2", "allgather_bytes": "#c0504d", "heads_bytes": "#7f7f7f"}
NAMES = {"halo_bytes": "halo", "allgather_bytes": "all-gather", "heads_bytes": "heads"}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    rows = json.load(open(sys.argv[1]))["results"]
    graphs = list(dict.fromkeys(row["graph"] for row in rows))
    panel = (WIDTH - LEFT - GAP * (len(graphs) - 1) - 16) / len(graphs)
    totals = {}
    for row in rows:
        for field in COLOURS:
            key = (row["graph"], field, row["ranks"])
            totals[key] = totals.get(key, 0) + row[field] / 2**20
    ranks = sorted({row["ranks"] for row in rows})
    low, high = (f(math.log10(v) for v in totals.values() if v > 0) for f in (min, max))
    low, high = math.floor(low), math.ceil(high)
    plot = HEIGHT - TOP - BOTTOM

    def x_of(index, count):
        return LEFT + index * (panel + GAP) + (math.log2(count) - math.log2(ranks[0])) / (math.log2(ranks[-1]) - math.log2(ranks[0])) * panel

    def y_of(value):
        return TOP + plot * (1 - (math.log10(max(value, 10**low)) - low) / (high - low))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           '<text x="10" y="16">MiB that the busiest rank sends in a forward and backward, against ranks</text>']
    for index, graph in enumerate(graphs):
        left = LEFT + index * (panel + GAP)
        out.append(f'<text x="{left}" y="{TOP - 8}" font-weight="bold">{graph}</text>')
        for power in range(low, high + 1):
            y = y_of(10**power)
            out.append(f'<line x1="{left}" x2="{left + panel}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            if index == 0:
                out.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{10**power:g}</text>')
        for count in ranks:
            out.append(f'<text x="{x_of(index, count)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" font-size="10">{count}</text>')
        for field, colour in COLOURS.items():
            points = " ".join(f"{x_of(index, c):.1f},{y_of(totals[(graph, field, c)]):.1f}" for c in ranks if (graph, field, c) in totals)
            out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for index, (field, name) in enumerate(NAMES.items()):
        x = LEFT + 120 * index
        out.append(f'<line x1="{x}" x2="{x + 24}" y1="{HEIGHT - 12}" y2="{HEIGHT - 12}" stroke="{COLOURS[field]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 30}" y="{HEIGHT - 8}">{name}</text>')
    out.append("</svg>")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
