"""Drives the V2 protocol with NVIDIA's unmodified tritonclient; run by tests/v2.rs.

v2.py HOST:PORT QUESTIONS.tsv : exits 0 when every call does what the client's documentation says, else says which did not.
"""

import base64
import csv
import io
import sys

import numpy as np
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

MODEL = "resnet18"


def png(index):
    """A small picture that differs with `index`."""
    y, x = np.mgrid[0:240, 0:320]
    pixels = np.stack([(x * (index + 1)) % 256, (y * 3 + index * 40) % 256, (x * y) % 256], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def images(files, binary=True):
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_), binary_data=binary)
    return tensor


def served(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert not client.is_model_ready("nothing")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["probabilities"], metadata
    assert client.get_model_config(MODEL)["max_batch_size"] >= 1000
    assert {model["name"] for model in client.get_model_repository_index()} == {MODEL, "faq"}


def photos(client):
    files = [png(1), png(2), png(3)]
    plain = client.infer(MODEL, [images(files)], request_id="42")
    assert plain.get_response()["id"] == "42"
    rows = plain.as_numpy("probabilities")
    assert rows.shape == (3, 1000) and rows.dtype == np.float32, (rows.shape, rows.dtype)
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-3), rows.sum(axis=1)

    in_json = [base64.b64encode(file).decode() for file in files]
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    again = client.infer(MODEL, [images(in_json, binary=False)], outputs=outputs).as_numpy("probabilities")
    assert np.allclose(again, rows, atol=1e-4)

    for sent, received in [("gzip", "gzip"), ("deflate", "deflate"), ("gzip", None), (None, "deflate")]:
        packed = client.infer(
            MODEL,
            [images(files)],
            request_compression_algorithm=sent,
            response_compression_algorithm=received,
        )
        assert np.allclose(packed.as_numpy("probabilities"), rows, atol=1e-4), (sent, received)

    for binary in (True, False):
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=5)]
        best = client.infer(MODEL, [images(files)], outputs=outputs).as_numpy("probabilities")
        assert best.shape == (3, 5), best.shape
        for row, classes in zip(rows, best):
            text = [item.decode() if isinstance(item, bytes) else item for item in classes]
            order = [int(item.split(":")[1]) for item in text]
            assert order[0] == int(row.argmax()) and sorted(row[order], reverse=True) == list(row[order]), text

    pixels = np.full((2, 224, 224, 3), 128, dtype=np.uint8)
    for binary in (True, False):
        tensor = triton.InferInput("input", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
        rows = client.infer(MODEL, [tensor]).as_numpy("probabilities")
        assert rows.shape == (2, 1000) and np.allclose(rows[0], rows[1], atol=1e-5)

    timed = client.infer(MODEL, [images(files[:1])], priority=1, timeout=30_000_000, parameters={"mine": "x"})
    assert timed.as_numpy("probabilities").shape == (1, 1000)
    stats = client.get_inference_statistics(MODEL, "1")["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] > 5 and stats["inference_stats"]["fail"]["count"] == 0, stats


def questions(client, rows):
    asked = rows[::10]
    tensor = triton.InferInput("question", [len(asked), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[row["Text"]] for row in asked], dtype=np.object_))
    answer = client.infer("faq", [tensor])
    assert answer.as_numpy("id").ravel().tolist() == [int(row["Id"]) for row in asked]
    assert answer.as_numpy("match").ravel()[0].decode() == asked[0]["Text"]
    assert answer.as_numpy("probabilities").shape == (len(asked), len(rows))


def refusals(client):
    for call in (
        lambda: client.infer("nothing", [images([png(1)])]),
        lambda: client.infer(MODEL, [images([b"not a picture"])]),
        lambda: client.infer(MODEL, [images([png(1)])], timeout=1),
        lambda: client.get_model_metadata("nothing"),
        lambda: client.unload_model("faq"),
    ):
        try:
            call()
        except InferenceServerException as error:
            assert len(error.message()) > 10, error
        else:
            raise AssertionError("no error")


def main():
    address, path = sys.argv[1:]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    client = triton.InferenceServerClient(address)
    served(client)
    photos(client)
    questions(client, rows)
    refusals(client)
    client.close()
    print("tritonclient: ok")


if __name__ == "__main__":
    main()
