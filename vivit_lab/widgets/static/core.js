// Shared by every widget: reading what Python ships, scales, compositing, small DOM helpers, keys.
// Not a module of its own: assets.py puts the parts of one widget behind one another into one self-contained ESM text,
// because a module that is loaded from a Blob URL cannot import its neighbours. COLORMAPS is defined in front of this.

/** A trait's bytes (a DataView in Jupyter) as a Uint8Array, without a copy. */
export function bytesOf(value) {
  if (!value) return new Uint8Array(0);
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
}

/** A trait's bytes as little-endian float32; copied, because a view need not be aligned. */
export function floatsOf(value) {
  return new Float32Array(bytesOf(value).slice().buffer);
}

/** Base64 text as bytes. */
export function fromBase64(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

const TABLES = {};

/** A colour map by name: {table: 256 × RGB, diverging}. */
export function colormapOf(name) {
  const { table, diverging } = COLORMAPS[name];
  TABLES[name] ??= fromBase64(table);
  return { table: TABLES[name], diverging };
}

/** The colour maps that suit relevance with or without a sign. */
export function colormapNames(signed) {
  return Object.keys(COLORMAPS).filter((name) => COLORMAPS[name].diverging === signed);
}

/** The colour map to draw with: the one asked for if it suits the sign, else the first that does. */
export function suitableColormap(name, signed) {
  if (name && COLORMAPS[name] && COLORMAPS[name].diverging === signed) return name;
  return signed ? "coolwarm" : "inferno";
}

function limitsOfValues(values, signed) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const reach = Math.max(Math.abs(low), Math.abs(high));
  if (reach === 0) return signed ? [-1, 1] : [0, 1];
  if (signed) return [-reach, reach];
  if (high - low <= 1e-6 * reach) return [Math.min(low, 0), Math.max(high, 0)];
  return [low, high];
}

/** The p-th percentile of magnitudes, linear between neighbours. */
export function percentileOf(values, p) {
  const sorted = Float64Array.from(values, Math.abs).sort();
  const place = ((sorted.length - 1) * p) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/**
 * The scale that values (rows × places) are drawn on, as the renderer in Python chooses it.
 * normalize: "clip" (lowest to highest), "clip99" (to the 99th percentile), "frame" (each tubelet row its own).
 */
export function scaleOf(values, rows, signed, normalize) {
  const places = values.length / rows;
  const same = (low, high, more) => ({
    low: new Float64Array(rows).fill(low),
    high: new Float64Array(rows).fill(high),
    signed,
    beyond: [false, false],
    perFrame: false,
    kind: "one scale for the clip",
    ...more,
  });
  if (normalize === "frame") {
    const scale = same(0, 1, { perFrame: true, kind: "per frame scale" });
    for (let row = 0; row < rows; row++) {
      [scale.low[row], scale.high[row]] = limitsOfValues(values.subarray(row * places, (row + 1) * places), signed);
    }
    return scale;
  }
  if (normalize === "clip99") {
    const end = percentileOf(values, 99);
    let lowest = Infinity;
    let highest = -Infinity;
    for (const value of values) {
      lowest = Math.min(lowest, value);
      highest = Math.max(highest, value);
    }
    const high = end > 0 ? end : Math.max(Math.abs(lowest), Math.abs(highest)) || 1;
    const low = signed ? -high : 0;
    const kind = end > 0 ? "one scale for the clip, to its 99th percentile" : "one scale for the clip";
    return same(low, high, { kind, beyond: [lowest < low, highest > high] });
  }
  return same(...limitsOfValues(values, signed), {});
}

/** The colour level 0 … 255 of each value between low and high; outside takes the nearest end. */
export function levelsOf(values, low, high) {
  const levels = new Uint8Array(values.length);
  const span = high - low;
  for (let i = 0; i < values.length; i++) {
    const unit = Math.fround(Math.min(Math.max((values[i] - low) / span, 0), 1));
    levels[i] = Math.min(Math.fround(unit * 256), 255);
  }
  return levels;
}

/** How opaque each level is drawn, in 256ths. alpha null: proportional to the heat, up to 0.8. */
export function opacityOf(alpha, diverging, threshold = 0) {
  const opacity = new Uint16Array(256);
  for (let level = 0; level < 256; level++) {
    const heat = diverging ? (Math.abs(level - 127.5) - 0.5) / 127 : level / 255;
    opacity[level] = heat < threshold ? 0 : Math.round((alpha ?? heat * 0.8) * 256);
  }
  return opacity;
}

/** A number as Python's format "g" writes it. */
export function formatG(value, digits) {
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  const strip = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (power >= -4 && power < digits) return strip(value.toFixed(digits - 1 - power));
  return `${strip(mantissa)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** Two numbers as text, with enough digits that their difference is right to about a percent. */
export function formatRange(low, high) {
  const reach = Math.max(Math.abs(low), Math.abs(high));
  const span = Math.abs(high - low);
  let digits = 3;
  if (reach > 0 && span > 0) {
    digits = Math.min(9, Math.max(3, 3 + Math.ceil(Math.log10(reach / span) - 0.05)));
  }
  return [formatG(low, digits), formatG(high, digits)];
}

/** What stands below the colour bar at a tubelet row: the ends, and the zero of a diverging scale. */
export function labelsOf(scale, row) {
  const [low, high] = formatRange(scale.low[row], scale.high[row]);
  const ends = [(scale.beyond[0] ? "≤ " : "") + low, (scale.beyond[1] ? "≥ " : "") + high];
  return scale.signed ? [ends[0], "0", ends[1]] : ends;
}

/**
 * Draw one frame. base: RGBA of the frame, its unseen part already marked; place: {visible, rows, columns} in pixels of
 * the frame; levels: (h·w) of the frame's tubelet row; colors: 256 × RGB times opacity; clear: what is left of the frame.
 */
export function paintFrame(out, base, width, place, gridWidth, levels, colors, clear) {
  out.set(base);
  const [top, left, bottom, right] = place.visible;
  for (let y = top; y < bottom; y++) {
    const start = place.rows[y - top] * gridWidth;
    for (let x = left, i = (y * width + left) * 4; x < right; x++, i += 4) {
      const level = levels[start + place.columns[x - left]];
      const rest = clear[level];
      if (rest === 256) continue;
      const color = level * 3;
      out[i] = (base[i] * rest + colors[color] + 128) >> 8;
      out[i + 1] = (base[i + 1] * rest + colors[color + 1] + 128) >> 8;
      out[i + 2] = (base[i + 2] * rest + colors[color + 2] + 128) >> 8;
    }
  }
}

/** The tables that paintFrame mixes with: {colors, clear, opacity}. */
export function mixOf(name, alpha, threshold, heatOnly) {
  const { table, diverging } = colormapOf(name);
  const opacity = heatOnly ? new Uint16Array(256).fill(256) : opacityOf(alpha, diverging, threshold);
  const colors = new Uint16Array(768);
  const clear = new Uint16Array(256);
  for (let level = 0; level < 256; level++) {
    clear[level] = 256 - opacity[level];
    for (let c = 0; c < 3; c++) colors[level * 3 + c] = table[level * 3 + c] * opacity[level];
  }
  return { colors, clear, opacity };
}

/** Grey, darken and hatch what the model never saw of a frame, in place. */
export function markUnseen(data, width, height, visible) {
  const [top, left, bottom, right] = visible;
  const period = Math.max(6, Math.floor(Math.min(height, width) / 32));
  const thick = Math.max(1, Math.floor(period / 6));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (y >= top && y < bottom && x >= left && x < right) {
        x = right - 1;
        continue;
      }
      const i = (y * width + x) * 4;
      let grey = Math.floor((((77 * data[i] + 150 * data[i + 1] + 29 * data[i + 2]) >> 8) * 3) / 10) + 24;
      if ((x + y) % period < thick) grey = (grey + 128) >> 1;
      data[i] = data[i + 1] = data[i + 2] = grey;
    }
  }
}

/** Decode frames (images behind one another, each ending at its entry of ends) to RGBA, one promise a frame. */
export function decodeFrames(bytes, ends, width, height, visible, type = "image/jpeg") {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  return ends.map(async (end, index) => {
    const blob = new Blob([bytes.subarray(index ? ends[index - 1] : 0, end)], { type });
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const data = context.getImageData(0, 0, width, height).data;
    markUnseen(data, width, height, visible);
    return data;
  });
}

/** The half-open box [top, left, bottom, right] of the frame's pixels that place (y, x) covers, or null if none. */
export function boxOf(place, y, x) {
  const [top, left] = place.visible;
  const first = place.rows.indexOf(y);
  const column = place.columns.indexOf(x);
  if (first < 0 || column < 0) return null;
  return [
    top + first,
    left + column,
    top + place.rows.lastIndexOf(y) + 1,
    left + place.columns.lastIndexOf(x) + 1,
  ];
}

/** The place {y, x} at a pixel of the frame, or null where the model saw nothing. */
export function placeAt(place, row, column) {
  const [top, left, bottom, right] = place.visible;
  if (row < top || row >= bottom || column < left || column >= right) return null;
  return { y: place.rows[Math.floor(row) - top], x: place.columns[Math.floor(column) - left] };
}

/** The position {t, y, x} of a token, or null for CLS. */
export function positionOf(grid, token) {
  const index = token - (grid.cls ? 1 : 0);
  if (index < 0) return null;
  return {
    t: Math.floor(index / (grid.h * grid.w)),
    y: Math.floor(index / grid.w) % grid.h,
    x: index % grid.w,
  };
}

/** The token at (t, y, x). */
export function tokenOf(grid, t, y, x) {
  return (grid.cls ? 1 : 0) + (t * grid.h + y) * grid.w + x;
}

// every view loads a module of its own, and the ids of all views on a page must differ
const unique = Math.random().toString(36).slice(2);
let serial = 0;

/** An element: el("div", {class: "a", onclick: f, "aria-label": "b"}, child, "text"). */
export function el(tag, props = {}, ...children) {
  const svg = ["svg", "rect", "line", "path", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set a node's text, unless it is there already: a new text node costs a layout, and is read out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A control under its label; returns {row, input, note}, note being the text at the label's right. */
export function field(label, input, note = "") {
  input.id ||= `vl-${unique}-${++serial}`;
  const text = el("span", { class: "vl-note" }, note);
  const row = el("div", { class: "vl-field" }, el("label", { for: input.id }, label), text, input);
  return { row, input, note: text };
}

/** A select of options [[value, text], …]. */
export function select(options, onchange) {
  const node = el("select", { onchange: () => onchange(node.value) });
  fillSelect(node, options);
  return node;
}

/** Replace the options of a select, keeping its value where it is still there. */
export function fillSelect(node, options) {
  const value = node.value;
  const same = (option, index) => option.value === String(options[index][0]) && option.text === String(options[index][1]);
  if (node.options.length === options.length && [...node.options].every(same)) return;
  node.replaceChildren(...options.map(([key, text]) => el("option", { value: key }, text)));
  if (options.some(([key]) => String(key) === value)) node.value = value;
}

/** A range input that reports while it is dragged. */
export function range(min, max, step, oninput) {
  return el("input", { type: "range", min, max, step, oninput: (event) => oninput(Number(event.target.value)) });
}

/** A button; pressed says whether it is a switch that is on. */
export function button(label, onclick, props = {}) {
  return el("button", { type: "button", onclick, ...props }, label);
}

/** Keep a widget's keys from the notebook, which would move its cell selection; some must still reach it. */
export function guardKeys(root) {
  root.addEventListener("keydown", (event) => {
    const passes =
      event.key === "Escape" ||
      event.key === "Tab" ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      (event.key === "Enter" && event.shiftKey);
    if (!passes) event.stopPropagation();
  });
}

/** Set traits and send them to the kernel. */
export function send(model, traits) {
  for (const [name, value] of Object.entries(traits)) model.set(name, value);
  model.save_changes();
}

/** Call a function when any of some traits changes; returns what stops it. */
export function observe(model, names, call) {
  for (const name of names) model.on(`change:${name}`, call);
  return () => names.forEach((name) => model.off(`change:${name}`, call));
}

/**
 * Share traits with the other views of the model's group on this page, without the kernel, so that they also follow
 * while one of them plays. Returns what stops it.
 */
export function joinGroup(model, names) {
  const stops = names.map((name) =>
    observe(model, [name], () => {
      const group = model.get("_group");
      const detail = { group, name, value: model.get(name) };
      if (group) window.dispatchEvent(new CustomEvent("vivit-lab-group", { detail }));
    }),
  );
  const follow = ({ detail }) => {
    const mine = detail.group === model.get("_group") && names.includes(detail.name);
    if (mine && detail.value !== model.get(detail.name)) model.set(detail.name, detail.value);
  };
  window.addEventListener("vivit-lab-group", follow);
  return () => {
    stops.forEach((stop) => stop());
    window.removeEventListener("vivit-lab-group", follow);
  };
}

/** Run a function at most once a frame of the screen, with what it was last called with. */
export function oncePerFrame(call) {
  let waiting = 0;
  return (...args) => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => call(...args));
  };
}

/**
 * The line where a widget says what it does: status, progress with a cancel button, and errors.
 * Needs the traits of the base class: error, status, busy, progress, live.
 */
export function messageArea(model) {
  const status = el("div", { role: "status", class: "vl-status" });
  const bar = el("progress", { max: 1, "aria-label": "Progress of the computation" });
  const cancel = button("Cancel", () => model.send({ type: "cancel" }), { class: "vl-cancel" });
  const busy = el("div", { class: "vl-busy", hidden: true }, bar, cancel);
  const error = el("span");
  const box = el(
    "div",
    { role: "alert", class: "vl-error", hidden: true },
    error,
    button("Dismiss", () => send(model, { error: "" })),
  );
  const update = () => {
    setText(status, model.get("status") || "");
    setText(error, model.get("error") || "");
    box.hidden = !model.get("error");
    busy.hidden = !model.get("busy");
    const share = model.get("progress");
    if (share >= 0) bar.value = share;
    else bar.removeAttribute("value");
  };
  update();
  const stop = observe(model, ["status", "error", "busy", "progress"], update);
  return { node: el("div", { class: "vl-messages" }, busy, status, box), stop, status };
}

/** A colour bar with its numbers: {node, update(name, labels, text, threshold)}. */
export function colorBar() {
  const ramp = el("canvas", { width: 256, height: 1, class: "vl-ramp", role: "img" });
  const cut = el("span", { class: "vl-cut", hidden: true });
  const numbers = el("div", { class: "vl-numbers" });
  const text = el("div", { class: "vl-caption" });
  const node = el("div", { class: "vl-colorbar" }, el("div", { class: "vl-rampbox" }, ramp, cut), numbers, text);
  let shown = []; // what the ramp and its numbers were drawn for
  const paint = (table) => {
    const image = new ImageData(256, 1);
    for (let level = 0; level < 256; level++) {
      image.data.set(table.subarray(level * 3, level * 3 + 3), level * 4);
      image.data[level * 4 + 3] = 255;
    }
    ramp.getContext("2d").putImageData(image, 0, 0);
  };
  const update = (name, labels, caption, threshold = 0) => {
    const { table, diverging } = colormapOf(name);
    if (name !== shown[0]) paint(table);
    if ([name, ...labels].some((part, index) => part !== shown[index]) || shown.length !== labels.length + 1) {
      ramp.setAttribute("aria-label", `Colour bar, ${name}, from ${labels[0]} to ${labels[labels.length - 1]}`);
      numbers.replaceChildren(...labels.map((label) => el("span", {}, label)));
      shown = [name, ...labels];
    }
    setText(text, caption);
    cut.hidden = !threshold;
    cut.style.left = diverging ? `${50 - 50 * threshold}%` : "0";
    cut.style.width = `${100 * threshold}%`;
    cut.title = "Below the threshold: not drawn";
  };
  return { node, update };
}

/** Let the browser save bytes as a file. */
export function download(bytes, name, type) {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
