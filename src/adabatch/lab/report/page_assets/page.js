// Draws all charts; one legend and one switch of the x axis serve all of them. A page may offer choices: then a chart has
// a form for each (`of`), and whatever carries data-in is seen only where it names the choice.
const { charts, axes: units } = JSON.parse(document.getElementById("data").textContent);
const coarse = matchMedia("(pointer: coarse)").matches;
const hidden = new Set();
const views = {}; // for each chart what is drawn of it

const chosen = () => document.querySelector("input[name=axis]:checked")?.value || "samples";
const picked = () => [...document.querySelectorAll("select.choice, .choice input:checked")].map((e) => e.value).join("-");
const formOf = (id) => (charts[id].of ? charts[id].of[picked()] : charts[id]);
const usesAxis = (id) => Boolean(charts[id].xs || Object.values(charts[id].of || {})[0]?.xs);

function showPicked() {
  const now = picked();
  for (const part of document.querySelectorAll("[data-in]")) part.hidden = !part.dataset.in.split(" ").includes(now);
}

// Against samples the evaluations of all arms lie at the same places and are told at once, where there is room.
function render(id) {
  const view = views[id], key = chosen();
  let chart = formOf(id);
  if (!chart) return;
  const { traces, layout, xs, xaxes, apart } = chart;
  if (xs) {
    const placed = traces.map((trace, at) => {
      const places = Object.fromEntries(Object.keys(xs).map((key) => [key, xs[key][at]]));
      return { ...trace, x: places[key], places };
    });
    chart = { traces: placed, layout: { ...layout, xaxis: { ...layout.xaxis, ...xaxes?.[key], title: { text: units[key] } } } };
  }
  view.hide?.();
  view.chart = chart;
  view.drawn = {
    ...draw(view.element, chart, { hidden, zoom: view.zoom }),
    course: Boolean(xs), unit: units[key],
    together: Boolean(xs) && !apart && key === "samples" && !coarse && innerWidth > 760,
  };
}

// A part of the x axis, with the heights that the curves have there.
function closer(view, range) {
  if (!range) return null;
  const zoom = { xaxis: range };
  const { xaxis } = view.chart.layout;
  const inner = xaxis.type === "log" ? Math.log10 : (value) => value;
  const within = (place) => place >= range[0] && place <= range[1];
  for (const key of view.drawn.rows) {
    if (view.chart.layout[key].type) continue;
    const drawn = view.chart.traces.filter((trace) => !trace.fill && !hidden.has(trace.meta.arm));
    const seen = (trace) => (value, at) => value !== null && within(inner(trace.x[at]));
    const heights = drawn.filter((trace) => axisOf(trace) === key).flatMap((trace) => trace.y.filter(seen(trace)));
    if (new Set(heights).size > 1) zoom[key] = ends({}, heights);
  }
  return zoom;
}

const renderAll = () => Object.keys(charts).forEach(render);
const renew = (ids) => ids.forEach((id) => { views[id].zoom = null; render(id); });
showPicked();

for (const id of Object.keys(charts)) {
  const view = (views[id] = { element: document.getElementById(id), zoom: null });
  render(id);
  view.hide = listen(view.element, () => view.drawn, (range) => {
    view.zoom = closer(view, range);
    render(id);
  });
  let width = view.element.clientWidth;
  new ResizeObserver(() => {
    if (view.element.clientWidth !== width) { width = view.element.clientWidth; render(id); }
  }).observe(view.element);
}
for (const chip of document.querySelectorAll(".chip")) {
  const { dash, symbol } = chip.dataset;
  const line = `<path stroke-width="3"${dashes(dash, 3)} d="M0 6H38"/>`;
  const icon = `${line}<path class="mark" transform="translate(19 6)scale(4.2)" d="${SYMBOLS[symbol]}"/>`;
  chip.insertAdjacentHTML("afterbegin", `<svg viewBox="0 0 38 12" aria-hidden="true">${icon}</svg>`);
  chip.addEventListener("click", () => {
    const { arm } = chip.dataset;
    hidden.has(arm) ? hidden.delete(arm) : hidden.add(arm);
    chip.setAttribute("aria-pressed", String(!hidden.has(arm)));
    renderAll();
  });
}
for (const choice of document.querySelectorAll("input[name=axis]")) {
  choice.addEventListener("change", () => renew(Object.keys(charts).filter(usesAxis)));
}
for (const choice of document.querySelectorAll("select.choice, .choice input")) {
  choice.addEventListener("change", () => {
    showPicked();
    renew(Object.keys(charts).filter((id) => charts[id].of));
  });
}

// A table that goes on beyond its right edge says so, until its end is seen.
for (const box of document.querySelectorAll(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "more";
  hint.textContent = "more columns to the right \u2192";
  hint.setAttribute("aria-hidden", "true");
  box.before(hint);
  const look = () => {
    const over = box.scrollWidth - box.clientWidth > 1;
    hint.hidden = !over;
    box.classList.toggle("cut", over && box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  box.addEventListener("scroll", look);
  new ResizeObserver(look).observe(box);
  look();
}
document.documentElement.dataset.drawn = "yes";
