// The page: whatever way an image comes, `classify` shows what the network says of it.

const facts = JSON.parse(document.getElementById("facts").textContent);
const byId = (id) => document.getElementById(id);
const SHOWN = 5; // classes
const TIMES = 15; // whose median is the latency
const LONGEST = 400; // milliseconds that they take together
const TICK = 2; // milliseconds that each takes at least, of as many runs as that needs
const TOGETHER = 100; // at most

/* Text of 85 letters, four bytes in five, and then deflate: a quarter more than the bytes, where base64 takes a third. */
async function unpack(text) {
  const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";
  const values = new Uint8Array(128);
  for (let i = 0; i < 85; i++) values[letters.charCodeAt(i)] = i;
  const bytes = new DataView(new ArrayBuffer((text.length / 5) * 4));
  for (let i = 0; i < text.length; i += 5) {
    let number = 0;
    for (let k = 0; k < 5; k++) number = number * 85 + values[text.charCodeAt(i + k)];
    bytes.setUint32((i / 5) * 4, number);
  }
  const length = bytes.getUint32(0);
  const stream = new Blob([new Uint8Array(bytes.buffer, 4, length)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function start() {
  if (typeof WebAssembly !== "object") throw new Unreadable("This browser has no WebAssembly, or it is switched off; the network needs it.");
  if (typeof DecompressionStream !== "function") throw new Unreadable("This browser is too old for this page; any of 2023 or later can.");
  const code = await unpack(byId("module").textContent);
  try {
    return (await WebAssembly.instantiate(code)).instance.exports;
  } catch (error) {
    const blocked = /content security|disallowed|blocked/i.test(String(error));
    throw new Unreadable(blocked ? "This browser does not let the page run WebAssembly." : "This browser has no WebAssembly SIMD, which the network needs; any browser of 2023 or later has it.");
  }
}

/* Int32Array of one number a class, for pixels [height][width][channel] of 0 to 255. */
function run(network, pixels) {
  new Uint8Array(network.memory.buffer, network.pixels(), pixels.length).set(pixels);
  if (network.run()) throw new Error("the network refused its memory");
  return new Int32Array(network.memory.buffer, network.logits(), facts.classes.length).slice();
}

/* The likeliest classes, the first first, of equal ones the lower; shares are the softmax of the logits. */
function rank(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - most) * facts.scale));
  const total = powers.reduce((sum, power) => sum + power, 0);
  const order = [...powers.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  return order.slice(0, SHOWN).map((place) => ({ label: facts.classes[place], place, share: powers[place] / total }));
}

const percent = (share) => (share >= 0.9995 && share < 1 ? ">99.9%" : share > 0 && share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function show(guesses) {
  byId("best").replaceChildren(element("span", "", guesses[0].label), element("span", "soft", percent(guesses[0].share)));
  byId("guesses").replaceChildren(
    ...guesses.map(({ label, share }) => {
      const row = element("li");
      const bar = element("span", "bar");
      bar.append(element("i"));
      bar.firstChild.style.width = `${share * 100}%`;
      row.append(element("span", "name", label), element("span", "share", percent(share)), bar);
      return row;
    }),
  );
}

function showPixels(pixels) {
  const { side, channels } = facts;
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  byId("seen").getContext("2d").putImageData(image, 0, 0);
  byId("empty").hidden = true;
}

function caption({ width, height }) {
  const { side, channels, resize } = facts;
  const how = { squash: width === height ? "" : ", stretched", crop: width === height ? "" : ", the square in its middle", pad: width === height ? "" : ", between bars" }[resize];
  const from = width === side && height === side ? "" : `, from ${width} × ${height}${how}`;
  byId("caption").textContent = `What the network sees: ${side} × ${side} pixels${channels === 1 ? ", grey" : ""}${from}`;
}

/* Milliseconds of one run: the median of several. Short ones are timed together, since clocks of browsers are coarse. */
function measure(network) {
  const times = [];
  let runs = 0;
  for (const end = performance.now() + LONGEST; times.length < TIMES && (times.length < 3 || performance.now() < end); ) {
    const begin = performance.now();
    let count = 0;
    while (count < TOGETHER && performance.now() - begin < TICK) {
      network.run();
      count++;
    }
    times.push((performance.now() - begin) / count);
    runs += count;
  }
  times.sort((a, b) => a - b);
  const median = times[times.length >> 1];
  byId("latency").textContent = median < 0.1 ? "<0.1 ms" : `${median < 10 ? median.toPrecision(2) : median.toFixed(0)} ms`;
  byId("latency-note").textContent = `an image on this device, one thread; the median of ${runs.toLocaleString("en")} runs`;
}

function tell(problem) {
  byId("problem").textContent = problem;
  byId("problem").hidden = !problem;
  if (problem) byId("problem").scrollIntoView({ block: "nearest" });
}

let asked = 0; // only the last image that was given is shown

async function classify(ready, read, { name = "The image", label = null, button = null } = {}) {
  const mine = ++asked;
  tell("");
  try {
    const network = await ready;
    const image = await read();
    if (mine !== asked) return;
    const pixels = toPixels(image, facts);
    const guesses = rank(run(network, pixels));
    showPixels(pixels);
    caption(image);
    show(guesses);
    byId("truth").textContent = label === null || label === guesses[0].label ? "" : `Its label is ${label}.`;
    for (const other of document.querySelectorAll('.tiles [aria-pressed="true"]')) other.removeAttribute("aria-pressed");
    if (button) button.setAttribute("aria-pressed", "true");
    setTimeout(() => mine === asked && measure(network), 50);
  } catch (error) {
    if (mine === asked) tell(error instanceof Unreadable ? (ready.failed ? error.message : `${name} ${error.message}.`) : `${name} could not be classified: ${error.message}`);
  }
}

const ready = start();
ready.catch((error) => {
  ready.failed = true;
  tell(error.message);
});
const classifyFile = (file) => classify(ready, () => readImage(file, facts.mostPixels), { name: file.name || "The image" });

/* --- files: chosen, dropped, pasted */

for (const id of ["file", "shot"])
  byId(id).addEventListener("change", ({ target }) => {
    if (target.files.length) classifyFile(target.files[0]);
    target.value = "";
  });

/* The first file among what was dropped or pasted; says so where there is none. */
function take(event, transfer) {
  const file = [...transfer.files].find((one) => one.type.startsWith("image/")) || transfer.files[0];
  if (file) classifyFile(file);
  else if (transfer.types.length) tell("That is text or a link, and this page fetches nothing: save the image, and choose its file.");
  if (file || event.type === "drop") event.preventDefault();
}

document.addEventListener("paste", (event) => take(event, event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  take(event, event.dataTransfer);
});

/* --- the camera */

let stream = null;

function closeCamera() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  byId("viewfinder").hidden = true;
  byId("camera").hidden = false;
  byId("camera").focus();
}

if (matchMedia("(pointer: coarse)").matches) {
  byId("snap").hidden = false;
  byId("empty").textContent = "Choose an image, or take a photo";
} else if (navigator.mediaDevices && navigator.mediaDevices.getUserMedia) byId("camera").hidden = false;

byId("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    tell(error.name === "NotAllowedError" ? "The browser does not let this page use the camera. Choose a photo in its place." : "There is no camera that this browser can use.");
    return;
  }
  byId("video").srcObject = stream;
  byId("viewfinder").hidden = false;
  byId("camera").hidden = true;
  byId("take").focus();
});
byId("stop").addEventListener("click", closeCamera);
byId("take").addEventListener("click", () => {
  const video = byId("video");
  if (!video.videoWidth) return;
  const photo = drawn(video, video.videoWidth, video.videoHeight);
  closeCamera();
  classify(ready, async () => photo, { name: "The photo" });
});

/* --- examples */

async function readTile(button) {
  const picture = button.querySelector("img");
  await picture.decode();
  return drawn(picture, picture.naturalWidth, picture.naturalHeight);
}

function classifyTile(button, label) {
  classify(ready, () => readTile(button), { name: "The example", label, button });
}

function makeTile([place, picture]) {
  const label = facts.classes[place];
  const [item, button, image, name] = ["li", "button", "img", "span"].map((kind) => element(kind));
  image.alt = "";
  image.src = `data:image/${facts.kind_of_tiles};base64,${picture}`;
  for (const part of label.split(/(?<=_)/)) name.append(part, element("wbr"));
  button.type = "button";
  button.append(image, name);
  button.addEventListener("click", () => {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(".bench").scrollIntoView({ block: "nearest", behavior: calm ? "instant" : "smooth" });
    classifyTile(button, label);
  });
  item.append(button);
  return item;
}

const tiles = Object.entries(facts.tiles || {});
if (tiles.length) {
  byId("tiles").append(...tiles.map(makeTile));
  classifyTile(byId("tiles").querySelector("button"), facts.classes[tiles[0][0]]);
}

/* For other scripts and the console: logits of raw pixels, and the pixels of a file, as the network sees it. */
window.netpress = {
  logits: async (pixels) => run(await ready, pixels),
  pixels: async (file) => toPixels(await readImage(file, facts.mostPixels), facts),
};
