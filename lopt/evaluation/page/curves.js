// The panels of the page: one a task, and the performance profiles. What is shown, and on which axes, is shared.

const data = JSON.parse(document.getElementById("data").textContent);
const shown = new Set(data.shown);
const axes = { split: "training", x: "steps", y: "log" };
const panels = [];

const UNITS = { FLOPs: [[1e15, "PFLOP"], [1e12, "TFLOP"], [1e9, "GFLOP"], [1e6, "MFLOP"], [1, "FLOP"]], seconds: [[1, "s"], [1e-3, "ms"]] };

function visible(curves) {
  return Object.keys(data.optimizers).filter((name) => shown.has(name) && curves[name]);
}

function curvesChart(task) {
  const cost = { steps: () => 1, seconds: (c) => c.milliseconds / 1e3, FLOPs: (c) => c.flops }[axes.x];
  const curve = (name) => (axes.split === "validation" ? task.curves[name].valid : task.curves[name]);
  const names = visible(task.curves).filter((name) => curve(name) && cost(task.costs[name]) > 0);
  const total = Math.max(...names.map((name) => curve(name).step.at(-1) * cost(task.costs[name])));
  const units = UNITS[axes.x] ?? [[1, "step"]];
  const [divisor, unit] = units.find(([size]) => total >= size) ?? units.at(-1);
  const series = names.map((name) => {
    const { step, median, low, high } = curve(name);
    return { ...data.optimizers[name], x: step.map((s) => (s * cost(task.costs[name])) / divisor), y: median, low, high };
  });
  const label = axes.x === "steps" ? "step" : axes.x === "seconds" ? `training time, ${unit}` : `training cost, ${unit}`;
  const title = (x) => (axes.x === "steps" ? `step ${x.toLocaleString("en")}` : `${written(x, 3)} ${unit}`);
  return { label: task.name, series, x: { label, log: false, title }, y: lossAxis(series) };
}

// What the lines need, of those that go up no more than to three times the loss at the start.
function lossAxis(series) {
  const values = series.flatMap((s) => s.y.filter(finite));
  const loss = `${axes.split} loss`;
  if (!values.length) return { label: loss, log: false, low: 0, high: 1 };
  const start = Math.max(...series.map((s) => Math.abs(s.y.find(finite) ?? 0)));
  let [low, high] = [Math.min(...values), Math.min(Math.max(...values), 3 * start)];
  if (!(high > low)) high = low + (Math.abs(low) || 1);
  if (axes.y === "log" && low > 0) return { label: `${loss} (log)`, log: true, low: low / 1.3, high: high * 1.2 };
  const margin = 0.04 * (high - low);
  const why = axes.y === "log" ? "linear: not all are above 0" : "linear";
  return { label: `${loss} (${why})`, log: false, low: low > 0 ? 0 : low - margin, high: high + margin };
}

function profilesChart() {
  const { threshold, ...profiles } = data.profiles;
  const series = visible(profiles).map((name) => ({ ...data.optimizers[name], x: threshold, y: profiles[name] }));
  const x = { label: "score", log: threshold[0] > 0, title: (value) => `score above ${written(value, 3)}`, start: 1 };
  const y = { label: "share of runs above this score", log: false, low: 0, high: 1.02, write: (share) => `${(100 * share).toFixed(1)} %` };
  // All lines fall to zero, so a name beside one would lie on others: the legend names them.
  return { label: "performance profiles", series, x, y, descending: true, unnamed: true };
}

function panel(parent, heading, unit, chart, notes = []) {
  const figure = element(parent, "figure");
  if (heading) {
    const caption = element(figure, "figcaption");
    element(caption, "h3", {}, heading);
    element(caption, "span", {}, unit);
  }
  panels.push([new Panel(figure), chart]);
  for (const note of notes) element(figure, "p", { className: "note" }, note);
}

function redraw() {
  for (const [panel, chart] of panels) panel.draw(chart());
  for (const button of document.querySelectorAll(".legend [data-name]")) button.ariaPressed = shown.has(button.dataset.name);
}

function fillLegend(legend) {
  for (const [name, { label, style }] of Object.entries(data.optimizers)) {
    const button = element(legend, "button", { type: "button" });
    button.dataset.name = name;
    swatch(button, style);
    button.append(label);
    button.addEventListener("click", () => {
      if (!shown.delete(name)) shown.add(name);
      redraw();
    });
  }
}

for (const part of document.querySelectorAll("[data-needs-script]")) part.hidden = false;
document.querySelectorAll(".legend").forEach(fillLegend);
for (const place of document.querySelectorAll("#curve-panels")) {
  for (const task of data.tasks) {
    const unit = task.num_params === null ? "" : `${task.num_params.toLocaleString("en")} parameters`;
    panel(place, task.name, unit, () => curvesChart(task));
  }
}
for (const place of document.querySelectorAll("#profile-panel")) panel(place, "", "", profilesChart);
for (const input of document.querySelectorAll("fieldset input")) {
  input.addEventListener("change", () => {
    axes[input.name] = input.value;
    redraw();
  });
}
redraw();
