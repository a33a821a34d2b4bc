"""What a network would need on another device: a prediction from the roofline and data sheets, not a measurement.

Every layer takes the longer of two times: its FLOP at the device's float32 peak, its unique bytes at the bandwidth of its
memory. Runs take longer: no library reaches data-sheet peaks at the highest clock, launches cost time, and small layers do
not fill a large device. Two things can be faster: a layer whose operands stay in a cache, and one by an algorithm that
executes fewer multiply-adds than the definition has (Winograd).
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


#: Peaks are units x highest clock in GHz x FLOP a cycle (two for each unit, a multiply-add): that is how the vendors get
#: theirs, and no clock is higher. Bandwidths are the vendors' or, for processors, channels x bytes x transfers.
DEVICES: tuple[Device, ...] = (
    Device("NVIDIA H200 SXM", 16_896 * 1.98 * 2, 4_800, "NVIDIA H200 data sheet (67 TFLOPS FP32, 4.8 TB/s); 132 SM x 128"),
    Device("NVIDIA H100 SXM", 16_896 * 1.98 * 2, 3_350, "NVIDIA H100 data sheet (67 TFLOPS FP32, 3.35 TB/s); 132 SM x 128"),
    Device(
        "NVIDIA A100 40 GB SXM",
        6_912 * 1.41 * 2,
        1_555,
        "NVIDIA A100 data sheet 1758950 (19.5 TFLOPS FP32 without TF32, 1,555 GB/s)",
    ),
    Device("NVIDIA V100 SXM2", 5_120 * 1.53 * 2, 900, "NVIDIA V100 data sheet (15.7 TFLOPS single precision, 900 GB/s)"),
    Device(
        "NVIDIA T4", 2_560 * 1.59 * 2, 320, "NVIDIA T4 data sheet (8.1 TFLOPS single precision); 256 bit GDDR6, 10 Gbit/s"
    ),
    Device("NVIDIA GeForce RTX 4090", 16_384 * 2.52 * 2, 1_008, "NVIDIA Ada white paper (82.6 TFLOPS FP32, 1,008 GB/s)"),
    Device("NVIDIA GeForce RTX 3090", 10_496 * 1.695 * 2, 936, "NVIDIA GA102 white paper (35.6 TFLOPS FP32, 936 GB/s)"),
    Device(
        "AMD Instinct MI300X",
        304 * 128 * 2.1 * 2,
        5_300,
        "AMD MI300X data sheet (163.4 TFLOPS FP32 vector, 5.3 TB/s); 304 CU",
    ),
    Device(
        "AMD EPYC 7763", 64 * 3.5 * 32, 204.8, "AMD product page: 64 cores, boost 3.5 GHz, 8 x DDR4-3200; two 256-bit FMA"
    ),
    Device(
        "Intel Xeon Platinum 8380",
        40 * 3.4 * 64,
        204.8,
        "Intel ARK: 40 cores, turbo 3.4 GHz, 8 x DDR4-3200; two 512-bit FMA",
    ),
    Device("Intel Core i7-6700K", 4 * 4.2 * 32, 34.1, "Intel ARK: 4 cores, turbo 4.2 GHz, 2 x DDR4-2133; two 256-bit FMA"),
    Device(
        "Raspberry Pi 5",
        4 * 2.4 * 16,
        17.1,
        "raspberrypi.com: 4 x Cortex-A76, 2.4 GHz, 32 bit LPDDR4X-4267; two 128-bit FMA a cycle is Arm's, not checked",
    ),
    Device(
        "Raspberry Pi 4",
        4 * 1.5 * 8,
        12.8,
        "raspberrypi.com: 4 x Cortex-A72, 1.5 GHz, 32 bit LPDDR4-3200; one 128-bit FMA a cycle is Arm's, not checked",
    ),
)


@dataclass(frozen=True)
class Prediction:
    """The roofline's time of one run on a device: seconds, and the share of them in layers that its memory binds."""

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
