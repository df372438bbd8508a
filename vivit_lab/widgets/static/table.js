// Answers without a kernel: the maps of many queries, shipped in the page (see table.py).

/** Open the table of an offline page; null where there is none. answer(layer, token) → {values, token} or null. */
export async function openTable(bytes, info, grid) {
  if (!bytes.length) return null;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  const places = grid.t * grid.h * grid.w;
  const nearest = (kept, wanted) =>
    kept.reduce((best, one, index) => (Math.abs(one - wanted) < Math.abs(kept[best] - wanted) ? index : best), 0);
  const locate = ({ ys, xs, cls }, token) => {
    const position = positionOf(grid, token);
    if (!position) return cls ? { index: 0, token } : null;
    const y = nearest(ys, position.y);
    const x = nearest(xs, position.x);
    const index = (cls ? 1 : 0) + (position.t * ys.length + y) * xs.length + x;
    return { index, token: tokenOf(grid, position.t, ys[y], xs[x]) };
  };
  return {
    layers: info.layers.map((entry) => entry.layer),
    answer(layer, token) {
      const entry = info.layers.find((one) => one.layer === layer);
      const found = entry && locate(entry, token);
      if (!found) return null;
      const largest = floatsOf(data.subarray(entry.start + found.index * 4, entry.start + found.index * 4 + 4))[0];
      const start = entry.start + entry.count * 4 + found.index * places;
      // stored as square roots, which keeps small attention apart
      const values = Float32Array.from(data.subarray(start, start + places), (root) => largest * (root / 255) ** 2);
      return { values, token: found.token };
    },
  };
}
