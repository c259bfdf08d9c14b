"""Writes the .pth fixtures of weights_convert.rs and their expected contents: python3 make.py (needs torch and numpy).

Every fixture is a few hundred bytes to a few kilobytes, written by PyTorch's own torch.save in its zip or its legacy
layout. expected.txt says what each holds, one tensor a line: file, name, type, shape, contiguous bytes in hex. The
pickles in evil/ are written by hand, opcode by opcode; no line of this script runs what they contain.
"""

import collections
import io
import os
import struct
import zipfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}


def numbers(*shape, dtype=torch.float32):
    count = 1
    for size in shape:
        count *= size
    return ((torch.arange(count) * 37 % 101 - 50) / 8).reshape(shape).to(dtype)


def every_type():
    return collections.OrderedDict((name.lower(), numbers(2, 3, dtype=dtype)) for dtype, name in DTYPES.items())


def views():
    base = numbers(4, 6)
    return {
        "base": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "block": base[1:3, 2:5],
        "every_other": base[::2, ::3],
        "row": base[3],
        "element": base[2, 3],
        "empty": base[:0],
        "kernel": numbers(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(7, dtype=torch.int64),
    }


def module_state():
    """A state_dict with the attribute _metadata, which is pickled along."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(numbers(*value.shape, dtype=value.dtype) if value.shape else torch.tensor(5))
    return module.state_dict()


def parallel():
    return {"module." + name: value for name, value in module_state().items()}


def cases():
    state = module_state()
    parameters = {name: torch.nn.Parameter(value) for name, value in state.items() if value.is_floating_point()}
    yield "types", every_type(), every_type()
    yield "views", views(), views()
    yield "module", state, state
    yield "parallel", parallel(), state
    momentum = {0: {"momentum_buffer": numbers(5, dtype=torch.float64)}, 1: {"step": torch.tensor(3)}}
    optimizer = {"state": momentum, "param_groups": [{"lr": 0.1, "nesterov": False, "params": [0, 1]}]}
    trained = {"epoch": 90, "optimizer": optimizer, "state_dict": parallel(), "best": torch.tensor(0.5)}
    yield "trained", trained, state
    yield "reference", {"model": state, "epoch": 3}, state
    yield "parameters", parameters, parameters


def line(file, name, tensor):
    tensor = tensor.detach().contiguous()
    data = tensor.view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
    shape = ",".join(map(str, tensor.shape))
    return f"{file} {name} {DTYPES[tensor.dtype]} [{shape}] {bytes(data.flatten().tolist()).hex()}\n"


def write(path, content):
    with open(os.path.join(HERE, path), "wb") as out:
        out.write(content)


def save(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def main():
    torch.manual_seed(0)
    expected = ""
    for name, value, tensors in cases():
        write(f"{name}-zip.pth", save(value))
        write(f"{name}-legacy.pth", save(value, _use_new_zipfile_serialization=False))
        expected += "".join(line(name, key, tensor) for key, tensor in tensors.items())
    write("protocol4-zip.pth", save(every_type(), pickle_protocol=4))
    expected += "".join(line("protocol4", key, tensor) for key, tensor in every_type().items())
    write("expected.txt", expected.encode())
    evil()


def archive(pickle, storages=(), compression=zipfile.ZIP_STORED, order=b"little"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as members:
        for name, content in [("data.pkl", pickle), ("byteorder", order), *storages]:
            members.writestr(zipfile.ZipInfo("evil/" + name), content, compression)
    return out.getvalue()


def text(value):
    value = value.encode()
    return b"X" + struct.pack("<I", len(value)) + value


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def shape(*sizes):
    return b"(" + b"".join(map(number, sizes)) + b"t"


def one_tensor(sizes, strides, offset=0, count=4, key="0", kind="FloatStorage", tail=b"\x89)t"):
    """{"w": _rebuild_tensor_v2(("storage", kind, key, "cpu", count), offset, sizes, strides, False, ())}"""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + strides + tail
    return b"\x80\x02}" + text("w") + rebuild + b"Rs."


def evil():
    os.makedirs(os.path.join(HERE, "evil"), exist_ok=True)
    four = [("data/0", struct.pack("<4f", 1, 2, 3, 4))]

    def case(name, pickle, storages=four, **options):
        write(f"evil/{name}.pth", archive(pickle, storages, **options))

    case("os-system", b"\x80\x02cos\nsystem\n" + text("false") + b"\x85R.")
    case("stack-global", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x05false\x85R.")
    case("builtins-eval", b"\x80\x02cbuiltins\neval\n" + text("1") + b"\x85R.")
    case("getattr", b"\x80\x02cbuiltins\ngetattr\n(ctorch\nSize\n" + text("__class__") + b"tR.")
    case("torch-load", b"\x80\x02ctorch.storage\n_load_from_bytes\nB\0\0\0\0\x85R.")
    case("newobj", b"\x80\x02ctorch\nSize\n)\x81.")
    case("inst", b"(S'false'\nios\nsystem\n.")
    case("extension", b"\x80\x02\x82\x01.")
    case("build", b"\x80\x02ctorch\nSize\n)R}b.")
    case("reduce-text", b"\x80\x02" + text("x") + b")R.")
    case("reduce-storage", b"\x80\x02ctorch\nFloatStorage\n)R.")
    case("memo-missing", b"\x80\x02j\xff\xff\xff\xff.")
    case("memo-huge", b"\x80\x02Nr\xff\xff\xff\xff.")
    case("text-huge", b"\x80\x02X\xff\xff\xff\xffabc.")
    case("text-endless", b"\x80\x04\x8d" + b"\xff" * 8 + b".")
    case("underflow", b"\x80\x02R.")
    case("no-mark", b"\x80\x02t.")
    case("below-mark", b"\x80\x02N(0.")
    case("odd-dict", b"\x80\x02(Nd.")
    case("no-stop", b"\x80\x02N")
    case("no-tensor", b"\x80\x02}" + text("w") + b"K\x01s.")
    case("no-dict", b"\x80\x02K\x01.")
    case("number-key", b"\x80\x02}K\x01K\x02s.")
    case("twice", one_tensor(shape(4), shape(1))[:-1] + b"(" + one_tensor(shape(4), shape(1))[3:-2] + b"u.")
    case("self-state", b"\x80\x02}q\x01" + text("state_dict") + b"h\x01s.")
    case("beyond", one_tensor(shape(4), shape(1), offset=1))
    case("far-stride", one_tensor(shape(2), shape(4)))
    case("wrapping-stride", one_tensor(shape(3), shape(2**62)))
    case("wrapping-shape", one_tensor(shape(2**62, 8), shape(0, 0)))
    case("expanded", one_tensor(shape(1000, 1000), shape(0, 0)))
    case("negative", one_tensor(shape(-4), shape(1)))
    case("negative-offset", one_tensor(shape(4), shape(1), offset=-1))
    case("negative-storage", one_tensor(shape(4), shape(1), count=-4))
    case("huge-storage", one_tensor(shape(4), shape(1), count=2**61))
    case("long-storage", one_tensor(shape(4), shape(1), count=5))
    case("no-strides", one_tensor(shape(4), shape()))
    case("many-dimensions", one_tensor(shape(*[1] * 9), shape(*[1] * 9)))
    case("no-storage", one_tensor(shape(4), shape(1), key="1"))
    case("path", one_tensor(shape(4), shape(1), key="../../../etc/passwd"))
    case("quantised", one_tensor(shape(4), shape(1), kind="QInt8Storage"))
    case("compressed", one_tensor(shape(4), shape(1)), compression=zipfile.ZIP_DEFLATED)
    good = archive(one_tensor(shape(4), shape(1)), four)
    flipped = bytearray(good)
    flipped[good.index(struct.pack("<4f", 1, 2, 3, 4))] ^= 1
    write("evil/bit-flip.pth", bytes(flipped))
    write("evil/cut.pth", good[: len(good) // 2])
    write("evil/no-directory.pth", b"PK\x03\x04" + bytes(100))
    case("big-endian", one_tensor(shape(4), shape(1)), order=b"big")
    legacy = save({"w": numbers(4)}, _use_new_zipfile_serialization=False)
    write("evil/legacy-cut.pth", legacy[:-3])
    write("evil/legacy-protocol.pth", legacy.replace(b"\x4d\xe9\x03.", b"\x4d\xea\x03.", 1))
    write("evil/legacy-big-endian.pth", legacy.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    write("evil/legacy-magic.pth", legacy.replace(b"\x6c\xfc\x9c", b"\x6c\xfc\x9d", 1))
    write("evil/text.pth", b"<html>404</html>")
    write("evil/empty.pth", b"")


main()
