// The page: what is shown, and what the user asks of it.

import { chart, clear, quantile, rates, scores } from "./charts.js";
import { classesAt, layersOf, Picture, trackAt } from "./draw.js";
import { Feed } from "./feed.js";

const KEPT_S = 60, CHART_MS = 250, HISTORY_MS = 400;
const $ = (id) => document.getElementById(id);
const body = document.body, picture = new Picture($("video"));
let message = null, about = null, run = null, selected = null, history = null, points = [], frames = 0;
let charted = 0, asked = 0, state = "waiting";
const on = new Set();

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function dot(colour) {
  const made = element("i", "", { class: "dot" });
  made.style.setProperty("--ink", colour ?? "#888"); // by script: the page allows no inline style
  return made;
}

const facts = (list, pairs) => list.replaceChildren(...pairs.map(([name, value]) => {
  const row = element("div", "");
  row.append(element("dt", name), element("dd", value));
  return row;
}));

function say(now) {
  state = now;
  body.dataset.state = feed.paused ? "paused" : state;
  $("state").textContent = { live: "live", waiting: "waiting", ended: "ended", lost: "no server" }[state];
  if (feed.paused) $("state").textContent = "paused";
  for (const button of $("cameras").children) button.disabled = state === "ended" || state === "lost";
}

// What comes is of another run or camera: nothing of the old one stays but the choice of layers
function forget() {
  [points, history, charted] = [[], null, 0];
  picture.trails.clear();
  select(null);
}

// From now on another camera
function turn(camera) {
  if (camera === feed.camera) return;
  message?.bitmap.close();
  message = null;
  forget();
  frames = 0;
  delete body.dataset.frames; // the picture fades unless the new one comes soon
  $("hint").textContent = `Waiting for ${camera}`;
  for (const name of ["fps-now", "ms-now", "count", "clock"]) $(name).textContent = "";
  for (const name of ["fps", "ms"]) clear($(name));
  $("objects").replaceChildren();
  $("under").hidden = true;
  feed.turn(camera);
  mark();
}

// Which camera is watched
function mark() {
  body.dataset.camera = feed.camera;
  for (const button of $("cameras").children) button.setAttribute("aria-pressed", button.dataset.camera === feed.camera);
}

function begin(next) {
  const old = new Set([...$("layers").children].filter((b) => b.ariaPressed === "false").map((b) => b.dataset.layer));
  const first = run === null;
  ({ about, run } = next);
  forget();
  feed.camera = next.record.camera ?? "";
  $("cameras").hidden = !about.cameras.length;
  $("cameras").replaceChildren(...about.cameras.map((camera) => {
    const button = element("button", camera, { "data-camera": camera, title: `${camera}; left and right arrow key` });
    button.addEventListener("click", () => turn(camera));
    return button;
  }));
  mark();
  $("about").textContent = `${about.model} on ${about.source}`;
  $("about").title = about.source;
  on.clear();
  $("layers").replaceChildren(...layersOf(about).map(({ key, label, ink, on: wanted }, i) => {
    const button = element("button", "", { "data-layer": key, title: `key ${i + 1}` });
    button.append(dot(ink), label);
    const set = (pressed) => {
      button.setAttribute("aria-pressed", pressed);
      if (pressed) on.add(key); else on.delete(key);
    };
    set(first ? wanted : wanted && !old.has(key));
    button.addEventListener("click", () => { set(!on.has(key)); redraw(); });
    return button;
  }));
}

function redraw() {
  if (message) picture.draw(message, about, on, selected);
}

function show(next) {
  if (next.about && next.run !== run) begin(next);
  else if (next.run !== run) { feed.after = -1; return undefined; }
  message?.bitmap.close();
  message = next;
  points.push(...next.points);
  const now = points.at(-1)[1];
  points = points.slice(points.findIndex((point) => point[1] > now - KEPT_S));
  const [h, w] = next.record.hw;
  if ($("stage").dataset.hw !== `${h}x${w}`) {
    $("stage").dataset.hw = `${h}x${w}`;
    $("stage").style.aspectRatio = `${w} / ${h}`;
  }
  picture.follow(next.record);
  return new Promise((done) => requestAnimationFrame(() => {
    if (message !== next) { done(); return; } // another camera is watched by now
    redraw();
    frames += 1;
    body.dataset.frames = frames;
    body.dataset.frame = next.record.frame;
    $("clock").textContent = `frame ${next.record.frame} · ${next.record.timestamp_s.toFixed(2)} s`;
    const time = performance.now();
    if (time - charted > CHART_MS) { charted = time; panels(next); }
    if (selected !== null && time - asked > HISTORY_MS) { asked = time; inspect(); }
    done();
  }));
}

function panels(next) {
  const shown = Object.entries(next.status).filter(([name]) => !["frame", "time"].includes(name));
  facts($("status"), shown);
  const now = points.at(-1)[1], recent = points.filter((point) => point[1] > now - 30);
  const speed = rates(points).filter((point) => point[0] > now - 30);
  if (speed.length) {
    $("fps-now").textContent = speed.at(-1)[1].toFixed(1);
    chart($("fps"), [{ points: speed, colour: "--accent", fill: true }], now);
  }
  const total = recent.map((point) => point[2]);
  $("ms-now").textContent = `p50 ${quantile(total, 0.5).toFixed(0)} · p99 ${quantile(total, 0.99).toFixed(0)}`;
  chart($("ms"), [
    { points: recent.map((point) => [point[1], point[2]]), colour: "--accent" },
    { points: recent.map((point) => [point[1], point[3]]), colour: "--model", fill: true },
  ], now);
  objects(next.record.tracks);
}

function objects(tracks) {
  $("count").textContent = tracks.length;
  const list = $("objects");
  if (list.matches(":active")) return; // not under a finger
  list.replaceChildren(...tracks.map((track) => {
    const row = element("li", ""), button = element("button", "", { "aria-current": track.id === selected });
    if (track.unseen_s > 0) button.className = "dim";
    const far = track.distance_m === undefined ? "" : `${track.distance_m.toFixed(0)} m · `;
    button.append(dot(about.boxes[track.class]), element("b", track.class), element("span", track.id),
      element("span", `${far}${track.age_s.toFixed(1)} s`));
    button.addEventListener("click", () => select(track.id));
    row.append(button);
    return row;
  }));
}

function select(id) {
  selected = id;
  if (id === null) $("object").hidden = true;
  else inspect();
  redraw();
}

async function inspect() {
  const id = selected, camera = feed.camera;
  const answer = await fetch(`track/${id}?camera=${encodeURIComponent(camera)}`).catch(() => null);
  if (!answer?.ok || id !== selected || camera !== feed.camera) return;
  history = await answer.json();
  const track = message.record.tracks.find((one) => one.id === id);
  const names = [...new Set(history.samples.map((sample) => sample[2]))];
  const speed = track ? Math.hypot(...track.velocity_xy) : null;
  const pairs = [
    ["age", `${history.age_s.toFixed(1)} s`],
    ["score", history.samples.at(-1)[1].toFixed(2)],
    [track ? "moves" : "last seen", track ? `${speed.toFixed(0)} px/s` : `${history.last_s.toFixed(1)} s`],
  ];
  if (track?.distance_m !== undefined) pairs.push(["distance", `${track.distance_m.toFixed(1)} m`]);
  if (track?.ttc_s !== undefined) pairs.push(["collision in", `${track.ttc_s.toFixed(1)} s`]);
  if (names.length > 1) pairs.push(["was also", names.filter((name) => name !== history.class).join(", ")]);
  $("object").hidden = false;
  $("object").dataset.id = id;
  $("object-name").textContent = `${history.class} ${id}`;
  $("object").querySelector(".dot").style.setProperty("--ink", about.boxes[history.class] ?? "#888");
  facts($("object-facts"), pairs);
  scores($("object-score"), history.samples, about.boxes);
}

function place(event) {
  const box = $("video").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function pause(paused) {
  feed.pause(paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
  say(state);
}

const feed = new Feed(show, say);
$("pause").addEventListener("click", () => pause(!feed.paused));
$("object-close").addEventListener("click", () => select(null));
$("video").addEventListener("click", (event) => {
  if (!message) return;
  const [x, y] = place(event), [h, w] = message.record.hw;
  select(trackAt(message.record, x * w, y * h, 0.006 * w)?.id ?? null);
});
$("video").addEventListener("mousemove", (event) => {
  if (!message) return;
  const names = classesAt(message, about, ...place(event));
  $("under").hidden = !names.length;
  $("under").textContent = names.join(" · ");
});
$("video").addEventListener("mouseleave", () => { $("under").hidden = true; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); pause(!feed.paused); }
  if (event.key === "Escape") select(null);
  if (/^[1-9]$/.test(event.key)) $("layers").children[event.key - 1]?.click();
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], cameras = [...$("cameras").children];
  if (step && cameras.length) {
    event.preventDefault();
    const now = cameras.findIndex((button) => button.dataset.camera === feed.camera);
    cameras[(now + step + cameras.length) % cameras.length].click();
  }
});
new ResizeObserver(redraw).observe($("stage"));
feed.run();
