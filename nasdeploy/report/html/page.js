"use strict";
// Draws the figures of a report. The page holds plotly's script compressed, and each figure as JSON with the names of
// colours ("@accent") in place of colours, which are those of the theme that is shown.
(() => {
  const root = document.documentElement;
  const canvases = [...document.querySelectorAll(".canvas")];
  const figures = new Map(canvases.map((canvas) => [canvas, JSON.parse(canvas.nextElementSibling.textContent)]));
  const settings = { displayModeBar: false, responsive: true };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // As wide as what is printed of the narrower of A4 and Letter, in pixels of 1/96 inch.
  const paper = { autosize: false, width: 620, height: 300 };
  let printing = false;

  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);

  // A value of a figure with the names of colours replaced.
  function coloured(value) {
    if (typeof value === "string" && value.startsWith("@")) {
      probe.style.color = `var(--${value.slice(1)})`;
      return getComputedStyle(probe).color;
    }
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
    }
    return value;
  }

  function draw(canvas) {
    const { data, layout } = coloured(figures.get(canvas));
    return Plotly.react(canvas, data, printing ? { ...layout, ...paper } : layout, { ...settings, staticPlot: printing });
  }

  // Inflates plotly's script and runs it; it is one of those that the page's policy names.
  async function load() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(inflated).text();
    document.head.append(script);
  }

  // What is seen at first is drawn at once, then the rest in the order of the page, without keeping the browser busy.
  async function start() {
    if (!canvases.length) return;
    await load();
    const seen = canvases.filter((canvas) => canvas.getBoundingClientRect().top < innerHeight);
    for (const canvas of seen) await draw(canvas);
    root.dataset.drawn = "first";
    performance.mark("first");
    for (const canvas of canvases.filter((one) => !seen.includes(one))) {
      await new Promise((resolve) => setTimeout(resolve));
      await draw(canvas);
    }
    root.dataset.drawn = "all";
    performance.mark("all");
  }

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const button = document.getElementById("theme");
  function label() {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  }
  function redraw() {
    label();
    if (window.Plotly) canvases.forEach(draw);
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    redraw();
  });
  dark.addEventListener("change", redraw);
  // Paper has a light theme and a width of its own, and nothing on it is hovered.
  const print = (begins) => {
    printing = begins;
    root.toggleAttribute("data-printing", begins);
    redraw();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  label();
  start().catch((error) => {
    document.getElementById("undrawn").hidden = false;
    throw error;
  });
})();
