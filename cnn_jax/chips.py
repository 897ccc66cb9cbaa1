"""Accelerators as their makers describe them: memory, bandwidths, peaks and clocks.

One table for whatever needs such a number: the planner, and the utilisation of a run.
Where no other source stands beside a number, it is from Google Cloud's pages "TPU v3",
"TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)",
https://docs.cloud.google.com/tpu/docs/v3 and so on, as of November 2026.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip of a TPU.

    Attributes:
      name: As topologies name it: `"v5e"`.
      num_cores: TensorCores.
      hbm_bytes: Its memory. The compiler keeps a part for itself.
      hbm_bandwidth: Bytes per second between memory and cores.
      peak_flops: Dense bfloat16 FLOP/s.
      flops_per_cycle: Dense bfloat16 FLOPs of a cycle, of all its cores: two for each
        cell of its matrix units.
      ici_bandwidth: Bytes per second that it sends over all its links to other chips,
        one way; None where it is not published.
      max_chips: The chips of a pod, the largest slice there is.
      num_dimensions: Those of the torus of a slice's chips.
    """

    name: str
    num_cores: int
    hbm_bytes: int
    hbm_bandwidth: float
    peak_flops: float
    flops_per_cycle: int
    ici_bandwidth: float | None
    max_chips: int
    num_dimensions: int

    @property
    def clock(self) -> float:
        """Cycles per second, which are not published: the peak by FLOPs of a cycle.

        For v2, v3 and v4 it comes within 2 % of the 700, 940 and 1050 MHz of Jouppi et
        al. 2020 ("A Domain-Specific Supercomputer for Training Deep Neural Networks")
        and 2023 ("TPU v4: An Optically Reconfigurable Supercomputer").
        """
        return self.peak_flops / self.flops_per_cycle

    @property
    def ridge(self) -> float:
        """FLOPs for each byte of memory traffic from which on arithmetic is the limit.

        Source: Williams, Waterman and Patterson 2009, "Roofline".
        """
        return self.peak_flops / self.hbm_bandwidth


_MXU = 2 * 128 * 128
"""FLOPs of a cycle of one matrix unit of v2 to v5p: 128 x 128 multiply-adds."""

CHIPS = {
    chip.name: chip
    for chip in (
        # Memory, bandwidth and peak: `jax`'s own table, jax/_src/tpu_info.py.
        Chip("v2", 2, 16 * 2**30, 716e9, 46e12, 2 * _MXU, None, 256, 2),
        # Two cores of two units. 340 TB/s of all-reduce bandwidth over 1,024 chips.
        Chip("v3", 2, 32 * 2**30, 900e9, 123e12, 4 * _MXU, 340e12 / 1024, 1024, 2),
        # Two cores of four units. 1.1 PB/s of all-reduce bandwidth over 4,096 chips.
        Chip("v4", 2, 32 * 2**30, 1200e9, 275e12, 8 * _MXU, 1.1e15 / 4096, 4096, 3),
        # Links: half of 400 GB/s in both directions; 51.2 TB/s over 256 chips agrees.
        Chip("v5e", 1, 16 * 2**30, 819e9, 197e12, 4 * _MXU, 200e9, 256, 2),
        # Half of 1,200 GB/s in both directions.
        Chip("v5p", 2, 95 * 2**30, 2765e9, 459e12, 8 * _MXU, 600e9, 8960, 3),
        # Half of 800 GB/s; 102.4 TB/s over 256 chips agrees. FLOPs of a cycle: libtpu
        # 0.0.50 plans 369,000 of them for a product of 8192 x 8192 matrices, more than
        # the 262,144 of two units of 256 x 256; twice these is the next multiple.
        Chip("v6e", 1, 32 * 2**30, 1638e9, 918e12, 16 * _MXU, 400e9, 256, 2),
        # Bandwidth: jax/_src/tpu_info.py. FLOPs of a cycle as for v6e: 422,000 planned
        # for each of two cores. The links' bandwidth is left open.
        Chip("tpu7x", 2, 192 * 2**30, 7400e9, 2307e12, 32 * _MXU, None, 9216, 3),
    )
}
"""The chips of Cloud TPU by name."""

ICI_HOP_SECONDS = 1e-6
"""Least seconds of a message from a chip to its neighbour, whatever its size.

Source: Austin et al. 2025, "How to Scale Your Model", part 2: typically about 1 us."""

PEAK_FLOPS = {
    # kind of device, as jax names it: dense bfloat16 FLOP/s of one device. That is a
    # chip; of v2, v3 and v7x it is a core.
    "TPU v2": CHIPS["v2"].peak_flops / 2,
    "TPU v3": CHIPS["v3"].peak_flops / 2,
    "TPU v4": CHIPS["v4"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5e": CHIPS["v5e"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
    "TPU v6e": CHIPS["v6e"].peak_flops,
    "TPU7x": CHIPS["tpu7x"].peak_flops / 2,
    # Source: NVIDIA's data sheets.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Peaks that a run's utilisation is measured against."""
