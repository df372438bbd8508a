// LogitLensStrip: what the classifier would say of each time at each layer.

function render({ model, el: root }) {
  const facts = model.get("_facts");
  const layers = facts.labels.length;
  const times = facts.frames.length;
  const count = facts.classes.length;
  const strips = floatsOf(model.get("_strips")); // class, layer, t
  const pooled = floatsOf(model.get("_pooled")); // layer, class
  const one = (index, layer, t) => strips[(index * layers + layer) * times + t];
  const means = new Float32Array(layers * times);
  for (let index = 0; index < count; index++) {
    for (let i = 0; i < means.length; i++) means[i] += strips[index * means.length + i] / count;
  }
  const spans = facts.frames.map(([start, stop]) => (stop - start === 1 ? `${start}` : `${start}–${stop - 1}`));
  const names = facts.labels.map((label) => label.replace("_", " "));
  const winners = names.map((_, layer) => {
    const row = pooled.subarray(layer * count, (layer + 1) * count);
    return facts.names[row.indexOf(Math.max(...row))];
  });
  let over = null;
  const jump = (layer, t) => send(model, { frame: facts.frames[t][0], layer: facts.layers[layer] });
  const grid = makeGrid(names, facts.frames.map(([start]) => String(start)), { press: jump, hover: (layer, t) => {
    over = layer === null ? null : [layer, t];
    say();
  }, visit: (layer, t) => {
    over = [layer, t];
    say();
  } }, { label: "Logit lens: a row a place in the stream, a column a time; press to jump there", corner: "From frame" });
  grid.node.querySelector("thead tr").append(el("th", { scope: "col", class: "vl-last" }, facts.pooled ? "Summary says" : "Mean says"));
  grid.node.querySelectorAll("tbody tr").forEach((line, layer) => line.append(el("td", { class: "vl-last" }, winners[layer])));
  const choice = field(
    "Class",
    select(facts.classes.map((label, index) => [label, facts.names[index]]), (value) => send(model, { label: Number(value) })),
  );
  const centred = field(
    "Numbers",
    select(
      [
        ["1", "logit less the mean over classes"],
        ["0", "logit"],
      ],
      (value) => send(model, { centred: value === "1" }),
    ),
  );
  const bar = colorBar();
  const readout = el("div", { class: "vl-readout vl-caption" });
  const messages = messageArea(model);
  const values = () => {
    const index = facts.classes.indexOf(model.get("label"));
    const found = strips.slice(index * means.length, (index + 1) * means.length);
    return model.get("centred") ? found.map((value, i) => value - means[i]) : found;
  };

  function say() {
    const shown = values();
    const name = facts.names[facts.classes.indexOf(model.get("label"))];
    readout.textContent = over
      ? `${names[over[0]]}, frames ${spans[over[1]]}: ${name} ${formatG(shown[over[0] * times + over[1]], 3)}`
      : "Point at a cell to read it; press it to jump there.";
  }

  function draw() {
    const shown = values();
    const reach = percentileOf(shown, 100) || 1;
    choice.input.value = model.get("label");
    centred.input.value = model.get("centred") ? "1" : "0";
    const frame = model.get("frame");
    grid.cells.forEach((line, layer) => {
      line.forEach((cell, t) => {
        const value = shown[layer * times + t];
        cell.style.setProperty("--score", cssColor("coolwarm", value, -reach, reach));
        cell.setAttribute("aria-label", `${names[layer]}, frames ${spans[t]}: ${formatG(value, 3)}`);
        const here = frame >= facts.frames[t][0] && frame < facts.frames[t][1];
        cell.classList.toggle("vl-here", here);
        cell.classList.toggle("vl-looked", here && facts.layers[layer] === model.get("layer"));
      });
    });
    const unit = model.get("centred") ? "logit less the mean over classes" : "logit";
    bar.update("coolwarm", endsOf(-reach, reach, true), `${unit}, mean over space; one scale for all layers and times`);
    say();
  }

  const redraw = oncePerFrame(draw);
  const stops = [
    messages.stop,
    joinGroup(model, ["frame", "layer"]),
    observe(model, ["label", "centred", "frame", "layer"], redraw),
  ];
  const node = el(
    "div",
    { class: "vl vl-result", "data-ready": "true" },
    el("div", { class: "vl-head" }, el("strong", {}, "Logit lens"), el("span", { class: "vl-caption" }, facts.model)),
    el("div", { class: "vl-tools" }, choice.row, centred.row),
    el("div", { class: "vl-scroll" }, grid.node),
    readout,
    bar.node,
    messages.node,
  );
  node.style.setProperty("--columns", times + 4);
  guardKeys(node);
  root.append(node);
  draw();
  return () => stops.forEach((stop) => stop());
}

export default { render };
