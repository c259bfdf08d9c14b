"""Drives the V2 protocol over gRPC with NVIDIA's unmodified tritonclient; run by tests/grpc.rs.

v2_grpc.py HOST:PORT QUESTIONS.tsv : exits 0 when every call does what the client's documentation says, else says which did
not.
"""

import csv
import queue
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from v2 import MODEL, png


def images(files):
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
    return tensor


def served(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.is_model_ready("faq", "1")
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata(MODEL)
    assert [tensor.name for tensor in metadata.outputs] == ["probabilities"], metadata
    assert list(metadata.inputs[1].shape) == [-1, 224, 224, 3], metadata
    config = client.get_model_config(MODEL, as_json=True)["config"]
    assert config["max_batch_size"] >= 1000 and "dynamic_batching" in config, config
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING", "TYPE_UINT8"], config
    index = client.get_model_repository_index()
    assert {(model.name, model.state) for model in index.models} == {(MODEL, "READY"), ("faq", "READY")}, index


def health(address):
    """In bytes, as every health client sends and reads them: a service's name in field 1, and 1 for serving."""
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        name = b"inference.GRPCInferenceService"
        assert check(b"", timeout=10) == check(bytes([10, len(name)]) + name, timeout=10) == b"\x08\x01"


def photos(client):
    files = [png(1), png(2), png(3)]
    plain = client.infer(MODEL, [images(files)], request_id="42")
    assert plain.get_response().id == "42"
    rows = plain.as_numpy("probabilities")
    assert rows.shape == (3, 1000) and rows.dtype == np.float32, (rows.shape, rows.dtype)
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-3), rows.sum(axis=1)

    outputs = [triton.InferRequestedOutput("probabilities", class_count=5)]
    best = client.infer(MODEL, [images(files)], outputs=outputs).as_numpy("probabilities")
    assert best.shape == (3, 5), best.shape
    for row, classes in zip(rows, best):
        order = [int(item.decode().split(":")[1]) for item in classes]
        assert order[0] == int(row.argmax()) and sorted(row[order], reverse=True) == list(row[order]), classes

    pixels = np.full((2, 224, 224, 3), 128, dtype=np.uint8)
    tensor = triton.InferInput("input", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    again = client.infer(MODEL, [tensor]).as_numpy("probabilities")
    assert again.shape == (2, 1000) and np.allclose(again[0], again[1], atol=1e-5)

    timed = client.infer(
        MODEL, [images(files[:1])], priority=1, timeout=30_000_000, client_timeout=30, parameters={"mine": "x"}
    )
    assert timed.as_numpy("probabilities").shape == (1, 1000)
    answers = queue.Queue()
    client.async_infer(MODEL, [images(files)], lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=60)
    assert error is None and np.allclose(result.as_numpy("probabilities"), rows, atol=1e-4), error
    stats = client.get_inference_statistics(MODEL, "1").model_stats[0]
    assert stats.inference_stats.success.count >= 5 and stats.inference_stats.fail.count == 0, stats
    assert [model.name for model in client.get_inference_statistics().model_stats] == [MODEL, "faq"]


def questions(client, rows):
    asked = rows[::10]
    tensor = triton.InferInput("question", [len(asked), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[row["Text"]] for row in asked], dtype=np.object_))
    answer = client.infer("faq", [tensor])
    assert answer.as_numpy("id").ravel().tolist() == [int(row["Id"]) for row in asked]
    assert answer.as_numpy("match").ravel()[0].decode() == asked[0]["Text"]
    assert answer.as_numpy("probabilities").shape == (len(asked), len(rows))


def stream(client, rows):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for at, row in enumerate(rows[:20]):
        tensor = triton.InferInput("question", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([row["Text"]], dtype=np.object_))
        client.async_stream_infer("nothing" if at == 7 else "faq", [tensor], request_id=str(at))
    for at, row in enumerate(rows[:20]):
        result, error = answers.get(timeout=60)
        if at == 7:
            assert "nothing" in error.message(), error
        else:
            assert error is None and result.get_response().id == str(at), (at, error)
            assert result.as_numpy("id").ravel().tolist() == [int(row["Id"])], at
    client.stop_stream()


def refusals(client):
    for code, call in (
        ("NOT_FOUND", lambda: client.infer("nothing", [images([png(1)])])),
        ("INVALID_ARGUMENT", lambda: client.infer(MODEL, [images([b"not a picture"])])),
        ("DEADLINE_EXCEEDED", lambda: client.infer(MODEL, [images([png(1)])], timeout=1)),
        ("NOT_FOUND", lambda: client.get_model_metadata("nothing")),
        ("PERMISSION_DENIED", lambda: client.unload_model("faq")),
        ("PERMISSION_DENIED", lambda: client.load_model("faq")),
    ):
        try:
            call()
        except InferenceServerException as error:
            assert code in error.status() and len(error.message()) > 10, (code, error)
        else:
            raise AssertionError(f"no {code}")


def main():
    address, path = sys.argv[1:]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    client = triton.InferenceServerClient(address)
    served(client)
    health(address)
    photos(client)
    questions(client, rows)
    stream(client, rows)
    refusals(client)
    client.close()
    print("tritonclient: ok")


if __name__ == "__main__":
    main()
