// The page is complete without this: it only sorts tables and reads curves under the pointer.
"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = heading.classList.contains("number") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const now = heading.getAttribute("aria-sort");
      const next = now === first ? second : now === second ? null : first;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) heading.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = next ? [...original].sort((a, b) => sign * compare(a.cells[column], b.cells[column], heading)) : original;
      body.append(...rows);
    });
  });
}

function compare(a, b, heading) {
  const [left, right] = [a.dataset.value, b.dataset.value];
  return heading.classList.contains("number") ? left - right : left.localeCompare(right, "en", { numeric: true });
}

for (const figure of document.querySelectorAll(".chart")) {
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("output");
  const readings = JSON.parse(svg.dataset.readings);
  const scale = (readings.right - readings.left) / readings.epochs;
  const nearest = (points, place) =>
    points.reduce((best, point) => (Math.abs(point[0] - place) < Math.abs(best[0] - place) ? point : best));

  svg.addEventListener("pointermove", (event) => {
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const place = Math.min(readings.epochs, Math.max(0, (x - readings.left) / scale));
    const [name, start] = readings.bands.find((band) => place <= band[2]);
    const values = Object.entries(readings.series).map(([series, points]) => `${series} ${nearest(points, place)[1]}`);
    output.textContent = `${name}, after ${(place - start).toFixed(1)} epochs: ${values.join(", ")}`;
    cursor.setAttribute("x1", readings.left + place * scale);
    cursor.setAttribute("x2", readings.left + place * scale);
    cursor.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerleave", () => {
    output.textContent = "";
    cursor.setAttribute("visibility", "hidden");
  });
}
