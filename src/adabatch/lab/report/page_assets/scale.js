// Scales from values to pixels, and the ticks on them.

const SIGNS = { 9: "G", 6: "M", 3: "k" };

// A number without what does not count: 20k, 1.5M, 0.25.
function short(value) {
  const power = Object.keys(SIGNS).reverse().find((power) => Math.abs(value) >= 10 ** power);
  const text = String(+(power ? value / 10 ** power : value).toPrecision(5));
  return (text + (power ? SIGNS[power] : "")).replace("-", "\u2212");
}

// Round values between two ends, so many at most.
function roundTicks(low, high, most) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= raw * (1 - 1e-9));
  const ticks = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9 * step; count++) ticks.push(count * step);
  return ticks;
}

// What an axis is made of its description, the values on it, and where it lies in pixels (`from` is its low end).
function scale(axis, values, from, to, zoom) {
  const names = axis.type === "category" ? [...new Set(values)] : null;
  const inner = names ? (value) => names.indexOf(value) : axis.type === "log" ? (value) => Math.log10(value) : (v) => v;
  const [low, high] = zoom || axis.range || ends(axis, values.filter((value) => Number.isFinite(value)));
  const at = (place) => from + ((place - low) / (high - low || 1)) * (to - from);
  const known = (value) => value !== null && value !== undefined && Number.isFinite(inner(value));
  return {
    axis, low, high, from, to, names,
    pixel: (value) => (known(value) ? at(inner(value)) : NaN),
    inner: (pixel) => low + ((pixel - from) / (to - from || 1)) * (high - low),
  };
}

function ends(axis, values) {
  if (!values.length) return [0, 1];
  const zero = axis.rangemode === "tozero";
  const low = values.reduce((a, b) => Math.min(a, b), zero ? 0 : Infinity), high = values.reduce((a, b) => Math.max(a, b));
  const room = (high - low || Math.abs(high) || 1) * 0.05;
  return [zero ? low : low - room, high + (zero ? 0.4 * room : room)];
}

// Ticks as [pixel, text]; where two texts would overlap one of them goes, but never the first or the last.
function ticks(scale, room, width) {
  const { axis, low, high, from, to } = scale;
  const inside = (tick) => tick[0] >= Math.min(from, to) - 0.5 && tick[0] <= Math.max(from, to) + 0.5;
  let found;
  if (scale.names) found = scale.names.map((name) => [scale.pixel(name), name]);
  else if (axis.tickvals) found = axis.tickvals.map((value, place) => [scale.pixel(value), axis.ticktext[place]]);
  else {
    const suffix = axis.ticksuffix || "";
    const text = (value) => short(+value.toPrecision(12)) + suffix;
    const longest = Math.max(...[low, (low + high) / 2, high].map((value) => width(text(+value.toPrecision(3)))));
    const most = Math.max(1, Math.min(8, Math.floor(Math.abs(to - from) / (room + (scale.across ? longest : 12)))));
    found = roundTicks(low, high, most).map((value) => [scale.pixel(value), text(value)]);
  }
  return apart(found.filter(inside), (a, b) => scale.across ? (width(a) + width(b)) / 2 + 8 : 15);
}

function apart(found, least) {
  const sorted = [...found].sort((a, b) => a[0] - b[0]);
  const last = sorted.pop();
  const kept = [];
  for (const tick of sorted) {
    const free = (other) => !other || Math.abs(tick[0] - other[0]) >= least(tick[1], other[1]);
    if (!kept.length || (free(kept[kept.length - 1]) && free(last))) kept.push(tick);
  }
  return last ? [...kept, last] : kept;
}
