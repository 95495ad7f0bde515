// What the panels are drawn with: elements, numbers as text, ticks and scales.

function add(parent, name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

function element(parent, name, attributes = {}, text = "") {
  const node = Object.assign(document.createElement(name), attributes);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
}

function swatch(parent, style) {
  const svg = add(parent, "svg", { class: "swatch", viewBox: "0 0 30 10", "aria-hidden": "true" });
  add(svg, "line", { x1: 1, x2: 29, y1: 5, y2: 5, class: `line ${style}` });
}

// As `significant` in cells.py: zeros at the end included.
function written(x, digits = 4) {
  if (x === 0) return "0";
  const exponent = Math.floor(Math.log10(Math.abs(x)));
  return exponent >= -4 && exponent < 5 ? x.toFixed(Math.max(0, digits - 1 - exponent)) : x.toExponential(2);
}

function tickText(x) {
  const power = Math.round(Math.log10(Math.abs(x)));
  if (x !== 0 && (power < -3 || power > 4) && Math.abs(Math.abs(x) / 10 ** power - 1) < 1e-9) {
    return "10" + String(power).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  }
  return Math.abs(x) >= 1e3 ? Number(x.toPrecision(6)).toLocaleString("en") : String(Number(x.toPrecision(6)));
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-9); i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((to - from) / count));
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let p = from; p <= to; p += every) ticks.push(...digits.map((m) => m * 10 ** p));
    const inside = ticks.filter((x) => x >= low && x <= high);
    if (inside.length <= count || digits.length === 1) return inside;
  }
}

function scale(low, high, length, log, flip) {
  const f = log ? Math.log : (x) => x;
  return (x) => ((flip ? f(high) - f(x) : f(x) - f(low)) / (f(high) - f(low))) * length;
}

const finite = (x) => x !== null && x !== undefined;

// The last of the sorted xs that is at most x; -1 if there is none.
function indexAt(xs, x) {
  let [low, high] = [-1, xs.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (xs[middle] <= x * (1 + 1e-9)) low = middle;
    else high = middle - 1;
  }
  return low;
}
