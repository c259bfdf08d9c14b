"""One engine in a process of its own: `worker.py ENGINE WEIGHTS ONNX BATCH THREADS`. Speaks the protocol of compare.py."""

import json
import sys
import time

import network


def onnxruntime(folded, model, batch, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = network.normalised(folded, batch)
    return ort.__version__, lambda: session.run(None, {"image": image})[0]


def openvino(folded, model, batch, threads):
    import openvino as ov

    core = ov.Core()
    model = core.read_model(model)
    model.reshape([batch, 3, network.SIDE, network.SIDE])
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(model, "CPU", config)
    request, image = compiled.create_infer_request(), network.normalised(folded, batch)

    def run():
        request.infer({0: image})
        return request.get_output_tensor(0).data.copy()

    return ov.__version__.split("-")[0], run


def torch(folded, _model, batch, threads):
    import torch

    torch.set_num_threads(threads)
    image = torch.from_numpy(network.normalised(folded, batch)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        traced = torch.jit.trace(lambda x: network.walk(folded, network.TorchOps(x)), image, check_trace=False)

    def run():
        with torch.inference_mode():
            return traced(image).numpy()

    return torch.__version__, run


def main():
    name, weights, model, batch, threads = sys.argv[1:]
    engine = {"onnxruntime": onnxruntime, "openvino": openvino, "torch": torch}[name]
    version, run = engine(network.Folded(weights), model, int(batch), int(threads))
    logits = run()
    run()
    print(json.dumps({"version": version, "logits": logits.reshape(-1).tolist()}), flush=True)
    for line in sys.stdin:
        passes = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(passes):
            run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
