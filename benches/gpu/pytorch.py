#!/usr/bin/env python3
"""PyTorch's speed and accuracy on the network that convoy's GPU engine runs: the yard-stick of benches/gpu.

    pytorch.py --weights FILE [--json FILE] [--dump FILE] [--modes eager,graph,fused,compile] [--batches 1,8,32,64,128]

A torchvision ResNet in half precision, channels last, with cuDNN trying its algorithms (cudnn.benchmark), in these modes:

    eager    as it is, batch normalisation apart
    graph    batch normalisation folded into the convolutions, replayed as a CUDA graph
    fused    folded, cuDNN's fused convolution + bias (+ residual) + ReLU, replayed as a CUDA graph
    compile  folded, torch.compile(mode="max-autotune") with frozen weights, one compilation a batch size; its own CUDA graphs

Input is random, on the device, and stays there; a time is the median of --repeats runs of about --seconds each, between
CUDA events, after a warm-up. compile comes after all else, the most telling batches first, until --compile-seconds are
used up. --modes '' measures no speed. Accuracy is of half precision against float32 without TF32, on the images of
photos(). --dump writes these and their float32 logits, which the engine is held against. --json is replaced as a whole after
each measurement. On --device cpu all of this runs, too, slowly and without graphs: to try the script out.
"""

import argparse
import contextlib
import copy
import datetime
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time

import numpy
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.utils.fusion import fuse_conv_bn_eval

BEGUN = time.monotonic()
MODES = {
    "eager": "eager, batch norm not folded",
    "graph": "CUDA graph, batch norm folded",
    "fused": "CUDA graph, batch norm folded, cuDNN's fused conv + bias (+ residual) + ReLU",
    "compile": "torch.compile max-autotune, batch norm folded, frozen weights",
}
COMPILE_FIRST = [64, 32, 1, 128, 8]
IMAGES = 32
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Late(BaseException):
    """The time that was given is over. Not an Exception, so that no compiler stage takes it for an error of its own."""


def ring(*_):
    raise Late


def alarm(seconds):
    """Late in so many seconds, and again every two, because an exception in a destructor is lost; 0 is never."""
    signal.setitimer(signal.ITIMER_REAL, seconds, 2 if seconds else 0)


def photos(seed):
    """Float32 [32, 224, 224, 3], normalised as ImageNet is. Of numpy's default_rng(seed), for each image: a colour gradient
    between two uniform colours in a uniform direction; then 12 Gaussian blobs, each with a uniform centre, a radius of
    8 to 72 pixels and a uniform colour that replaces what is below by the blob's height; then normal noise of 0.03; clipped to
    0..1."""
    rng = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:224, 0:224].astype(numpy.float32)
    images = numpy.empty((IMAGES, 224, 224, 3), numpy.float32)
    for image in images:
        angle = rng.uniform(0, 2 * math.pi)
        along = ((x - 112) * math.cos(angle) + (y - 112) * math.sin(angle)) / 317 + 0.5
        image[:] = rng.uniform(size=3) * along[..., None] + rng.uniform(size=3) * (1 - along[..., None])
        for _ in range(12):
            (cx, cy), radius = rng.uniform(0, 224, 2), rng.uniform(8, 72)
            down, across = (numpy.exp(-((p - c) ** 2) / (2 * radius * radius)) for p, c in ((y[:, 0], cy), (x[0], cx)))
            height = numpy.outer(down, across)[..., None]
            image[:] = image * (1 - height) + rng.uniform(size=3) * height
        image += rng.normal(0, 0.03, image.shape)
    return (images.clip(0, 1) - numpy.array(MEAN, numpy.float32)) / numpy.array(STD, numpy.float32)


def load(path, arch):
    weights = load_file(path)
    model = torchvision.models.get_model(arch, weights=None, num_classes=weights["fc.weight"].shape[0])
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        sys.exit(f"{path} is no {arch}: {str(error).splitlines()[1].strip()}")
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"{path} is no {arch}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return model.eval().requires_grad_(False)


def fold(model):
    """A copy whose convolutions have taken in the batch normalisation after them, in float32."""
    model = copy.deepcopy(model)

    def take_in(owner, conv, norm):
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())

    take_in(model, "conv1", "bn1")
    for block in blocks(model):
        for i in (1, 2, 3):
            if hasattr(block, f"conv{i}"):
                take_in(block, f"conv{i}", f"bn{i}")
        if block.downsample is not None:
            take_in(block.downsample, "0", "1")
    return model.requires_grad_(False)


def blocks(model):
    return [block for layer in (model.layer1, model.layer2, model.layer3, model.layer4) for block in layer]


def convolve(conv, x, residual=None):
    """ReLU(convolution + bias + residual), one call of cuDNN where the device has it."""
    shape = conv.stride, conv.padding, conv.dilation, conv.groups
    if not x.is_cuda:
        y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, *shape)
        return torch.relu(y if residual is None else y + residual)
    if residual is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *shape)
    return torch.cudnn_convolution_add_relu(x, conv.weight, residual, 1.0, conv.bias, *shape)


def fused(model):
    """The folded model's forward pass in cuDNN's fused calls."""

    def forward(x):
        x = model.maxpool(convolve(model.conv1, x))
        for block in blocks(model):
            residual = x if block.downsample is None else block.downsample(x)
            convs = [getattr(block, f"conv{i}") for i in (1, 2, 3) if hasattr(block, f"conv{i}")]
            for conv in convs[:-1]:
                x = convolve(conv, x)
            x = convolve(convs[-1], x, residual)
        return model.fc(torch.flatten(model.avgpool(x), 1))

    return forward


def graphed(forward, x):
    """Something to call that replays one pass over x; x and the output must live as long as it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = forward(x)

    def replay():
        graph.replay()
        return out

    return replay


def card(*fields):
    """What nvidia-smi says of the first GPU that this process sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "-i", seen]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return dict(zip(fields, (value.strip() for value in out.splitlines()[0].split(",")), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}


def processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


class Report:
    def __init__(self, path, cuda):
        self.path = path
        about = card("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit") if cuda else {}
        self.all = {
            "gpu": torch.cuda.get_device_name() if cuda else f"none: {processor()}",
            "versions": {
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version() if cuda else None,
                "triton": triton_version(),
                "driver": about.get("driver_version"),
                "python": platform.python_version(),
            },
            "card": about,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "arguments": sys.argv[1:],
            "accuracy": [],
            "speed": [],
            "failed": [],
        }
        self.save()

    def add(self, what, entry):
        self.all[what].append(entry)
        self.save()
        print(f"{time.monotonic() - BEGUN:6.1f} s  {what}: " + ", ".join(f"{k} {v}" for k, v in entry.items()), flush=True)

    def save(self):
        self.all["seconds"] = round(time.monotonic() - BEGUN, 1)
        if self.path:
            with open(self.path + ".partial", "w", encoding="utf-8") as out:
                json.dump(self.all, out, indent=1)
                out.write("\n")
            os.replace(self.path + ".partial", self.path)


def triton_version():
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def compare(report, mode, logits, reference):
    """Relative L2 errors: of the logits, and of what tells one image's from another's (each less its mean over the images),
    which a large common part cannot hide."""
    logits, finite = logits.double().cpu(), bool(logits.isfinite().all())
    reference = reference.double().cpu()
    deviation = reference - reference.mean(0)
    error, apart = logits - reference, (logits - logits.mean(0)) - deviation
    report.add("accuracy", {
        "mode": mode,
        "images": len(reference),
        "finite": finite,
        "relative_error": float(error.norm() / reference.norm()) if finite else None,
        "relative_error_between_images": float(apart.norm() / deviation.norm()) if finite else None,
        "top1_agreement": float((logits.argmax(1) == reference.argmax(1)).double().mean()) if finite else None,
    })


def measure(call, cuda, seconds, repeats):
    """Median seconds of a call over the runs, each run's, calls in a run, and the card's state after so many more calls."""

    def run(count):
        if not cuda:
            begun = time.perf_counter()
            for _ in range(count):
                call()
            return time.perf_counter() - begun
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    run(1)
    each = run(2) / 2
    warm = max(1, math.ceil(min(seconds, 0.5) / each))
    each = run(warm) / warm
    count = max(1, math.ceil(seconds / each))
    runs = [run(count) / count for _ in range(repeats)]
    state = {}
    if cuda:
        for _ in range(count):
            call()
        state = card("clocks.sm", "power.draw", "temperature.gpu")
        torch.cuda.synchronize()
    return statistics.median(runs), runs, count, state


class Bench:
    def __init__(self, args):
        self.args, self.cuda = args, args.device == "cuda"
        self.report = Report(args.json, self.cuda)
        self.model = load(args.weights, args.arch)
        self.folded = self.half(fold(self.model))
        self.forward = {"eager": self.half(self.model), "graph": self.folded, "fused": fused(self.folded)}
        self.images = torch.from_numpy(photos(args.seed))
        self.reference = None

    def half(self, model):
        return copy.deepcopy(model).to(self.args.device, torch.float16, memory_format=torch.channels_last)

    def input(self, images):
        """NHWC images as the model takes them: the same bytes in half precision, seen as NCHW."""
        return images.to(self.args.device, torch.float16).permute(0, 3, 1, 2)

    def refer(self):
        """Float32 logits of the images and the largest number on the way there, which half precision must hold."""
        model = copy.deepcopy(self.model).to(self.args.device)
        largest = []
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _module, _input, out: largest.append(out.abs().max()))
        self.reference = model(self.images.to(self.args.device).permute(0, 3, 1, 2)).float()
        self.report.all["largest_activation"] = float(torch.stack(largest).max())
        self.report.save()
        print(f"largest activation {self.report.all['largest_activation']:.1f} of float16's 65504", flush=True)
        if self.args.dump:
            tensors = {"images": self.images.contiguous(), "logits": self.reference.cpu().contiguous()}
            with safe_open(self.args.weights, "pt") as weights:
                about = weights.metadata() or {}
            about |= {"arch": self.args.arch, "seed": str(self.args.seed), "torch": torch.__version__}
            save_file(tensors, self.args.dump + ".partial", metadata=about)
            os.replace(self.args.dump + ".partial", self.args.dump)
            print(f"{self.args.dump}: images {list(self.images.shape)}, logits {list(self.reference.shape)}", flush=True)

    def accuracy(self):
        for mode in self.args.modes:
            with self.guard(mode, None):
                if mode in self.forward:
                    compare(self.report, mode, self.forward[mode](self.input(self.images)), self.reference)

    def batch(self, size):
        """Uniform noise, normalised as photos are."""
        noise = torch.rand((size, 224, 224, 3), generator=torch.Generator().manual_seed(self.args.seed))
        return self.input((noise - torch.tensor(MEAN)) / torch.tensor(STD))

    def time(self, mode, size, call, **more):
        median, runs, count, state = measure(call, self.cuda, self.args.seconds, self.args.repeats)
        self.report.add("speed", {
            "mode": mode,
            "label": MODES[mode],
            "batch": size,
            "images_per_s": round(size / median, 2),
            "ms": round(median * 1e3, 4),
            "ms_runs": [round(run * 1e3, 4) for run in runs],
            "calls_a_run": count,
            **more,
            **({"card": state} if state else {}),
        })

    @contextlib.contextmanager
    def guard(self, mode, size):
        try:
            yield
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            self.report.add("failed", {"mode": mode, "batch": size, "error": text})
            if self.cuda:
                torch.cuda.empty_cache()

    def plain(self, mode, size):
        x = self.batch(size)
        forward = self.forward[mode]
        forward(x)
        call = graphed(forward, x) if self.cuda and mode != "eager" else lambda: forward(x)
        self.time(mode, size, call)

    def compile(self, size):
        begun = time.monotonic()
        x = self.batch(size)
        torch.compiler.reset()
        compiled = torch.compile(self.folded, mode="max-autotune", dynamic=False)
        # The compiler's CUDA graphs record in the second call, and replay from the third.
        for _ in range(4):
            torch.compiler.cudagraph_mark_step_begin()
            compiled(x)
        if self.cuda:
            torch.cuda.synchronize()
        took = round(time.monotonic() - begun, 1)
        print(f"compiled for batch {size} in {took} s", flush=True)

        def call():
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(x)

        self.time("compile", size, call, compile_s=took)
        if IMAGES % size == 0 and not any(entry["mode"] == "compile" for entry in self.report.all["accuracy"]):
            parts = []
            for part in self.input(self.images).split(size):
                torch.compiler.cudagraph_mark_step_begin()
                parts.append(compiled(part).clone())
            compare(self.report, "compile", torch.cat(parts), self.reference)

    def left(self):
        return self.args.limit - (time.monotonic() - BEGUN)

    def run(self):
        modes, batches = self.args.modes, self.args.batches
        alarm(max(0.1, self.left()))
        with torch.inference_mode():
            self.refer()
            self.accuracy()
            for mode in ("graph", "fused", "eager"):
                for size in batches if mode in modes else []:
                    with self.guard(mode, size):
                        self.plain(mode, size)
        if "compile" in modes:
            self.compiles([b for b in COMPILE_FIRST if b in batches] + [b for b in batches if b not in COMPILE_FIRST])

    def compiles(self, sizes):
        torch._inductor.config.freezing = True
        torch._inductor.config.autotune_num_choices_displayed = 0
        until = time.monotonic() + min(self.args.compile_seconds, self.left())
        for i, size in enumerate(sizes):
            try:
                alarm(max(0.1, until - time.monotonic()))
                with torch.no_grad(), self.guard("compile", size):
                    self.compile(size)
            except Late:
                alarm(0)
                for size in sizes[i:]:
                    self.report.add("failed", {"mode": "compile", "batch": size, "error": "no time left to compile"})
                return
        alarm(0)


def numbers(text):
    return [int(part) for part in text.split(",") if part]


def names(text):
    chosen = [part for part in text.split(",") if part]
    if unknown := set(chosen) - set(MODES):
        raise argparse.ArgumentTypeError(f"no such mode: {', '.join(sorted(unknown))}")
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="safetensors with torchvision's names")
    parser.add_argument("--arch", default="resnet152", help="torchvision's name of the ResNet")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batches", type=numbers, default="1,8,32,64,128")
    parser.add_argument("--modes", type=names, default="eager,graph,fused,compile")
    parser.add_argument("--seconds", type=float, default=0.6, help="of one run")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the median counts")
    parser.add_argument("--seed", type=int, default=1, help="of the images")
    parser.add_argument("--compile-seconds", type=float, default=240, help="for all that compile needs")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything")
    parser.add_argument("--json", help="where results go, replaced after each measurement")
    parser.add_argument("--dump", help="where the images and their float32 logits go, as safetensors")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --device cpu tries the script out")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    signal.signal(signal.SIGALRM, ring)
    bench = Bench(args)
    try:
        bench.run()
    except Late:
        alarm(0)
        bench.report.add("failed", {"mode": "all that follows", "batch": None, "error": "no time left"})
    bench.report.save()
    print(f"done after {time.monotonic() - BEGUN:.1f} s", flush=True)
    failed = [entry for entry in bench.report.all["failed"] if "no time left" not in entry["error"]]
    # Not sys.exit: compile workers that still have work would be waited for.
    sys.stdout.flush()
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    main()
