// Draws a chart as SVG. A chart is a small part of plotly's JSON, see charts.py; colours come from the style alone:
// everything of an arm carries its name in data-arm.

const DASHES = {
  dash: [4, 1.6], dot: [1.1, 1.3], dashdot: [4, 1.4, 1, 1.4], longdash: [8, 2], longdashdot: [8, 1.6, 1, 1.6],
};

// Marks around 0 that reach from -1 to 1.
const SYMBOLS = {
  circle: "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z",
  diamond: "M0 -1.25L1 0L0 1.25L-1 0Z",
  square: "M-.88 -.88H.88V.88H-.88Z",
  "triangle-up": "M0 -1.15L1.1 .8H-1.1Z",
  cross: "M-.38 -1.1H.38V-.38H1.1V.38H.38V1.1H-.38V.38H-1.1V-.38H-.38Z",
  star: "M0 -1.25L.34 -.42L1.2 -.39L.52 .15L.76 .98L0 .5L-.76 .98L-.52 .15L-1.2 -.39L-.34 -.42Z",
  "triangle-down": "M0 1.15L1.1 -.8H-1.1Z",
  x: "M-1.1 -.57L-.57 -1.1L0 -.53L.57 -1.1L1.1 -.57L.53 0L1.1 .57L.57 1.1L0 .53L-.57 1.1L-1.1 .57L-.53 0Z",
  pentagon: "M0 -1.15L1.1 -.34L.68 .95H-.68L-1.1 -.34Z",
  hourglass: "M-1 -1H1L.25 0L1 1H-1L-.25 0Z",
  "arrow-right": "M-1.2 -1.1L1 0L-1.2 1.1Z",
  "arrow-left": "M1.2 -1.1L-1 0L1.2 1.1Z",
  "bound-up": "M-.6 0A.6 .6 0 1 0 .6 0A.6 .6 0 1 0 -.6 0ZM0 -.6V-2.2M-.6 -1.6L0 -2.2L.6 -1.6",
  "bound-down": "M-.6 0A.6 .6 0 1 0 .6 0A.6 .6 0 1 0 -.6 0ZM0 .6V2.2M-.6 1.6L0 2.2L.6 1.6",
};

// The axis of a trace, as the layout names it.
const axisOf = (trace) => `yaxis${(trace.yaxis || "y").slice(1)}`;
const safe = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const round = (value) => Math.round(value * 10) / 10;
const dashes = (line, width) => (DASHES[line] ? ` stroke-dasharray="${DASHES[line].map((part) => part * width)}"` : "");

// Bold and line breaks are all the markup there is; whatever else stands in a text is text.
const rich = (text, bold) => text.split(/(<\/?b>|<br>)/).map((part) => bold[part] ?? safe(part)).join("");
const inSvg = (text) => rich(text, { "<b>": '<tspan class="bold">', "</b>": "</tspan>", "<br>": " " });
const inHtml = (text) => rich(text, { "<b>": "<b>", "</b>": "</b>", "<br>": "<br>" });

const pen = document.createElement("canvas").getContext("2d");
const FAMILY = getComputedStyle(document.body).fontFamily;
function widthOf(text, size = 12) {
  pen.font = `${size}px ${FAMILY}`;
  return pen.measureText(text).width;
}

// The text, cut in its middle so that it is no wider: names of arms differ at their ends too.
function cut(text, most) {
  if (widthOf(text) <= most) return text;
  const letters = [...text];
  const kept = (count) => {
    const end = Math.floor(count / 3);
    return `${letters.slice(0, count - end).join("").trimEnd()}\u2026${letters.slice(letters.length - end).join("").trimStart()}`;
  };
  let count = letters.length - 1;
  while (count > 1 && widthOf(kept(count)) > most) count -= 1;
  return kept(count);
}

// Middles of texts as near to their places as they can stand without overlap.
function spread(told, least, top, bottom) {
  const sorted = [...told].sort((a, b) => a.y - b.y);
  let edge = top;
  for (const one of sorted) edge = (one.y = Math.max(one.y, edge)) + least;
  edge = bottom;
  for (const one of sorted.reverse()) edge = (one.y = Math.min(one.y, edge)) - least;
  return sorted;
}

// Draws, and returns what the pointer needs: scales of the axes and the points that say something, in pixels.
function draw(element, chart, { hidden, zoom }) {
  const { layout } = chart;
  if (layout.height) element.style.height = `${layout.height}px`;
  const width = element.clientWidth, height = element.clientHeight;
  const traces = chart.traces.filter((trace) => !hidden.has(trace.meta.arm));
  const rows = Object.keys(layout).filter((key) => /^yaxis\d*$/.test(key));
  const { l, r, t, b } = layout.margin;
  const of = (key) => chart.traces.filter((trace) => axisOf(trace) === key);
  const deep = height - t - b;
  const ys = Object.fromEntries(rows.map((key) => {
    const [bottom, top] = layout[key].domain || [0, 1];
    const values = of(key).flatMap((trace) => trace.y);
    const made = scale(layout[key], values, t + (1 - bottom) * deep, t + (1 - top) * deep, zoom && zoom[key]);
    return [key, { ...made, across: false }];
  }));
  const labels = Object.fromEntries(rows.map((key) => [key, ticks(ys[key], 30, widthOf)]));
  const longest = Math.max(...Object.values(labels).flat().map(([, text]) => widthOf(text)), 0);
  const left = Math.max(Math.min(longest, 0.36 * width) + 12, Math.min(l, 30));
  const all = chart.traces.flatMap((trace) => trace.x);
  const x = { ...scale(layout.xaxis, all, left, width - r, zoom && zoom.xaxis), across: true };
  const frame = { width, height, left, right: width - r, top: t, bottom: height - b };

  const parts = [], points = [], told = [];
  const clip = (key) => `${element.id}-${key}`;
  const clips = rows.map((key) => `<clipPath id="${clip(key)}"><rect x="${left}" y="${round(ys[key].to)}" ` +
    `width="${Math.max(frame.right - left, 0)}" height="${round(ys[key].from - ys[key].to)}"/></clipPath>`);
  parts.push(`<defs>${clips.join("")}</defs>`, axes(frame, layout, x, ys, labels));
  for (const line of layout.shapes || []) parts.push(shape(line, frame, x, ys));
  traces.forEach((trace) => {
    const key = axisOf(trace);
    const made = marks(trace, x, ys[key], frame, points, key, told);
    const cutting = trace.cliponaxis === false ? "" : ` clip-path="url(#${clip(key)})"`;
    parts.push(`<g class="trace" data-arm="${safe(trace.meta.arm)}"${cutting}>${made}</g>`);
  });
  for (const one of spread(told, 15, frame.top + 6, told.length ? ys.yaxis.from - 4 : 0)) parts.push(beside(one, frame));
  for (const note of layout.annotations || []) parts.push(annotation(note, frame, x, ys));
  parts.push('<g class="pointed"></g>');
  element.innerHTML = `<svg width="${width}" height="${height}" aria-hidden="true">${parts.join("")}</svg>`;
  return { frame, x, ys, points, rows };
}

function axes(frame, layout, x, ys, labels) {
  const parts = [];
  const across = (y, name) => `<path class="${name}" d="M${frame.left} ${round(y) + 0.5}H${frame.right}"/>`;
  for (const [key, y] of Object.entries(ys)) {
    for (const [place, text] of labels[key]) {
      if (layout[key].showgrid !== false) parts.push(across(place, "rule"));
      const shown = cut(text, frame.left - 10);
      const whole = shown === text ? "" : `<title>${safe(text)}</title>`;
      const at = `x="${frame.left - 7}" y="${round(place) + 4}"`;
      parts.push(`<text class="tick" text-anchor="end" ${at}>${whole}${safe(shown)}</text>`);
    }
    if (!y.names) parts.push(across(y.from, "axis"));
    if (layout[key].cut && y.low === layout[key].range?.[0]) parts.push(breakMark(frame.left, y.from));
  }
  const places = ticks(x, 26, widthOf);
  for (const [place, text] of places) {
    const at = round(place);
    if (layout.xaxis.showgrid) parts.push(`<path class="rule" d="M${at} ${frame.top}V${frame.bottom}"/>`);
    parts.push(`<path class="axis" d="M${at} ${frame.bottom}v4"/>`);
    const half = widthOf(text) / 2; // a text at an end stays on the chart
    const middle = Math.min(Math.max(at, half), frame.width - half);
    const below = `x="${round(middle)}" y="${frame.bottom + 17}"`;
    parts.push(`<text class="tick x" text-anchor="middle" ${below}>${safe(text)}</text>`);
  }
  const middle = (frame.left + frame.right) / 2;
  const title = safe(layout.xaxis.title?.text || "");
  parts.push(`<text class="xtitle" text-anchor="middle" x="${round(middle)}" y="${frame.bottom + 37}">${title}</text>`);
  return parts.join("");
}

// Two slanted strokes on an axis that does not begin at 0.
const breakMark = (x, y) => `<path class="break" d="M${x - 5} ${y - 5}l10 -5M${x - 5} ${y - 10}l10 -5"/>`;

function shape(line, frame, x, ys) {
  const y = ys[`yaxis${String(line.yref || "y").slice(1)}`];
  const from = line.xref === "paper" ? [frame.left, frame.right] : [x.pixel(line.x0), x.pixel(line.x1)];
  const to = line.yref === "paper" ? [frame.bottom, frame.top] : [y.pixel(line.y0), y.pixel(line.y1)];
  const inside = [...from.map((v) => v >= frame.left - 1 && v <= frame.right + 1), ...to.map((v) => v >= frame.top - 1)];
  if (!inside.every(Boolean) || (line.yref !== "paper" && to.some((v) => v > y.from + 1))) return "";
  const wide = line.line.width;
  return `<path class="shape" stroke-width="${wide}"${dashes(line.line.dash, wide * 2)} ` +
    `d="M${round(from[0])} ${round(to[0])}L${round(from[1])} ${round(to[1])}"/>`;
}

function annotation(note, frame, x, ys) {
  const y = ys[`yaxis${String(note.yref || "y").slice(1)}`];
  const place = note.yref === "paper" ? frame.bottom - note.y * (frame.bottom - frame.top) : y.pixel(note.y);
  if (!(place >= 0) || (note.yref !== "paper" && (place > y.from || place < y.to))) return "";
  const size = note.font?.size || 12;
  const wide = 1.04 * widthOf(note.text.replace(/<[^>]*>/g, ""), size); // some of it is bold
  const left = Math.max(0, Math.min(frame.left + note.x * (frame.right - frame.left), frame.width - wide));
  const shift = (note.yshift || 0) + 3, within = note.yref !== "paper";
  const up = within && place - shift - 10 < y.to ? -14 : shift; // below its line where the panel ends above it
  return `<text class="annotation" style="font-size:${size}px" x="${round(left)}" ` +
    `y="${round(place - up)}">${inSvg(note.text)}</text>`;
}

// A text left of its mark, or right of it where there is more room.
function beside({ text, x, y, arm }, frame) {
  const left = x - frame.left > frame.right - x;
  const most = (left ? x - frame.left : frame.right - x) - 14;
  const at = `x="${round(left ? x - 12 : x + 12)}" y="${round(y + 4)}" text-anchor="${left ? "end" : "start"}"`;
  return `<g data-arm="${safe(arm)}"><text class="told" ${at}>${safe(cut(text, most))}</text></g>`;
}

function marks(trace, x, y, frame, points, key, told) {
  const places = trace.y.map((value, place) => [x.pixel(trace.x[place]), y.pixel(value)]);
  const mode = trace.mode || "lines", parts = [];
  if (trace.fill) return `<path class="band" d="${path(places)}Z"/>`;
  if (mode.includes("lines")) {
    const { width = 2, dash, shape } = trace.line || {};
    parts.push(`<path class="line" stroke-width="${width}"${dashes(dash, width)} d="${path(places, shape)}"/>`);
  }
  if (trace.error_x) parts.push(whisker(trace, x, places[0]));
  if (trace.error_y) parts.push(uprights(trace, y, places));
  if (mode.includes("markers")) {
    const { size = 6, symbol = "circle", opacity = 1, line } = trace.marker || {};
    const open = symbol.endsWith("-open"), look = SYMBOLS[symbol.replace("-open", "")];
    const style = `class="mark${open ? " open" : ""}" opacity="${opacity}"`;
    for (const [left, top] of places) {
      const inside = left >= frame.left - 1 && left <= frame.right + 1 && top >= y.to - 1 && top <= y.from + 1;
      if (!inside) continue; // also what is nowhere
      const drawn = open ? ` stroke-width="${(2 * (line?.width || 1.5)) / size}"` : "";
      const moved = `translate(${round(left)} ${round(top)})scale(${size / 2})`;
      parts.push(`<path ${style}${drawn} transform="${moved}" d="${look}"/>`);
    }
  }
  if (trace.textposition === "side") {
    const [left, top] = places[0];
    if (Number.isFinite(top)) told.push({ text: trace.texttemplate, x: left, y: top, arm: trace.meta.arm });
  } else if (trace.texttemplate) {
    const half = widthOf(trace.texttemplate) / 2;
    const middle = Math.min(Math.max(places[0][0], frame.left + half), frame.width - half - 2);
    const above = `x="${round(middle)}" y="${round(places[0][1]) - 9}"`;
    parts.push(`<text class="told" text-anchor="middle" ${above}>${inSvg(trace.texttemplate)}</text>`);
  }
  places.forEach(([left, top], place) => {
    const text = trace.text?.[place];
    const seen = left >= frame.left - 1 && left <= frame.right + 1 && top >= y.to - 1;
    if (text && seen && Number.isFinite(top)) {
      points.push({ left, top: Math.min(top, y.from), value: trace.x[place], arm: trace.meta.arm, text, trace, place, key });
    }
  });
  return parts.join("");
}

// A path through places; a place that is nowhere leaves a gap.
function path(places, shape) {
  let made = "", past = null;
  for (const [left, top] of places) {
    if (!Number.isFinite(left + top)) { past = null; continue; }
    const [x, y] = [round(left), round(top)];
    if (!past) made += `M${x} ${y}`;
    else if (shape === "hv") made += `H${x}V${y}`;
    else if (shape === "vh") made += `V${y}H${x}`;
    else made += `L${x} ${y}`;
    past = [x, y];
  }
  return made;
}

// The interval around a point: a line with a stroke at each end.
function whisker(trace, x, [, top]) {
  const { array, arrayminus, thickness, width } = trace.error_x;
  const [low, high] = [trace.x[0] - arrayminus[0], trace.x[0] + array[0]].map((value) => round(x.pixel(value)));
  const y = round(top), stroke = `${y - width}v${2 * width}`;
  return `<path class="whisker" stroke-width="${thickness}" d="M${low} ${y}H${high}M${low} ${stroke}M${high} ${stroke}"/>`;
}

// The intervals of all points of a trace, upright; an end that is not known is left open.
function uprights({ error_y: { low, high } }, y, places) {
  const made = places.map(([left], place) => {
    const ends = [low[place], high[place]].map((value) => (value === null ? NaN : y.pixel(value)));
    const [bottom, top] = ends.map((end) => (Number.isFinite(end) ? end : places[place][1]));
    const across = ends.filter(Number.isFinite).map((end) => `M${round(left - 4)} ${round(end)}h8`).join("");
    return `M${round(left)} ${round(bottom)}V${round(top)}${across}`;
  });
  return `<path class="whisker" stroke-width="1.6" d="${made.join("")}"/>`;
}
