/**
 * The page: classifies photos with the model and shows the predictions.
 *
 * `demo.json` describes the model. With `?auto=NAME` a sample photo is classified at once, with
 * `?backend=wasm` or `webgpu` only that backend is used. The last prediction is also in
 * `data-result` of the root element as JSON, the last error in `data-error`.
 */

import { decode, energy, normalise, pixels, softmax } from "./preprocess.mjs";

const NUM_SHOWN = 5;
const MIN_WARM_UPS = 2;
const WARM_UP_MS = 500; // browsers compile a module twice, the second time for speed
const MIN_RUNS = 3;
const MAX_RUNS = 15;
const MAX_TIMED_MS = 1500;
const BACKEND_NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
// The first supports both, but on the CPU it takes 1.8 times as long as the second.
const MODULES = { webgpu: "ort.webgpu.min.mjs", wasm: "ort.wasm.min.mjs" };

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search);

let demo, modelBytes;
const engines = {}; // backend -> promise of onnxruntime and its session
let queue = Promise.resolve(); // a session runs one image at a time
let newest = 0; // number of the newest request; older ones that still wait are dropped

start().catch(fail);

async function start() {
  demo = await (await fetched("demo.json")).json();
  describe();
  listen();
  say("Loading the model ...");
  modelBytes = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  if (wanted.has("backend")) byId("backend").value = wanted.get("backend");
  await running();
  say("Ready. Choose a photo.");
  root.dataset.ready = "";
  const sample = demo.photos.find(({ name }) => name === wanted.get("auto"));
  if (sample) await show(sample);
  else if (wanted.has("auto")) throw new Error(`there is no sample photo ${wanted.get("auto")}`);
}

async function fetched(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} cannot be loaded: ${response.status}`);
  return response;
}

/** Returns the engine, its backend, and the reason if it is not the first choice. */
async function running() {
  const choice = byId("backend").value;
  const order = choice === "auto" ? ["webgpu", "wasm"] : [choice];
  let reason = "";
  for (const backend of order) {
    try {
      engines[backend] ??= open(backend);
      return { backend, reason, engine: await engines[backend] };
    } catch (error) {
      reason = `${BACKEND_NAMES[backend] ?? backend}: ${error.message}`;
    }
  }
  throw new Error(reason);
}

async function open(backend) {
  if (backend === "webgpu") await checkGpu();
  const ort = await import(`./runtime/${MODULES[backend]}`);
  ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
  // Threads share memory, which browsers allow only to pages with the right headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(4, navigator.hardwareConcurrency || 1)
    : 1;
  const session = await ort.InferenceSession.create(modelBytes, {
    executionProviders: [backend],
    logSeverityLevel: 3,
  });
  const size = demo.preprocess.crop;
  const blank = { data: new Uint8Array(size * size * 3), width: size, height: size };
  const until = performance.now() + WARM_UP_MS;
  for (let run = 0; run < MIN_WARM_UPS || performance.now() < until; run++) {
    await session.run({ input: tensorOf(blank, ort) });
  }
  return { ort, session };
}

async function checkGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("this browser offers no GPU");
  // A software adapter takes half a minute to start: used only on request.
  const isSoftware = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  if (isSoftware && byId("backend").value === "auto") throw new Error("software only");
}

function tensorOf(image, ort) {
  const { width, height } = image;
  return demo.in_graph
    ? new ort.Tensor("uint8", image.data, [1, height, width, 3])
    : new ort.Tensor("float32", normalise(image, demo.preprocess), [1, 3, height, width]);
}

function classify(name, blob) {
  const number = ++newest;
  queue = queue.then(() => (number === newest ? answer(name, blob) : null)).catch(fail);
  return queue;
}

async function answer(name, blob) {
  say(`Classifying ${name} ...`);
  showPhoto(name, blob);
  await new Promise((done) => setTimeout(done)); // lets the page draw the photo
  const began = performance.now();
  let image;
  try {
    image = await decode(blob);
  } catch {
    throw new Error(`${name} is not an image that this browser can read; try a JPEG or PNG`);
  }
  const seen = pixels(image, demo.preprocess);
  const prepareMs = performance.now() - began;
  const { backend, reason, engine } = await running();
  const { logits, times } = await timed(engine.session, tensorOf(seen, engine.ort));
  const { temperature = 1, threshold = null } = demo.confidence ?? {};
  const probabilities = softmax(logits, temperature);
  const order = probabilities.map((_, index) => index);
  order.sort((a, b) => probabilities[b] - probabilities[a]);
  const result = {
    photo: name,
    label: demo.labels[order[0]],
    probabilities,
    none_of_these: threshold === null ? null : energy(logits) < threshold,
    backend,
    reason,
    threads: backend === "wasm" ? engine.ort.env.wasm.numThreads : null,
    latency_ms: times[times.length >> 1],
    num_runs: times.length,
    prepare_ms: prepareMs,
    size: [image.width, image.height],
  };
  showResult(result, seen, order.slice(0, NUM_SHOWN));
}

/** Returns the logits of one image and the sorted times of its runs. */
async function timed(session, tensor) {
  const times = [];
  const until = performance.now() + MAX_TIMED_MS;
  let logits;
  while (times.length < MIN_RUNS || (times.length < MAX_RUNS && performance.now() < until)) {
    const began = performance.now();
    logits = (await session.run({ input: tensor })).logits.data;
    times.push(performance.now() - began);
  }
  return { logits, times: times.sort((a, b) => a - b) };
}

function listen() {
  const file = byId("file");
  file.addEventListener("change", () => {
    if (file.files.length) classify(file.files[0].name, file.files[0]);
    file.value = ""; // so that the same photo may be chosen again
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      const inside = kind === "dragleave" ? event.relatedTarget !== null : kind !== "drop";
      byId("drop").classList.toggle("over", inside);
    });
  }
  document.addEventListener("drop", ({ dataTransfer }) => {
    const [dropped] = dataTransfer.files;
    if (dropped) classify(dropped.name, dropped);
    else say("This is not a file. Drag a photo from a folder, or choose one.");
  });
  for (const sample of demo.photos) {
    const picture = Object.assign(new Image(), { src: sample.file, alt: "" });
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(picture, sample.name);
    button.addEventListener("click", () => show(sample).catch(fail));
    byId("samples").append(button);
  }
  byId("backend").addEventListener("change", () => shown && classify(shown.name, shown.blob));
}

async function show({ name, file }) {
  await classify(name, await (await fetched(file)).blob());
}

function describe() {
  document.title = `${demo.name} in your browser`;
  byId("name").textContent = demo.name;
  const millions = (count) => `${(count / 1e6).toFixed(1)} M`;
  byId("facts").textContent =
    `${demo.labels.length} classes, ${millions(demo.params)} parameters, ` +
    `${millions(demo.macs_paper)} MACs (multiply-adds) at ${demo.preprocess.crop} pixels, ` +
    `${demo.precision}, ${(demo.num_bytes / 1e6).toFixed(1)} MB`;
  if (demo.labels.length <= 20) {
    byId("classes").textContent = `Classes: ${demo.labels.join(", ")}.`;
    byId("classes").hidden = false;
  }
  byId("license").replaceChildren(
    demo.license ? link(demo.license, demo.license_url) : "no licence stated",
    ...(demo.source_url ? ["; source: ", link(demo.source_url, demo.source_url)] : []),
  );
  byId("terms").hidden = demo.commercial;
  byId("terms-license").textContent = demo.license;
  byId("runtime").textContent = `onnxruntime-web ${demo.runtime}`;
}

function link(text, address) {
  if (!address?.startsWith("https://")) return text;
  return Object.assign(document.createElement("a"), { href: address, textContent: text });
}

let shown = null; // the photo on the page

function showPhoto(name, blob) {
  const photo = byId("photo");
  URL.revokeObjectURL(photo.src);
  shown = { name, blob };
  photo.src = URL.createObjectURL(blob);
  photo.alt = `The photo ${name}`;
}

function showResult(result, seen, best) {
  byId("result").hidden = false;
  const answer = result.none_of_these ? "None of these" : result.label;
  byId("answer").textContent = answer;
  byId("nearest").hidden = !result.none_of_these;
  byId("bars").replaceChildren(...best.map((index) => bar(index, result.probabilities[index])));
  byId("latency").textContent = `${precise(result.latency_ms)} ms`;
  byId("runs").textContent = `median of ${result.num_runs} runs`;
  byId("ran-on").textContent = BACKEND_NAMES[result.backend];
  const threads = result.threads > 1 ? `${result.threads} threads` : "1 thread";
  byId("reason").textContent = result.reason || (result.threads ? threads : "on the GPU");
  byId("prepared").textContent = `${precise(result.prepare_ms)} ms`;
  byId("size").textContent = `decode and resize ${result.size.join("\u00a0x\u00a0")}`;
  const canvas = Object.assign(byId("seen"), { width: seen.width, height: seen.height });
  const rgba = new ImageData(seen.width, seen.height);
  for (let i = 0; i < seen.width * seen.height; i++) {
    rgba.data.set(seen.data.subarray(3 * i, 3 * i + 3), 4 * i);
    rgba.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(rgba, 0, 0);
  const percent = (100 * result.probabilities[best[0]]).toFixed(1);
  const nearest = `${result.label}, ${percent} %`;
  say(`${result.photo}: ${result.none_of_these ? `none of these (nearest: ${nearest})` : nearest}`);
  delete root.dataset.error;
  root.dataset.result = JSON.stringify(result);
}

function bar(index, probability) {
  const row = document.createElement("li");
  const [label, track, value] = ["span", "div", "span"].map((tag) => document.createElement(tag));
  label.textContent = demo.labels[index];
  track.className = "track";
  track.append(document.createElement("div"));
  track.firstChild.style.width = `${100 * probability}%`;
  value.textContent = `${(100 * probability).toFixed(1)} %`;
  row.append(label, value, track);
  return row;
}

const precise = (ms) => (ms < 10 ? ms.toFixed(2) : ms.toFixed(0));

function say(text) {
  byId("status").textContent = text;
  byId("status").classList.remove("failed");
}

function fail(error) {
  // An answer about another photo would look like that about this one.
  byId("result").hidden = true;
  delete root.dataset.result;
  say(`Error: ${error.message}.`);
  byId("status").classList.add("failed");
  root.dataset.error = error.message;
}
