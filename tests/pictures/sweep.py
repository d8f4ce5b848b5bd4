"""Pictures of every kind, read by `resnet` and by Pillow: python3 sweep.py [JPEG files = 2000] [seed = 1]

Needs numpy, Pillow, and of libjpeg-turbo's programs `cjpeg` and `jpegtran`; RESNET names the command. `resnet data grid` shows
the pixels: in a set whose pictures have a shorter side of S, `--image-size S` crops and does not resize. Prints for each kind
how many files there are, how many have Pillow's bytes, and the largest difference; exits with 1 if there is one.
"""

import collections
import io
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, ImageOps

RESNET = os.path.abspath(os.environ.get("RESNET", "resnet"))
SAMPLINGS = "1x1 2x1 2x2 1x2 4x1 1x4 4x2 3x1 3x2 1x1,2x1,2x1 1x1,2x2,2x2 1x1,1x1,2x2 2x1,1x2,1x1 2x2,1x2,1x2 2x2,2x1,1x2"
SCANS = [None, None, "0;1;2;", "1;2;0;", "0;1 2;", "2;0 1;",
         "0 1 2: 0 0 0 1;0: 1 63 0 0;1: 1 63 0 2;2: 1 63 0 0;1: 1 63 2 1;1: 1 63 1 0;0 1 2: 0 0 1 0;"]
JUNK = [b"", b"", b"", b"\xff\x00\xff\x00", b"\x00\x11\x22", b"\xff\xff\xff"]


def picture(rng, height, width, channels):
    """Waves, with noise or without, and a rectangle of other colours."""
    y, x = np.mgrid[0:height, 0:width]
    frequency = rng.uniform(0.02, 0.4, (2, channels))
    waves = 128 + 110 * np.sin(x[..., None] * frequency[0] + y[..., None] * frequency[1])
    waves += rng.normal(0, rng.choice([0, 30, 200]), waves.shape)
    waves[: rng.integers(0, height + 1), : rng.integers(0, width + 1)] = rng.choice([0, 255], channels)
    return np.clip(waves, 0, 255).astype(np.uint8)


def cjpeg(choice, pixels):
    sampling, scans = choice.choice(SAMPLINGS.split()), choice.choice(SCANS)
    command = ["cjpeg", "-quality", str(choice.choice([1, 30, 75, 95, 100])), "-sample", sampling]
    if scans:
        with open("scans", "w") as file:
            file.write(scans)
        command += ["-scans", "scans"]
    elif choice.random() < 0.3:
        command += ["-progressive"]
    command += choice.choice([[], [], ["-restart", f"{choice.randint(1, 9)}B"], ["-grayscale"] if not scans else []])
    ppm = io.BytesIO()
    Image.fromarray(pixels).save(ppm, "PPM")
    done = subprocess.run(command, input=ppm.getvalue(), capture_output=True, check=True).stdout
    if choice.random() < 0.1 and min(pixels.shape[:2]) > 9:
        height, width = pixels.shape[0] - choice.randint(1, 8), pixels.shape[1] - choice.randint(1, 8)
        crop = ["jpegtran", "-crop", f"{width}x{height}+0+0"]
        done = subprocess.run(crop, input=done, capture_output=True, check=True).stdout
    tables = done.index(b"\xff\xdb")
    return f"cjpeg {sampling}", done[:tables] + choice.choice(JUNK) + done[tables:]


def saved(choice, rng, height, width):
    """A file that Pillow writes: another format, CMYK, an orientation."""
    kind, mode, options = choice.choice([
        ("JPEG", "CMYK", {"quality": 90, "progressive": choice.random() < 0.5}),
        ("JPEG", "RGB", {"quality": 80, "subsampling": choice.randrange(3)}),
        ("PNG", choice.choice(["1", "L", "LA", "P", "RGB", "RGBA"]), {}),
        ("WEBP", choice.choice(["RGB", "RGBA"]), choice.choice([{"lossless": True}, {"quality": 60}])),
        ("BMP", choice.choice(["1", "L", "P", "RGB", "RGBA"]), {}),
        ("GIF", choice.choice(["1", "L", "P"]), {"interlace": choice.randrange(2)}),
        ("TIFF", choice.choice(["1", "L", "P", "RGB", "RGBA", "CMYK"]),
         {"compression": choice.choice([None, "tiff_lzw", "tiff_deflate", "packbits"])}),
    ])
    image = Image.fromarray(picture(rng, height, width, 4 if mode == "CMYK" else 3), mode="CMYK" if mode == "CMYK" else "RGB")
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        exif = Image.Exif()
        exif[274] = choice.randint(1, 8)
        options["exif"] = exif
    file = io.BytesIO()
    image.convert(mode).save(file, kind, **options)
    return f"{kind} {mode}", file.getvalue()


def middle(pixels, size):
    top, left = (round((side - size) / 2) for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def main():
    count, seed = (int(argument) for argument in (sys.argv[1:] + ["2000", "1"][len(sys.argv) - 1 :]))
    choice, rng = random.Random(seed), np.random.default_rng(seed)
    os.chdir(tempfile.mkdtemp())
    sets = collections.defaultdict(list)
    for _ in range(count):
        height, width = choice.choice([1, 2, 3, 7, 8, 9, 16, 17, 33, 61]), choice.randint(1, 70)
        if choice.random() < 0.6:
            kind, file = cjpeg(choice, picture(rng, height, width, 3))
        else:
            kind, file = saved(choice, rng, height, width)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB"))
        sets[min(expected.shape[:2])].append((kind, file, expected))
    results = collections.defaultdict(list)
    for size, files in sets.items():
        for folder in ("train/a", "train/b", "test/a", "test/b"):
            os.makedirs(f"{size}/{folder}")
            for i, (_, file, _) in enumerate(files if folder == "train/a" else files[:1]):
                with open(f"{size}/{folder}/{i:05}.jpg", "wb") as out:
                    out.write(file)
        subprocess.run([RESNET, "data", "grid", "--data", str(size), "--image-size", str(size), "--columns", str(len(files)),
                        "--out", f"{size}.png"], check=True, stdout=subprocess.DEVNULL)
        grid = np.asarray(Image.open(f"{size}.png").convert("RGB")).astype(int)
        for i, (kind, _, expected) in enumerate(files):
            left = 2 + i * (size + 2)
            found = grid[2 : 2 + size, left : left + size]
            results[kind].append(int(np.abs(found - middle(expected, size)).max()))
    for kind, differences in sorted(results.items()):
        print(f"{kind:24} {len(differences):5} files {differences.count(0):5} equal, largest difference {max(differences)}")
    sys.exit(any(map(any, results.values())))


if __name__ == "__main__":
    main()
