// LoadPanel: choose a checkpoint and a clip, drop a file, load.

let lists = 0;

/** What a number field says; null where it is empty. */
const numberOf = (input) => (input.value.trim() === "" ? null : Number(input.value));

/** A text field with suggestions. */
function suggest(label, value, offers, onchange) {
  const list = el("datalist", { id: `vl-list-${++lists}` }, ...offers.map((text) => el("option", { value: text })));
  const input = el("input", { type: "text", list: list.id, spellcheck: "false", autocomplete: "off" });
  input.value = value;
  input.addEventListener("change", () => onchange(input.value.trim()));
  const made = field(label, input);
  made.row.append(list);
  return made;
}

function render({ model, el: root }) {
  const offers = model.get("_offers");
  const live = model.get("live");
  const messages = messageArea(model);
  const set = (name) => (value) => send(model, { [name]: value });
  const checkpoint = suggest("Checkpoint", model.get("checkpoint"), offers.checkpoints, set("checkpoint"));
  checkpoint.input.title = "planted, bundled, a directory or a Hub id";
  const clip = suggest("Clip", model.get("clip_name"), offers.clips, set("clip_name"));
  clip.input.title = "bundled, planted:7, or the path of a video";
  const device = field("Device", select(offers.devices.map((name) => [name, name]), set("device")));
  const dtype = field("Precision", select(offers.dtypes.map((name) => [name, name]), set("dtype")));
  const number = (label, name, step, min) => {
    const input = el("input", { type: "number", min, step, onchange: () => send(model, { [name]: numberOf(input) }) });
    return field(label, input);
  };
  const stride = number("One frame in", "stride", 1, 1);
  stride.input.placeholder = "as trained";
  const start = number("Start, s", "start", 0.1, 0);
  const file = el("input", { type: "file", accept: offers.suffixes, class: "vl-file" });
  const upload = (one) => {
    if (!one) return;
    model.set("status", `Sending ${one.name} …`);
    one.arrayBuffer().then((data) => model.send({ type: "upload", name: one.name }, undefined, [data]));
  };
  file.addEventListener("change", () => upload(file.files[0]));
  const drop = el("div", { class: "vl-drop" }, el("label", {}, "or drop a video here, or choose one: ", file));
  const hover = (on) => (event) => {
    event.preventDefault();
    drop.classList.toggle("vl-over", on);
  };
  drop.addEventListener("dragover", hover(true));
  drop.addEventListener("dragleave", hover(false));
  drop.addEventListener("drop", (event) => {
    hover(false)(event);
    upload(event.dataTransfer.files[0]);
  });
  // with the fields as they stand: a message may overtake the traits that were set just before
  const asked = () => ({
    checkpoint: checkpoint.input.value.trim(),
    clip_name: clip.input.value.trim(),
    device: device.input.value,
    dtype: dtype.input.value,
    stride: numberOf(stride.input),
    start: Number(start.input.value),
  });
  const load = button("Load", () => model.send({ type: "load", fields: asked() }), { class: "vl-load" });
  const fields = [checkpoint, device, dtype, clip, stride, start];
  const refill = (input, value) => {
    if (input !== document.activeElement) input.value = value; // not under the user's fingers
  };
  const update = () => {
    refill(checkpoint.input, model.get("checkpoint"));
    refill(clip.input, model.get("clip_name"));
    if (!offers.devices.includes(model.get("device"))) {
      fillSelect(device.input, [...offers.devices, model.get("device")].map((name) => [name, name]));
    }
    device.input.value = model.get("device");
    dtype.input.value = model.get("dtype");
    refill(stride.input, model.get("stride") ?? "");
    refill(start.input, model.get("start"));
    load.disabled = !live || model.get("busy");
  };
  const names = ["checkpoint", "clip_name", "device", "dtype", "stride", "start", "busy"];
  const stops = [messages.stop, observe(model, names, update)];
  if (!live) [...fields.map((one) => one.input), file].forEach((one) => (one.disabled = true));
  const node = el(
    "div",
    { class: "vl vl-result vl-load-panel", "data-ready": "true" },
    el("div", { class: "vl-loadgrid" }, checkpoint.row, device.row, dtype.row, clip.row, stride.row, start.row),
    el("div", { class: "vl-loadline" }, drop, load),
    messages.node,
  );
  guardKeys(node);
  root.append(node);
  update();
  if (!live) model.set("status", "Saved page: loading needs a live kernel.");
  return () => stops.forEach((stop) => stop());
}

export default { render };
