// What a chart says to the pointer, to a tap and to the arrow keys, and a closer look at a part of it.

const wholeNumber = (value) => Math.round(value).toLocaleString("en-US");
const secondsText = (value) => (value >= 99.95 ? wholeNumber(value) : value.toPrecision(3));
const NEAR = { mouse: 30, touch: Infinity }; // pixels; a tap means the nearest point

// Listens to a chart. `shown()` gives what `draw` returned and how it was drawn; `look(zoom)` draws a part of it.
function listen(element, shown, look) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  element.after(tip);
  let place = null; // where the arrow keys stand

  const hide = () => {
    tip.classList.remove("open");
    tip.textContent = "";
    element.querySelector(".pointed")?.replaceChildren();
  };

  function show(found) {
    if (!found) return hide();
    const { frame, course } = shown();
    const marks = found.points.map(({ arm, left, top }) =>
      `<circle data-arm="${safe(arm)}" cx="${round(left)}" cy="${round(top)}" r="5"/>`);
    const line = course ? `<path d="M${round(found.left)} ${frame.top}V${frame.bottom}"/>` : "";
    element.querySelector(".pointed").innerHTML = line + marks.join("");
    tip.innerHTML = found.html;
    tip.classList.add("open");
    const right = found.left + 16 + tip.offsetWidth <= frame.width;
    const left = right ? found.left + 16 : Math.max(found.left - 16 - tip.offsetWidth, 0);
    const top = Math.max(Math.min(found.top - tip.offsetHeight / 2, frame.height - tip.offsetHeight), 0);
    tip.style.left = `${Math.max(Math.min(left, frame.width - tip.offsetWidth), 0) + element.offsetLeft}px`;
    tip.style.top = `${top + element.offsetTop}px`;
  }

  // The panel that a height belongs to, or lies nearest to.
  function panel(top) {
    const { ys, rows } = shown();
    const far = (key) => Math.max(ys[key].to - top, top - ys[key].from, 0);
    return rows.reduce((best, key) => (far(key) < far(best) ? key : best), rows[0]);
  }

  // All arms of a panel at the place nearest to `left`, an arm to a line.
  function together(left, key, top) {
    const mine = shown().points.filter((point) => point.key === key);
    if (!mine.length) return null;
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b.left - left) < Math.abs(a.left - left) ? b : a));
    const first = nearest(mine);
    const traces = [...new Set(mine.map((point) => point.trace))];
    const points = traces.map((trace) => nearest(mine.filter((point) => point.trace === trace)));
    const rows = points.map((point) => {
      const other = point.value === first.value ? "" : ` (at ${wholeNumber(point.value)})`;
      return `<li data-arm="${safe(point.arm)}">${inHtml(point.text.replaceAll("<br>", ", ") + other)}</li>`;
    });
    const head = `<p>${wholeNumber(first.value)} ${safe(shown().unit)}</p>`;
    return { left: first.left, top: top ?? first.top, points, html: `${head}<ul>${rows.join("")}</ul>` };
  }

  function closest(left, top, near) {
    const far = (point) => Math.hypot(point.left - left, point.top - top);
    const best = shown().points.reduce((a, b) => (!a || far(b) < far(a) ? b : a), null);
    return best && far(best) <= near ? one(best) : null;
  }

  function one(point) {
    const { samples, updates, seconds } = point.trace.places || {};
    const told = samples ? [
      `${wholeNumber(samples[point.place])} samples`, `${wholeNumber(updates[point.place])} updates`,
      `${secondsText(seconds[point.place])} s`,
    ] : [];
    const html = `<ul><li data-arm="${safe(point.arm)}">${inHtml([point.text, ...told].join("<br>"))}</li></ul>`;
    return { left: point.left, top: point.top, points: [point], html };
  }

  const where = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const answer = (event, near) => {
    const [left, top] = where(event), { frame } = shown();
    const inside = left >= frame.left - 8 && left <= frame.right + 8 && top <= frame.bottom + 8;
    show(!inside ? null : shown().together ? together(left, panel(top), top) : closest(left, top, near));
  };

  let from = null, touched = null; // where a drag began, where a finger came down
  element.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return; // a finger scrolls the page
    if (from === null) return answer(event, NEAR.mouse);
    hide();
    const { frame } = shown();
    const [a, b] = [from, Math.min(Math.max(where(event)[0], frame.left), frame.right)].sort((x, y) => x - y);
    const box = `<rect x="${a}" y="${frame.top}" width="${b - a}" height="${frame.bottom - frame.top}"/>`;
    element.querySelector(".pointed").innerHTML = box;
  });
  element.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && from === null) hide(); });
  element.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse") { touched = where(event); return; }
    if (event.button !== 0 || shown().x.names) return;
    const { frame } = shown();
    from = Math.min(Math.max(where(event)[0], frame.left), frame.right);
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointercancel", () => { from = touched = null; hide(); }); // the page is scrolled
  element.addEventListener("pointerup", (event) => {
    if (touched) {
      const [left, top] = where(event);
      if (Math.hypot(left - touched[0], top - touched[1]) < 12) answer(event, NEAR.touch);
      touched = null;
    }
    if (from === null) return;
    const { frame, x } = shown();
    const [a, b] = [from, Math.min(Math.max(where(event)[0], frame.left), frame.right)].sort((x, y) => x - y);
    from = null;
    if (b - a > 8) look([x.inner(a), x.inner(b)]);
  });
  element.addEventListener("dblclick", () => look(null));
  element.addEventListener("blur", () => { place = null; hide(); });
  element.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const turn = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { hide(); return look(null); }
    if (step === undefined && turn === undefined) return;
    event.preventDefault();
    place = move(place, step || 0, turn || 0);
    if (place) show(place.found);
  });

  // The next place of the arrow keys: left and right along a curve, up and down to another panel or curve.
  function move(old, step, turn) {
    const { points, together: all } = shown();
    const of = all ? (point) => point.key : (point) => point.trace;
    const groups = [...new Set(points.map(of))];
    if (!groups.length) return null;
    const group = Math.min(Math.max((old ? old.group : 0) + turn, 0), groups.length - 1);
    const along = points.filter((point) => of(point) === groups[group]).sort((a, b) => a.left - b.left);
    const lefts = [...new Set(along.map((point) => point.left))];
    const nearer = (best, left, at) => (Math.abs(left - old.left) < Math.abs(lefts[best] - old.left) ? at : best);
    const past = old ? lefts.reduce(nearer, 0) : step < 0 ? lefts.length : -1;
    const at = Math.min(Math.max(past + step, 0), lefts.length - 1);
    const point = along.find((point) => point.left === lefts[at]);
    return { group, left: point.left, found: all ? together(point.left, point.key) : one(point) };
  }
  return hide;
}
