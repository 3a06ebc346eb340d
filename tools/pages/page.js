"use strict";
// Players: each image is a strip of frames, one tile of it shown at a time. data-shown has the frames' numbers.
const players = [...document.querySelectorAll(".player")].map((figure) => {
  const images = [...figure.querySelectorAll("img")], screen = figure.querySelector(".screen");
  const slider = figure.querySelector("input"), output = figure.querySelector("output");
  const numbers = JSON.parse(figure.dataset.shown), fps = Number(figure.dataset.fps);
  const places = images.flatMap((image) => Array.from({ length: image.dataset.tiles }, (_, tile) => [image, tile]));
  let timer = null, now = 0;
  const show = (frame) => {
    now = frame;
    const [shown, tile] = places[frame];
    images.forEach((image) => { image.hidden = image !== shown; });
    shown.style.transform = `translateY(${(-100 * tile) / shown.dataset.tiles}%)`;
    slider.value = frame;
    output.textContent = `frame ${numbers[frame]}` + (fps ? `, ${(numbers[frame] / fps).toFixed(2)} s` : "");
    slider.setAttribute("aria-valuetext", output.textContent);
    figure.dataset.now = frame;
  };
  const play = (on) => {
    if (places.length === 1) return;
    clearInterval(timer);
    timer = on ? setInterval(() => show((now + 1) % places.length), Number(figure.dataset.ms)) : null;
    screen.setAttribute("aria-pressed", on);
  };
  let isHovered = false;
  if (matchMedia("(hover: hover) and (prefers-reduced-motion: no-preference)").matches) {
    screen.addEventListener("mouseenter", () => { isHovered = timer === null; if (isHovered) play(true); });
    screen.addEventListener("mouseleave", () => { if (isHovered) play(false); isHovered = false; });
  }
  screen.addEventListener("click", () => { play(isHovered || timer === null); isHovered = false; });
  slider.addEventListener("input", () => { play(false); show(Number(slider.value)); });
  show(0);
  return { figure, play };
});

// "Play all" plays what can be seen.
const all = document.getElementById("play-all");
if (all) {
  let isOn = false;
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const player = players.find((one) => one.figure === target);
      player.isSeen = isIntersecting;
      if (isOn) player.play(isIntersecting);
    }
  });
  players.forEach((player) => seen.observe(player.figure));
  all.addEventListener("click", () => {
    isOn = !isOn;
    all.setAttribute("aria-pressed", isOn);
    all.textContent = isOn ? "Pause all" : "Play all";
    players.forEach((player) => player.play(isOn && player.isSeen));
  });
}

// Tables whose headings sort.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
    const isNumeric = [...body.rows].every((row) => "value" in row.cells[column].dataset);
    const order = isNumeric ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    [...body.rows].sort((a, b) => sign * order(a, b)).forEach((row) => body.append(row));
  }));
}
