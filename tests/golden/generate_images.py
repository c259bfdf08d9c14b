"""Makes the small pictures that src/image/tests.rs decodes, and what Pillow decodes them to.

Run in this folder: python generate_images.py   (written with Pillow 13.0.0)
`images/<file>`             an encoded picture
`images/<file>.rgb`         its RGB bytes, EXIF orientation applied
`images/<file>#stored.rgb`  its RGB bytes as stored, where that differs
"""

import math
import os
import struct
import zlib

from PIL import Image, ImageOps

SIZE = (37, 29)


def photo(width=SIZE[0], height=SIZE[1]):
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            wave = 127 + 100 * math.sin(x * 0.4) * math.cos(y * 0.3)
            image.putpixel((x, y), (int(wave), (x * 6) % 256, (y * 8 + x) % 256))
    return image


def save(name, image, **options):
    image.save(f"images/{name}", **options)
    expect(name)


def expect(name, pixels=None):
    stored = Image.open(f"images/{name}")
    turned = ImageOps.exif_transpose(stored).convert("RGB").tobytes()
    plain = stored.convert("RGB").tobytes()
    with open(f"images/{name}.rgb", "wb") as file:
        file.write(pixels or turned)
    if plain != turned:
        with open(f"images/{name}#stored.rgb", "wb") as file:
            file.write(plain)


def edited(name, source, marker, offset, value):
    """A copy of another picture, one byte changed: what Pillow reads but does not write."""
    with open(f"images/{source}", "rb") as file:
        data = bytearray(file.read())
    data[data.index(marker) + offset] = value
    with open(f"images/{name}", "wb") as file:
        file.write(data)
    expect(name)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(name, color, channels, size=SIZE):
    """16-bit samples, which Pillow clips or truncates: written by hand, expected as (v + 128) // 257."""
    width, height = size
    samples = [[(x * 1771 + y * 977 + c * 13001) % 65536 for c in range(channels)] for y in range(height) for x in range(width)]
    rows = b"".join(
        b"\0" + b"".join(struct.pack(f">{channels}H", *samples[y * width + x]) for x in range(width)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    with open(f"images/{name}", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))
    colors = [sample[:3] if channels >= 3 else sample[:1] * 3 for sample in samples]
    with open(f"images/{name}.rgb", "wb") as file:
        file.write(bytes((v + 128) // 257 for color in colors for v in color))


os.makedirs("images", exist_ok=True)
rgb = photo()
alpha = rgb.convert("RGBA")
alpha.putalpha(rgb.convert("L"))
save("rgb.png", rgb)
save("gray.png", rgb.convert("L"))
save("bilevel.png", rgb.convert("1"))
save("palette.png", rgb.quantize(16))
save("rgba.png", alpha)
save("gray_alpha.png", alpha.convert("LA"))
save("one_pixel.png", photo(1, 1))
png16("gray16.png", 0, 1)
png16("rgb16.png", 2, 3)
png16("rgba16.png", 6, 4)
save("still.gif", rgb.quantize(32))
save("frames.gif", rgb.quantize(8), save_all=True, append_images=[rgb.rotate(180).quantize(8)])
save("lossless.webp", rgb, lossless=True)
save("lossy.webp", rgb, quality=90)
save("rgb.bmp", rgb)
save("palette.bmp", rgb.quantize(16))
save("rgb.tiff", rgb)
save("deflate.tiff", rgb, compression="tiff_deflate")
save("yuv444.jpg", rgb, quality=90, subsampling=0)
save("yuv422.jpg", rgb, quality=90, subsampling=1)
save("yuv420.jpg", rgb, quality=90, subsampling=2)
save("gray.jpg", rgb.convert("L"), quality=90)
save("progressive.jpg", rgb, quality=90, progressive=True)
save("restarts.jpg", rgb, quality=90, restart_marker_blocks=1)
save("cmyk.jpg", rgb.convert("CMYK"), quality=90)
edited("ycck.jpg", "cmyk.jpg", b"Adobe", 11, 2)
edited("yuv440.jpg", "yuv422.jpg", b"\xff\xc0", 11, 0x12)
for orientation in range(2, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(f"orientation{orientation}.png", rgb, exif=exif)
exif = Image.Exif()
exif[0x0112] = 6
save("orientation6.jpg", rgb, quality=90, subsampling=0, exif=exif)
