// PruningCurves: what is left of a model as heads go, one line a series, with its interval.

const STYLES = [
  ["#0072b2", ""],
  ["#d55e00", "7 4"],
  ["#009e73", "2 3"],
  ["#cc79a7", "9 3 2 3"],
  ["#b8860b", "4 2"],
];

/** Round numbers between two ends, about five of them. */
function ticksOf(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found.map((value) => Number(value.toPrecision(12)));
}

function render({ model, el: root }) {
  const facts = model.get("_facts");
  const all = model.get("_curves");
  const messages = messageArea(model);
  const chart = el("div", { class: "vl-chart", role: "group" });
  const legend = el("div", { class: "vl-legend" });
  const about = el("div", { class: "vl-caption" });
  const readout = el("div", { class: "vl-readout vl-caption" });
  const choice = field(
    "Measure",
    select(Object.keys(all).map((name) => [name, name.replace("_", " ")]), (value) => send(model, { metric: value })),
  );

  function limits(curves) {
    const values = Object.values(curves).flatMap((one) => [...one.mean, ...one.low, ...one.high]);
    const known = values.filter((value) => value !== null);
    const low = Math.min(...known);
    const high = Math.max(...known);
    const margin = (high - low) * 0.05 || 0.5;
    return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
  }

  function draw() {
    const curves = all[model.get("metric")] ?? {};
    const names = Object.keys(curves);
    if (!names.length) return;
    choice.input.value = model.get("metric");
    about.textContent = `Up: ${facts.about[model.get("metric")]}. Across: share of the heads removed. Bands: 95 % bootstrap intervals over clips.`;
    const [low, high] = limits(curves);
    const widest = Math.max(...names.flatMap((name) => curves[name].shares)) || 1;
    const x = (share) => (share / widest) * 100;
    const y = (value) => (1 - (value - low) / (high - low)) * 100;
    const svg = el("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    const nodes = [];
    for (const tick of ticksOf(low, high)) {
      svg.append(el("line", { x1: 0, x2: 100, y1: y(tick), y2: y(tick), class: "vl-rule" }));
      const label = el("span", { class: "vl-ytick" }, formatG(tick, 3));
      label.style.top = `${y(tick)}%`;
      nodes.push(label);
    }
    for (const tick of ticksOf(0, widest)) {
      const label = el("span", { class: "vl-xtick" }, `${formatG(tick * 100, 3)} %`);
      label.style.left = `${x(tick)}%`;
      nodes.push(label);
    }
    names.forEach((name) => {
      const curve = curves[name];
      const [color, dash] = STYLES[facts.series.indexOf(name) % STYLES.length];
      const place = (values) => curve.shares.map((share, index) => `${x(share)} ${y(values[index])}`);
      if (curve.low.every((value) => value !== null)) {
        const path = `M${[...place(curve.high), ...place(curve.low).reverse()].join("L")}Z`;
        svg.append(el("path", { d: path, fill: color, class: "vl-band" }));
      }
      svg.append(el("path", { d: `M${place(curve.mean).join("L")}`, stroke: color, "stroke-dasharray": dash, class: "vl-line" }));
      curve.shares.forEach((share, index) => {
        const text = spell(name, curve, index);
        const point = button("", () => send(model, { series: name, share }), { class: "vl-point", "aria-label": text, title: text });
        point.style.left = `${x(share)}%`;
        point.style.top = `${y(curve.mean[index])}%`;
        point.style.setProperty("--color", color);
        const chosen = name === model.get("series") && Math.abs(share - model.get("share")) < 1e-9;
        point.setAttribute("aria-pressed", chosen);
        if (chosen) readout.textContent = text;
        nodes.push(point);
      });
    });
    chart.setAttribute("aria-label", `${model.get("metric")} by share of heads removed, ${names.length} series`);
    const focused = chart.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    chart.replaceChildren(svg, ...nodes);
    if (focused) chart.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    legend.replaceChildren(...names.map((name) => key(name)));
  }

  function spell(name, curve, index) {
    const interval = curve.low[index] === null ? "" : ` [${formatG(curve.low[index], 3)}, ${formatG(curve.high[index], 3)}]`;
    const share = formatG(100 * curve.shares[index], 3);
    return `${name}, ${share} % removed: ${model.get("metric").replace("_", " ")} ${formatG(curve.mean[index], 3)}${interval}`;
  }

  function key(name) {
    const [color, dash] = STYLES[facts.series.indexOf(name) % STYLES.length];
    const sample = el("svg", { viewBox: "0 0 30 8", class: "vl-key", "aria-hidden": "true" });
    sample.append(el("line", { x1: 0, x2: 30, y1: 4, y2: 4, stroke: color, "stroke-width": 2.5, "stroke-dasharray": dash }));
    return el("span", {}, sample, name);
  }

  const redraw = oncePerFrame(draw);
  const stops = [messages.stop, observe(model, ["metric", "series", "share"], redraw)];
  const node = el(
    "div",
    { class: "vl vl-result", "data-ready": "true" },
    el("div", { class: "vl-head" }, el("strong", {}, "Pruning curves"), el("span", { class: "vl-caption" }, `${facts.heads} heads`)),
    el("div", { class: "vl-tools" }, choice.row),
    legend,
    el("div", { class: "vl-chartbox" }, chart),
    about,
    readout,
    messages.node,
  );
  guardKeys(node);
  root.append(node);
  draw();
  return () => stops.forEach((stop) => stop());
}

export default { render };
