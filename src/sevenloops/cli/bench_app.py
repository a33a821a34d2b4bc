"""`sevenloops bench`: layers, products, whole networks, rounding errors, and kept results as Markdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .options import (
    PEERS,
    PLAIN,
    Accuracy,
    Against,
    Algorithm,
    IsaName,
    Json,
    Output,
    Problems,
    Rounds,
    Threads,
    numbers,
    reporting,
)

__all__ = ["bench_app"]

NETWORK_PEERS = "onnxruntime,openvino,mnn,torch"


class _OrModel(TyperGroup):
    """A first word that is no command names a network: `bench resnet50` is `bench model resnet50`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Add the command that was left out."""
        known = not args or args[0].startswith("-") or args[0] in self.commands
        return super().resolve_command(ctx, args if known else ["model", *args])


bench_app = typer.Typer(
    help="Time networks, layers and products against other libraries, each in its own process, in turn.",
    cls=_OrModel,
    **PLAIN,
)
Batch = Annotated[int, typer.Option(min=1, help="Images in a batch.")]
Shape = Annotated[list[str] | None, typer.Option("--shape", help="The size of an input: NAME=1x3x224x224.")]
NetworkAgainst = Annotated[str, typer.Option(help="Comma-separated: onnxruntime, openvino, mnn, torch, or none.")]


@bench_app.command("model")
@reporting
def bench_model(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names of the zoo, or ONNX files.")],
    batch: Batch = 1,
    shape: Shape = None,
    against: NetworkAgainst = NETWORK_PEERS,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time whole networks, every engine on the same ONNX file: `sevenloops bench resnet50`, the word `model` left out."""
    from ..bench.runner import Options
    from .bench import bench_networks_command, split_names

    options = Options(split_names(against), threads, rounds=rounds, slice_s=0.1, accuracy=accuracy)
    bench_networks_command(models, batch, shape or [], options, json, output)


@bench_app.command("networks")
@reporting
def bench_networks(
    batch: Batch = 1,
    against: NetworkAgainst = NETWORK_PEERS,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time the networks of the zoo that most people know, as `bench model` does."""
    from ..bench.network_bench import NETWORKS

    bench_model(list(NETWORKS), batch, None, against, threads, accuracy, rounds, json, output)


@bench_app.command("conv")
@reporting
def bench_conv(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 1,
    against: Against = PEERS,
    threads: Threads = None,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time convolutions: `sevenloops bench conv mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1`, or `--network resnet50`."""
    from ..bench.networks import layers
    from ..bench.runner import Options, as_layers
    from .bench import bench_command, split_names
    from .problems import conv_problems

    chosen = as_layers(conv_problems(problems or [])) + (layers(network, batch) if network else [])
    bench_command(chosen, Options(split_names(against), threads, algorithm, isa, rounds, accuracy=accuracy), json, output)


@bench_app.command("shift")
@reporting
def bench_shift(
    network: Annotated[str, typer.Option(help="Networks whose shifts are measured.")] = "shiftresnet20,shiftneta",
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 1,
    against: Against = f"{PEERS},unshifted",
    threads: Threads = None,
    isa: IsaName = None,
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time shifts fused with their 1x1 convolution; `unshifted` is the same 1x1 alone, peers take their faster road."""
    from ..bench.networks import shift_layers
    from ..bench.runner import Options
    from .bench import bench_command, split_names

    chosen = [layer for name in split_names(network) for layer in shift_layers(name, batch)]
    bench_command(chosen, Options(split_names(against), threads, None, isa, rounds), json, output)


@bench_app.command("gemm")
@reporting
def bench_gemm(
    problems: Problems = None,
    against: Against = f"{PEERS},numpy",
    threads: Threads = None,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time matrix products: `sevenloops bench gemm 512 509x1021x512` (MxNxK), or descriptors."""
    from ..bench.runner import Options, as_layers
    from .bench import bench_command, split_names
    from .problems import gemm_problems

    chosen = as_layers(gemm_problems(problems or []))
    bench_command(chosen, Options(split_names(against), threads, algorithm, isa, rounds, accuracy=accuracy), json, output)


@bench_app.command("train")
@reporting
def bench_train(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK...]", help="Names of the zoo, ONNX files, or torchvision:NAME; five networks."),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in a batch; by default the network's own, or 16.")] = None,
    shape: Shape = None,
    against: Annotated[str, typer.Option(help="Comma-separated: torch, torch-compile, or none.")] = "torch,torch-compile",
    threads: Threads = None,
    rounds: Rounds = 5,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time training steps of whole networks: forward, backward, SGD with momentum; `bench train resnet18 --batch 16`."""
    from ..bench.runner import Options
    from .bench import bench_training_command, split_names

    options = Options(split_names(against), threads, rounds=rounds, slice_s=0.5, min_iterations=2)
    bench_training_command(models or [], batch, shape or [], options, json, output)


@bench_app.command("gradients")
@reporting
def bench_gradients(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of networks, with commas between: vgg16,resnet18.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 16,
    directions: Annotated[str, typer.Option(help="Comma-separated: forward, data, weights.")] = "forward,data,weights",
    against: Annotated[
        str, typer.Option(help="Comma-separated: torch, torch-nchw, sevenloops:ALGORITHM, or none.")
    ] = "torch",
    threads: Threads = None,
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time layers in the directions of a training step, new weights in every call: `bench gradients --network resnet18`.

    A fully connected layer is `gemm mBATCH nOUT kIN tb`.
    """
    from ..bench.networks import layers
    from ..bench.runner import Options, as_layers
    from .bench import bench_gradients_command, split_names
    from .problems import any_problems

    names = split_names(network or "")
    chosen = as_layers(any_problems(problems or []))
    for name in names:
        title = f"{name} " if len(names) > 1 else ""
        chosen += [replace(layer, name=title + layer.name) for layer in layers(name, batch)]
    options = Options(split_names(against), threads, rounds=rounds)
    bench_gradients_command(chosen, split_names(directions), options, json, output)


@bench_app.command("accuracy")
@reporting
def bench_accuracy(
    kernels: Annotated[str, typer.Option("--kernels", help="Comma-separated sizes of square kernels.")] = "3,5",
    channels: Annotated[str, typer.Option("--channels", help="Comma-separated numbers of input channels.")] = "64,256,512",
    networks: Annotated[str, typer.Option(help="Instead, whole networks with commas between, or `all`.")] = "none",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Measure rounding errors against float64: every algorithm, and Winograd with every tile and set of points.

    With --networks, the errors of whole networks in both accuracies; a network beyond a bound is an error.
    """
    from ..bench.network_bench import NETWORKS
    from .accuracy import accuracy_command, network_accuracy_command
    from .bench import split_names

    names = NETWORKS if networks == "all" else split_names(networks)
    if names:
        raise typer.Exit(0 if network_accuracy_command(names, markdown) else 1)
    accuracy_command(numbers("kernels", kernels), numbers("channels", channels), markdown)


@bench_app.command("calls")
@reporting
def bench_calls(
    rounds: Rounds = 7,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Time what a call costs beside its arithmetic: a warm conv2d of 8x8x8, the first of a process, cold compiles."""
    from .calls import calls_command

    calls_command(rounds, markdown)


@bench_app.command("start")
@reporting
def bench_start(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names of the zoo, or ONNX files.")],
    batch: Batch = 1,
    shape: Shape = None,
    against: Annotated[str, typer.Option(help="Comma-separated: onnxruntime, openvino, or none.")] = "onnxruntime",
    threads: Threads = None,
    rounds: Rounds = 7,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
) -> None:
    """Time whole processes, from `python -c` to a network's first result, with warm caches; and the parts of our own."""
    from .bench import split_names
    from .start import start_command

    start_command(models, batch, shape or [], split_names(against), threads, rounds, markdown)


@bench_app.command("pack")
@reporting
def bench_pack(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="By name, or `all` that compute a layer; the chosen one.")] = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Time the packing of weights against the memory bandwidth: bytes read and written, in milliseconds.

    Arrays are packed again and again; what the last cache holds of them does not come from memory.
    """
    from ..bench.networks import layers
    from ..bench.runner import as_layers
    from .packs import packs_command
    from .problems import any_problems

    chosen = as_layers(any_problems(problems or [])) + (layers(network) if network else [])
    packs_command(chosen, algorithm, threads, rounds, markdown)


@bench_app.command("markdown")
@reporting
def bench_markdown(files: Annotated[list[Path], typer.Argument(help="Files that --output wrote.")]) -> None:
    """Print kept results as a Markdown page, every row of them."""
    from ..bench.markdown import page, read_documents

    print(page(read_documents(files)), end="")
