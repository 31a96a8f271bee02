"""Makes the pictures of docs/gallery.md.

    python -m benchmarks.release.gallery --data cifar-10-batches-py --work /tmp/gallery

Needs Chromium, and the network once, for the demo's runtime (`--runtime` takes its tarball). Trains
a detector on drawn shapes and a classifier on 600 images, in minutes, and runs a search on a
formula; what is in the work folder already is not made again. The pictures are WebP files of at
most 60 kB.
"""

from __future__ import annotations

import argparse
import base64
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image

from benchmarks.records import ROOT
from fbnetv3.demo.server import address_of, open_server
from fbnetv3.demo.site import build_demo
from fbnetv3.images.labels import example_photos
from fbnetv3.integrations.drawn_shapes import draw_shapes
from fbnetv3.search.data.datasets import open_training
from tests.browser import Page, chromium

OUT = ROOT / "docs" / "gallery"
MAX_BYTES = 60_000
MODEL = "fbnetv3_nano.cifar10"
# Of each class of a user's own data.
NUM_PHOTOS = 200
DESKTOP, PHONE = (1280, 1000), (390, 844)
# A stand-in for trainings, as in docs/tutorials/search.md.
_OBJECTIVE = """
import math
from fbnetv3.search import costs, get_space

class StandIn:
    epochs = 1
    num_classes = 10

    def __init__(self):
        self.space = get_space("cifar_joint")

    def evaluate(self, genes, *, seed, epochs):
        values = self.space.values(genes)
        macs = float(costs(self.space, [genes], num_classes=10).macs_paper[0])
        wrong = abs(math.log(values["lr"] / (0.004 if values["optimizer"] == "rmsprop" else 0.015)))
        yield from [94 - 30 * math.exp(-macs / 8e5) - 2 * wrong] * epochs
"""


def program(name: str, *words: str, work: Path) -> None:
    """Runs one of our programs in the work folder."""
    module = {"fbnetv3": "fbnetv3", "fbnetv3-search": "fbnetv3.search"}[name]
    print(name, *words, flush=True)
    subprocess.run([sys.executable, "-m", module, *words], cwd=work, check=True)


def save(picture: Image.Image, name: str) -> None:
    """Writes a picture, at the best quality that fits."""
    for quality in (90, 80, 70, 60, 50, 40):
        content = io.BytesIO()
        picture.convert("RGB").save(content, "WEBP", quality=quality, method=6)
        if content.tell() <= MAX_BYTES:
            break
    path = OUT / f"{name}.webp"
    path.write_bytes(content.getvalue())
    print(f"{path}: {content.tell() / 1e3:.0f} kB")


def screenshot(
    page: Page, url: str, size: tuple[int, int], *, dark: bool, wait_for: tuple[str, ...] = ()
) -> Image.Image:
    """Returns what a page shows at a size, in a colour scheme."""
    width, height = size
    page.send(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.send("Emulation.setEmulatedMedia", features=[scheme])
    page.send("Emulation.setScrollbarsHidden", hidden=True)
    if wait_for:
        page.open(url, wait_for)
    else:
        page.send("Page.navigate", url=url)
        until = time.monotonic() + 60
        while page.evaluate("document.readyState") != "complete" and time.monotonic() < until:
            time.sleep(0.1)
    data = page.send("Page.captureScreenshot", format="png")["data"]
    return Image.open(io.BytesIO(base64.b64decode(data)))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Gives the address of a folder that is served until the end of the block."""
    server = open_server(folder, 0)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address_of(server)
    finally:
        server.shutdown()
        server.server_close()


def pages(work: Path, runtime: Path | None) -> None:
    """Makes the pictures of the demo and of a search's report."""
    if not (work / "demo").exists():
        build_demo(MODEL, work / "demo", tarball=runtime)
    if not (work / "runs" / "s" / "report.html").exists():
        (work / "mine.py").write_text(_OBJECTIVE)
        words = "run runs/s --space cifar_joint --objective mine.py:StandIn --pool 2000 --batch 12"
        more = "--rounds 2 --predictor gp --top 2 --final-seeds 2"
        limits = ("--limit", "macs<=1.5e6", "--limit", "macs<=3e6")
        program("fbnetv3-search", *words.split(), *more.split(), *limits, work=work)
    program("fbnetv3-search", "report", "runs/s", work=work)  # as it is now
    report = (work / "runs" / "s" / "report.html").resolve().as_uri()
    profile = work / f"profile-{time.time_ns()}"
    profile.mkdir()
    answered = ("result", "error")
    with chromium(profile) as page, served(work / "demo") as url:
        # Down to the times, which are of a machine that does other things.
        picture = screenshot(
            page, f"{url}?auto=chelsea", (1280, 832), dark=False, wait_for=answered
        )
        save(picture, "demo")
        shown = [
            screenshot(page, f"{url}?auto=coffee", (390, 1100), dark=dark, wait_for=answered)
            for dark in (False, True)
        ]
        save(beside(shown), "demo_phone")
        save(screenshot(page, report, DESKTOP, dark=False), "report")
        save(
            beside([screenshot(page, report, PHONE, dark=d) for d in (False, True)]), "report_phone"
        )


def own_photos(work: Path, data: Path, runtime: Path | None) -> None:
    """Makes the picture of the demo with a network that a user fine-tuned on three classes."""
    photos = work / "photos"
    if not photos.exists():
        images = open_training(data)
        assert images.pixels is not None
        for name in ("cat", "dog", "horse"):
            (photos / name).mkdir(parents=True)
            of_class = images.pixels[images.labels == images.classes.index(name)]
            for number, pixels in enumerate(of_class[:NUM_PHOTOS]):
                Image.fromarray(pixels.numpy()).save(photos / name / f"{number}.png")
    if not (work / "mine" / "model.safetensors").exists():
        words = ("train", "--data", "photos", "--model", MODEL, "--epochs", "2", "--out", "mine")
        program("fbnetv3", *words, work=work)
    if not (work / "demo_mine").exists():
        build_demo(f"local-dir:{work / 'mine'}", work / "demo_mine", tarball=runtime)
    profile = work / f"profile-{time.time_ns()}"
    profile.mkdir()
    with chromium(profile) as page, served(work / "demo_mine") as url:
        shown = [
            screenshot(
                page, f"{url}?auto={photo}", (390, 1060), dark=dark, wait_for=("result", "error")
            )
            for photo, dark in (("chelsea", False), ("coffee", True))
        ]
    save(beside(shown), "demo_mine")


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Returns pictures of one height side by side."""
    whole = Image.new("RGB", (sum(p.width + 10 for p in pictures) - 10, pictures[0].height), "grey")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + 10
    return whole


def classifier(work: Path, data: Path) -> None:
    """Makes the confusion matrix, the calibration curve and an explanation."""
    if not (work / "evaluation").exists():
        words = ("eval", MODEL, "--data", str(data.resolve()), "-o", "evaluation")
        program("fbnetv3", *words, work=work)
    for name in ("confusion", "calibration"):
        save(narrow(Image.open(work / "evaluation" / f"{name}.png")), name)
    photo = next(path for path in example_photos() if path.stem == "chelsea")
    words = ("explain", str(photo), "--class", "cat", "-o", "explain.png")
    program("fbnetv3", *words, work=work)
    save(narrow(Image.open(work / "explain.png")), "explain")


def narrow(picture: Image.Image) -> Image.Image:
    """Returns a picture that is at most 900 pixels wide."""
    picture.thumbnail((900, 900))
    return picture


def detector(work: Path) -> None:
    """Makes a picture of what a detector finds on drawn shapes that it has not seen."""
    if not (work / "detector" / "model.safetensors").exists():
        draw_shapes(work / "shapes", num_images=160, side=160, rng=np.random.default_rng(0))
        words = "--model fbnetv3_nano --size 160 --epochs 12 --batch-size 8 --out detector"
        program("fbnetv3", *["detect", "train", "--data", "shapes"], *words.split(), work=work)
    if not (work / "found").exists():
        draw_shapes(work / "others", num_images=6, side=160, rng=np.random.default_rng(1))
        words = "detect predict others/images --model detector --out found"
        program("fbnetv3", *words.split(), work=work)
    shown = [Image.open(path) for path in sorted((work / "found").glob("*.jpg"))[:4]]
    save(beside([picture.resize((280, 280)) for picture in shown]), "detection")


def main() -> None:
    """Makes all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder cifar-10-batches-py")
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate files")
    parser.add_argument("--runtime", type=Path, help="tarball of onnxruntime-web")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(exist_ok=True)
    pages(options.work, options.runtime)
    own_photos(options.work, options.data, options.runtime)
    classifier(options.work, options.data)
    detector(options.work)


if __name__ == "__main__":
    main()
