// A table of buttons with one tab stop: rows × columns of cells that can be pressed, visited and coloured.

/**
 * A grid. rows, columns: names of both; on: {press(row, column), visit(row, column), hover(row, column or null),
 * row(row) where a row's name is a button too, key(name, row, column) → whether it was used}.
 * about: {label, rowLabel(row), corner, content(row, column) → node or null}.
 */
export function makeGrid(rows, columns, on, about) {
  let place = [0, 0]; // the cell that Tab reaches; column -1 is the row's name
  const heads = [];
  const cells = [];
  const header = el("tr", {}, el("td", { class: "vl-corner" }, about.corner ?? ""));
  header.append(...columns.map((name) => el("th", { scope: "col" }, name)));
  const body = el("tbody");
  rows.forEach((name, row) => {
    const head = on.row
      ? button(name, () => on.row(row), { tabindex: -1, class: "vl-rowname", "aria-label": about.rowLabel(row) })
      : name;
    heads.push(head);
    const line = el("tr", {}, el("th", { scope: "row" }, head));
    cells.push(
      columns.map((_, column) => {
        const content = about.content?.(row, column) ?? null;
        const cell = el("button", { type: "button", tabindex: -1, class: "vl-cell" }, content);
        cell.addEventListener("click", () => {
          cell.focus(); // which a click does not do everywhere
          on.press?.(row, column);
        });
        cell.addEventListener("focus", () => {
          set(row, column);
          on.visit?.(row, column);
        });
        cell.addEventListener("pointerenter", () => on.hover?.(row, column));
        line.append(el("td", {}, cell));
        return cell;
      }),
    );
    body.append(line);
  });
  const table = el("table", { class: "vl-grid", "aria-label": about.label }, el("thead", {}, header), body);
  table.addEventListener("pointerleave", () => on.hover?.(null, null));
  const at = (row, column) => (column < 0 ? heads[row] : cells[row][column]);
  const set = (row, column) => {
    at(...place).tabIndex = -1;
    place = [row, column];
    at(...place).tabIndex = 0;
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  table.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = moves[event.key];
    const [row, column] = place;
    if (!step) {
      if (column >= 0 && on.key?.(event.key, row, column)) event.preventDefault();
      return;
    }
    event.preventDefault();
    const least = on.row ? -1 : 0;
    const next = [
      Math.min(Math.max(row + step[0], 0), rows.length - 1),
      Math.min(Math.max(column + step[1], least), columns.length - 1),
    ];
    set(...next);
    at(...next).focus();
  });
  cells[0][0].tabIndex = 0;
  return { node: table, cells, heads, set, place: () => place };
}

/** The colour of a value on a scale, as CSS; hatched where there is none. */
export function cssColor(name, value, low, high) {
  if (!Number.isFinite(value)) return "repeating-linear-gradient(135deg, #999 0 2px, #ddd 2px 5px)";
  const level = levelsOf([value], low, high)[0];
  const { table } = colormapOf(name);
  return `rgb(${table[level * 3]}, ${table[level * 3 + 1]}, ${table[level * 3 + 2]})`;
}

/** The ends of the scale of values, NaN left out: symmetric where signed, else from 0 or the lowest to the highest. */
export function limitsOf(values, signed) {
  const known = Array.from(values).filter(Number.isFinite);
  const low = Math.min(...known);
  const high = Math.max(...known);
  const reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
  if (!known.length) return signed ? [-1, 1] : [0, 1];
  if (signed) return [-reach, reach];
  return high > low ? [low, high] : [Math.min(low, 0), Math.max(high, 0) || 1];
}

/** What stands below the colour bar of such a scale. */
export function endsOf(low, high, signed) {
  const [first, last] = formatRange(low, high);
  return signed ? [first, "0", last] : [first, last];
}
