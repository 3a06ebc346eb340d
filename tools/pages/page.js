"use strict";
// Colours: as the system says, light or dark. A page opened from disk may have no storage; then it forgets.
(() => {
  const button = document.getElementById("scheme"), root = document.documentElement, schemes = ["automatic", "light", "dark"];
  const show = (scheme) => {
    if (scheme === "automatic") root.removeAttribute("data-scheme"); else root.dataset.scheme = scheme;
    button.textContent = "Colours: " + scheme;
  };
  let scheme = "automatic";
  try { scheme = localStorage.getItem("scheme") || scheme; } catch { /* no storage */ }
  show(schemes.includes(scheme) ? scheme : "automatic");
  button.addEventListener("click", () => {
    scheme = schemes[(schemes.indexOf(scheme) + 1) % 3];
    show(scheme);
    try { localStorage.setItem("scheme", scheme); } catch { /* no storage */ }
  });
})();

// Players: strips of frames, one tile shown at a time. data-frames says which tile of which strip each frame is.
(() => {
  const players = [...document.querySelectorAll(".player")].map((figure) => {
    const frames = JSON.parse(figure.dataset.frames), images = [...figure.querySelectorAll(".screen img")];
    const slider = figure.querySelector("input"), names = JSON.parse(slider.dataset.names);
    const button = figure.querySelector(".play"), output = figure.querySelector("output");
    const needle = figure.querySelector(".needle");
    let timer = null, now = 0;
    const show = (frame) => {
      now = frame;
      const [strip, tile] = frames[frame];
      images.forEach((image, i) => { image.hidden = i !== strip; });
      images[strip].style.transform = `translateY(${(-100 * tile) / images[strip].dataset.tiles}%)`;
      slider.value = frame;
      slider.setAttribute("aria-valuetext", names[frame]);
      output.textContent = names[frame];
      figure.dataset.shown = frame;
      if (needle) needle.setAttribute("x", JSON.parse(needle.dataset.places)[frame]);
    };
    const play = (on) => {
      clearInterval(timer);
      timer = on ? setInterval(() => show((now + 1) % frames.length), Number(figure.dataset.ms)) : null;
      button.setAttribute("aria-pressed", on);
      button.textContent = on ? "Pause" : "Play";
    };
    button.addEventListener("click", () => play(timer === null));
    slider.addEventListener("input", () => { play(false); show(Number(slider.value)); });
    show(0);
    return { figure, play, isPlaying: () => timer !== null };
  });
  const all = document.getElementById("play-all");
  if (!players.length) return;
  all.hidden = false;
  // "Play all" plays what can be seen; the rest waits until it is scrolled to.
  let isOn = false;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const player = players.find((one) => one.figure === entry.target);
      player.isSeen = entry.isIntersecting;
      if (isOn) player.play(entry.isIntersecting);
    }
  });
  players.forEach((player) => seen.observe(player.figure));
  all.addEventListener("click", () => {
    isOn = !isOn;
    all.setAttribute("aria-pressed", isOn);
    all.textContent = isOn ? "Pause all" : "Play all";
    players.forEach((player) => player.play(isOn && Boolean(player.isSeen)));
  });
})();

// The gallery's box: only classes whose name holds what is written there.
(() => {
  const box = document.getElementById("class-filter"), groups = [...document.querySelectorAll(".class-gallery")];
  if (!box) return;
  box.closest("p").hidden = false;
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    groups.forEach((group) => { group.hidden = !group.dataset.name.toLowerCase().includes(wanted); });
    const count = groups.filter((group) => !group.hidden).length;
    box.closest("p").querySelector("output").textContent = count + (count === 1 ? " class" : " classes");
  });
})();

// Tables whose headings sort.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "ascending", sign = down ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const isNumeric = [...body.rows].every((row) => value(row) !== "" && !Number.isNaN(Number(value(row))));
    const order = isNumeric ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    [...body.rows].sort((a, b) => sign * order(a, b)).forEach((row) => body.append(row));
  }));
}
