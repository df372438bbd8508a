// ClipExplorer: where a token looks through space and time, over the clip's own frames.

const KEYS =
  "Arrow keys move over the patches, Enter makes one the query, Escape lets it go, Space plays, comma and full stop " +
  "step, F held shows the frame without heat.";
const OFFLINE = "needs a live kernel";
const REDRAW = ["frame", "layer", "colormap", "alpha", "normalize", "threshold", "view", "heat", "heat_info", "preview"];

const CONTROLLED = [
  ...["layer", "colormap", "alpha", "normalize", "threshold", "view", "heat_info"],
  ...["direction", "head", "method", "target"],
];

/** What is shown: the map of the token asked for, from the kernel or, in an offline page, from its table. */
function heatSource(model, facts) {
  let values = floatsOf(model.get("heat"));
  let info = model.get("heat_info");
  let table = null;
  const first = model.get("query");
  const firstLocked = model.get("locked");
  const isAttention = model.get("method") === "attention"; // in an offline page, which keeps its method
  const places = facts.grid.t * facts.grid.h * facts.grid.w;
  return {
    update() {
      values = floatsOf(model.get("heat"));
      info = model.get("heat_info");
    },
    async open() {
      table = await openTable(bytesOf(model.get("_table")), model.get("_table_info"), facts.grid);
      return table;
    },
    /** {values (rows × places) or null, token, info} of a layer. */
    of(layer, wanted) {
      const shipped = () => values.subarray((info.layered ? layer : 0) * places, (info.layered ? layer + 1 : 1) * places);
      const isFirst = wanted === first && (isAttention || model.get("locked") === firstLocked);
      if (model.get("live") || isFirst) return { values: shipped(), token: info.query, info };
      return { ...(table?.answer(layer, wanted) ?? { values: null, token: wanted }), info };
    },
  };
}

function patchText(facts, token) {
  const position = positionOf(facts.grid, token);
  if (!position) return "CLS token";
  const [start, stop] = facts.spans[position.t];
  const span = facts.end - facts.times[0];
  const when = `${formatSeconds(start, span).replace(" s", "")}–${formatSeconds(stop, span)}`;
  return `patch t ${position.t}, y ${position.y}, x ${position.x} (${when})`;
}

/** The controls at the side; returns {node, update}. */
function makeControls(model, facts, menus) {
  const live = model.get("live");
  const set = (name) => (value) => send(model, { [name]: value });
  const direction = Object.entries({ attends_to: "Attends to", attended_by: "Attended by" }).map(([value, text]) =>
    button(text, () => send(model, { direction: value }), { "data-direction": value }),
  );
  const method = field("Map", select(menus.methods.map((one) => [one.name, one.label]), set("method")));
  for (const option of method.input.options) {
    const entry = menus.methods.find((one) => one.name === option.value);
    option.disabled = !entry.enabled;
  }
  const target = field(
    "Class",
    select([["", "predicted class"], ...menus.classes.map((text, index) => [index, text])], (value) =>
      send(model, { target: value === "" ? null : Number(value) }),
    ),
  );
  const layer = field("Layer", range(0, menus.layers - 1, 1, set("layer")));
  const head = makeHeads(model, menus.heads);
  const colormap = field("Colours", select([], set("colormap")));
  const scale = field(
    "Scale",
    select(
      [
        ["clip99", "clip, to 99th percentile"],
        ["clip", "clip, lowest to highest"],
        ["frame", "each frame its own"],
      ],
      set("normalize"),
    ),
  );
  const opacity = field(
    "Opacity",
    range(0, 1, 0.05, (value) => send(model, { alpha: value })),
  );
  const byHeat = button("Opacity by heat", () => send(model, { alpha: model.get("alpha") === null ? 0.6 : null }));
  const threshold = field("Threshold", range(0, 0.95, 0.05, set("threshold")));
  const heatOnly = button("Heat only", () => send(model, { view: model.get("view") === "heat" ? "overlay" : "heat" }));
  const files = ["PNG", "MP4", "NPZ", "HTML"].map((kind) =>
    button(kind, () => model.send({ type: "export", what: kind.toLowerCase() }), {
      title: live ? `Save what is shown as ${kind}` : OFFLINE,
      disabled: !live,
    }),
  );
  const needKernel = [method.input, target.input, ...direction, ...head.inputs];
  if (!live) needKernel.forEach((node) => Object.assign(node, { disabled: true, title: OFFLINE }));
  const group = (title, ...rows) => el("fieldset", { class: "vl-group" }, el("legend", {}, title), ...rows);
  const node = el(
    "div",
    { class: "vl-controls" },
    group(
      "What",
      method.row,
      el("div", { class: "vl-joined vl-direction", role: "group", "aria-label": "Direction" }, ...direction),
      layer.row,
      head.node,
      target.row,
    ),
    group("How it is drawn", colormap.row, scale.row, opacity.row, threshold.row, el("div", { class: "vl-buttons" }, byHeat, heatOnly)),
    group("Save", el("div", { class: "vl-buttons" }, ...files)),
  );
  const update = (info) => {
    const isAttention = model.get("method") === "attention";
    const entry = menus.methods.find((one) => one.name === model.get("method"));
    method.input.value = model.get("method");
    for (const one of direction) one.setAttribute("aria-pressed", one.dataset.direction === model.get("direction"));
    direction[0].parentNode.hidden = layer.row.hidden = head.node.hidden = !isAttention;
    target.row.hidden = !entry?.takes_class;
    target.input.value = model.get("target") ?? "";
    layer.input.value = model.get("layer");
    setText(layer.note, `${model.get("layer")} of 0–${menus.layers - 1}`);
    head.update();
    const signed = Boolean(info?.signed);
    fillSelect(colormap.input, colormapNames(signed).map((name) => [name, name]));
    colormap.input.value = suitableColormap(model.get("colormap"), signed);
    scale.input.value = model.get("normalize");
    const alpha = model.get("alpha");
    opacity.input.disabled = alpha === null || model.get("view") === "heat";
    opacity.input.value = alpha ?? 0.8;
    setText(opacity.note, alpha === null ? "by heat, up to 80 %" : `${Math.round(alpha * 100)} %`);
    byHeat.setAttribute("aria-pressed", alpha === null);
    heatOnly.setAttribute("aria-pressed", model.get("view") === "heat");
    threshold.input.disabled = model.get("view") === "heat";
    threshold.input.value = model.get("threshold");
    setText(threshold.note, model.get("threshold") ? `below ${Math.round(model.get("threshold") * 100)} % hidden` : "off");
  };
  return { node, update };
}

/** The choice of heads: a fusion, one head, or a set of them by switches. */
function makeHeads(model, count) {
  const ask = (value) => send(model, { head: value });
  const options = [
    ["mean", "mean over heads"],
    ["max", "max over heads"],
    ["min", "min over heads"],
    ...Array.from({ length: count }, (_, head) => [head, `head ${head}`]),
    ["set", "mean of some heads …"],
  ];
  const chosen = () => {
    const head = model.get("head");
    return Array.isArray(head) ? head : typeof head === "number" ? [head] : Array.from({ length: count }, (_, i) => i);
  };
  const choice = field("Head", select(options, (value) => {
    if (value === "set") ask(chosen());
    else ask(["mean", "max", "min"].includes(value) ? value : Number(value));
  }));
  const switches = Array.from({ length: count }, (_, head) =>
    button(String(head), () => {
      const kept = new Set(chosen());
      kept.has(head) ? kept.delete(head) : kept.add(head);
      if (kept.size) ask([...kept].sort((a, b) => a - b));
    }, { "aria-label": `Head ${head}` }),
  );
  const set = el("div", { class: "vl-buttons vl-heads", role: "group", "aria-label": "Heads in the mean" }, ...switches);
  const update = () => {
    const head = model.get("head");
    set.hidden = !Array.isArray(head);
    choice.input.value = Array.isArray(head) ? "set" : String(head);
    if (Array.isArray(head)) switches.forEach((one, index) => one.setAttribute("aria-pressed", head.includes(index)));
  };
  return { node: el("div", { class: "vl-headbox" }, choice.row, set), inputs: [choice.input, ...switches], update };
}

/** Hovering, clicking and moving over patches: sets the traits "query", "locked" and "preview". */
function makePicking(model, facts, redraw) {
  const home = model.get("_home");
  const row = () => Math.floor(model.get("frame") / facts.frames_per_row);
  let cursor = null; // the place under the pointer or the arrow keys
  let timer = 0;
  const locked = () => model.get("locked");
  const asks = () => model.get("_menus").methods.find((one) => one.name === model.get("method"))?.takes_query;
  const preview = (token) => {
    clearTimeout(timer);
    // a pointer passes many patches; the kernel is asked about those on which it rests for a moment
    timer = setTimeout(() => model.get("preview") !== token && send(model, { preview: token }), model.get("live") ? 40 : 0);
  };
  const hover = (place) => {
    cursor = place;
    const previews = !locked() && model.get("method") === "attention";
    if (previews || !place) preview(place && previews ? tokenOf(facts.grid, row(), place.y, place.x) : -1);
    redraw();
  };
  const pick = (place) => {
    if (!asks()) return; // the map is of the clip as a whole
    const token = tokenOf(facts.grid, row(), place.y, place.x);
    clearTimeout(timer);
    if (locked() && token === model.get("query")) free();
    else send(model, { query: token, locked: true, preview: -1 });
  };
  const free = () => send(model, { query: home, locked: false, preview: -1 });
  const move = (key) => {
    const next = steppedTo(facts, key, cursor);
    if (next && boxOf(facts, next.y, next.x)) hover(next);
    return next !== null;
  };
  return {
    hover,
    pick,
    move,
    asks,
    locked,
    enter: () => (cursor ? pick(cursor) : move("ArrowUp")), // to the middle
    free,
    cursor: () => cursor,
    row,
  };
}

function render({ model, el: root }) {
  const facts = model.get("_clip");
  const menus = model.get("_menus");
  const node = el("div", { class: "vl vl-explorer", "data-ready": "false" });
  const source = heatSource(model, facts);
  const frames = [];
  let stale = true; // whether the controls may show old settings
  let bare = false; // while the flash key is held
  let scaleKey = [];
  let scale = null;
  const redraw = oncePerFrame(() => draw());
  const picking = makePicking(model, facts, redraw);
  const player = makePlayer(model, facts);
  const steps = { " ": player.toggle, ",": () => player.step(-1), ".": () => player.step(1), Enter: picking.enter };
  const flash = (on) => {
    bare = on;
    redraw();
    return true;
  };
  const key = (name) => {
    if (picking.move(name)) return true;
    if (name === "f" || name === "F") return flash(true);
    if (!steps[name]) return false;
    steps[name]();
    return true;
  };
  const stage = makeStage(facts, { hover: picking.hover, pick: picking.pick, key }, `${facts.name}: frames with heat. ${KEYS}`);
  stage.canvas.addEventListener("keyup", (event) => event.key.toLowerCase() === "f" && flash(false));
  stage.canvas.addEventListener("blur", () => flash(false));
  const strip = makeStrip(facts, (frame) => (player.pause(), send(model, { frame })));
  const bar = colorBar();
  const messages = messageArea(model);
  const controls = makeControls(model, facts, menus);
  const queryText = el("span", { class: "vl-query", role: "status" });
  const readout = el("div", { class: "vl-readout vl-caption" });
  const free = button("Back to CLS", picking.free, { class: "vl-free", title: "Escape" });
  if (!facts.grid.cls) free.textContent = "Let go";
  const hide = button("Flash", () => undefined, { class: "vl-flash", title: "Hold to see the frame without heat (F)" });
  for (const [type, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false]]) {
    hide.addEventListener(type, () => flash(on));
  }
  const wanted = () => (!picking.locked() && model.get("preview") >= 0 ? model.get("preview") : model.get("query"));

  function sayQuery(shown) {
    const token = shown.token ?? null;
    const preview = !picking.locked() && model.get("preview") >= 0;
    const place = token === null ? "" : patchText(facts, token);
    const how = picking.locked() ? "Locked on" : preview ? "Preview of" : "Query:";
    setText(queryText, token === null ? "The clip as a whole" : `${how} ${place}`);
    free.hidden = !picking.locked() || token === null;
    node.dataset.locked = picking.locked();
  }

  function sayCursor(shown, values) {
    const cursor = picking.cursor();
    const hint = !picking.asks()
      ? "This method explains the clip as a whole. Point at a patch to read its value."
      : picking.locked()
        ? "Click another patch, or the same one (or press Escape) to let it go."
        : model.get("method") === "attention"
          ? "Point at a patch to preview it, click to lock it."
          : "Click a patch to explain it.";
    if (!cursor || !values) return void setText(readout, hint);
    const { h, w } = facts.grid;
    const value = values[(picking.row() * h + cursor.y) * w + cursor.x];
    setText(readout, `Under the pointer: t ${picking.row()}, y ${cursor.y}, x ${cursor.x} = ${formatG(value, 3)}`);
  }

  function outlines(shown) {
    const places = [];
    const position = shown.token === null || shown.token === undefined ? null : positionOf(facts.grid, shown.token);
    if (position) places.push({ ...position, kind: position.t === picking.row() ? "query" : "faint" });
    if (picking.cursor()) places.push({ ...picking.cursor(), kind: "cursor" });
    stage.outline(places);
    return position;
  }

  function draw() {
    const frame = model.get("frame");
    const base = frames[frame];
    const layer = model.get("layer");
    const shown = source.of(layer, wanted());
    const { values, info } = shown;
    const row = picking.row();
    const name = suitableColormap(model.get("colormap"), Boolean(info.signed));
    const heatOnly = model.get("view") === "heat";
    const threshold = heatOnly ? 0 : model.get("threshold");
    const { h, w, t } = facts.grid;
    if (stale) controls.update(info); // not at every frame of playback
    stale = false;
    player.update();
    sayQuery(shown);
    sayCursor(shown, values);
    const position = outlines(shown);
    if (values?.length) {
      const wantedKey = [model.get("heat"), layer, shown.token, model.get("normalize")];
      if (wantedKey.some((part, index) => part !== scaleKey[index])) {
        scaleKey = wantedKey;
        scale = scaleOf(values, t, Boolean(info.signed), model.get("normalize"));
        const table = colormapOf(name).table;
        strip.update(values, position?.t ?? null, stripColors(table, info.signed));
      }
      const caption = `${scale.kind}: ${info.scale}`;
      bar.update(name, labelsOf(scale, row), caption, threshold);
    } else {
      strip.update(null, position?.t ?? null);
    }
    strip.mark(frame);
    if (base) {
      const levels =
        values?.length && !bare ? levelsOf(values.subarray(row * h * w, (row + 1) * h * w), scale.low[row], scale.high[row]) : null;
      stage.paint(base, levels, mixOf(name, model.get("alpha"), threshold, heatOnly), heatOnly && levels !== null);
      Object.assign(stage.canvas.dataset, { frame, layer, query: shown.token ?? "", drawn: Number(stage.canvas.dataset.drawn ?? 0) + 1 });
    }
    if (!model.get("live")) sayOffline(layer, values);
  }

  let table = null;
  function sayOffline(layer, values) {
    const about = table
      ? `Saved page: patches answer in layer${table.layers.length > 1 ? "s" : ""} ${spell(table.layers)}; other settings of the map need a live kernel.`
      : "Saved page: this map alone; other queries need a live kernel.";
    model.set("status", values ? about : `No stored answer in layer ${layer}: this needs a live kernel. ${about}`);
  }

  const stops = [
    messages.stop,
    joinGroup(model, ["frame", "layer"]),
    observe(model, REDRAW, redraw),
    observe(model, ["heat", "heat_info"], () => source.update()),
    observe(model, ["query", "locked", "direction", "head", "method", "target"], redraw),
    observe(model, CONTROLLED, () => (stale = true)),
  ];
  const received = (content, buffers) => {
    if (content?.type === "file") download(bytesOf(buffers[0]), content.name, content.mime);
  };
  model.on("msg:custom", received);
  node.addEventListener("keydown", (event) => event.key === "Escape" && picking.locked() && picking.free());
  guardKeys(node);
  node.append(
    el("div", { class: "vl-head" }, el("strong", {}, facts.name), el("span", { class: "vl-caption" }, menus.caption)),
    el(
      "div",
      { class: "vl-body" },
      el(
        "div",
        { class: "vl-main" },
        el("div", { class: "vl-queryline" }, queryText, free, hide),
        el("div", { class: "vl-scene" }, stage.node),
        readout,
        player.node,
        strip.node,
        bar.node,
        messages.node,
      ),
      controls.node,
    ),
  );
  root.append(node);
  const decoded = decodeFrames(bytesOf(model.get("_frames")), model.get("_frame_ends"), facts.width, facts.height, facts.visible);
  decoded.forEach((promise, index) => promise.then((data) => {
    frames[index] = data;
    if (index === model.get("frame")) redraw();
  }));
  const opened = model.get("live") ? null : source.open().then((found) => {
    table = found;
    redraw();
  });
  Promise.all([...decoded, opened]).then(() => {
    node.dataset.ready = "true";
    redraw();
  });
  redraw();
  return () => {
    player.pause();
    model.off("msg:custom", received);
    stops.forEach((stop) => stop());
  };
}

/** Numbers as text, runs shortened: 0–3, 7. */
function spell(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const runs = [];
  for (const number of sorted) {
    const last = runs[runs.length - 1];
    if (last && number === last[1] + 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([start, stop]) => (start === stop ? start : `${start}–${stop}`)).join(", ");
}

export default { render };
