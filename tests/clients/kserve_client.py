"""KServe's own client, unmodified, against a running server: python kserve_client.py ADDRESS MODEL.

Photos are classified by the REST half of the V2 protocol, in JSON and in binary, and questions asked.
"""

import asyncio
import base64
import io
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferOutput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from PIL import Image


def photo(index):
    y, x = np.mgrid[0:240, 0:256] / (20.0 + index)
    waves = [127.5 + 127.5 * np.sin(x + phase) * np.cos(y - phase) for phase in (0.0, 1.0, 2.0)]
    out = io.BytesIO()
    Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()


async def health(client, url, model):
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    for name in (model, "faq"):
        assert await client.is_model_ready(url, name)
    assert not await client.is_model_ready(url, "nothing")


async def photos(client, url, model):
    files = [photo(index) for index in range(3)]
    text = InferInput("image", [3], "BYTES", data=[base64.b64encode(file).decode() for file in files])
    answer = await client.infer(url, InferRequest(model, [text]), model_name=model)
    assert answer.model_name == model, answer
    in_json = np.array(answer.outputs[0].data).reshape(answer.outputs[0].shape)
    assert in_json.shape[0] == 3 and np.allclose(in_json.sum(axis=1), 1.0, atol=1e-3)

    binary = InferInput("image", [3], "BYTES")
    binary.set_data_from_numpy(np.array(files, dtype=np.object_), binary_data=True)
    wanted = RequestedOutput("probabilities", parameters={"binary_data": True})
    request = InferRequest(model, [binary], request_outputs=[wanted])
    answer = await client.infer(url, request, model_name=model)
    output: InferOutput = answer.outputs[0]
    assert np.allclose(output.as_numpy(), in_json, atol=1e-6)


async def questions(client, url):
    asked = InferInput("question", [1], "BYTES", data=["how do I sort an array"])
    answer = await client.infer(url, InferRequest("faq", [asked]), model_name="faq")
    outputs = {output.name: output for output in answer.outputs}
    assert {"probabilities", "scope", "id", "match", "answer"} <= outputs.keys(), outputs.keys()
    assert len(outputs["match"].data) == 1


async def main():
    address, model = sys.argv[1:]
    url = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    await health(client, url, model)
    await photos(client, url, model)
    await questions(client, url)
    await client.close()
    print("kserve: ok")


if __name__ == "__main__":
    asyncio.run(main())
