// PNG as netpress reads it: values as they are stored, whatever profile or gamma the file names, and transparent
// colours not yet multiplied. A canvas gives neither. Of 16 bits the upper 8 are taken.

/* {width, height, rgba}; null for what the browser shall decode: interlaced, turned by EXIF, or rare. Throws where it is damaged. */
async function decodePng(bytes, mostPixels) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let header, palette, clear;
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const data = bytes.subarray(at + 8, at + 8 + length);
    if (data.length < length) throw new Error("cut short");
    if (kind === "IHDR") {
      header = { width: view.getUint32(at + 8), height: view.getUint32(at + 12), depth: data[8], colours: data[9] };
      refuseLarge(header.width, header.height, mostPixels);
      if (data[12] !== 0) return null;
    } else if (kind === "PLTE") palette = data;
    else if (kind === "tRNS") clear = data;
    else if (kind === "IDAT") parts.push(data);
    else if (kind === "eXIf" || kind === "acTL") return null;
    else if (kind === "IEND") break;
    at += 12 + length;
  }
  const bands = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[header.colours];
  if (!bands || (clear && header.depth < 8 && header.colours === 0)) return null;
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const rowBytes = Math.ceil((header.width * bands * header.depth) / 8);
  if (packed.length < (rowBytes + 1) * header.height) throw new Error("cut short");
  unfilter(packed, rowBytes, header.height, Math.max(1, (bands * header.depth) >> 3));
  return { width: header.width, height: header.height, rgba: toRgba(packed, header, bands, rowBytes, palette, clear) };
}

/* Undoes in place what each row was predicted by; a row begins with the number of its predictor. */
function unfilter(packed, rowBytes, height, back) {
  const before = new Uint8Array(rowBytes + 1);
  for (let y = 0; y < height; y++) {
    const at = y * (rowBytes + 1);
    const row = packed.subarray(at, at + rowBytes + 1);
    const above = y ? packed.subarray(at - rowBytes - 1, at) : before;
    for (let i = 1; i <= rowBytes; i++) {
      const left = i > back ? row[i - back] : 0;
      const up = above[i];
      if (row[0] === 1) row[i] += left;
      else if (row[0] === 2) row[i] += up;
      else if (row[0] === 3) row[i] += (left + up) >> 1;
      else if (row[0] === 4) row[i] += paeth(left, up, i > back ? above[i - back] : 0);
    }
  }
}

function paeth(left, up, corner) {
  const [a, b, c] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function toRgba(packed, { width, height, depth, colours }, bands, rowBytes, palette, clear) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  const step = depth === 16 ? 2 : 1;
  const key = clear && colours !== 3 ? Array.from({ length: clear.length >> 1 }, (_, i) => clear[2 * i] * 256 + clear[2 * i + 1]) : null;
  const levels = (1 << depth) - 1;
  for (let y = 0, to = 0; y < height; y++) {
    const start = y * (rowBytes + 1) + 1;
    for (let x = 0; x < width; x++, to += 4) {
      const at = start + x * bands * step;
      if (colours === 3 || depth < 8) {
        const place = x * depth;
        const value = (packed[start + (place >> 3)] >> (8 - depth - (place & 7))) & levels;
        for (let c = 0; c < 3; c++) rgba[to + c] = colours === 3 ? palette[3 * value + c] : (value * 255) / levels;
        rgba[to + 3] = colours === 3 && clear && value < clear.length ? clear[value] : 255;
        continue;
      }
      const grey = bands < 3;
      for (let c = 0; c < 3; c++) rgba[to + c] = packed[at + (grey ? 0 : c * step)];
      rgba[to + 3] = bands % 2 ? (isClear(rgba, to, packed, at, key, depth, grey) ? 0 : 255) : packed[at + (bands - 1) * step];
    }
  }
  return rgba;
}

/* Whether a pixel has the one colour that is transparent. */
function isClear(rgba, to, packed, at, key, depth, grey) {
  if (!key) return false;
  if (grey) return (depth === 16 ? packed[at] * 256 + packed[at + 1] : packed[at]) === key[0];
  const upper = Math.max(...key) > 255 ? key.map((value) => value >> 8) : key;
  return rgba[to] === upper[0] && rgba[to + 1] === upper[1] && rgba[to + 2] === upper[2];
}
