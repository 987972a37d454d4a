"""Prints the ratio of two records of measurements: compare.py BOREAS.json PEER.json KEY FIELD_OF_BOREAS FIELD_OF_PEER

Rows are matched by KEY (a comma-separated list of fields that both have); the ratio is peer / boreas: above 1, boreas is faster.
"""
import json
import sys


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    ours, theirs = (json.load(open(path)) for path in sys.argv[1:3])
    keys, field, peer_field = sys.argv[3].split(","), sys.argv[4], sys.argv[5]
    if ours["hardware"] != theirs["hardware"]:
        print(f"WARNING: measured on {ours['hardware']} and {theirs['hardware']}")
    peers = {tuple(str(row.get(k)) for k in keys): row for row in theirs["results"]}
    for row in ours["results"]:
        peer = peers.get(tuple(str(row.get(k)) for k in keys))
        if peer and field in row and peer_field in peer:
            name = " ".join(f"{k}={row[k]}" for k in keys)
            print(f"{name:<40}{row[field]:>10.3f}{peer[peer_field]:>10.3f}{peer[peer_field] / row[field]:>8.2f}x")


if __name__ == "__main__":
    main()
