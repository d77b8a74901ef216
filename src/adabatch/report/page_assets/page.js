"use strict";
// Draws the charts in the colours of the theme; one legend and one switch of the x axis serve all of them.
(() => {
  const { charts, axes } = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const hidden = new Set();
  const INK = "#000000";
  const config = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset" };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The part of a layout that belongs to the theme, by the paths that plotly's relayout takes.
  function theme(layout) {
    const ink = colour("--ink"), muted = colour("--muted"), grid = colour("--grid"), line = colour("--line");
    const found = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": muted, "font.size": 12,
      "font.family": getComputedStyle(document.body).fontFamily,
      "hoverlabel.bgcolor": colour("--card"), "hoverlabel.bordercolor": colour("--muted"),
      "hoverlabel.font.color": ink, "hoverlabel.font.size": 13, "hoverlabel.align": "left",
    };
    for (const key of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      found[`${key}.gridcolor`] = grid;
      found[`${key}.linecolor`] = line;
    }
    (layout.annotations || []).forEach((_, place) => { found[`annotations[${place}].font.color`] = ink; });
    return found;
  }

  function set(target, path, value) {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = keys.pop();
    let place = target;
    for (const key of keys) place = place[key] ??= {};
    place[last] = value;
  }

  // Black lines would be lost on a dark ground.
  const inked = (value) => JSON.parse(JSON.stringify(value).replaceAll(`"${INK}"`, JSON.stringify(colour("--ink"))));

  function draw(id) {
    const { traces, layout } = inked(charts[id]);
    for (const [path, value] of Object.entries(theme(layout))) set(layout, path, value);
    layout.dragmode = coarse ? false : "zoom"; // a finger scrolls the page
    for (const trace of traces) trace.visible = !hidden.has(trace.meta.arm);
    const key = chosen();
    layout.uirevision = "zoom"; // a zoom stays while arms come and go
    if (charts[id].xs) against(traces, layout, id, key);
    return Plotly.react(id, traces, layout, config);
  }

  const chosen = () => document.querySelector("input[name=axis]:checked")?.value;

  // Against samples the evaluations of all arms lie at the same places and are told at once, where there is room.
  function against(traces, layout, id, key) {
    const together = key === "samples" && !coarse && innerWidth > 760;
    traces.forEach((trace, place) => {
      trace.x = charts[id].xs[key][place];
      if (together && trace.customdata) trace.hovertemplate = "%{customdata}<extra></extra>";
    });
    layout.hovermode = together ? "x unified" : "closest";
    layout.hoverdistance = together ? -1 : 20; // -1: as far as it is
    layout.xaxis.title.text = axes[key];
    layout.xaxis.unifiedhovertitle = { text: `%{x:,d} ${axes[key]}` };
    Object.assign(layout.xaxis, { spikethickness: 1, spikedash: "dot", spikecolor: colour("--muted") });
    layout.uirevision = key;
  }

  const drawAll = () => Promise.all(Object.keys(charts).map(draw));

  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const arm = chip.dataset.arm;
      hidden.has(arm) ? hidden.delete(arm) : hidden.add(arm);
      chip.setAttribute("aria-pressed", String(!hidden.has(arm)));
      drawAll();
    });
  }
  for (const choice of document.querySelectorAll("input[name=axis]")) {
    choice.addEventListener("change", () => Object.keys(charts).filter((id) => charts[id].xs).forEach(draw));
  }
  dark.addEventListener("change", drawAll);
  drawAll().then(() => { document.documentElement.dataset.drawn = "yes"; });
})();
