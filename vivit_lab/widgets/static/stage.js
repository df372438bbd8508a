// The picture: frames with heat in a canvas, patches outlined above it, and the pointer and keys that choose them.

/**
 * A stage for a clip. facts: see ShippedClip in frames.py.
 * on: {hover(place or null), pick(place), key(name) → whether it was used}, place = {y, x} in the frame shown.
 */
export function makeStage(facts, on, label) {
  const { width, height } = facts;
  const canvas = el("canvas", { width, height, tabindex: 0, role: "application", "aria-label": label });
  const marks = el("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const node = el("div", { class: "vl-stage" }, canvas, marks);
  node.style.maxWidth = `${Math.round((480 * width) / height)}px`;
  node.style.aspectRatio = `${width} / ${height}`;
  if (width < 240) canvas.style.imageRendering = "pixelated";
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  let outlined = "[]";
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return placeAt(
      facts,
      ((event.clientY - box.top) / box.height) * height,
      ((event.clientX - box.left) / box.width) * width,
    );
  };
  canvas.addEventListener("pointermove", (event) => on.hover(at(event)));
  canvas.addEventListener("pointerleave", () => on.hover(null));
  canvas.addEventListener("click", (event) => {
    const place = at(event);
    if (place) on.pick(place);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (on.key(event.key, event)) event.preventDefault();
  });
  return {
    node,
    canvas,
    /** Draw a frame (RGBA) with the heat of its row; levels null draws the frame alone. */
    paint(base, levels, mix, heatOnly) {
      const below = heatOnly ? emptyFrame(facts) : base;
      if (levels) paintFrame(image.data, below, width, facts, facts.grid.w, levels, mix.colors, mix.clear);
      else image.data.set(base);
      context.putImageData(image, 0, 0);
    },
    /** Outline places: [{y, x, kind}], kind "query", "faint" or "cursor". */
    outline(places) {
      const asked = JSON.stringify(places);
      if (asked === outlined) return;
      outlined = asked;
      marks.replaceChildren(
        ...places.flatMap(({ y, x, kind }) => {
          const box = boxOf(facts, y, x);
          if (!box) return [];
          const [top, left, bottom, right] = box;
          const area = { x: left, y: top, width: right - left, height: bottom - top };
          return [
            el("rect", { ...area, class: `vl-mark vl-mark-under vl-${kind}` }),
            el("rect", { ...area, class: `vl-mark vl-${kind}` }),
          ];
        }),
      );
    },
  };
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Where an arrow key leads from a place (null: to the middle), within the grid; null for other keys. */
function steppedTo(facts, key, from) {
  const step = ARROWS[key];
  if (!step) return null;
  const { h, w } = facts.grid;
  if (!from) return { y: Math.floor(h / 2), x: Math.floor(w / 2) };
  return { y: Math.min(Math.max(from.y + step[0], 0), h - 1), x: Math.min(Math.max(from.x + step[1], 0), w - 1) };
}

const EMPTY = new WeakMap();

/** What lies below heat that is shown alone: dark, and hatched where the model saw nothing. */
function emptyFrame(facts) {
  if (!EMPTY.has(facts)) {
    const data = new Uint8ClampedArray(facts.width * facts.height * 4);
    const period = Math.max(6, Math.floor(Math.min(facts.height, facts.width) / 32));
    const thick = Math.max(1, Math.floor(period / 6));
    for (let i = 0; i < data.length; i += 4) {
      const place = i / 4;
      const hatched = (Math.floor(place / facts.width) + (place % facts.width)) % period < thick;
      data[i] = data[i + 1] = data[i + 2] = hatched ? (40 + 128) >> 1 : 40;
      data[i + 3] = 255;
    }
    EMPTY.set(facts, data);
  }
  return EMPTY.get(facts);
}
