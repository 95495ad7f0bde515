// The panels of runs, and what their server says since: only what has changed is replaced.

const first = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set(); // names of runs
const panels = new Map(); // by title
const place = document.getElementById("curves");
const legend = element(place, "div", { className: "legend" });
legend.setAttribute("role", "group");
legend.ariaLabel = "Runs shown";
const grid = element(place, "div", { className: "panels" });
let now = first;

function chart({ title, y, lines, behind }) {
  const series = lines.filter(({ label }) => !hidden.has(label));
  const named = (x) => `step ${x.toLocaleString("en")}`;
  const back = hidden.size ? [] : behind.map((line) => ({ ...line, style: line.style.includes("behind") ? line.style : `${line.style} behind` }));
  return { label: title, series, behind: back, x: { label: "outer step", log: false, title: named }, y, ended: "" };
}

function redraw() {
  const titles = now.panels.map(({ title }) => title);
  for (const [title, { figure }] of panels) {
    if (titles.includes(title)) continue;
    figure.remove();
    panels.delete(title);
  }
  for (const panel of now.panels) {
    if (!panels.has(panel.title)) {
      const figure = element(grid, "figure");
      element(element(figure, "figcaption"), "h3", {}, panel.title);
      panels.set(panel.title, { figure, panel: new Panel(figure) });
    }
    panels.get(panel.title).panel.draw(chart(panel));
  }
  for (const button of legend.children) button.ariaPressed = !hidden.has(button.dataset.name);
}

function fillLegend() {
  legend.replaceChildren();
  for (const { label, style } of now.runs) {
    const button = element(legend, "button", { type: "button" });
    button.dataset.name = label;
    swatch(button, style);
    button.append(label);
    button.addEventListener("click", () => {
      if (!hidden.delete(label)) hidden.add(label);
      redraw();
    });
  }
}

// A table keeps its order, and what is unfolded stays so.
function replace(name, html) {
  const part = document.getElementById(`${name}-now`);
  const sorted = [...part.querySelectorAll("th[aria-sort$='ending']")].map(({ cellIndex, ariaSort }) => [cellIndex, ariaSort]);
  const open = part.querySelector("details")?.open;
  part.innerHTML = html;
  for (const [index, order] of sorted) {
    const header = part.querySelector("thead tr").cells[index];
    while (header && header.ariaSort !== order) sortRows(header);
  }
  if (open) part.querySelector("details").open = true;
}

function update(next) {
  for (const [name, html] of Object.entries(next.parts)) if (html !== now.parts[name]) replace(name, html);
  const same = (key) => JSON.stringify(next[key]) === JSON.stringify(now[key]);
  const [sameRuns, samePanels] = [same("runs"), same("panels")];
  now = next;
  if (!sameRuns) fillLegend();
  if (!sameRuns || !samePanels) redraw();
}

async function ask() {
  const said = document.getElementById("asked");
  try {
    const answer = await fetch("now.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    update(await answer.json());
    said.textContent = "";
  } catch (error) {
    said.textContent = `No answer from the monitor: this is what was last seen. (${error.message})`;
  }
  setTimeout(ask, 1000 * first.every);
}

fillLegend();
redraw();
if (first.every) setTimeout(ask, 1000 * first.every);
