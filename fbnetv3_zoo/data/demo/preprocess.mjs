/**
 * From a photo to the model's input, equal to `fbnetv3.images.preprocess` in Python: upright RGB on
 * white, resized as by Pillow, cropped, normalised.
 *
 * Browsers resize a canvas in different ways, so this file has Pillow's arithmetic: two passes
 * of weights with 22 fractional bits, rounded to 8 bits after each. Images are
 * {data, width, height}, three bytes per pixel.
 */

const MAX_ASPECT = 32; // as in `fbnetv3.images.preprocess`
const FRACTION_BITS = 22; // Pillow's PRECISION_BITS
const HALF = 1 << (FRACTION_BITS - 1);
const BAND = 1024; // rows read at a time: some browsers limit a canvas to 16 megapixels
const KERNELS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

/** Returns the RGB image of a file, upright by EXIF, without colour profile, as in Python. */
export async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
  });
  const { width, height } = bitmap;
  const data = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(width, Math.min(height, BAND));
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  for (let top = 0, at = 0; top < height; top += BAND) {
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    const rgba = context.getImageData(0, 0, width, Math.min(BAND, height - top)).data;
    for (let i = 0; i < rgba.length; i += 4, at += 3) {
      data[at] = rgba[i];
      data[at + 1] = rgba[i + 1];
      data[at + 2] = rgba[i + 2];
    }
  }
  bitmap.close();
  return { data, width, height };
}

/** Returns the model's input before normalisation, an image of `rule.crop` x `rule.crop` pixels. */
export function pixels(image, rule) {
  return cut(resized(image, rule), rule.crop);
}

/** Returns an image as float32 planes, with the operations of the Python code in their order. */
export function normalise(image, rule) {
  const { fround } = Math;
  const area = image.width * image.height;
  const out = new Float32Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    const [unit, mean, std] = [1 / 255, rule.mean[channel], rule.std[channel]].map(fround);
    for (let i = 0; i < area; i++) {
      out[channel * area + i] = fround(fround(image.data[3 * i + channel] * unit) - mean) / std;
    }
  }
  return out;
}

/** Returns the probabilities of logits. */
export function softmax(logits, temperature = 1) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const shares = Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  const total = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / total);
}

/** Returns log sum exp: the higher, the likelier the image is of one of the classes. */
export function energy(logits) {
  const highest = logits.reduce((a, b) => Math.max(a, b));
  return highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0));
}

function resized(image, { resize, crop, interpolation }) {
  const { width, height } = image;
  const isWide = width > height;
  const [short, long] = isWide ? [height, width] : [width, height];
  const newLong = Math.trunc((resize * long) / short);
  let newSides = [newLong, resize];
  let box = [0, long];
  if (long > MAX_ASPECT * short) {
    const kept = Math.min(newLong, crop);
    const left = roundHalfEven((newLong - kept) / 2);
    const scale = long / newLong;
    newSides = [kept, resize];
    box = [left * scale, Math.min((left + kept) * scale, long)].map(Math.fround);
  } else if (newLong === long && resize === short) {
    return image;
  }
  const [newWidth, newHeight] = isWide ? newSides : newSides.toReversed();
  const [boxX, boxY] = isWide ? [box, [0, height]] : [[0, width], box];
  const taps = interpolation === "nearest" ? nearestTaps : kernelTaps(KERNELS[interpolation]);
  const [columns, rows] = [taps(width, boxX, newWidth), taps(height, boxY, newHeight)];
  // The order affects the rounding between the passes. Pillow has this rule since version 13.
  const isVerticalFirst = newHeight < height && height - newHeight > 2 * (width - newWidth);
  return isVerticalFirst
    ? pass(pass(image, rows, true), columns, false)
    : pass(pass(image, columns, false), rows, true);
}

/** Resamples rows or, if `vertical`, columns. */
function pass({ data, width, height }, taps, vertical) {
  const size = taps.first.length;
  const [newWidth, newHeight] = vertical ? [width, size] : [size, height];
  const out = new Uint8ClampedArray(newWidth * newHeight * 3);
  const numLines = vertical ? width : height;
  const { first, count, weights, most } = taps;
  const [lineIn, lineOut] = vertical ? [3, 3] : [width * 3, newWidth * 3];
  const step = vertical ? width * 3 : 3;
  for (let line = 0; line < numLines; line++) {
    for (let i = 0; i < size; i++) {
      let from = line * lineIn + first[i] * step;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      const stop = i * most + count[i];
      for (let k = i * most; k < stop; k++, from += step) {
        const weight = weights[k];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
      }
      const at = line * lineOut + i * step;
      out[at] = red >> FRACTION_BITS;
      out[at + 1] = green >> FRACTION_BITS;
      out[at + 2] = blue >> FRACTION_BITS;
    }
  }
  return { data: out, width: newWidth, height: newHeight };
}

/** Returns for each new pixel the first and the number of old ones, and fixed-point weights. */
function kernelTaps({ support, weight }) {
  return (size, [start, stop], newSize) => {
    const scale = Math.fround(stop - start) / newSize;
    const stretch = Math.max(scale, 1);
    const reach = support * stretch;
    const most = Math.ceil(reach) * 2 + 1;
    const taps = emptyTaps(newSize, most);
    for (let i = 0; i < newSize; i++) {
      const center = start + (i + 0.5) * scale;
      const first = Math.max(0, Math.trunc(center - reach + 0.5));
      const count = Math.min(size, Math.trunc(center + reach + 0.5)) - first;
      const shares = Array.from({ length: count }, (_, k) =>
        weight((k + first - center + 0.5) * (1 / stretch)),
      );
      const total = shares.reduce((a, b) => a + b, 0);
      taps.first[i] = first;
      taps.count[i] = count;
      shares.forEach((share, k) => {
        const fixed = (total === 0 ? share : share / total) * (1 << FRACTION_BITS);
        taps.weights[i * most + k] = Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
      });
    }
    return taps;
  };
}

function nearestTaps(size, [start, stop], newSize) {
  const scale = Math.fround(stop - start) / newSize;
  const taps = emptyTaps(newSize, 1);
  // Added up as in Pillow, not multiplied, because rounding decides between neighbours.
  for (let i = 0, position = start + scale * 0.5; i < newSize; i++, position += scale) {
    taps.first[i] = Math.trunc(position);
    taps.count[i] = taps.first[i] < size ? 1 : 0;
    taps.weights[i] = 1 << FRACTION_BITS;
  }
  return taps;
}

function emptyTaps(newSize, most) {
  return {
    most,
    first: new Int32Array(newSize),
    count: new Int32Array(newSize),
    weights: new Int32Array(newSize * most),
  };
}

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function cut(image, crop) {
  const [left, top] = [image.width, image.height].map((side) =>
    side < crop ? -Math.floor((crop - side) / 2) : roundHalfEven((side - crop) / 2),
  );
  const out = new Uint8Array(crop * crop * 3);
  const from = Math.max(0, left);
  const stop = Math.min(image.width, left + crop);
  for (let y = Math.max(0, top); y < Math.min(image.height, top + crop); y++) {
    const row = image.data.subarray((y * image.width + from) * 3, (y * image.width + stop) * 3);
    out.set(row, ((y - top) * crop + from - left) * 3);
  }
  return { data: out, width: crop, height: crop };
}

/** Python's `round`. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
