// From a file to the pixels that enter the network, as a training reads its images: netpress.data.pixels and
// netpress.data.resizing, with the integers that Pillow's bilinear filter calculates in.

class Unreadable extends Error {}

const MOST_BYTES = 400e6;
const PRECISION = 22; // bits of a weight of the filter, in Pillow

function refuseLarge(width, height, mostPixels) {
  if (width * height > mostPixels)
    throw new Unreadable(`has ${width.toLocaleString("en")} × ${height.toLocaleString("en")} pixels, more than this page reads (${(mostPixels / 1e6).toFixed(0)} million)`);
}

/* {width, height, rgba} of a file, as a picture stands upright. */
async function readImage(file, mostPixels) {
  if (!file.size) throw new Unreadable("is empty");
  if (file.size > MOST_BYTES) throw new Unreadable(`is too large (${(file.size / 1e6).toFixed(0)} MB)`);
  const start = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if ([137, 80, 78, 71, 13, 10, 26, 10].every((byte, i) => start[i] === byte)) {
    try {
      const image = await decodePng(new Uint8Array(await file.arrayBuffer()), mostPixels);
      if (image) return image;
    } catch (error) {
      if (error instanceof Unreadable) throw error;
    }
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Unreadable("is not an image that this browser can read (it reads PNG, JPEG and WebP)");
  }
  refuseLarge(bitmap.width, bitmap.height, mostPixels);
  try {
    return drawn(bitmap, bitmap.width, bitmap.height);
  } catch {
    throw new Unreadable("is too large for this browser");
  } finally {
    bitmap.close();
  }
}

/* {width, height, rgba} of anything that a canvas draws. */
function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return { width, height, rgba: context.getImageData(0, 0, width, height).data };
}

/* The network's pixels, [height][width][channel], of an image. */
function toPixels({ width, height, rgba }, { channels, side, resize, background }) {
  const plane = toBands(rgba, channels, background);
  const image = { width, height, bands: channels, values: plane };
  if (width === side && height === side) return plane;
  if (resize === "squash") return resample(image, side, side, [0, 0, width, height]);
  if (resize === "crop") {
    const [wide, high] = width / height >= 1 ? [height, height] : [width, width];
    const [left, top] = [(width - wide) * 0.5, (height - high) * 0.5];
    return resample(image, side, side, [left, top, left + wide, top + high]);
  }
  return padded(image, side, background);
}

/* Red, green and blue on the background, or grey. */
function toBands(rgba, channels, background) {
  const count = rgba.length / 4;
  const values = new Uint8ClampedArray(count * channels);
  const on = (value, alpha) => {
    const sum = background * (255 - alpha) + value * alpha + 128;
    return ((sum >> 8) + sum) >> 8;
  };
  for (let i = 0; i < count; i++) {
    const alpha = rgba[4 * i + 3];
    let [r, g, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (alpha !== 255) [r, g, b] = [on(r, alpha), on(g, alpha), on(b, alpha)];
    if (channels === 1) values[i] = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;
    else [values[3 * i], values[3 * i + 1], values[3 * i + 2]] = [r, g, b];
  }
  return values;
}

/* Between two bars of the background, where the picture is not square. */
function padded(image, side, background) {
  const even = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value)); // as Python rounds
  const { width, height, bands } = image;
  const wide = width > height ? side : even((width / height) * side);
  const high = height > width ? side : even((height / width) * side);
  const out = new Uint8ClampedArray(side * side * bands).fill(background);
  if (!wide || !high) return out;
  const inside = resample(image, wide, high, [0, 0, width, height]);
  const [left, top] = [even((side - wide) * 0.5), even((side - high) * 0.5)];
  for (let y = 0; y < high; y++)
    out.set(inside.subarray(y * wide * bands, (y + 1) * wide * bands), ((y + top) * side + left) * bands);
  return out;
}

/* The part of an image in `box` as wide x high pixels: along rows and along columns, rounded in between. */
function resample({ width, height, bands, values }, wide, high, box) {
  const [x0, y0, x1, y1] = box.map(Math.fround);
  const across = (image) => (wide !== width || x0 || x1 !== wide ? alongRows(image, filter(width, x0, x1, wide)) : image);
  const down = (image) => (high !== height || y0 || y1 !== high ? alongColumns(image, filter(height, y0, y1, high)) : image);
  const image = { width, height, bands, values };
  // Pillow since 13 begins with the columns where that spares it more.
  const columnsFirst = facts.columnsFirst && height > high && height - high > 2 * (width - wide);
  return (columnsFirst ? across(down(image)) : down(across(image))).values;
}

function alongRows({ width, height, bands, values }, taps) {
  const out = new Uint8ClampedArray(height * taps.length * bands);
  let to = 0;
  for (let y = 0; y < height; y++)
    for (const { first, weights } of taps)
      for (let c = 0; c < bands; c++, to++) {
        let sum = 1 << (PRECISION - 1);
        for (let i = 0, at = (y * width + first) * bands + c; i < weights.length; i++, at += bands) sum += values[at] * weights[i];
        out[to] = sum >> PRECISION;
      }
  return { width: taps.length, height, bands, values: out };
}

function alongColumns({ width, bands, values }, taps) {
  const line = width * bands;
  const out = new Uint8ClampedArray(taps.length * line);
  taps.forEach(({ first, weights }, y) => {
    for (let x = 0; x < line; x++) {
      let sum = 1 << (PRECISION - 1);
      for (let i = 0, at = first * line + x; i < weights.length; i++, at += line) sum += values[at] * weights[i];
      out[y * line + x] = sum >> PRECISION;
    }
  });
  return { width, height: taps.length, bands, values: out };
}

/* Which values make each of `count` new ones, and their weights as integers: a triangle as wide as the step, two values at least. */
function filter(size, from, to, count) {
  const scale = Math.fround(to - from) / count;
  const reach = Math.max(1, scale);
  return Array.from({ length: count }, (_, place) => {
    const center = from + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const last = Math.min(size, Math.trunc(center + reach + 0.5));
    const shares = Array.from({ length: last - first }, (_, i) => Math.max(0, 1 - Math.abs((i + first - center + 0.5) * (1 / reach))));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return { first, weights: Int32Array.from(shares, (share) => Math.trunc(0.5 + (total ? share / total : share) * (1 << PRECISION))) };
  });
}
