"""Where the time of a network of the universal size goes: python bench/network_parts.py.

Each step alone on one core, for pairs at random distances (no two alike, so tables are read all
over), with the floating-point operations that it needs by count and what this machine reaches in
a plain matrix product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from network import UNIVERSAL

from hamgnn_solve.core.network.axis_kernel import AxisKernel, PairLinear, turn_sums
from hamgnn_solve.core.network.frame import joined, pair_rotations
from hamgnn_solve.core.network.graph import PairGraph
from hamgnn_solve.core.network.hamgnn import HamiltonianNetwork
from hamgnn_solve.core.network.irreps import flatten
from hamgnn_solve.core.network.linear import Linear
from hamgnn_solve.core.network.messages import find_messengers, sum_messages
from hamgnn_solve.core.network.tensor_product import PairProduct

ATOMS, NEIGHBOURS, CHUNK = 40, 50, 128
ROUNDS = 3


def message_flops(product: PairProduct) -> int:
    """Count additions and multiplications of one pair's message, turned back and summed."""
    count = 0
    for couplings in product.couplings:
        for c in couplings:
            even = not c.odd
            components = (2 * c.l3 + 1) * c.mul
            count += 2 * components * (2 * c.mmax + even)
            count += 2 * components * len(c.degrees) * (c.mmax + even + 1)
    return count


def linear_flops(linear: Linear) -> int:
    """Count additions and multiplications of a linear map of one row of features."""
    dims = {b: dim for b, (_, dim) in enumerate(linear.out)}
    return 2 * sum(
        linear.matrix(m).numel() * dims[b] for m, (_, b, _, _) in enumerate(linear.matches)
    )


def clock(run: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest of a few runs."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Time every step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = HamiltonianNetwork(replace(UNIVERSAL, num_types=2, layers=1)).requires_grad_(False)
    config, irreps = network.config, network.irreps
    count = ATOMS * NEIGHBOURS
    vector = torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64))
    vector *= 3.0 + 11.0 * torch.rand(count, 1, dtype=torch.float64)
    first = torch.arange(ATOMS).repeat_interleave(NEIGHBOURS)
    pairs = PairGraph(first, torch.randint(0, ATOMS, (count,)), vector)
    types = torch.zeros(ATOMS, dtype=torch.int64)
    features = [torch.randn(ATOMS, irrep.dim, mul) for mul, irrep in irreps]
    edge, head = network.representation.conv_to_output_edge, network.output_module
    product = network.representation.message_product
    perceptron = network.representation.layers[0].conv.fc
    rows: list[tuple[str, float, float, int]] = []

    def step(name: str, flops: float, times: int, run: Callable[[], object]) -> None:
        rows.append((name, 1e6 * clock(run) / count, flops, times))

    with torch.inference_mode():
        chunk = [x[:1].expand(CHUNK, -1, -1).contiguous() for x in features]
        part = pairs.select(slice(0, CHUNK))
        rotations = pair_rotations(part.vector, network.lmax, torch.float32)
        blocks = head.offsitenet_linear(chunk)
        found = find_messengers(config, types, pairs, ATOMS, network.lmax, torch.float32)
        kernel = AxisKernel(product, torch.float32)
        weights = network._pair_weights(perceptron, product, config.cutoff, pairs.distance, None)
        distance = pairs.distance.numpy()
        size = kernel.part_size(None)
        spans = [slice(s, s + size) for s in range(0, count, size)]
        nweights = product.weight_numel
        step(
            "radial weights (spline)",
            12 * nweights,
            6,
            lambda: [weights(distance[s], None) for s in spans],
        )
        step(
            "messages, with weights",
            message_flops(product) + 12 * nweights,
            5,
            lambda: list(kernel.sum_messages(weights, found, features, None)),
        )
        step(
            "messages, uncompiled",
            0,
            5,
            lambda: list(sum_messages(config, product, perceptron, found, features, 256)),
        )
        flat = flatten(features)
        step(
            "sum of both atoms, turned",
            0,
            1,
            lambda: turn_sums(irreps, flat, flat, pairs, found.rotations),
        )
        turned = turn_sums(irreps, flat, flat, pairs, found.rotations)
        linear = PairLinear(AxisKernel(edge.product, torch.float32), edge.linear_edge, irreps)
        flops = sum(2 * (1 if m == 0 else 2) * matrix.numel() for _, m, _, matrix in linear.steps)
        table = network._pair_weights(edge.fc, edge.product, config.cutoff, pairs.distance, None)
        shared = table(distance[:CHUNK], None).copy()
        parts = [slice(s, s + CHUNK) for s in range(0, count - CHUNK + 1, CHUNK)]
        step("pair features", flops, 1, lambda: [linear(turned[s], shared) for s in parts])
        residual = head.offsitenet_residual
        flops = linear_flops(residual.linear1) + linear_flops(residual.linear2)
        step("residual block", flops, 1, lambda: [residual(chunk) for _ in parts])
        step("blocks", 0, 1, lambda: [head.offsitenet_linear(chunk) for _ in parts])
        step(
            "rotations",
            0,
            1,
            lambda: [joined(pair_rotations(part.vector, 6, torch.float32)) for _ in parts],
        )
        step(
            "blocks turned back",
            0,
            1,
            lambda: [network.table.rotate_back(blocks, rotations) for _ in parts],
        )
        node = network.representation.layers[0].conv
        flops = linear_flops(node.linear_2) + linear_flops(node.linear_1)
        sums = [torch.randn(ATOMS, irrep.dim, mul) for mul, irrep in product.irreps_mid]
        step(
            "linear maps of atoms",
            flops / NEIGHBOURS,
            5,
            lambda: (node.linear_2(sums), node.linear_1(features)),
        )
        a, b = torch.randn(256, 2000), torch.randn(2000, 128)
        speed = (
            100
            * 2
            * a.shape[0]
            * a.shape[1]
            * b.shape[1]
            / clock(lambda: [a @ b for _ in range(100)])
        )
    print(f"a plain product (256 x 2000) (2000 x 128) reaches {speed / 1e9:.0f} GFLOP/s")
    print(f"{'step':<28}{'us a pair':>10}{'times':>7}{'MFLOP':>8}{'GFLOP/s':>9}")
    for name, microseconds, flops, times in rows:
        rate = f"{flops / microseconds / 1e3:.0f}" if flops else ""
        mega = f"{flops / 1e6:.2f}" if flops else ""
        print(f"{name:<28}{microseconds:>10.1f}{times:>7}{mega:>8}{rate:>9}")


if __name__ == "__main__":
    main()
