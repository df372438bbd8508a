// PatchingHeatmap: what interventions did, place by place; two axes as heat, the others by choice.

function render({ model, el: root }) {
  const facts = model.get("_facts");
  const { dims, labels } = facts;
  const heat = floatsOf(model.get("_heat"));
  const numbers = model.get("_columns");
  const sizes = dims.map((dim) => labels[dim].length);
  const known = Array.from(heat).filter(Number.isFinite);
  const reach = Math.max(...known.map(Math.abs)) || 1;
  const messages = messageArea(model);
  const bar = colorBar();
  const readout = el("div", { class: "vl-readout vl-caption" });
  const box = el("div", { class: "vl-scroll" });
  const tools = el("div", { class: "vl-tools" });
  let grid = null;
  let over = null;

  /** The index of a place, axis → label, in row-major order. */
  const indexOf = (place) =>
    dims.reduce((index, dim, axis) => index * sizes[axis] + labels[dim].indexOf(place[dim]), 0);
  const placeAtCell = (row, column) => {
    const across = model.get("columns");
    const place = { ...model.get("place"), [model.get("rows")]: labels[model.get("rows")][row] };
    if (across) place[across] = labels[across][column];
    return place;
  };
  const spoken = dims.filter((dim) => labels[dim].length > 1);
  const spellPlace = (place) => (spoken.length ? spoken : dims).map((dim) => `${dim} ${place[dim]}`).join(", ");

  function spell(place) {
    const index = indexOf(place);
    const value = heat[index];
    if (!Number.isFinite(value)) return `${spellPlace(place)}: not measured`;
    const part = (name) => numbers[name][index];
    const interval = part("low") === null ? "" : ` [${formatG(part("low"), 3)}, ${formatG(part("high"), 3)}]`;
    const q = part("q") === null ? "" : `, q = ${formatG(part("q"), 2)}`;
    return `${spellPlace(place)}: ${formatG(value, 3)}; ${facts.unit} ${formatG(part("effect"), 3)}${interval}${q}`;
  }

  function build() {
    const [down, across] = [model.get("rows"), model.get("columns")];
    const on = {
      press: (row, column) => send(model, { place: placeAtCell(row, column) }),
      hover: (row, column) => {
        over = row === null ? null : placeAtCell(row, column);
        say();
      },
      visit: (row, column) => {
        over = placeAtCell(row, column);
        say();
      },
    };
    const label = `${facts.what}: down ${down}, across ${across || "nothing"}; press a cell to choose the place`;
    grid = makeGrid(labels[down], across ? labels[across] : [""], on, { label, corner: across ? `${down} \\ ${across}` : down });
    box.replaceChildren(grid.node);
    node.style.setProperty("--columns", (across ? labels[across].length : 1) + 2);
    const axes = dims.filter((dim) => labels[dim].length > 1 || [down, across].includes(dim)).map((dim) => [dim, dim]);
    // an axis with one label leaves nothing to choose
    const rest = dims.filter((dim) => dim !== down && dim !== across && labels[dim].length > 1);
    const swap = (name, other) => (value) => {
      const taken = model.get(other) === value; // then the two change places
      send(model, taken ? { [name]: value, [other]: model.get(name) } : { [name]: value });
    };
    const pick = (title, options, value, onchange) => {
      const made = field(title, select(options, onchange));
      made.input.value = value;
      return made.row;
    };
    tools.replaceChildren(
      ...(axes.length > 1
        ? [pick("Down", axes, down, swap("rows", "columns")), pick("Across", axes, across, swap("columns", "rows"))]
        : []),
      ...rest.map((dim) =>
        pick(
          dim,
          labels[dim].map((text) => [text, text]),
          model.get("place")[dim],
          (value) => send(model, { place: { ...model.get("place"), [dim]: value } }),
        ),
      ),
    );
    draw();
  }

  function say() {
    readout.textContent = spell(over ?? model.get("place"));
  }

  function draw() {
    const chosen = spellPlace(model.get("place"));
    grid.cells.forEach((line, row) => {
      line.forEach((cell, column) => {
        const place = placeAtCell(row, column);
        const index = indexOf(place);
        const q = numbers.q[index];
        cell.style.setProperty("--score", cssColor("coolwarm", heat[index], -reach, reach));
        cell.dataset.found = q !== null && q <= model.get("alpha");
        cell.setAttribute("aria-label", spell(place));
        cell.classList.toggle("vl-looked", spellPlace(place) === chosen);
        cell.setAttribute("aria-pressed", spellPlace(place) === chosen);
      });
    });
    const dots = numbers.q.some((q) => q !== null) ? `; a dot: q ≤ ${formatG(model.get("alpha"), 2)}` : "";
    bar.update("coolwarm", endsOf(-reach, reach, true), `${facts.what}, one scale for the whole table${dots}`);
    say();
  }

  const redraw = oncePerFrame(draw);
  const rebuild = oncePerFrame(build);
  const stops = [
    messages.stop,
    joinGroup(model, ["frame", "layer"]),
    observe(model, ["place", "alpha"], redraw),
    observe(model, ["rows", "columns"], rebuild),
  ];
  const about = `${facts.clips} clip${facts.clips === 1 ? "" : "s"}${facts.target ? ` · ${facts.target}` : ""}`;
  const node = el(
    "div",
    { class: "vl vl-result", "data-ready": "true" },
    el("div", { class: "vl-head" }, el("strong", {}, facts.title), el("span", { class: "vl-caption" }, about)),
    tools,
    box,
    readout,
    bar.node,
    messages.node,
  );
  guardKeys(node);
  root.append(node);
  build();
  return () => stops.forEach((stop) => stop());
}

export default { render };
