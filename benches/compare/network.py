"""A ResNet from the safetensors file that convoy loads, BatchNorm folded in f64, as an ONNX model and as a torch module.

Owns the wiring of torchvision's ResNets and the test images; knows nothing of how engines are run or timed.
"""

import numpy as np

DEPTHS = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
SIDE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def pixels(batch):
    """uint8 [batch, SIDE, SIDE, 3]; benches/compare/convoy.rs makes the same bytes."""
    at = np.arange(batch * SIDE * SIDE * 3, dtype=np.uint64)
    return ((at * np.uint64(2654435761) >> np.uint64(13)) % np.uint64(256)).astype(np.uint8).reshape(batch, SIDE, SIDE, 3)


def normalised(batch):
    """float32 [batch, 3, SIDE, SIDE]."""
    image = (pixels(batch).astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


class Folded:
    """Weights and biases with BatchNorm folded, by checkpoint name."""

    def __init__(self, path):
        from safetensors.numpy import load_file

        self.tensors = load_file(path)

    def depth(self):
        def blocks(stage):
            return len({k.split(".")[1] for k in self.tensors if k.startswith(f"layer{stage}.")})

        kind = "bottleneck" if "layer1.0.conv3.weight" in self.tensors else "basic"
        found = (kind, [blocks(stage) for stage in (1, 2, 3, 4)])
        return next(name for name, depth in DEPTHS.items() if depth == found)

    def conv(self, name, norm):
        def get(key):
            return self.tensors[key].astype(np.float64)

        scale = get(f"{norm}.weight") / np.sqrt(get(f"{norm}.running_var") + 1e-5)
        weight = get(f"{name}.weight") * scale[:, None, None, None]
        bias = get(f"{norm}.bias") - get(f"{norm}.running_mean") * scale
        return weight.astype(np.float32), bias.astype(np.float32)

    def linear(self):
        return self.tensors["fc.weight"].astype(np.float32), self.tensors["fc.bias"].astype(np.float32)


def walk(folded, ops):
    """Calls conv(x, weight, bias, stride, relu), maxpool, add_relu, mean and linear of `ops` in forward order."""
    kind, depths = DEPTHS[folded.depth()]
    x = ops.conv(ops.image, *folded.conv("conv1", "bn1"), 2, True)
    x = ops.maxpool(x)
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            strides = [stride, 1] if kind == "basic" else [1, stride, 1]
            y = x
            for n, step in enumerate(strides, 1):
                weights = folded.conv(f"{name}.conv{n}", f"{name}.bn{n}")
                y = ops.conv(y, *weights, step, n < len(strides))
            if f"{name}.downsample.0.weight" in folded.tensors:
                x = ops.conv(x, *folded.conv(f"{name}.downsample.0", f"{name}.downsample.1"), stride, False)
            x = ops.add_relu(y, x)
    return ops.linear(ops.mean(x), *folded.linear())


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

    def conv(self, x, weight, bias, stride, relu):
        side = weight.shape[2]
        inputs = [x, self.constant(weight), self.constant(bias)]
        shape = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [side // 2] * 4}
        x = self.node("Conv", inputs, **shape)
        return self.node("Relu", [x]) if relu else x

    def maxpool(self, x):
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def add_relu(self, x, y):
        return self.node("Relu", [self.node("Add", [x, y])])

    def mean(self, x):
        return self.node("Flatten", [self.node("GlobalAveragePool", [x])])

    def linear(self, x, weight, bias):
        return self.node("Gemm", [x, self.constant(weight), self.constant(bias)], transB=1)


def write_onnx(weights, path):
    import onnx
    from onnx import TensorProto, helper

    ops = OnnxOps()
    out = walk(Folded(weights), ops)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", "classes"])
    graph = helper.make_graph(ops.nodes, "resnet", [image], [logits], ops.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


class TorchOps:
    """Runs on torch tensors; traced once, so that weights become constants."""

    def __init__(self, image):
        self.image = image

    def conv(self, x, weight, bias, stride, relu):
        import torch

        weight, bias = torch.from_numpy(weight), torch.from_numpy(bias)
        x = torch.nn.functional.conv2d(x, weight, bias, stride, weight.shape[2] // 2)
        return torch.relu(x) if relu else x

    def maxpool(self, x):
        import torch

        return torch.nn.functional.max_pool2d(x, 3, 2, 1)

    def add_relu(self, x, y):
        import torch

        return torch.relu(x + y)

    def mean(self, x):
        return x.mean((2, 3))

    def linear(self, x, weight, bias):
        import torch

        return torch.nn.functional.linear(x, torch.from_numpy(weight), torch.from_numpy(bias))
