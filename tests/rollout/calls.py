"""The same load over gRPC: questions as calls of the V2 protocol, on channels of tritonclient that stay open and retry
nothing that a server has taken.
"""

import json

import load
import numpy
import tritonclient.grpc.aio as triton

CHANNELS = 4


def channel(port):
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return triton.InferenceServerClient(f"127.0.0.1:{port}", channel_args=options)


async def matches(client, question):
    """The originals that a question matches, best first."""
    asked = triton.InferInput("question", [1], "BYTES")
    asked.set_data_from_numpy(numpy.array([question.encode()], dtype=object))
    answer = await client.infer("faq", [asked])
    return answer.as_numpy("id").tolist(), answer.as_numpy("probabilities").tolist()


class Calls(load.Load):
    """Questions through one address, at a rate a second."""

    def __init__(self, port, questions):
        super().__init__(port, 0.0, questions)
        self.rates = {"question": questions}
        self.channels, self.turn = [channel(port) for _ in range(CHANNELS)], 0

    def question(self, index):
        return json.loads(self.asked[index][3])["question"]

    async def learn(self, pod):
        direct = channel(pod.grpc)
        for index, (kind, *_) in enumerate(self.asked):
            if kind == "question":
                self.expected[index] = await matches(direct, self.question(index))
        await direct.close()

    def burst(self, photos):
        """Photos are not asked for here."""

    async def failure(self, index):
        self.turn += 1
        try:
            told = await matches(self.channels[self.turn % CHANNELS], self.question(index))
        except triton.InferenceServerException as error:
            return f"{error.status()}: {error.message()}"[:200]
        return "" if told == self.expected[index] else "another request's answer"

    async def stop(self):
        await super().stop()
        for one in self.channels:
            await one.close()
