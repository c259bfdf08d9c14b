"""Makes the golden data of golden.rs, all by Pillow: sources, small squares as PNG, large squares as digests.

Run in this folder: python generate_golden.py   (written with Pillow 13.0.0)
`golden/<source>.png`               a source picture
`golden/<source>__<transform>.png`  what it becomes at side 32; ':' in the transform's text is written '_'
`golden/digests.txt`                <source> <transform> <FNV-1a 64 of the RGB bytes> at side 224
"""

import math
import os

from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SOURCES = [(1, 1), (3, 2), (32, 32), (97, 61), (40, 151), (300, 7), (224, 300), (211, 256)]


def transforms(*short_sides):
    crops = [("resize-crop", side, name) for side in short_sides for name in FILTERS]
    return crops + [("stretch", None, name) for name in FILTERS]


def source(width, height):
    """Smooth waves, hard edges and a little noise, reproducibly."""
    state = width * 1000 + height
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            state = (state * 1103515245 + 12345) % 2**31
            wave = int(127 + 110 * math.sin(x * 0.31) * math.cos(y * 0.17))
            edge = 255 if (x // 9 + y // 7) % 3 == 0 else 0
            noise = (state >> 20) % 40 if y % 16 == 0 else 0
            image.putpixel((x, y), (wave, edge, (wave + noise) % 256))
    return image


def apply(image, square, kind, side, name):
    if kind == "stretch":
        return image.resize((square, square), FILTERS[name])
    short, long = min(image.size), max(image.size)
    long = int(side * long / short)
    size = (side, long) if image.width <= image.height else (long, side)
    image = image.resize(size, FILTERS[name])
    left, top = (int(round((length - square) / 2.0)) for length in size)
    return image.crop((left, top, left + square, top + square))


def fnv1a(data):
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = ((digest ^ byte) * 0x100000001B3) % 2**64
    return f"{digest:016x}"


os.makedirs("golden", exist_ok=True)
digests = []
for size in SOURCES:
    picture = source(*size)
    stem = f"{size[0]}x{size[1]}"
    picture.save(f"golden/{stem}.png", optimize=True)
    for kind, side, name in transforms(32, 33, 37):
        text = kind + (f"_{side}" if side else "") + f"_{name}"
        apply(picture, 32, kind, side, name).save(f"golden/{stem}__{text}.png", optimize=True)
    for kind, side, name in transforms(232, 256):
        text = kind + (f":{side}" if side else "") + f":{name}"
        digests.append(f"{stem} {text} {fnv1a(apply(picture, 224, kind, side, name).tobytes())}\n")
with open("golden/digests.txt", "w") as file:
    file.writelines(digests)
