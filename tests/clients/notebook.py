"""Clients written the way the replaced services' notebooks write theirs; run by tests/clients.rs.

notebook.py URL QUESTIONS.tsv : exits 0 when every answer has the exact shape of the contract, else says which did not.
"""

import asyncio
import base64
import csv
import io
import json
import sys

import aiohttp
import requests
from PIL import Image

CONCURRENCY = 4


def photo(index):
    """A small picture that differs with `index`."""
    image = Image.new("RGB", (320, 240))
    image.putdata([((x * (index + 1)) % 256, (y * 3 + index * 40) % 256, (x * y) % 256) for y in range(240) for x in range(320)])
    return image


def png(image, size=(224, 224)):
    buffer = io.BytesIO()
    image.resize(size).save(buffer, format="PNG")
    return buffer.getvalue()


def quoted(data):
    """The notebooks' helper: the base64 inside an extra pair of double quotes."""
    return '"' + base64.b64encode(data).decode("ascii") + '"'


def check_computed(text):
    words = text.split(" ")
    assert words[:2] == ["Computed", "in"] and words[3:] == ["ms"] and float(words[2]) >= 0, text


def check_labels(labels):
    assert isinstance(labels, list) and len(labels) == 3, labels
    for label in labels:
        assert isinstance(label, list) and len(label) == 2, label
        assert isinstance(label[0], str) and label[0][0] == "n" and " " in label[0], label
        assert isinstance(label[1], float) and 0 <= label[1] <= 1, label
    assert labels[0][1] >= labels[1][1] >= labels[2][1], labels


def check_images(answer, keys):
    assert list(answer) == ["result"] and len(answer["result"]) == 2, answer
    images, computed = answer["result"]
    assert list(images) == keys, (list(images), keys)
    for labels in images.values():
        check_labels(labels)
    check_computed(computed)
    return images


def check_question(answer, ids):
    assert list(answer) == ["result"] and len(answer["result"]) == 2, answer
    ranked, computed = answer["result"]
    assert len(ranked) == len(ids) and {entry[0] for entry in ranked} == ids, len(ranked)
    for identity, answer_id, probability in ranked:
        assert type(identity) is int and type(answer_id) is int and type(probability) is float, ranked[0]
        assert 0 <= probability <= 1
    assert all(a[2] >= b[2] for a, b in zip(ranked, ranked[1:])), "sorted by falling probability"
    assert abs(sum(entry[2] for entry in ranked) - 1) < 1e-3
    check_computed(computed)
    return ranked[0]


def with_requests(url, questions):
    headers = {"content-type": "application/json"}
    healthy = requests.get(url + "/")
    assert (healthy.status_code, healthy.text) == (200, "Healthy"), healthy.text
    assert requests.get(url + "/version").status_code == 200

    refused = requests.post(url + "/score", data="x", headers={"content-type": "text/plain"})
    assert (refused.status_code, refused.text) == (415, "{}"), refused.text
    assert refused.headers["content-type"] == "application/json"
    refused = requests.post(url + "/score", data=b"\xff\xd8" * 200_000)
    assert (refused.status_code, refused.json()) == (415, {})

    data = png(photo(0))
    plain = base64.b64encode(data).decode()
    forms = [
        quoted(data),
        str(base64.b64encode(data)),
        base64.encodebytes(data).decode(),
        str(base64.encodebytes(data)),
        base64.urlsafe_b64encode(data).decode(),
        "data:image/png;base64," + plain,
    ]
    answers = []
    for form in forms:
        body = json.dumps({"input": {"image": form}})
        response = requests.post(url + "/score", data=body, headers=headers)
        assert response.status_code == 200, response.text
        answers.append(check_images(response.json(), ["image"])["image"])
    assert all(answer == answers[0] for answer in answers), "every dress, the same picture"

    several = {"z": quoted(png(photo(1))), "a": quoted(png(photo(2), (500, 300))), "m n": quoted(png(photo(3)))}
    charset = {"content-type": "application/json; charset=utf-8"}
    response = requests.post(url + "/score", data=json.dumps({"input": several}), headers=charset)
    check_images(response.json(), ["z", "a", "m n"])

    broken = dict(several, a=quoted(b"not a picture"))
    images = requests.post(url + "/score", json={"input": broken}).json()["result"][0]
    check_labels(images["z"])
    check_labels(images["m n"])
    assert images["a"]["error"]["code"], images["a"]

    ids = {int(row["Id"]) for row in questions}
    for row in questions[::10]:
        response = requests.post(url + "/score", data=json.dumps({"input": row["Text"]}), headers=headers)
        assert response.status_code == 200, response.text
        best = check_question(response.json(), ids)
        assert best[:2] == [int(row["Id"]), int(row["AnswerId"])], (best, row)
    print("requests: ok")


async def with_aiohttp(url, questions):
    """The load-test notebook: a fixed number of calls in the air over kept-alive connections."""
    gate = asyncio.Semaphore(CONCURRENCY)
    ids = {int(row["Id"]) for row in questions}

    async def score(session, payload):
        async with gate:
            async with session.post(url + "/score", data=json.dumps(payload), headers={"content-type": "application/json"}) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:
        photos = await asyncio.gather(*(score(session, {"input": {"image": quoted(png(photo(i)))}}) for i in range(20)))
        for answer in photos:
            check_images(answer, ["image"])
        asked = questions[:40]
        answers = await asyncio.gather(*(score(session, {"input": row["Text"]}) for row in asked))
        for row, answer in zip(asked, answers):
            assert check_question(answer, ids)[0] == int(row["Id"]), row
    print("aiohttp: ok")


def main():
    url, path = sys.argv[1:]
    with open(path, newline="", encoding="utf-8") as file:
        questions = list(csv.DictReader(file, delimiter="\t"))
    with_requests(url, questions)
    asyncio.run(with_aiohttp(url, questions))


if __name__ == "__main__":
    main()
