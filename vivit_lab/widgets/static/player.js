// Time: the frame slider, playing at the frames' own times, and the strip of mass over time.

/** Seconds as text, in milliseconds where all there is spans under 2 s. */
export function formatSeconds(seconds, span) {
  return `${seconds.toFixed(span < 2 ? 3 : 2)} s`;
}

/** The frame that is shown at a time in seconds: the last one that has begun. */
export function frameAt(times, seconds) {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= seconds) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Play button, slider, time and speed of the trait "frame". */
export function makePlayer(model, facts) {
  const { times, end } = facts;
  const first = times[0];
  const span = end - first;
  let running = 0;
  let speed = 1;
  let origin = 0; // the screen's clock when the clip's first frame would have begun
  const toggle = button("Play", () => (running ? pause() : play()), { class: "vl-play", title: "Space" });
  const slider = range(0, times.length - 1, 1, (value) => {
    pause();
    send(model, { frame: value });
  });
  slider.setAttribute("aria-label", "Frame");
  const clock = el("output", { class: "vl-clock" });
  const speeds = select([0.1, 0.25, 0.5, 1, 2].map((value) => [value, `${value}×`]), (value) => {
    speed = Number(value);
    anchor();
  });
  speeds.value = "1";
  speeds.setAttribute("aria-label", "Speed");
  const anchor = () => {
    origin = performance.now() - ((times[model.get("frame")] - first) * 1000) / speed;
  };
  const tick = (now) => {
    const seconds = first + ((((now - origin) * speed) / 1000) % span);
    const frame = frameAt(times, Math.max(seconds, first));
    if (frame !== model.get("frame")) model.set("frame", frame);
    running = requestAnimationFrame(tick);
  };
  const play = () => {
    if (span <= 0 || running) return;
    anchor();
    running = requestAnimationFrame(tick);
    toggle.textContent = "Pause";
  };
  const pause = () => {
    if (!running) return;
    cancelAnimationFrame(running);
    running = 0;
    toggle.textContent = "Play";
    model.save_changes(); // while it played, the kernel was left alone
  };
  const update = () => {
    const frame = model.get("frame");
    const text = `${formatSeconds(times[frame], span)} · frame ${frame + 1} of ${times.length}`;
    slider.value = frame;
    if (clock.textContent === text) return;
    clock.textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };
  update();
  return {
    node: el("div", { class: "vl-player" }, toggle, slider, clock, speeds),
    update,
    pause,
    toggle: () => (running ? pause() : play()),
    step(by) {
      pause();
      send(model, { frame: (model.get("frame") + by + times.length) % times.length });
    },
  };
}

/** Colours of the strip's bars, for what is positive and what is negative, visible on light and dark. */
export function stripColors(table, signed) {
  const color = (level) => `rgb(${table[level * 3]}, ${table[level * 3 + 1]}, ${table[level * 3 + 2]})`;
  return signed ? [color(220), color(35)] : [color(160), color(35)];
}

/** Bars of relevance over time; a click jumps. jump(frame) is called with the frame at the place clicked. */
export function makeStrip(facts, jump) {
  const { times, end, spans } = facts;
  const first = times[0];
  const span = end - first || 1;
  const share = (seconds) => `${((seconds - first) / span) * 100}%`;
  const bars = spans.map(([start, stop]) => {
    const bar = el("div", { class: "vl-bar" });
    bar.style.left = share(start);
    bar.style.width = `${((stop - start) / span) * 100}%`;
    return bar;
  });
  const now = el("div", { class: "vl-now" });
  const query = el("div", { class: "vl-queryrow" });
  const caption = el("div", { class: "vl-caption" });
  const box = el("div", { class: "vl-bars", role: "img" }, query, ...bars, now);
  const ends = el(
    "div",
    { class: "vl-numbers vl-caption" },
    el("span", {}, formatSeconds(first, span)),
    el("span", {}, formatSeconds(end, span)),
  );
  box.addEventListener("click", (event) => {
    const area = box.getBoundingClientRect();
    jump(frameAt(times, first + ((event.clientX - area.left) / area.width) * span));
  });
  return {
    node: el("div", { class: "vl-strip", title: "Click to jump" }, caption, box, ends),
    /** values: rows × places; queryRow: the row of the query, or null. */
    update(values, queryRow, colors) {
      query.hidden = queryRow === null;
      if (queryRow !== null) {
        query.style.left = share(spans[queryRow][0]);
        query.style.width = `${((spans[queryRow][1] - spans[queryRow][0]) / span) * 100}%`;
      }
      box.classList.toggle("vl-empty", !values);
      if (!values) return;
      const places = values.length / spans.length;
      const gains = spans.map(() => 0);
      const losses = spans.map(() => 0);
      for (let i = 0; i < values.length; i++) {
        const sums = values[i] > 0 ? gains : losses;
        sums[Math.floor(i / places)] += values[i];
      }
      const most = Math.max(...gains);
      const least = Math.min(...losses);
      const reach = most - least || 1;
      bars.forEach((bar, row) => {
        bar.style.bottom = `${((losses[row] - least) / reach) * 100}%`;
        bar.style.height = `${((gains[row] - losses[row]) / reach) * 100}%`;
        bar.style.setProperty("--up", colors[0]);
        bar.style.setProperty("--down", colors[1]);
        const whole = gains[row] - losses[row] || 1;
        bar.style.setProperty("--split", `${(-losses[row] / whole) * 100}%`);
      });
      const [low, high] = formatRange(least, most);
      const peak = gains.indexOf(most);
      setText(
        caption,
        `Sum over each tubelet row, ${least < 0 ? low : 0} to ${high}${queryRow === null ? "" : "; outlined: the query's row"}`,
      );
      box.setAttribute(
        "aria-label",
        `Relevance over time, largest from ${formatSeconds(spans[peak][0], span)} to ${formatSeconds(spans[peak][1], span)}`,
      );
    },
    /** Mark the frame that is shown. */
    mark(frame) {
      now.style.left = share(times[frame]);
      const row = Math.floor(frame / facts.frames_per_row);
      bars.forEach((bar, index) => bar.classList.toggle("vl-current", index === row));
    },
  };
}
