"""A network from the safetensors file that convoy loads, BatchNorm folded in f64, as an ONNX model and as a torch module.

Owns the wiring of torchvision's ResNets and of EfficientNet-Lite0, and the test images; knows nothing of how engines are
run or timed.
"""

from typing import NamedTuple

import numpy as np

DEPTHS = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
SIDE = 224
# Mean and standard deviation in units of full scale, by family.
IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))
LITE = (np.full(3, 127 / 255, np.float32), np.full(3, 128 / 255, np.float32))


class Conv(NamedTuple):
    """A convolution with bias: weight [outputs, depth, kernel, kernel], pixels of padding before and after each side, and
    the largest value that its activation passes (None where there is no activation)."""

    weight: np.ndarray
    bias: np.ndarray
    stride: int
    pads: tuple
    limit: float | None

    @property
    def groups(self):
        """Depthwise convolutions here are those of depth 1."""
        return len(self.weight) if self.weight.shape[1] == 1 else 1


def pixels(batch):
    """uint8 [batch, SIDE, SIDE, 3]; benches/compare/convoy.rs makes the same bytes."""
    at = np.arange(batch * SIDE * SIDE * 3, dtype=np.uint64)
    return ((at * np.uint64(2654435761) >> np.uint64(13)) % np.uint64(256)).astype(np.uint8).reshape(batch, SIDE, SIDE, 3)


def normalised(folded, batch):
    """float32 [batch, 3, SIDE, SIDE], as the network was trained for."""
    mean, std = LITE if folded.is_lite() else IMAGENET
    image = (pixels(batch).astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


class Folded:
    """Weights and biases with BatchNorm folded, by checkpoint name."""

    def __init__(self, path):
        from safetensors import safe_open

        self.file = safe_open(path, "np")
        self.names = set(self.file.keys())

    def is_lite(self):
        return "_conv_stem.weight" in self.names

    def tensor(self, name):
        return self.file.get_tensor(name)

    def depth(self):
        def blocks(stage):
            return len({k.split(".")[1] for k in self.names if k.startswith(f"layer{stage}.")})

        kind = "bottleneck" if "layer1.0.conv3.weight" in self.names else "basic"
        found = (kind, [blocks(stage) for stage in (1, 2, 3, 4)])
        return next(name for name, depth in DEPTHS.items() if depth == found)

    def conv(self, name, norm, epsilon):
        def get(key):
            return self.tensor(key).astype(np.float64)

        scale = get(f"{norm}.weight") / np.sqrt(get(f"{norm}.running_var") + epsilon)
        weight = get(f"{name}.weight") * scale[:, None, None, None]
        bias = get(f"{norm}.bias") - get(f"{norm}.running_mean") * scale
        return weight.astype(np.float32), bias.astype(np.float32)

    def linear(self, name):
        return self.tensor(f"{name}.weight").astype(np.float32), self.tensor(f"{name}.bias").astype(np.float32)


def walk(folded, ops):
    """Calls the operations of `ops` in forward order."""
    return (lite if folded.is_lite() else resnet)(folded, ops)


def resnet(folded, ops):
    def conv(x, name, norm, stride, relu):
        weight, bias = folded.conv(name, norm, 1e-5)
        pad = weight.shape[2] // 2
        return ops.conv(x, Conv(weight, bias, stride, (pad, pad), np.inf if relu else None))

    kind, depths = DEPTHS[folded.depth()]
    x = conv(ops.image, "conv1", "bn1", 2, True)
    x = ops.maxpool(x)
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            strides = [stride, 1] if kind == "basic" else [1, stride, 1]
            y = x
            for n, step in enumerate(strides, 1):
                y = conv(y, f"{name}.conv{n}", f"{name}.bn{n}", step, n < len(strides))
            if f"{name}.downsample.0.weight" in folded.names:
                x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, False)
            x = ops.relu(ops.add(y, x))
    return ops.linear(ops.mean(x), *folded.linear("fc"))


def lite(folded, ops):
    side = SIDE

    def conv(x, name, norm, stride=1, relu6=True):
        nonlocal side
        weight, bias = folded.conv(name, norm, 1e-3)
        # TensorFlow's SAME: what all windows together lack, the smaller half of it before the picture.
        lack = max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0)
        side = -(-side // stride)
        return ops.conv(x, Conv(weight, bias, stride, (lack // 2, lack - lack // 2), 6.0 if relu6 else None))

    x = conv(ops.image, "_conv_stem", "_bn0", 2)
    # Blocks in order: how many, stride of the first.
    strides = [s if n == 0 else 1 for count, s in [(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)] for n in range(count)]
    for index, stride in enumerate(strides):
        name, y = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in folded.names:
            y = conv(y, f"{name}._expand_conv", f"{name}._bn0")
        y = conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        y = conv(y, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        outputs = len(folded.tensor(f"{name}._project_conv.weight"))
        # A block whose input has as many channels as its output adds it.
        x, inputs = (ops.add(y, x) if stride == 1 and index and outputs == inputs else y), outputs
    x = conv(x, "_conv_head", "_bn1")
    return ops.linear(ops.mean(x), *folded.linear("_fc"))


class OnnxOps:
    """Collects an ONNX graph."""

    image = "image"

    def __init__(self):
        self.nodes, self.initializers = [], []

    def node(self, kind, inputs, **attributes):
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value):
        from onnx import numpy_helper

        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, x, conv):
        inputs = [x, self.constant(conv.weight), self.constant(conv.bias)]
        before, after = conv.pads
        shape = {"kernel_shape": conv.weight.shape[2:], "strides": [conv.stride] * 2, "group": conv.groups}
        x = self.node("Conv", inputs, pads=[before, before, after, after], **shape)
        if conv.limit is None:
            return x
        if np.isinf(conv.limit):
            return self.relu(x)
        return self.node("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(conv.limit))])

    def maxpool(self, x):
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def relu(self, x):
        return self.node("Relu", [x])

    def add(self, x, y):
        return self.node("Add", [x, y])

    def mean(self, x):
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])])

    def linear(self, x, weight, bias):
        return self.node("Gemm", [x, self.constant(weight), self.constant(bias)], transB=1)


def write_onnx(folded, path):
    import onnx
    from onnx import TensorProto, helper

    ops = OnnxOps()
    out = walk(folded, ops)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", "classes"])
    graph = helper.make_graph(ops.nodes, "network", [image], [logits], ops.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


class TorchOps:
    """Runs on torch tensors; traced once, so that weights become constants."""

    def __init__(self, image):
        self.image = image

    def conv(self, x, conv):
        import torch
        from torch.nn.functional import conv2d, pad

        weight, bias = torch.from_numpy(conv.weight), torch.from_numpy(conv.bias)
        before, after = conv.pads
        if before != after:
            x = pad(x, (before, after) * 2)
        x = conv2d(x, weight, bias, conv.stride, before if before == after else 0, groups=conv.groups)
        return x if conv.limit is None else torch.relu(x) if np.isinf(conv.limit) else torch.clamp(x, 0, conv.limit)

    def maxpool(self, x):
        import torch

        return torch.nn.functional.max_pool2d(x, 3, 2, 1)

    def relu(self, x):
        import torch

        return torch.relu(x)

    def add(self, x, y):
        return x + y

    def mean(self, x):
        return x.mean((2, 3))

    def linear(self, x, weight, bias):
        import torch

        return torch.nn.functional.linear(x, torch.from_numpy(weight), torch.from_numpy(bias))
