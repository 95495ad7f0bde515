// Tables that sort: a click on a header sorts the rows within each group (each task) by their `data-value`.

function sortRows(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const button = header.querySelector("button");
  const now = header.getAttribute("aria-sort");
  const order = now === "none" ? button.dataset.first : now === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) if (other.ariaSort) other.ariaSort = "none";
  header.ariaSort = order;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    rows.sort((a, b) => compare(a.cells[column].dataset.value, b.cells[column].dataset.value, order));
    body.append(...rows);
  }
}

function compare(a, b, order) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what there is not comes last either way
  const [x, y] = [Number(a), Number(b)];
  const difference = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x === y ? 0 : x - y;
  return order === "ascending" ? difference : -difference;
}

// Whatever tables there are, now or later.
document.addEventListener("click", (event) => {
  const button = event.target.closest("thead button");
  if (button) sortRows(button.closest("th"));
});
