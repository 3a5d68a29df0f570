"""Train the two sample networks on scikit-learn's digits and write them, with their images, beside this file.

    python sample_models/make.py [FOLDER]

Needs the `dev` extra (scikit-learn). Seeded: the same versions on the same processor give the same bytes.
Prints the accuracy and the sha256 that sample_models/README.md states.
"""

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
import onnxruntime as ort
import torch
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIDE = 16
TEST_IMAGES = 500
CALIBRATION_IMAGES = 1024
CLASSES = 10
SEED = 0


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the 1,797 digits, shuffled, as `images` uint8 N×16×16×1 (ink is 255) and `labels` int64 N."""
    data = load_digits()
    small = np.round(data.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in small]
    order = np.random.default_rng(SEED).permutation(len(large))
    return np.stack(large)[order][..., None], data.target[order].astype(np.int64)


def unit(images: np.ndarray) -> np.ndarray:
    """Return what the networks read: float32 N×1×H×W in 0…1."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: identity, or 1×1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs, 3))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs×H×W to N×outputs×(H/stride)×(W/stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate that is computed from the means of all channels."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        """Build the two 1×1 convolutions around a ReLU."""
        super().__init__()
        squeezed = channels // 4
        self.layers = nn.Sequential(nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), gate)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape N×channels×H×W."""
        gated: Tensor = x * self.layers(x.mean((2, 3), keepdim=True))
        return gated


class InvertedResidual(nn.Module):
    """Expand (1×1), depthwise (3×3), squeeze-excite, project (1×1), with a shortcut where the shape allows."""

    def __init__(
        self, inputs: int, hidden: int, outputs: int, stride: int, activation: type[nn.Module], gate: nn.Module | None
    ) -> None:
        """Build the block."""
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, hidden, 1),
            activation(),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            activation(),
            SqueezeExcite(hidden, gate) if gate else nn.Identity(),
            conv_bn(hidden, outputs, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map N×inputs×H×W to N×outputs×(H/stride)×(W/stride)."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


def assembled(stem: nn.Module, blocks: list[nn.Module], features: int) -> nn.Module:
    """Return the stem, the blocks, global average pooling and the linear layer to the class scores."""
    parts = {"stem": stem, **{f"block{number}": block for number, block in enumerate(blocks, 1)}}
    ends = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(features, CLASSES)}
    return nn.Sequential(OrderedDict(parts | ends))


def residual_network() -> nn.Module:
    """Return a ResNet-14 of three stages with 16, 32 and 64 channels."""
    widths = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    return assembled(nn.Sequential(conv_bn(1, 16, 3), nn.ReLU()), [ResidualBlock(*width) for width in widths], 64)


def mobile_network() -> nn.Module:
    """Return a small MobileNetV3: depthwise convolutions, squeeze-excite, HardSwish."""
    blocks = [
        InvertedResidual(16, 64, 16, 1, nn.ReLU, None),
        InvertedResidual(16, 72, 24, 2, nn.ReLU, nn.Hardsigmoid()),
        InvertedResidual(24, 120, 24, 1, nn.ReLU, nn.Sigmoid()),
        InvertedResidual(24, 144, 48, 2, nn.Hardswish, nn.Hardsigmoid()),
        InvertedResidual(48, 240, 48, 1, nn.Hardswish, nn.Sigmoid()),
        nn.Sequential(conv_bn(48, 240, 1), nn.Hardswish()),
    ]
    return assembled(nn.Sequential(conv_bn(1, 16, 3), nn.Hardswish()), blocks, 240)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the batch moved by up to two pixels each way, filled with paper (0)."""
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
    return padded[:, :, top : top + SIDE, left : left + SIDE]


def train(build: Callable[[], nn.Module], images: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Module:
    """Train with AdamW and a one-cycle learning rate; return the network in evaluation mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    network, x, y, batch = build(), torch.from_numpy(unit(images)), torch.from_numpy(labels), 64
    adam = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: len(x) // batch * batch].split(batch):
            scores = network(shifted(x[rows], generator))
            loss = nn.functional.cross_entropy(scores, y[rows], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    return network.eval()


def folded(module: nn.Module) -> nn.Module:
    """Fold, in place, every BatchNorm into the convolution before it."""
    for name, child in module.named_children():
        pair = list(child.children())
        if len(pair) == 2 and isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(pair[0], pair[1]))
        else:
            folded(child)
    return module


def export(network: nn.Module, path: Path) -> None:
    """Write the network as ONNX with the input `input` (N×1×16×16) and the output `scores` (N×10)."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 1, SIDE, SIDE),),
        input_names=["input"],
        output_names=["scores"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=18,
        dynamo=True,
        optimize=False,  # the optimizer would fold the BatchNorms that must stay
        verbose=False,
    )
    assert program is not None
    model = program.model
    # Stack traces and paths of the exporting machine live in metadata; identical bytes need them gone.
    ir_passes.ClearMetadataAndDocStringPass()(model)
    for value in ir.convenience.create_value_mapping(model.graph).values():
        value.metadata_props.clear()
    optimizer.fold_constants(model, onnx_shape_inference=True)
    # The exporter writes a bias of zeros into a convolution without bias; nobody's file has them.
    rewriter.rewrite(model, [remove_optional_bias_from_conv_rule])
    ir_passes.RemoveUnusedNodesPass()(model)
    ir.save(model, path)


def top1(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose largest score is the label's, in ONNX Runtime."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"input": unit(images)})
    return float((np.asarray(scores).argmax(1) == labels).mean())


def save_images(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write `images` and `labels` as a compressed npz."""
    np.savez_compressed(path, allow_pickle=False, images=images, labels=labels)


def make(folder: Path) -> Mapping[str, str]:
    """Write the four files; return what the README says of each, by file name."""
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    images, labels = digits()
    test, training = slice(0, TEST_IMAGES), slice(TEST_IMAGES, None)
    calibration = slice(TEST_IMAGES, TEST_IMAGES + CALIBRATION_IMAGES)
    save_images(folder / "digits_test.npz", images[test], labels[test])
    save_images(folder / "digits_calibration.npz", images[calibration], labels[calibration])
    facts = {"digits_test.npz": f"{TEST_IMAGES} images", "digits_calibration.npz": f"{CALIBRATION_IMAGES} images"}
    for name, build in (("digits_residual.onnx", residual_network), ("digits_mobile.onnx", mobile_network)):
        network = train(build, images[training], labels[training], epochs=20)
        export(folded(network) if "mobile" in name else network, folder / name)
        facts[name] = f"{100 * top1(folder / name, images[test], labels[test]):.1f} %"
    return facts


if __name__ == "__main__":
    destination = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for file, fact in make(destination).items():
        print(f"| `{file}` | {fact} | `{hashlib.sha256((destination / file).read_bytes()).hexdigest()}` |")
