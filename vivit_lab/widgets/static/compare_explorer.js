// CompareExplorer: two maps on one scale, and their difference on a diverging one.

const SIDES = ["left", "right"];

/** The maps as they are drawn, divided by the sum of their magnitudes or as they are, and their scales. */
function comparedMaps(model, comparable) {
  const info = model.get("info");
  const signed = Boolean(info.left?.signed || info.right?.signed);
  const maps = SIDES.map((side) => {
    const values = floatsOf(model.get(`${side}_heat`));
    if (model.get("normalize") === "as_is") return values;
    const total = values.reduce((sum, value) => sum + Math.abs(value), 0) || 1;
    return values.map((value) => value / total);
  });
  const ready = info.left && maps[0].length;
  const difference = ready && comparable ? maps[1].map((value, index) => value - maps[0][index]) : null;
  return {
    maps,
    difference,
    scale: ready ? scaleOf(new Float32Array([...maps[0], ...maps[1]]), 1, signed, "clip99") : null,
    differenceScale: difference ? scaleOf(difference, 1, true, "clip99") : null,
    name: signed ? "coolwarm" : "inferno",
  };
}

/** One picture with its title: {node, stage, show(title, says)}. */
function makePanel(facts, name, on) {
  const reads = on.reads ? "Arrow keys read the patches, " : "";
  const stage = makeStage(facts, on, `${name}: ${facts.name}, frames with heat. ${reads}Space plays, comma and full stop step.`);
  stage.canvas.dataset.panel = name;
  const title = el("strong");
  const says = el("div", { class: "vl-caption" });
  const strip = makeStrip(facts, on.jump);
  const node = el("div", { class: "vl-panel" }, el("div", { class: "vl-paneltitle" }, title, says), stage.node, strip.node);
  return {
    node,
    stage,
    strip,
    show(text, more) {
      title.textContent = text;
      says.textContent = more;
    },
  };
}

function render({ model, el: root }) {
  const facts = SIDES.map((side) => model.get(`_${side}`));
  const menus = model.get("_menus");
  const live = model.get("live");
  const frames = [[], []];
  const [leftGrid, rightGrid] = facts.map((one) => one.grid);
  const comparable = ["t", "h", "w"].every((axis) => leftGrid[axis] === rightGrid[axis]);
  let shown = comparedMaps(model, comparable);
  let cursor = null;
  const player = makePlayer(model, facts[0]);
  const keys = { " ": player.toggle, ",": () => player.step(-1), ".": () => player.step(1) };
  const on = {
    reads: comparable,
    hover: (place) => {
      cursor = place;
      redraw();
    },
    pick: () => undefined,
    jump: (frame) => {
      player.pause();
      send(model, { frame });
    },
    key: (name) => {
      const next = comparable ? steppedTo(facts[0], name, cursor) : null;
      if (next && boxOf(facts[0], next.y, next.x)) on.hover(next);
      if (keys[name]) keys[name]();
      return next !== null || Boolean(keys[name]);
    },
  };
  /** The left clip's frame at the time at which the right one shows a frame. */
  const leftOf = (frame) => frameAt(facts[0].times, facts[0].times[0] + facts[1].times[frame] - facts[1].times[0] + 1e-9);
  const panels = [
    makePanel(facts[0], "left", on),
    makePanel(facts[1], "right", { ...on, jump: (frame) => on.jump(leftOf(frame)) }),
    makePanel(facts[0], "difference", on),
  ];
  const bars = [colorBar(), colorBar()];
  const messages = messageArea(model);
  const readout = el("div", { class: "vl-readout vl-caption", role: "status" });
  const agreement = el("div", { class: "vl-caption" });
  const methods = SIDES.map((side) => {
    const options = menus.methods.map((one) => [one.name, one.label]);
    const ask = (value) => send(model, { [`${side}_method`]: value });
    return field(side === "left" ? "Left map" : "Right map", select(options, ask));
  });
  const target = field(
    "Class",
    select([["", "each side's predicted class"], ...menus.classes.map((text, index) => [index, text])], (value) =>
      send(model, { target: value === "" ? null : Number(value) }),
    ),
  );
  const scale = field(
    "Numbers",
    select(
      [
        ["share", "share of each map's sum"],
        ["as_is", "as the methods give them"],
      ],
      (value) => send(model, { normalize: value }),
    ),
  );
  if (!live) {
    for (const one of [...methods, target]) Object.assign(one.input, { disabled: true, title: "needs a live kernel" });
  }

  /** The frame of each side: the right clip shows what is as long after its start. */
  function moments() {
    const frame = model.get("frame");
    const since = facts[0].times[frame] - facts[0].times[0];
    return [frame, frameAt(facts[1].times, facts[1].times[0] + since + 1e-9)];
  }

  const row = (side, frame) => Math.floor(frame / facts[side].frames_per_row);

  function paint(panel, side, frame, map, scale, name) {
    const base = frames[side][frame];
    if (panel.map !== map) panel.strip.update(map, null, stripColors(colormapOf(name).table, scale.signed));
    panel.map = map; // the strip stays as it is while only the frame changes
    panel.strip.mark(frame);
    if (!base) return;
    const { h, w } = facts[side].grid;
    const at = row(side, frame) * h * w;
    const levels = levelsOf(map.subarray(at, at + h * w), scale.low[0], scale.high[0]);
    panel.stage.paint(base, levels, mixOf(name, null, 0, false), false);
    Object.assign(panel.stage.canvas.dataset, { frame, drawn: Number(panel.stage.canvas.dataset.drawn ?? 0) + 1 });
  }

  function draw() {
    const info = model.get("info");
    player.update();
    for (const [index, side] of SIDES.entries()) methods[index].input.value = model.get(`${side}_method`);
    scale.input.value = model.get("normalize");
    target.input.value = model.get("target") ?? "";
    const takes = menus.methods.filter((one) => methods.some(({ input }) => input.value === one.name));
    target.row.hidden = !menus.classes.length || !takes.some((one) => one.takes_class);
    if (!shown.scale) return;
    const [first, second] = moments();
    SIDES.forEach((side, index) => {
      const said = [info[side].says, info[side].target].filter(Boolean).join(" · ");
      panels[index].show(info[side].title, said);
      paint(panels[index], index, index ? second : first, shown.maps[index], shown.scale, shown.name);
    });
    const unit = model.get("normalize") === "share" ? "share of each map's sum of magnitudes" : describe(info);
    bars[0].update(shown.name, labelsOf(shown.scale, 0), `Both maps, one scale to the 99th percentile of both: ${unit}`);
    drawDifference(info, first, unit);
    say(info, first);
  }

  function describe(info) {
    return info.left.scale === info.right.scale ? info.left.scale : `left: ${info.left.scale}; right: ${info.right.scale}`;
  }

  function drawDifference(info, frame, unit) {
    bars[1].node.hidden = !comparable;
    if (!comparable) {
      panels[2].show("No difference", `The grids differ: ${spellGrid(leftGrid)} and ${spellGrid(rightGrid)} tubelets.`);
      panels[2].stage.node.hidden = panels[2].strip.node.hidden = true;
      return;
    }
    panels[2].show("Right − left", "red: more at the right; blue: more at the left");
    paint(panels[2], 0, frame, shown.difference, shown.differenceScale, "coolwarm");
    bars[1].update("coolwarm", labelsOf(shown.differenceScale, 0), `Right − left, to its 99th percentile: ${unit}`);
    const rho = info.spearman;
    agreement.textContent = rho === null ? "" : `Rank correlation of the two maps (Spearman): ${rho.toFixed(3)}`;
  }

  function say(info, frame) {
    if (!cursor || !comparable) {
      readout.textContent = comparable ? "Point at a patch to read its numbers." : "";
      for (const panel of panels) panel.stage.outline([]);
      return;
    }
    const t = row(0, frame);
    const index = tokenOf({ ...leftGrid, cls: false }, t, cursor.y, cursor.x);
    const [a, b] = shown.maps.map((map) => map[index]);
    readout.textContent = `t ${t}, y ${cursor.y}, x ${cursor.x}: left ${formatG(a, 3)}, right ${formatG(b, 3)}, difference ${formatG(b - a, 3)}`;
    for (const panel of panels) panel.stage.outline([{ ...cursor, kind: "cursor" }]);
  }

  const redraw = oncePerFrame(draw);
  const stops = [
    messages.stop,
    joinGroup(model, ["frame"]),
    observe(model, ["left_heat", "right_heat", "info", "normalize"], () => {
      shown = comparedMaps(model, comparable);
      redraw();
    }),
    observe(model, ["frame", "left_method", "right_method", "target"], redraw),
  ];
  const node = el(
    "div",
    { class: "vl vl-compare", "data-ready": "false" },
    el("div", { class: "vl-tools" }, methods[0].row, methods[1].row, target.row, scale.row),
    el("div", { class: "vl-panels" }, ...panels.map((panel) => panel.node)),
    readout,
    player.node,
    el("div", { class: "vl-two" }, bars[0].node, bars[1].node),
    agreement,
    messages.node,
  );
  guardKeys(node);
  root.append(node);
  const shared = !bytesOf(model.get("_right_frames")).length;
  const decoded = SIDES.flatMap((side, index) => {
    if (index && shared) return [];
    const { width, height, visible } = facts[index];
    const bytes = bytesOf(model.get(`_${side}_frames`));
    return decodeFrames(bytes, model.get(`_${side}_ends`), width, height, visible).map((promise, frame) =>
      promise.then((data) => {
        frames[index][frame] = data;
        if (shared) frames[1][frame] = data;
      }),
    );
  });
  Promise.all(decoded).then(() => {
    node.dataset.ready = "true";
    redraw();
  });
  redraw();
  if (!live) model.set("status", "Saved page: other maps need a live kernel.");
  return () => {
    player.pause();
    stops.forEach((stop) => stop());
  };
}

function spellGrid({ t, h, w }) {
  return `${t}×${h}×${w}`;
}

export default { render };
