// FaithfulnessTable: a row a method, a column a metric; the clips behind a number as dots.

/** A name that may break before a capital or a bracket, where it is narrow. */
function breakable(name) {
  return name.split(/(?=[A-Z(])/).flatMap((part) => [part, el("wbr")]);
}

function render({ model, el: root }) {
  const report = model.get("_report");
  const messages = messageArea(model);
  const body = el("tbody");
  const heads = report.metrics.map(({ name, higher }) => {
    const arrow = higher ? "higher is better" : "lower is better";
    const made = button(name.replaceAll("_", " "), () => send(model, { metric: name, method: report.best[name] ?? model.get("method") }), {
      title: `Sort by ${name} (${arrow})`,
      class: "vl-sort",
    });
    return el("th", { scope: "col" }, made, el("span", { class: "vl-caption" }, higher ? "↑" : "↓"));
  });
  const table = el(
    "table",
    { class: "vl-report", "aria-label": "Scores of the methods" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "vl-method" }, "Method"), ...heads)),
    body,
  );
  const title = el("div", { class: "vl-dotstitle" });
  const dots = el("div", { class: "vl-dots", role: "group" });
  const ends = el("div", { class: "vl-numbers vl-caption" });
  const chosen = el("div", { class: "vl-caption", role: "status" });
  const cell = (method, metric) => report.cells[`${method} / ${metric}`];
  const extremes = Object.fromEntries(
    report.metrics.map(({ name }) => {
      const known = report.methods.flatMap((method) => cell(method.name, name)?.slice(0, 3) ?? []).filter((value) => value !== null);
      return [name, [Math.min(0, ...known), Math.max(...known)]];
    }),
  );
  const share = (metric, value) => {
    const [low, high] = extremes[metric];
    return high > low ? (100 * (value - low)) / (high - low) : 0;
  };

  function order() {
    const metric = report.metrics.find(({ name }) => name === model.get("metric"));
    const sign = metric.higher ? -1 : 1;
    const value = (method) => cell(method.name, metric.name)?.[0] ?? null;
    return [...report.methods].sort((a, b) => {
      if (value(a) === null || value(b) === null) return (value(a) === null) - (value(b) === null);
      return sign * (value(a) - value(b));
    });
  }

  function number(method, { name: metric }) {
    const found = cell(method.name, metric);
    if (!found || found[0] === null) return el("td", { class: "vl-score" }, "–");
    const [mean, low, high, count] = found;
    const text = formatG(mean, 3);
    const interval = low === null ? "" : `, interval ${formatG(low, 3)} to ${formatG(high, 3)}`;
    const pressed = method.name === model.get("method") && metric === model.get("metric");
    const best = report.best[metric] === method.name;
    const made = button(text, () => send(model, { method: method.name, metric }), {
      "aria-pressed": String(pressed),
      "aria-label": `${method.name}, ${metric}: ${text}${interval}, ${count} clips${best ? ", the best" : ""}`,
      title: `${text}${interval}`,
      class: best ? "vl-best" : null,
    });
    const bar = el("span", { class: "vl-interval" });
    if (low !== null) {
      bar.style.left = `${share(metric, low)}%`;
      bar.style.width = `${Math.max(share(metric, high) - share(metric, low), 1.5)}%`;
    }
    return el("td", { class: "vl-score" }, made, el("span", { class: "vl-track", "aria-hidden": "true" }, bar));
  }

  function drawTable() {
    const active = body.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    body.replaceChildren(
      ...order().map((method) =>
        el(
          "tr",
          { class: method.control ? "vl-control" : null },
          el("th", { scope: "row", class: "vl-method" }, ...breakable(method.name), method.control ? el("span", { class: "vl-caption" }, " control") : null),
          ...report.metrics.map((metric) => number(method, metric)),
        ),
      ),
    );
    heads.forEach((head, index) => {
      const sorted = report.metrics[index].name === model.get("metric");
      head.setAttribute("aria-sort", sorted ? (report.metrics[index].higher ? "descending" : "ascending") : "none");
    });
    if (active) body.querySelector(`[aria-label="${CSS.escape(active)}"]`)?.focus();
  }

  /** The scores of the clips: from the kernel, or from what an offline page has of all. */
  function scores() {
    const every = model.get("_every");
    return every ? (every[`${model.get("method")} / ${model.get("metric")}`] ?? []) : model.get("_scores");
  }

  function drawDots() {
    const found = scores()
      .map((value, index) => ({ value, name: report.names[index] }))
      .filter(({ value }) => value !== null);
    const known = found.map(({ value }) => value);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const [first, last] = formatRange(low, high);
    const stack = new Map();
    title.textContent = `${model.get("method")}, ${model.get("metric").replaceAll("_", " ")}: each dot a clip (${found.length} of ${report.clips} have a value)`;
    dots.setAttribute("aria-label", `Scores of the clips from ${first} to ${last}; press one to choose the clip`);
    found.sort((a, b) => a.value - b.value);
    dots.replaceChildren(
      ...found.map(({ value, name }, index) => {
        const place = high > low ? (100 * (value - low)) / (high - low) : 50;
        const column = Math.round(place / 2);
        const level = stack.get(column) ?? 0;
        stack.set(column, level + 1);
        const label = `${name}: ${formatG(value, 4)}`;
        const dot = button("", () => choose(name), { class: "vl-dot", "aria-label": label, title: label });
        dot.tabIndex = index ? -1 : 0;
        dot.setAttribute("aria-pressed", name === model.get("clip"));
        dot.style.left = `${column * 2}%`;
        dot.style.setProperty("--level", level);
        return dot;
      }),
    );
    const highest = Math.max(1, ...stack.values());
    dots.style.setProperty("--step", `${Math.min(9, 118 / highest)}px`);
    ends.replaceChildren(el("span", {}, found.length ? first : ""), el("span", {}, found.length ? last : ""));
    say();
  }

  dots.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...dots.children];
    const at = all.indexOf(document.activeElement);
    const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
    all[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  function choose(name) {
    send(model, { clip: name });
  }

  function say() {
    const name = model.get("clip");
    const value = scores()[report.names.indexOf(name)];
    chosen.textContent = name ? `Clip ${name}: ${value === null || value === undefined ? "no value" : formatG(value, 4)}` : "Press a dot to choose its clip; arrow keys go from dot to dot.";
    for (const dot of dots.children) dot.setAttribute("aria-pressed", dot.title.startsWith(`${name}:`));
  }

  const redraw = oncePerFrame(() => {
    drawTable();
    drawDots();
  });
  const stops = [messages.stop, observe(model, ["method", "metric", "_scores"], redraw), observe(model, ["clip"], oncePerFrame(say))];
  const level = `${Math.round(100 * report.level)} %`;
  const node = el(
    "div",
    { class: "vl vl-result", "data-ready": "true" },
    el("div", { class: "vl-head" }, el("strong", {}, "Faithfulness"), el("span", { class: "vl-caption" }, `${report.model} · ${report.clips} clips · means, below them their ${level} intervals, ${report.metrics.length} metrics, a track each; the table scrolls`)),
    el("div", { class: "vl-scroll vl-reportbox", tabindex: 0, role: "region", "aria-label": "Table of scores" }, table),
    title,
    el("div", { class: "vl-dotsbox" }, dots, ends),
    chosen,
    messages.node,
  );
  guardKeys(node);
  root.append(node);
  drawTable();
  drawDots();
  return () => stops.forEach((stop) => stop());
}

export default { render };
