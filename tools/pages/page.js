"use strict";
// Clips play while the pointer is over them, unless the reader wants no motion; the one in use shows its controls.
const mayMove = matchMedia("(hover: hover) and (prefers-reduced-motion: no-preference)").matches;
for (const video of document.querySelectorAll("video")) {
  video.addEventListener("focus", () => { video.controls = true; });
  video.addEventListener("mouseenter", () => { if (mayMove) video.play(); });
  video.addEventListener("mouseleave", () => { if (mayMove) video.pause(); });
}

// Tables whose headings sort, by number where all cells begin with one; a dash comes first.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[column].textContent.trim();
    const number = (row) => (text(row) === "–" ? -1 : parseFloat(text(row).replaceAll(",", "")));
    const rows = [...body.rows], isNumeric = !rows.some((row) => Number.isNaN(number(row)));
    rows.sort((a, b) => sign * (isNumeric ? number(a) - number(b) : text(a).localeCompare(text(b))));
    body.append(...rows);
  }));
}
