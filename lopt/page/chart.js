// One panel: lines with bands, their names at their ends, and a cursor that reads values off.

const NARROW = 480; // pixels; below, names would leave no room: the values stand under the panel instead
const TOP = 24; // of the plot within the panel
const GAP = 13; // between names

// chart: {label, series: [{label, style, x, y, low, high}], behind: [{style, x, y}], x: {label, log, title, start},
// y: {label, log, low, high, reference, write}, descending, unnamed, ended}; behind are lines without a name,
// descending if high values are read first, unnamed if only the legend names the lines, ended what is said of a line
// beyond its last place.
class Panel {
  constructor(figure) {
    this.figure = figure;
    this.svg = add(figure, "svg", { class: "plot", tabindex: 0, role: "img" });
    this.readout = element(figure, "div", { className: "readout", hidden: true });
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.chart && figure.clientWidth !== this.width && this.draw(this.chart)).observe(figure);
  }

  draw(chart) {
    this.chart = chart;
    this.width = this.figure.clientWidth;
    if (!this.width) return; // not laid out yet: the observer will draw
    const wide = this.width >= NARROW;
    const context = document.createElement("canvas").getContext("2d");
    context.font = `650 12px ${getComputedStyle(this.figure).fontFamily}`;
    this.measure = (text) => context.measureText(text).width;
    // Names that stand to the right of the plot; those of diverged runs stand where they leave it.
    const outside = wide && !chart.unnamed ? chart.series.filter((series) => finite(series.y.at(-1))) : [];
    const names = Math.max(8, ...outside.map((series) => this.measure(this.name(series)) + 18));
    const height = Math.round(Math.min(340, Math.max(240, 0.6 * this.width)));
    this.left = 46;
    this.w = this.width - this.left - names;
    this.h = height - TOP - 40;
    const { svg } = this;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", `${chart.label}: ${chart.y.label} over ${chart.x.label}. Arrow keys read values.`);
    this.grid = [...new Set(chart.series.flatMap((series) => series.x))].sort((a, b) => a - b);
    const x = [chart.x.log ? this.grid[0] : 0, this.grid.at(-1)];
    this.xScale = scale(...x, this.w, chart.x.log, false);
    this.yScale = scale(chart.y.low, chart.y.high, this.h, chart.y.log, true);
    this.axes(x);
    // A nested svg clips what leaves the panel.
    const plot = add(svg, "svg", { x: this.left, y: TOP, width: this.w, height: this.h });
    if (finite(chart.y.reference)) {
      const at = this.at(chart.y.reference);
      add(plot, "line", { class: "reference", x1: 0, x2: this.w, y1: at, y2: at });
    }
    for (const series of chart.behind ?? []) this.line(plot, series);
    for (const series of chart.series) this.band(plot, series);
    for (const series of chart.series.toReversed()) this.line(plot, series);
    if (wide && !chart.unnamed) this.names();
    this.cursor = add(plot, "line", { class: "cursor", y1: 0, y2: this.h, visibility: "hidden" });
    this.position = chart.x.start ? indexAt(this.grid, chart.x.start) : this.grid.length - 1;
    if (this.grid.length) this.read();
    this.leave();
  }

  axes([low, high]) {
    const { svg, chart, left, w, h } = this;
    const { y } = chart;
    for (const tick of (y.log ? logTicks : linearTicks)(y.low, y.high, 6)) {
      const at = TOP + this.yScale(tick);
      add(svg, "line", { class: "grid", x1: left, x2: left + w, y1: at, y2: at });
      add(svg, "text", { x: left - 6, y: at + 4, "text-anchor": "end" }, tickText(tick));
    }
    for (const tick of (chart.x.log ? logTicks : linearTicks)(low, high, Math.max(3, w / 60))) {
      const at = left + this.xScale(tick);
      add(svg, "line", { class: "axis", x1: at, x2: at, y1: TOP + h, y2: TOP + 4 + h });
      const text = tickText(tick); // the last one must not leave the panel
      const half = this.measure(text) / 2;
      add(svg, "text", { x: Math.min(at, this.width - half - 1), y: TOP + 17 + h, "text-anchor": "middle" }, text);
    }
    add(svg, "line", { class: "axis", x1: left, x2: left + w, y1: TOP + h, y2: TOP + h });
    add(svg, "text", { class: "x-label", x: left + w, y: TOP + 33 + h, "text-anchor": "end" }, chart.x.label);
    add(svg, "text", { class: "y-label", x: 0, y: 11 }, y.label);
  }

  // A value that a logarithm has not, or far beyond the panel, lies just outside of it.
  at(y) {
    const { low, log } = this.chart.y;
    return Math.max(-this.h, Math.min(2 * this.h, log && y <= 0 ? 2 * this.h : this.yScale(log ? y : Math.max(y, low - 1e6))));
  }

  band(plot, { x, low, high, style }) {
    if (!low || !high) return;
    const there = x.map((_, i) => i).filter((i) => finite(low[i]) && finite(high[i]));
    const edge = (values, order) => order.map((i) => `${this.xScale(x[i]).toFixed(1)},${this.at(values[i]).toFixed(1)}`);
    const points = [...edge(low, there), ...edge(high, there.toReversed())].join(" ");
    add(plot, "polygon", { class: `band ${style.replace(/c(\d).*/, "b$1")}`, points });
  }

  line(plot, { x, y, style }) {
    let path = "";
    y.forEach((value, i) => {
      if (!finite(value)) return;
      path += `${finite(y[i - 1]) ? "L" : "M"}${this.xScale(x[i]).toFixed(1)},${this.at(value).toFixed(1)}`;
    });
    add(plot, "path", { class: `line ${style}`, d: path });
    const last = y.findLastIndex(finite);
    if (last < 0 || last === y.length - 1) return;
    const [cx, cy] = [this.xScale(x[last]), this.at(y[last])];
    add(plot, "path", { class: `line cross ${style}`, d: `M${cx - 4},${cy - 4}l8,8m0,-8l-8,8` });
  }

  name({ label, y }) {
    const [end, room] = finite(y.at(-1)) ? ["", 0.34] : [" (diverged)", 0.6];
    let text = label;
    while (text.length > 4 && this.measure(text + end) > room * this.width) text = text.slice(0, -2).trimEnd() + "…";
    return text + end;
  }

  // Each name at the end of its line, or as near as there is room, with a thin line to it.
  names() {
    const ends = this.chart.series.map((series) => {
      const inside = (y) => finite(y) && this.at(y) >= 0 && this.at(y) <= this.h;
      const last = Math.max(0, series.y.findLastIndex(inside));
      const y = finite(series.y[last]) ? this.at(series.y[last]) : 0;
      const text = this.name(series);
      const from = [this.xScale(series.x[last]), Math.max(4, Math.min(this.h - 8, y))];
      const [colour, , width = ""] = series.style.split(" ");
      return { text, colour, wide: width, from, width: this.measure(text) + 18, at: from[1] };
    });
    ends.sort((a, b) => a.from[1] - b.from[1]);
    // At the right edge they keep the order of the lines: pushed down where they would overlap, and back up at the end.
    const edge = ends.filter(({ from }) => from[0] > this.w - 1);
    edge.forEach((end, i) => i && (end.at = Math.max(end.at, edge[i - 1].at + GAP)));
    edge.reverse().forEach((end, i) => (end.at = Math.min(end.at, i ? edge[i - 1].at - GAP : this.h)));
    const placed = [...edge];
    for (const end of ends.filter((end) => !edge.includes(end))) {
      const [x, y] = end.from;
      const apart = (other, at) =>
        Math.abs(other.at - at) >= GAP || other.from[0] > x + end.width || x > other.from[0] + other.width;
      let shift = 0;
      while (shift < this.h && !placed.every((other) => apart(other, y + shift))) shift = shift > 0 ? -shift : 2 - shift;
      end.at = y + shift;
      placed.push(end);
    }
    for (const { text, colour, wide, from, at } of placed) {
      const [x, y] = [this.left + from[0], TOP + from[1]];
      add(this.svg, "path", { class: `line leader ${colour}`, d: `M${x},${y}L${x + 10},${TOP + at}` });
      add(this.svg, "text", { class: `name ${colour.replace("c", "b")} ${wide}`, x: x + 13, y: TOP + at + 4 }, text);
    }
  }

  point(event) {
    if (!this.grid.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left - this.left;
    let best = 0;
    this.grid.forEach((value, i) => {
      if (Math.abs(this.xScale(value) - x) < Math.abs(this.xScale(this.grid[best]) - x)) best = i;
    });
    this.show(best);
  }

  key(event) {
    const stride = Math.max(1, Math.round(this.grid.length / 200));
    const moves = { ArrowLeft: -stride, ArrowRight: stride, PageUp: -10 * stride, PageDown: 10 * stride, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.show(Math.max(0, Math.min(this.grid.length - 1, this.position + moves[event.key])));
  }

  show(position) {
    this.position = position;
    const x = this.xScale(this.grid[position]);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", "visible");
    this.read();
    this.readout.hidden = false;
    // Beside the cursor, on the side with more room, and always within the panel.
    const width = this.readout.offsetWidth;
    const beside = x > this.w / 2 ? this.left + x - width - 14 : this.left + x + 14;
    this.readout.style.left = `${Math.max(0, Math.min(this.width - width, beside))}px`;
    this.readout.style.top = `${this.svg.getBoundingClientRect().top - this.figure.getBoundingClientRect().top + 14}px`;
  }

  leave() {
    this.readout.hidden = true;
    this.cursor.setAttribute("visibility", "hidden");
  }

  read() {
    const x = this.grid[this.position];
    const write = this.chart.y.write ?? written;
    const rows = this.chart.series.map((series) => {
      const i = indexAt(series.x, x);
      return { series, i, value: i < 0 ? null : series.y[i], ended: x > series.x.at(-1) * (1 + 1e-9) };
    });
    const sign = this.chart.descending ? -1 : 1;
    rows.sort((a, b) => finite(b.value) - finite(a.value) || sign * (a.value - b.value));
    this.readout.replaceChildren();
    element(this.readout, "b", {}, this.chart.x.title(x));
    const table = element(this.readout, "table");
    for (const { series, i, value, ended } of rows) {
      const row = element(table, "tr");
      const name = element(row, "td");
      swatch(name, series.style);
      name.append(series.label);
      const missing = i < 0 ? "–" : "diverged";
      element(row, "td", {}, finite(value) ? write(value) : missing);
      const range = finite(value) && series.low && finite(series.low[i]) && finite(series.high[i]);
      const text = range ? `${written(series.low[i], 3)} – ${written(series.high[i], 3)}` : "";
      element(row, "td", { className: "unit" }, ended ? (this.chart.ended ?? "ended") : text);
    }
  }
}
