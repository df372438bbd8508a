// HeadExplorer: all heads on one clip, coloured by a score, switched off and on, with the prediction beside them.

/** The maps of all heads for the token asked about: of(layer, head) → {values (t·h·w), space (h·w), row(t)}. */
function headMaps(model, facts, menus) {
  const { t, h, w } = facts.grid;
  const places = t * h * w;
  const bytes = bytesOf(model.get("_maps"));
  const peaks = floatsOf(model.get("_peaks"));
  return (layer, head) => {
    const index = layer * menus.heads + head;
    const part = bytes.subarray(index * places, (index + 1) * places);
    const values = Float32Array.from(part, (root) => peaks[index] * (root / 255) ** 2);
    const space = new Float32Array(h * w);
    for (let i = 0; i < places; i++) space[i % (h * w)] += values[i];
    return { values, space, row: (at) => values.subarray(at * h * w, (at + 1) * h * w) };
  };
}

/** Draw a small map in greys, from 0 to its 99th percentile. */
function paintThumb(canvas, values) {
  const high = percentileOf(values, 99) || Math.max(...values) || 1;
  const levels = levelsOf(values, 0, high);
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0; i < levels.length; i++) {
    image.data.fill(levels[i], i * 4, i * 4 + 3);
    image.data[i * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function formatNumber(kind, value) {
  return kind === "probability" ? `${(100 * value).toFixed(1)} %` : formatG(value, 4);
}

/** The prediction, with all heads and with those that are on. */
function makePrediction() {
  const verdict = el("div", { class: "vl-verdict", role: "status" });
  const rows = el("tbody");
  const names = ["", "All heads", "Now", "Change"].map((name) => el("th", { scope: "col" }, name || "Class"));
  const table = el(
    "table",
    { class: "vl-prediction", "aria-label": "Prediction with all heads and with those that are on" },
    el("thead", {}, el("tr", {}, ...names)),
    rows,
  );
  const cost = el("div", { class: "vl-caption" });
  const line = (row, kind, top) => {
    const change = row.now - row.before;
    const size = kind === "probability" ? `${(100 * Math.abs(change)).toFixed(1)} pp` : formatG(Math.abs(change), 3);
    const sign = parseFloat(size) === 0 ? "±" : change > 0 ? "+" : "−";
    const bar = el("span", { class: "vl-share" });
    bar.style.width = kind === "probability" ? `${100 * row.now}%` : "0";
    const now = el("td", { class: "vl-now-cell" }, bar, el("span", {}, formatNumber(kind, row.now)));
    const before = el("td", {}, formatNumber(kind, row.before));
    const delta = el("td", {}, `${sign}${size}`);
    return el("tr", { class: row.index === top ? "vl-top" : null }, el("th", { scope: "row" }, row.label), before, now, delta);
  };
  const update = (found, count) => {
    if (!found.rows) return;
    const { kind, top } = found;
    rows.replaceChildren(...found.rows.map((row) => line(row, kind, top)));
    const was = found.rows.find((row) => row.index === found.top_before);
    if (kind === "embedding") verdict.textContent = "No classes: length along the full model's embedding";
    else if (top === found.top_before) verdict.textContent = `${found.rows[0].label}, as with all heads`;
    else verdict.textContent = `${found.rows[0].label} instead of ${was.label}`;
    verdict.classList.toggle("vl-changed", top !== found.top_before);
    cost.textContent = `${found.heads} of ${count} heads on · forward pass ${formatG(found.milliseconds, 3)} ms`;
  };
  return { nodes: [verdict, table, cost], update };
}

/** The head that is looked at, over the clip's frames. */
function makeDetail(model, facts, getMap) {
  const frames = [];
  const label = `${facts.name}: what the chosen head attends to. Space plays, comma and full stop step.`;
  const keys = { " ": () => player.toggle(), ",": () => player.step(-1), ".": () => player.step(1) };
  const key = (name) => (keys[name] ? (keys[name](), true) : false);
  const stage = makeStage(facts, { hover: () => undefined, pick: () => undefined, key }, label);
  stage.canvas.style.cursor = "default";
  const player = makePlayer(model, facts);
  const bar = colorBar();
  const name = el("div", { class: "vl-headname" });
  const mix = mixOf("inferno", null, 0, false);
  const ready = decodeFrames(
    bytesOf(model.get("_frames")),
    model.get("_frame_ends"),
    facts.width,
    facts.height,
    facts.visible,
  ).map((promise, index) => promise.then((data) => (frames[index] = data)));
  const update = (layer, head, text) => {
    const { t, h, w } = facts.grid;
    const frame = model.get("frame");
    const row = Math.floor(frame / facts.frames_per_row);
    const map = getMap(layer, head);
    const scale = scaleOf(map.values, t, false, "clip99");
    name.textContent = text;
    player.update();
    bar.update("inferno", labelsOf(scale, row), `Attention probability, ${scale.kind}`);
    if (!frames[frame]) return;
    const levels = levelsOf(map.values.subarray(row * h * w, (row + 1) * h * w), scale.low[row], scale.high[row]);
    stage.paint(frames[frame], levels, mix, false);
    const position = positionOf(facts.grid, model.get("query"));
    stage.outline(position && position.t === row ? [{ ...position, kind: "query" }] : []);
    Object.assign(stage.canvas.dataset, { frame, layer, head });
  };
  return { nodes: [name, stage.node, player.node, bar.node], update, ready, pause: player.pause };
}

function queryText(facts, token) {
  const position = positionOf(facts.grid, token);
  return position ? `patch t ${position.t}, y ${position.y}, x ${position.x}` : "the CLS token";
}

function render({ model, el: root }) {
  const facts = model.get("_clip");
  const menus = model.get("_menus");
  const live = model.get("live");
  const { layers, heads } = menus;
  const count = layers * heads;
  const numbers = (length) => Array.from({ length }, (_, index) => String(index));
  const gone = new Set(menus.gone.map(([layer, head]) => layer * heads + head));
  let getMap = headMaps(model, facts, menus);
  let over = null; // the cell under the pointer
  let moment = "sum";
  const chosen = () => over ?? [model.get("layer"), model.get("head")];
  const change = (of) => {
    const rows = model.get("_mask").map((row, layer) => row.map((value, head) => (of(layer, head, value) ? 1 : 0)));
    send(model, { _mask: rows });
  };
  const canvases = [];
  const grid = makeGrid(
    numbers(layers),
    numbers(heads),
    {
      press: (layer, head) =>
        live && !gone.has(layer * heads + head) && change((l, h, value) => (l === layer && h === head ? !value : value)),
      visit: (layer, head) => send(model, { layer, head }),
      hover: (layer, head) => {
        over = layer === null ? null : [layer, head];
        redraw();
      },
      row: (layer) => {
        const any = model.get("_mask")[layer].some((value) => value);
        change((l, _, value) => (l === layer ? !any : value));
      },
      key: (name, layer, head) => {
        if (name !== "s" && name !== "S") return false;
        solo(layer, head);
        return true;
      },
    },
    {
      label: "Heads: a row a layer, a column a head",
      rowLabel: (layer) => `Layer ${layer}: switch all its heads`,
      corner: "Layer",
      content: () => {
        const canvas = el("canvas", { width: facts.grid.w, height: facts.grid.h, "aria-hidden": "true" });
        canvases.push(canvas);
        return canvas;
      },
    },
  );
  const solo = (layer, head) => live && change((l, h) => l === layer && h === head);
  const groups = [...new Set(menus.scores.map((one) => one.group))];
  const colorBy = field("Colour", el("select", { onchange: (event) => send(model, { color_by: event.target.value }) }));
  for (const group of groups) {
    const part = menus.scores.filter((one) => one.group === group);
    colorBy.input.append(
      el("optgroup", { label: group }, ...part.map((one) => el("option", { value: one.name }, one.label))),
    );
  }
  const time = field(
    "Picture in a cell",
    select(
      [
        ["sum", "summed over time"],
        ["frame", "at the frame shown"],
      ],
      (value) => {
        moment = value;
        redrawMaps();
      },
    ),
  );
  const tools = [
    button("All", () => change(() => true)),
    button("None", () => change(() => false)),
    button("Invert", () => change((_, __, value) => !value)),
    button("Solo", () => solo(...chosen()), { title: "Only the head that is looked at (S)" }),
  ];
  const prune = button("Make the pruned model", () => model.send({ type: "prune", mask: model.get("_mask") }), { class: "vl-prune" });
  const prediction = makePrediction();
  const detail = makeDetail(model, facts, (layer, head) => getMap(layer, head));
  const bar = colorBar();
  const messages = messageArea(model);
  const about = el("div", { class: "vl-caption" });

  function drawMaps() {
    const row = Math.floor(model.get("frame") / facts.frames_per_row);
    canvases.forEach((canvas, index) => {
      const map = getMap(Math.floor(index / heads), index % heads);
      paintThumb(canvas, moment === "sum" ? map.space : map.row(row));
    });
    const what = moment === "sum" ? "summed over time" : "at the frame shown";
    about.textContent = `In each cell: where ${queryText(facts, model.get("query"))} looks, ${what}; black is 0, white the head's own 99th percentile.`;
  }

  function drawCells() {
    const mask = model.get("_mask");
    const score = floatsOf(model.get("_score"));
    const info = model.get("_score_info");
    const signed = Boolean(info.signed);
    const name = signed ? "coolwarm" : "viridis";
    const [low, high] = limitsOf(score, signed);
    grid.cells.forEach((line, layer) => {
      line.forEach((cell, head) => {
        const value = score.length ? score[layer * heads + head] : NaN;
        const on = mask[layer][head] > 0;
        cell.style.setProperty("--score", score.length ? cssColor(name, value, low, high) : "transparent");
        cell.setAttribute("aria-pressed", on);
        const state = gone.has(layer * heads + head) ? "pruned" : on ? "on" : "off";
        const number = Number.isFinite(value) ? `, ${info.label} ${formatG(value, 3)}` : "";
        cell.setAttribute("aria-label", `Layer ${layer}, head ${head}: ${state}${number}`);
        cell.dataset.state = state;
      });
    });
    colorBy.input.value = model.get("color_by");
    if (score.length) bar.update(name, endsOf(low, high, signed), `${info.label}: ${info.unit}`);
    bar.node.hidden = !score.length;
    if (!score.length && !live) about.textContent += " No score was computed.";
  }

  function drawDetail() {
    const [layer, head] = chosen();
    const score = floatsOf(model.get("_score"));
    const value = score[layer * heads + head];
    const info = model.get("_score_info");
    const on = model.get("_mask")[layer][head] > 0 ? "on" : "off";
    const number = Number.isFinite(value) ? ` · ${info.label} ${formatG(value, 3)}` : "";
    detail.update(layer, head, `Layer ${layer}, head ${head} · ${on}${number}`);
    grid.cells.forEach((line, l) => {
      line.forEach((cell, h) => cell.classList.toggle("vl-looked", l === model.get("layer") && h === model.get("head")));
    });
  }

  const redraw = oncePerFrame(drawDetail);
  const redrawCells = oncePerFrame(() => {
    drawCells();
    drawDetail();
  });
  const redrawMaps = oncePerFrame(() => {
    drawMaps();
    drawCells();
    drawDetail();
  });
  const showPrediction = () => prediction.update(model.get("prediction"), count);
  const stops = [
    messages.stop,
    observe(model, ["_maps", "_peaks"], () => {
      getMap = headMaps(model, facts, menus);
      redrawMaps();
    }),
    observe(model, ["_mask", "_score", "_score_info", "color_by"], redrawCells),
    observe(model, ["layer", "head"], redraw),
    observe(model, ["frame"], () => (moment === "frame" ? redrawMaps() : redraw())),
    observe(model, ["prediction"], showPrediction),
    joinGroup(model, ["frame", "layer"]),
  ];
  const needKernel = [...tools, prune, colorBy.input, ...grid.heads];
  if (!live) needKernel.forEach((one) => Object.assign(one, { disabled: true, title: "needs a live kernel" }));
  const group = (title, ...rows) => el("fieldset", { class: "vl-group" }, el("legend", {}, title), ...rows);
  const node = el(
    "div",
    { class: "vl vl-heads-explorer", "data-ready": "false" },
    el("div", { class: "vl-head" }, el("strong", {}, facts.name), el("span", { class: "vl-caption" }, menus.caption)),
    el(
      "div",
      { class: "vl-heads-body" },
      el(
        "div",
        { class: "vl-main" },
        el("div", { class: "vl-heads-tools" }, colorBy.row, time.row),
        el("div", { class: "vl-buttons", role: "group", "aria-label": "Heads" }, ...tools),
        el("div", { class: "vl-scroll" }, grid.node),
        bar.node,
        about,
        messages.node,
      ),
      el(
        "div",
        { class: "vl-controls" },
        group("Prediction", ...prediction.nodes, el("div", { class: "vl-buttons" }, prune)),
        group("Head", ...detail.nodes),
      ),
    ),
  );
  node.style.setProperty("--heads", heads);
  guardKeys(node);
  root.append(node);
  grid.set(model.get("layer"), model.get("head"));
  drawMaps();
  drawCells();
  drawDetail();
  showPrediction();
  Promise.all(detail.ready).then(() => {
    node.dataset.ready = "true";
    drawDetail();
  });
  if (!live) model.set("status", "Saved page: maps and scores as they were; switching heads needs a live kernel.");
  return () => {
    detail.pause();
    stops.forEach((stop) => stop());
  };
}

export default { render };
