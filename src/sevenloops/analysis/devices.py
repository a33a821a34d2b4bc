"""What a network would need on another device: a prediction from the roofline and data sheets, not a measurement.

Every layer takes the longer of two times: its FLOP at the device's float32 peak, its unique bytes at the bandwidth of its
memory. That is a floor: no library reaches data-sheet peaks, launches cost time, and small layers do not fill a large
device. A layer whose operands stay in a cache can be faster than its bytes allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..graph.ir import Graph
from ..graph.passes import optimise
from ..machine import Machine
from .costs import Cost, count

__all__ = ["DEVICES", "Device", "Prediction", "layer_costs", "predict", "this_machine"]


@dataclass(frozen=True)
class Device:
    """Peak of float32 multiply-adds (1e9 FLOP/s, two for each) without reduced-precision units, and memory bandwidth."""

    name: str
    peak_gflops: float
    bandwidth_gbs: float
    source: str

    @property
    def ridge(self) -> float:
        """FLOP a byte from which on the peak binds."""
        return self.peak_gflops / self.bandwidth_gbs


#: For processors: cores x base clock in GHz x FLOP a cycle; the channels of memory at their rated speed.
DEVICES: tuple[Device, ...] = (
    Device("NVIDIA H200 SXM", 67_000, 4_800, "NVIDIA H200 data sheet: FP32, HBM3e"),
    Device("NVIDIA H100 SXM", 67_000, 3_350, "NVIDIA H100 data sheet: FP32, HBM3"),
    Device("NVIDIA A100 40 GB SXM", 19_500, 1_555, "NVIDIA A100 data sheet: FP32 without TF32, HBM2"),
    Device("NVIDIA V100 SXM2", 15_700, 900, "NVIDIA V100 data sheet: single precision, HBM2"),
    Device("NVIDIA T4", 8_100, 320, "NVIDIA T4 data sheet: single precision, GDDR6"),
    Device("NVIDIA GeForce RTX 4090", 82_600, 1_008, "NVIDIA Ada white paper: FP32, GDDR6X"),
    Device("NVIDIA GeForce RTX 3090", 35_600, 936, "NVIDIA GA102 white paper: FP32, GDDR6X"),
    Device("AMD Instinct MI300X", 163_400, 5_300, "AMD MI300X data sheet: FP32 vector, HBM3"),
    Device("AMD EPYC 7763", 64 * 2.45 * 32, 204.8, "AMD product page: 64 cores, 2.45 GHz, 8 x DDR4-3200; two 256-bit FMA"),
    Device("Intel Xeon Platinum 8380", 40 * 2.3 * 64, 204.8, "Intel ARK: 40 cores, 2.3 GHz, 8 x DDR4-3200; two 512-bit FMA"),
    Device("Intel Core i7-6700K", 4 * 4.0 * 32, 34.1, "Intel ARK: 4 cores, 4.0 GHz, 2 x DDR4-2133; two 256-bit FMA"),
    Device("Raspberry Pi 5", 4 * 2.4 * 16, 17.1, "4 x Cortex-A76, 2.4 GHz, LPDDR4X-4267, 32 bit; two 128-bit FMA"),
    Device("Raspberry Pi 4", 4 * 1.5 * 8, 12.8, "4 x Cortex-A72, 1.5 GHz, LPDDR4-3200, 32 bit; one 128-bit FMA"),
)


@dataclass(frozen=True)
class Prediction:
    """A floor for one run on a device: seconds, and the share of them in layers that its memory binds."""

    device: Device
    seconds: float
    memory_share: float


def this_machine(machine: Machine) -> Device | None:
    """This machine with its measured speeds; None where it has not been measured."""
    if machine.peak_gflops is None or machine.bandwidth_gbs is None:
        return None
    return Device(f"this machine: {machine.name}", machine.peak_gflops, machine.bandwidth_gbs, "measured here")


def layer_costs(graph: Graph) -> list[Cost]:
    """The costs of a graph of known sizes after the passes: what is fused moves no bytes. Raises `GraphError`."""
    return count(optimise(graph))


def predict(costs: Sequence[Cost], device: Device) -> Prediction:
    """The roofline's time for layers that run one after the other (`layer_costs`)."""
    seconds = bound = 0.0
    for row in costs:
        arithmetic = 2e-9 * row.macs / device.peak_gflops
        memory = 1e-9 * row.unique_bytes / device.bandwidth_gbs
        seconds += max(arithmetic, memory)
        bound += memory if memory > arithmetic else 0.0
    return Prediction(device, seconds, bound / seconds if seconds else 0.0)
