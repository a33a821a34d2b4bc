"""The tables of problems that every algorithm is tested on, as descriptors. The odd ones come first.

Each is small (a naive kernel needs a few milliseconds at most), and each stands for a way to go wrong: the comment of
its group says which. Add a row and every algorithm is tested on it.
"""

from __future__ import annotations

from sevenloops.descriptor import parse_problem
from sevenloops.problem import ConvProblem, GemmProblem, Problem

#: Primes, ones, tails: no size is a multiple of a vector or of a register tile; images smaller than a tile.
ODD = [
    "mb1 ic1 ih1 iw1 oc1 kh1 kw1",
    "mb1 ic3 ih13 iw17 oc7 kh3 kw3 ph1 pw1 bias act=relu",
    "mb1 ic24 ih11 iw11 oc58 kh3 kw3 sh2 sw2 ph1 pw1 bias act=clip:0.0:6.0",
    "mb1 ic58 ih7 iw7 oc27 kh3 kw3 ph1 pw1 res=after",
    "mb1 ic1000 ih2 iw3 oc3 kh3 kw3 ph1 pw1",
    "mb1 ic1 ih19 iw23 oc1 kh5 kw5 ph2 pw2",
    "mb1 ic16 ih3 iw3 oc16 kh3 kw3",
    "mb1 ic3 ih31 iw33 oc24 kh7 kw7 sh2 sw2 ph3 pw3 bias act=relu",
    "mb1 ic3 ih35 iw37 oc17 kh11 kw11 sh4 sw4 ph2 pw2",
    "mb1 ic12 ih17 iw17 oc20 kh1 kw7 pw3",
]

#: Padding beyond half the kernel (some outputs see nothing but padding), one-sided padding, even kernels.
PADDING = [
    "mb1 ic8 ih5 iw5 oc9 kh3 kw3 ph4 pw5 bias",
    "mb3 ic5 ih6 iw29 oc11 kh2 kw4 pt1 pl3 pr1",
    "mb1 ic7 ih4 iw4 oc9 kh1 kw1 ph1 pw1 bias",
    "mb1 ic2 ih1 iw2 oc18 kh3 kw3 pt2 pl1 pr4",
]

#: Strides 1 to 4 (beyond the kernel too), dilation, both at once, different on each axis.
STRIDE_DILATION = [
    "mb1 ic4 ih17 iw19 oc6 kh3 kw2 sh3 pw1",
    "mb1 ic9 ih14 iw15 oc10 kh1 kw2 sh4 sw3",
    "mb1 ic7 ih15 iw16 oc13 kh3 kw3 dh2 dw3 ph2 pw3 act=leaky_relu:0.25",
    "mb2 ic6 ih18 iw11 oc20 kh3 kw3 sh2 dh3 dw2 ph3 pw2",
]

#: What the kernels are made for: whole vectors and whole tiles, and one step off.
REGULAR = [
    "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "mb1 ic64 ih7 iw7 oc48 kh3 kw3 ph1 pw1",
    "mb1 ic16 ih27 iw13 oc33 kh5 kw5 ph2 pw2",
]

#: Kernels as large as the image or larger, dense and depthwise; several tiles of a transform, and one.
LARGE_KERNELS = [
    "mb1 ic5 ih23 iw29 oc7 kh11 kw11 ph5 pw5 bias act=relu",
    "mb2 ic20 ih24 iw27 oc40 kh5 kw7 ph2 pw3 bias act=relu res=before",
    "mb1 g2 ic6 ih27 iw25 oc36 kh9 kw7 sh2 sw3 dh2 ph8 pw1",
    "mb2 g19 ic19 ih14 iw13 oc19 kh31 kw29 ph15 pw14 bias",
    "mb1 g17 ic17 ih47 iw50 oc17 kh13 kw11 sw2 ph6 pl7 act=relu",
]

#: The output is a slice of the channels of a larger tensor.
PITCHED = [
    "mb2 ic5 ih6 iw9 oc7 kh3 kw3 ph1 pw1 yp20 bias act=relu",
    "mb1 ic16 ih12 iw13 oc32 kh1 kw1 yp48 bias",
    "mb2 g6 ic6 ih9 iw11 oc6 kh3 kw3 sh2 sw2 ph1 pw1 yp13 bias",
    "mb1 g2 ic10 ih9 iw8 oc34 kh3 kw3 ph1 pw1 yp40",
    "mb1 ic4 ih5 iw5 oc1 kh2 kw2 yp3",
    "mb1 ic12 ih5 iw6 oc20 kh2 kw2 sh2 sw2 transposed yp36 bias",
    "mb1 ic18 ih8 iw7 oc9 kh1 kw1 shift=3 yp11 bias",
]

GROUPS = [
    "mb1 g2 ic10 ih9 iw8 oc14 kh3 kw3 ph1 pw1 bias",
    "mb2 g3 ic9 ih7 iw7 oc51 kh3 kw3 sh2 sw2 ph1 pw1 act=relu",
    "mb1 g4 ic12 ih5 iw9 oc28 kh1 kw1",
]

#: Channel multipliers 1, 2 and 3; images smaller than the kernel; one axis and three.
DEPTHWISE = [
    "mb1 g24 ic24 ih13 iw15 oc24 kh3 kw3 ph1 pw1 bias act=clip:0.0:6.0",
    "mb1 g58 ic58 ih9 iw9 oc58 kh3 kw3 sh2 sw2 ph1 pw1",
    "mb2 g27 ic27 ih8 iw7 oc54 kh3 kw3 ph1 pw1 bias",
    "mb1 g3 ic3 ih15 iw17 oc9 kh5 kw5 sh2 sw2 ph2 pw2",
    "mb1 g64 ic64 ih6 iw6 oc64 kh7 kw7 ph3 pw3",
    "mb1 g17 ic17 ih10 iw11 oc17 kh3 kw3 dh2 dw2 pt1 pb3 pl2 act=relu res=before",
    "mb1 g5 ic5 iw29 oc5 kw9 pw4",
    "mb1 g19 ic19 ih11 iw9 oc19 kh13 kw11 ph6 pw5 bias act=relu",
    "mb1 g32 ic32 ih14 iw15 oc32 kh9 kw31 sh2 pt7 pb2 pl15 pr11",
    "mb2 g16 ic16 ih9 iw17 oc32 kh5 kw12 sw2 dh2 ph6 pw3 bias",
    "mb1 g33 ic33 ih6 iw7 oc33 kh8 kw8 ph7 pw9 res=after",
    "mb1 g48 ic48 ih12 iw11 oc48 kh5 kw5 ph2 pw2 bias act=relu",
    "mb1 g6 ic6 id4 ih6 iw6 oc6 kd3 kh3 kw3 pd1 ph1 pw1",
]

POINTWISE = [
    "mb1 ic27 ih9 iw5 oc1000 kh1 kw1 bias",
    "mb1 ic24 ih7 iw7 oc144 kh1 kw1 bias act=clip:0.0:6.0",
    "mb3 ic13 ih5 iw5 oc31 kh1 kw1 sh2 sw2",
    "mb1 ic96 ih14 iw14 oc58 kh1 kw1 bias act=relu res=after",
    "mb2 ic33 ih9 iw9 oc1 kh1 kw1 sh3 sw2",
    "mb1 ic3 ih1 iw1 oc1000 kh1 kw1",
]

#: One axis and three.
ONE_AND_THREE_AXES = [
    "mb3 ic5 iw101 oc19 kw5 sw2 pl2 pr1 bias act=silu",
    "mb2 g5 ic5 iw37 oc10 kw3 dw4 pw4",
    "mb2 ic58 iw1 oc3 kw1",
    "mb1 ic3 id5 ih7 iw9 oc11 kd3 kh3 kw3 pd1 ph1 pw1 bias act=hard_swish",
    "mb2 ic4 id6 ih5 iw4 oc6 kd2 kh1 kw3 sd2 pk1 pw1",
    "mb1 ic8 id3 ih4 iw5 oc5 kd1 kh1 kw1",
]

#: Phases with equal, unequal and no taps, outputs that the stride does not divide, fewer outputs than phases, dilation
#: with and without a common factor, one-sided padding, phases as channels (kernel = stride), images as rows, groups.
TRANSPOSED = [
    "mb1 ic5 ih6 iw7 oc11 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1 bias",
    "mb1 ic24 ih4 iw5 oc3 kh4 kw4 sh2 sw2 ph1 pw1 transposed",
    "mb2 g2 ic6 ih5 iw5 oc4 kh3 kw2 sh3 dh2 pt1 pr1 transposed act=relu",
    "mb1 ic3 iw9 oc2 kw3 sw4 transposed ow1",
    "mb1 ic2 id3 ih2 iw3 oc3 kd2 kh3 kw2 sd2 transposed od1",
    "mb1 ic32 ih14 iw13 oc48 kh4 kw4 sh2 sw2 ph1 pw1 transposed bias act=relu res=after",
    "mb3 ic17 ih5 iw7 oc21 kh2 kw2 sh2 sw2 transposed bias act=clip:-3.0:3.0 res=before",
    "mb1 g3 ic9 ih4 iw5 oc51 kh2 kw2 sh2 sw2 transposed",
    "mb2 ic8 ih3 iw4 oc64 kh2 kw2 sh2 sw2 ph1 transposed ow1",
    "mb1 ic21 ih7 iw9 oc21 kh4 kw4 sh2 sw2 transposed",
    "mb1 ic13 ih9 iw6 oc29 kh3 kw3 ph1 pw1 transposed act=leaky_relu:0.25",
    "mb1 ic7 ih4 iw3 oc5 kh5 kw5 sh3 sw3 dh2 dw3 pt2 pb1 pl1 pr3 transposed bias",
    "mb1 ic6 ih3 iw4 oc10 kh4 kw3 sh4 sw2 dh2 dw2 transposed oh3 ow1 bias act=sigmoid",
    "mb1 ic4 ih1 iw1 oc9 kh3 kw3 sh5 sw4 ph1 pw1 transposed",
    "mb1 ic2 ih3 iw2 oc3 kh7 kw8 sh4 sw4 ph3 pw2 transposed bias",
    "mb1 ic3 id3 ih4 iw3 oc6 kd2 kh2 kw2 sd2 sh2 sw2 transposed bias act=relu",
    "mb2 g4 ic4 iw11 oc4 kw4 sw2 pw1 transposed bias",
    "mb2 ic19 ih17 iw16 oc35 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1 bias act=relu",
    "mb2 g40 ic40 ih9 iw10 oc40 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1 bias act=relu res=before",
    "mb2 g33 ic33 ih14 iw11 oc33 kh3 kw3 ph1 pw1 transposed bias",
    "mb2 ic40 ih14 iw15 oc58 kh1 kw1 transposed bias act=relu res=after",
    "mb1 ic32 ih14 iw14 oc48 kh3 kw3 ph1 pw1 transposed bias act=relu res=before",
]

#: Every activation, with and without a bias, the residual on either side.
EPILOGUES = [
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 bias act=sigmoid",
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 act=silu res=before",
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 bias act=hard_swish res=after",
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 bias act=leaky_relu:0.01",
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 act=clip:-1.5:2.5",
    "mb1 ic6 ih5 iw7 oc19 kh3 kw3 ph1 pw1 bias res=before",
]

DOUBLE = [
    "mb1 ic5 ih9 iw8 oc21 kh3 kw3 ph1 pw1 bias act=relu float64",
    "mb2 g3 ic6 ih7 iw9 oc15 kh3 kw2 sh2 pl1 act=sigmoid float64",
]

#: Both conventions, kernels of 1 to 7, even ones, leftover channels and fewer channels than positions, dilation, strides,
#: images smaller than the kernel, channels that move out of sight, several bands and classes, one axis and three.
SHIFTED = [
    "mb1 ic20 ih13 iw11 oc7 kh1 kw1 shift=3 bias act=relu",
    "mb2 ic37 ih9 iw10 oc33 kh1 kw1 sh2 sw2 shift=3:modulo bias act=relu res=after",
    "mb1 ic58 ih2 iw3 oc17 kh1 kw1 shift=5",
    "mb1 ic64 ih16 iw15 oc64 kh1 kw1 shift=5:d2 bias act=relu res=before",
    "mb2 ic31 ih7 iw7 oc40 kh1 kw1 sh2 shift=3x5:d2x1:modulo act=leaky_relu:0.25",
    "mb1 ic9 ih6 iw5 oc3 kh1 kw1 shift=1",
    "mb1 ic8 ih6 iw5 oc24 kh1 kw1 shift=3 bias",
    "mb1 ic27 ih5 iw4 oc5 kh1 kw1 shift=3:d9",
    "mb1 ic17 ih8 iw9 oc48 kh1 kw1 sh3 sw2 shift=2x4:modulo",
    "mb3 ic13 iw29 oc9 kw1 shift=4 bias act=silu",
    "mb1 ic30 id3 ih4 iw5 oc6 kd1 kh1 kw1 sd2 shift=3",
    "mb1 ic20 ih4 iw5 oc6 kh1 kw1 shift=3 bias float64",
]

CONV = [
    *ODD,
    *PADDING,
    *STRIDE_DILATION,
    *REGULAR,
    *LARGE_KERNELS,
    *PITCHED,
    *GROUPS,
    *DEPTHWISE,
    *POINTWISE,
    *ONE_AND_THREE_AXES,
    *TRANSPOSED,
    *EPILOGUES,
    *DOUBLE,
    *SHIFTED,
]

#: Odd sizes, vectors times matrices, every transpose, alpha and beta, and two sizes that fill whole tiles.
GEMM = [
    "gemm m1 n1 k1",
    "gemm m7 n13 k17",
    "gemm m101 n103 k107 bias act=relu",
    "gemm m29 n31 k27 tb alpha=0.5 beta=-2.0",
    "gemm m3 n58 k1000 ta",
    "gemm m24 n1 k300 ta tb",
    "gemm m255 n129 k65 act=silu res=before",
    "gemm m17 n5 k1 alpha=-1.5 bias res=after",
    "gemm m64 n64 k64 bias act=clip:0.0:6.0",
    "gemm m130 n48 k600 tb",
    "gemm m1 n1000 k258 tb bias",
    "gemm m1 n509 k3 act=leaky_relu:0.25",
    "gemm m1 n128 k512 ta",
    "gemm m1 n77 k91 beta=1.0 bias act=hard_swish",
    "gemm m1 n3 k1021 alpha=2.0 act=sigmoid res=after",
    "gemm m2 n17 k33 float64",
    "gemm m1 n37 k19 tb bias float64",
]

ALL = CONV + GEMM

#: Activations whose result is exact in float32 when the sums are small integers (a slope that is a power of two).
EXACT_ACTIVATIONS = ("none", "relu", "clip", "leaky_relu")


def conv(descriptor: str) -> ConvProblem:
    """Read the descriptor of a convolution."""
    problem = parse_problem(descriptor)
    assert isinstance(problem, ConvProblem)
    return problem


def gemm(descriptor: str) -> GemmProblem:
    """Read the descriptor of a matrix product."""
    problem = parse_problem(descriptor)
    assert isinstance(problem, GemmProblem)
    return problem


def exact_on_integers(problem: Problem) -> bool:
    """Whether integer-valued inputs must give the exact result: no exponentials, no factor that rounds."""
    epilogue = problem.epilogue
    factors = list(epilogue.params) if epilogue.activation == "leaky_relu" else []
    if isinstance(problem, GemmProblem):
        factors += [problem.alpha, problem.beta]
    # A few fractional bits in a factor cannot round a sum that stays below 2**20.
    return epilogue.activation in EXACT_ACTIVATIONS and all((factor * 16).is_integer() for factor in factors)
