"""The mean of networks that went on from each other: one that finds a little more than its last.

Source: Wortsman et al. 2022, "Model soups", arXiv 2203.05482, the uniform soup. Statistics of the
normalisation layers are averaged as the weights are.

    python average.py OUT.safetensors FIRST.safetensors SECOND.safetensors ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from wsiprep.tissue.network import network_bytes, read_network


def main(out: Path, *paths: Path) -> None:
    networks, words = zip(*map(read_network, paths), strict=True)
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]
    }
    networks[0].load_state_dict(mean)
    own = ("widths", "classes")  # which are written anew
    made_of = [{k: v for k, v in said.items() if k not in own} for said in words]
    out.write_bytes(network_bytes(networks[0].eval(), {"mean_of": made_of}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
