"""The browser demo: its folder, its page, and that a browser answers as Python does."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import pytest
from PIL import Image
from typer.testing import CliRunner

import fbnetv3
from fbnetv3._internal.errors import FetchError
from fbnetv3.cli.app import add_neighbours, app
from fbnetv3.cli.options import EMBEDDED
from fbnetv3.demo.server import address_of, open_server
from fbnetv3.demo.site import build_demo, folder_of, title_of
from fbnetv3.demo.web_runtime import WebRuntime, fetch_runtime
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.multi_label import sigmoid
from fbnetv3.deploy.onnx_model import OnnxClassifier
from fbnetv3.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Preprocess
from tests.browser import Page, chromium
from tests.contrast import contrast
from tests.demo.test_web_runtime import pack, package

PAGE = Path(fbnetv3.__file__).parent / "data" / "demo"


def run(*arguments: object) -> tuple[int, str, str]:
    if "demo" not in {command.name for command in app.registered_commands}:
        add_neighbours()
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    assert not isinstance(result.exception, Exception), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def release(tmp_path: Path) -> tuple[WebRuntime, Path]:
    """A release of nothing that runs, and its tarball."""
    return pack(tmp_path / "web.tgz", package()), tmp_path / "web.tgz"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address_of(server)
        server.shutdown()


def licensed(path: Path, license: str, to: Path) -> Path:
    """Writes an exported file again under another licence."""
    proto = onnx.load(path)
    for prop in proto.metadata_props:
        if prop.key == "fbnetv3.license":
            prop.value = license
    onnx.save(proto, to)
    return to


def test_a_folder_holds_all_that_its_page_needs(
    small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    site = tmp_path / "a" / "site"
    for _ in range(2):
        built = build_demo(str(small_export.path), site, tarball=tarball, runtime=runtime)
    files = {str(path.relative_to(site)): path for path in site.rglob("*") if path.is_file()}
    assert built.num_bytes == sum(path.stat().st_size for path in files.values())
    assert set(files) == {
        *("index.html", "style.css", "demo.mjs", "preprocess.mjs", "demo.json", "model.onnx"),
        *(f"photos/{name}" for name in ("chelsea.jpg", "coffee.jpg", "rocket.jpg")),
        *("photos/LICENSES.txt", "runtime/LICENSE.txt", "runtime/ort.mjs", "runtime/ort.wasm"),
    }
    assert files["model.onnx"].read_bytes() == small_export.path.read_bytes()
    record = json.loads(files["demo.json"].read_text())
    artefact = small_export.artefact
    assert record["labels"] == list(artefact.class_names)
    assert Preprocess.from_dict(record["preprocess"]) == artefact.preprocess
    assert (record["license"], record["commercial"]) == ("", True)
    assert all((site / photo["file"]).is_file() for photo in record["photos"])


def test_a_multi_label_models_page_has_its_thresholds(
    small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    thresholds = [0.1 * n for n in range(10)]
    proto = onnx.load(small_export.path)
    for prop in proto.metadata_props:
        if prop.key == "fbnetv3.task":
            prop.value = "multi-label-classification"
    proto.metadata_props.add(key="fbnetv3.thresholds", value=json.dumps(thresholds))
    onnx.save(proto, tmp_path / "several.onnx")
    for file, expected in (("several.onnx", thresholds), (small_export.path, None)):
        build_demo(str(tmp_path / file), tmp_path / "site", tarball=tarball, runtime=runtime)
        record = json.loads((tmp_path / "site" / "demo.json").read_text())
        assert record["thresholds"] == expected


@pytest.mark.needs("node")
def test_the_page_scores_the_classes_of_a_multi_label_model_one_by_one() -> None:
    logits = [-1e4, -2.0, 0.0, 0.5, 3.0, 1e4]
    script = (
        f"import {{ sigmoid }} from {json.dumps((PAGE / 'preprocess.mjs').as_uri())};"
        f"console.log(JSON.stringify(sigmoid(new Float32Array({logits}))));"
    )
    command = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), sigmoid(np.array(logits)), atol=1e-12)


def test_a_build_that_failed_can_be_repeated(
    small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    other = WebRuntime(version="0.0.1", sha512=runtime.sha512, files=("none.mjs",))
    with pytest.raises(ValueError, match=r"no plain file package/dist/none\.mjs"):
        build_demo(str(small_export.path), tmp_path / "s", tarball=tarball, runtime=other)
    build_demo(str(small_export.path), tmp_path / "s", tarball=tarball, runtime=runtime)


@pytest.mark.filterwarnings("ignore:.* is licensed")
def test_non_commercial_weights_are_marked_or_refused(
    small_export: Exported,
    release: tuple[WebRuntime, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime, tarball = release
    path = licensed(small_export.path, "CC-BY-NC-4.0", tmp_path / "nc.onnx")
    build_demo(str(path), tmp_path / "site", tarball=tarball, runtime=runtime)
    record = json.loads((tmp_path / "site" / "demo.json").read_text())
    assert (record["license"], record["commercial"]) == ("CC-BY-NC-4.0", False)
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    with pytest.raises(ValueError, match="no commercial use"):
        build_demo(str(path), tmp_path / "other", tarball=tarball, runtime=runtime)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (EMBEDDED, EMBEDDED),
        ("files/e.onnx", "e"),
        ("hf-hub:org/repo", "repo"),
        ("local-dir:mine/", "mine"),
    ],
)
def test_every_model_has_a_folder_of_its_own(model: str, name: str, tmp_path: Path) -> None:
    assert folder_of(model, tmp_path) == tmp_path / "demo" / name


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("local-dir:runs/mine", "mine"),
        ("hf-hub:me/flowers", "flowers"),
        ("fbnetv3_nano.cifar10", "saved"),
        ("nano.onnx", "saved"),
    ],
)
def test_a_network_of_ones_own_is_called_as_its_folder(model: str, title: str) -> None:
    assert title_of(model, "saved") == title


def test_mistakes_end_in_one_line_with_the_next_step(
    small_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "index.html").touch()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        cases: list[tuple[tuple[object, ...], int, str]] = [
            (("--model", "fbnetv3_nan"), 2, "did you mean"),
            (("--model", tmp_path / "none.onnx"), 2, "no file"),
            (("--out", tmp_path / "file" / "site"), 2, "--out"),
            (("--out", tmp_path / "full"), 2, "other files in it; give a new or empty"),
            (("--port", busy.getsockname()[1]), 1, "--port 0 for any free one"),
            (("--out", tmp_path / "new"), 1, "offline, and onnxruntime-web"),
            (("--runtime", tmp_path / "none.tgz"), 1, "fetch it from https://"),
        ]
        for options, code, hint in cases:
            serving = () if "--port" in options else ("--no-serve",)
            found, _, err = run("--model", small_export.path, *options, *serving)
            assert (found, err.count("\n")) == (code, 1), err
            assert err.startswith("error: ")
            assert hint in err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["index.html"]


def test_files_are_served_as_browsers_want_them(tmp_path: Path) -> None:
    types = {"a.mjs": "text/javascript", "a.wasm": "application/wasm", "a.json": "application/json"}
    with served(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
        for name, mime in types.items():
            (tmp_path / name).write_text("x")
            with urllib.request.urlopen(url + name) as answer:
                assert answer.headers["Content-Type"].partition(";")[0] == mime
                # Without both a page gets no threads.
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_the_page_loads_nothing_from_elsewhere_and_its_parts_fit() -> None:
    html = (PAGE / "index.html").read_text()
    script = (PAGE / "demo.mjs").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]*)"', html) + re.findall(r"url\(([^)]*)", html)
    assert {"style.css", "demo.mjs"} <= set(loaded)
    assert not [address for address in loaded if address.startswith(("http", "//"))]
    assert "@import" not in (PAGE / "style.css").read_text()
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'byId\("([^"]+)"\)', script)) <= set(ids)
    assert set(re.findall(r'\bfor="([^"]+)"', html)) <= set(ids)


def test_the_page_can_be_read_aloud_and_used_by_keyboard() -> None:
    html, style = ((PAGE / name).read_text() for name in ("index.html", "style.css"))
    assert re.search(r'<html lang="en">.*<title>\w.*<h1 .*<main>', html, re.DOTALL)
    fields = re.findall(r'<(?:input|select) id="(\w+)"', html)
    assert fields
    assert set(fields) <= set(re.findall(r'<label[^>]* for="(\w+)"', html))
    # Answers and errors are said as they come; pictures have their texts.
    assert 'id="status" role="status"' in html
    assert all(
        ' alt="' in tag or "aria-hidden" in tag for tag in re.findall("<(?:img|canvas).*?>", html)
    )
    assert "photo.alt = `The photo ${name}`" in (PAGE / "demo.mjs").read_text()
    assert not re.search(r'tabindex="[1-9]', html)
    assert not re.search(r"outline: *(?:none|0)", style)
    visible = re.search(r"([^}]*)\{\s*outline: 3px", style)
    assert visible
    assert {"#file:focus-visible + #drop", "button:focus-visible", "select:focus-visible",
            "a:focus-visible"} == {one.strip() for one in visible[1].split(",")}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_controls_stand_out_from_their_background(scheme: str) -> None:
    style = (PAGE / "style.css").read_text()
    light, dark, *_ = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#\w+);", dark))
    # WCAG asks for 4.5 of text, for 3 of controls and of what is drawn.
    texts = [(text, ground) for text in ("ink", "faint", "accent") for ground in ("paper", "card")]
    for front, ground in (*texts, ("warn", "paper"), ("warn", "warn-paper")):
        assert contrast(colours[front], colours[ground]) >= 4.5, (front, ground)
    assert contrast(colours["accent"], colours["track"]) >= 3


PREPARE = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, folder] = process.argv.slice(1);
const { pixels, normalise } = await import(module);
JSON.parse(readFileSync(`${folder}/cases.json`)).forEach(({ width, height, rule }, number) => {
  const data = new Uint8Array(readFileSync(`${folder}/${number}.rgb`));
  const out = normalise(pixels({ data, width, height }, rule), rule);
  writeFileSync(`${folder}/${number}.f32`, new Uint8Array(out.buffer));
});
"""
# Shrunk, enlarged, left as they are, padded, and so long that only the middle is resized.
SIZES = [
    (451, 300),
    (90, 161),
    (36, 36),
    (47, 36),
    (33, 17),
    (5, 3),
    (1, 1),
    (700, 20),
    (9, 301),
    (100, 500),
]


@pytest.mark.needs("node")
def test_a_browser_prepares_photos_to_the_last_bit_as_python_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases: list[tuple[Image.Image, Preprocess]] = []
    for size in SIZES:
        for interpolation in INTERPOLATIONS:
            for resize, crop in ((36, 32), (33, 32), (20, 31)):
                rule = Preprocess(
                    resize=resize,
                    crop=crop,
                    interpolation=interpolation,  # type: ignore[arg-type]  # one of them
                    mean=IMAGENET_MEAN,
                    std=IMAGENET_STD,
                )
                noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                if len(cases) % 2:  # extremes, where bicubic overshoots
                    noise = np.where(noise > 127, np.uint8(255), np.uint8(0))
                cases.append((Image.fromarray(noise), rule))
    described = []
    for number, (image, rule) in enumerate(cases):
        (tmp_path / f"{number}.rgb").write_bytes(image.tobytes())
        described.append({"width": image.width, "height": image.height, "rule": rule.to_dict()})
    (tmp_path / "cases.json").write_text(json.dumps(described))
    module = (PAGE / "preprocess.mjs").resolve().as_uri()
    subprocess.run(
        ["node", "--input-type=module", "-e", PREPARE, module, str(tmp_path)],
        check=True,
        timeout=60,
    )
    for number, (image, rule) in enumerate(cases):
        found = np.fromfile(tmp_path / f"{number}.f32", np.float32).reshape(3, rule.crop, rule.crop)
        # Before version 13 Pillow made its two passes in one order for all shapes.
        level = 0 if int(PIL.__version__.partition(".")[0]) >= 13 else 1.01 / 255 / min(rule.std)
        np.testing.assert_allclose(
            found, rule(image), rtol=0, atol=level, err_msg=f"{image.size} {rule}"
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.needs("chromium")
@pytest.mark.filterwarnings("ignore:.* is licensed")
def test_the_page_states_forbidding_terms_and_what_failed(
    page: Page, small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    path = licensed(small_export.path, "CC-BY-NC-4.0", tmp_path / "nc.onnx")
    build_demo(str(path), tmp_path / "site", tarball=tarball, runtime=runtime)
    with served(tmp_path / "site") as url:
        failure = page.open(url, ["result", "ready", "error"])
        text = page.evaluate("document.body.innerText")
    assert "ort.wasm.min.mjs" in failure["error"]
    assert "Non-commercial use only: these weights are licensed CC-BY-NC-4.0" in text
    assert "Error: " in text


@pytest.mark.needs("chromium")
def test_a_file_that_is_no_photo_clears_the_last_answer(
    page: Page, small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    build_demo(str(small_export.path), tmp_path / "site", tarball=tarball, runtime=runtime)
    with served(tmp_path / "site") as url:
        page.open(url, ["error"])  # this release of the runtime computes nothing
        page.evaluate(
            """(() => {
              const root = document.documentElement;
              delete root.dataset.error;
              root.dataset.result = "{}";
              document.getElementById("result").hidden = false;
              const chosen = new DataTransfer();
              chosen.items.add(new File(["no photo"], "notes.txt"));
              const input = document.getElementById("file");
              input.files = chosen.files;
              input.dispatchEvent(new Event("change"));
            })()"""
        )
        failure = page.wait_for(["error"])
        hidden = page.evaluate("document.getElementById('result').hidden")
    assert "notes.txt is not an image" in failure["error"]
    assert hidden is True
    assert "result" not in failure


_FOCUSED = """(() => {
  const found = document.activeElement;
  const seen = found.id === "file" ? document.getElementById("drop") : found;
  return [found.id || found.textContent, getComputedStyle(seen).outlineStyle];
})()"""


@pytest.mark.needs("chromium")
def test_the_tabulator_key_goes_through_the_page_in_its_order(
    page: Page, small_export: Exported, release: tuple[WebRuntime, Path], tmp_path: Path
) -> None:
    runtime, tarball = release
    build_demo(str(small_export.path), tmp_path / "site", tarball=tarball, runtime=runtime)
    names = [
        photo["name"]
        for photo in json.loads((tmp_path / "site" / "demo.json").read_text())["photos"]
    ]
    visited = []
    with served(tmp_path / "site") as url:
        page.open(url, ["error"])  # this release of the runtime computes nothing
        for _ in range(2 + len(names)):
            for kind in ("keyDown", "keyUp"):
                page.send("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
            visited.append(page.evaluate(_FOCUSED))
    assert visited == [[name, "solid"] for name in ("file", *names, "backend")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fbnetv3 demo` makes, served until it is interrupted."""
    try:
        fetch_runtime(progress=False)
    except FetchError as error:
        pytest.skip(f"no network: {error}")
    folder = tmp_path_factory.mktemp("demo") / "site"
    opened: list[str] = []

    def interrupted(server: ThreadingHTTPServer) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
        patch.setattr(webbrowser, "open", opened.append)
        code, out, err = run("--out", folder, "--port", 0)
    assert code == 0, err
    assert out.startswith(f"model: {EMBEDDED} (Apache-2.0)\n")
    assert len(opened) == 1
    assert f"{opened[0]} until Ctrl+C" in out
    _add_photos(folder)
    return folder


def _add_photos(folder: Path) -> None:
    """Adds photos that a browser may take otherwise: turned, transparent, very long, grey."""
    rng = np.random.default_rng(1)
    chelsea = Image.open(folder / "photos" / "chelsea.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    chelsea.save(folder / "photos" / "turned.jpg", exif=exif, quality=95)
    clear = chelsea.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "photos" / "clear.png")
    chelsea.convert("L").save(folder / "photos" / "grey.png")
    noise = rng.integers(0, 256, (40, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photos" / "long.png")
    tall = Image.fromarray(noise).resize((640, 2500))
    tall.save(folder / "photos" / "tall.png")
    path = folder / "demo.json"
    record = json.loads(path.read_text())
    record["photos"] += [
        {"name": name.partition(".")[0], "file": f"photos/{name}"}
        for name in ("turned.jpg", "clear.png", "grey.png", "long.png", "tall.png")
    ]
    path.write_text(json.dumps(record))


@pytest.mark.needs("chromium")
@pytest.mark.slow
@pytest.mark.network
def test_a_browser_answers_as_python_does(page: Page, site: Path) -> None:
    photos = json.loads((site / "demo.json").read_text())["photos"]
    classifier = OnnxClassifier(site / "model.onnx", top_k=10)
    with served(site) as url:
        page.open(f"{url}?auto={photos[0]['name']}", ["result", "error"])
        for photo in photos:
            found = _answer(page, photo["name"])
            expected = classifier(site / photo["file"])
            assert found["label"] == expected.label, photo
            assert found["none_of_these"] == expected.none_of_these, photo
            for index, probability in zip(expected.indices, expected.probabilities, strict=True):
                assert found["probabilities"][index] == pytest.approx(probability, abs=1e-3), photo
    assert found["backend"] in ("wasm", "webgpu")
    assert found["latency_ms"] > 0
    assert found["num_runs"] >= 3


def _answer(page: Page, name: str) -> Any:
    """Clicks on a sample photo and returns what the page then says."""
    page.evaluate(
        f"""(() => {{
          delete document.documentElement.dataset.result;
          [...document.querySelectorAll("#samples button")]
            .find((button) => button.textContent === {name!r}).click();
        }})()"""
    )
    data = page.wait_for(["result", "error"])
    assert "error" not in data, data
    return json.loads(data["result"])
