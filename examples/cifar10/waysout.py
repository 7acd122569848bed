"""The ways from a network in PyTorch to one that is served, each as a function that is called with images.

All but the first start from the fused network. The pages of docs/ on deployment take them one by one.
"""

import copy
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.export import Dim

from convblocks.deploy import fuse


@dataclass(frozen=True)
class Deployed:
    """A network as it is served.

    Args:
        run: ``(N, 3, 32, 32)`` normalised float32 images to ``(N, classes)`` float32 logits.
        bytes: Of the file that is shipped.
    """

    run: Callable[[Tensor], Tensor]
    bytes: int


@dataclass(frozen=True)
class Source:
    """What a way starts from.

    Args:
        model: The network, in evaluation mode.
        calibration: Training images, normalised, that int8 measures its ranges on.
        batches: Batch sizes that will be asked for.
    """

    model: nn.Module
    calibration: Tensor
    batches: Sequence[int]

    def fused(self) -> nn.Module:
        return fuse(self.model, self.calibration.shape[1:])[0]

    def export(self, model: nn.Module) -> torch.export.ExportedProgram:
        return torch.export.export(model, (self.calibration[:2],), dynamic_shapes=({0: Dim("batch", min=1, max=4096)},))


def eager(source: Source) -> Deployed:
    return Deployed(source.model, _saved(source.model))


def fused(source: Source) -> Deployed:
    model = source.fused()
    return Deployed(model, _saved(model))


def bf16(source: Source) -> Deployed:
    model = source.fused().to(torch.bfloat16).to(memory_format=torch.channels_last)

    def run(images: Tensor) -> Tensor:
        return model(images.to(torch.bfloat16, memory_format=torch.channels_last)).float()

    return Deployed(run, _saved(model))


def compiled(source: Source) -> Deployed:
    model = source.fused()
    return Deployed(_frozen(model, source), _saved(model))


def aot_inductor(source: Source) -> Deployed:
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(
            source.export(source.fused()),
            package_path=str(Path(folder, "network.pt2")),
            inductor_configs={"freezing": True},
        )
        return Deployed(torch._inductor.aoti_load_package(path), Path(path).stat().st_size)


def onnx_runtime(source: Source) -> Deployed:
    import onnxruntime

    program = torch.onnx.export(source.export(source.fused()), dynamo=True, verbose=False)
    assert program is not None
    content = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    return Deployed(lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0]), len(content))


def int8(source: Source) -> Deployed:
    quantised = quantise(source.export(source.fused()), source.calibration)
    return Deployed(_frozen(quantised, source), _bytes(_used(quantised)))


def quantise(program: torch.export.ExportedProgram, calibration: Tensor) -> torch.fx.GraphModule:
    """Measure the ranges of all activations on some images, and put int8 weights and rounding into the graph."""
    # torchao takes seconds to import, and the other ways do without.
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    # Older instructions than VNNI add pairs of products in 16 bits, which activations of all 8 bits overflow.
    vnni = hasattr(torch.cpu, "_is_vnni_supported") and torch.cpu._is_vnni_supported()
    settings = x86.get_default_x86_inductor_quantization_config(reduce_range=not vnni)
    quantizer = x86.X86InductorQuantizer().set_global(settings)
    prepared = prepare_pt2e(program.module(), quantizer)
    for images in calibration.split(64):
        prepared(images)
    return convert_pt2e(prepared)


WAYS: dict[str, Callable[[Source], Deployed]] = {
    "eager": eager,
    "fused": fused,
    "fused, bf16, channels last": bf16,
    "fused, compiled, frozen": compiled,
    "fused, AOTInductor": aot_inductor,
    "fused, ONNX Runtime": onnx_runtime,
    "fused, int8, compiled": int8,
}


def _frozen(model: nn.Module, source: Source) -> Callable[[Tensor], Tensor]:
    made = torch.compile(copy.deepcopy(model), dynamic=False)
    # Freezing is asked for where the graph is made, which is at the first call with each shape.
    with inductor.patch(freezing=True):
        for batch in source.batches:
            made(source.calibration[:1].expand(batch, -1, -1, -1).contiguous())
    return made


def _used(graph: torch.fx.GraphModule) -> dict[str, Tensor]:
    """The tensors that a graph reads: beside the weights of int8, a quantised one still holds the old ones."""
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    return {name: tensor for name, tensor in graph.state_dict().items() if name in read}


def _saved(model: nn.Module) -> int:
    return _bytes(model.state_dict())


def _bytes(tensors: dict[str, Tensor]) -> int:
    file = io.BytesIO()
    torch.save(tensors, file)
    return len(file.getbuffer())
