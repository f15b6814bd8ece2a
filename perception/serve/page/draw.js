// The picture: camera frame, class maps, boxes and tracks, each layer on its own.

const ROAD = "#1fe0b4", LANE = "#ffe14d", DARK = "#0b0f13";
const HIDE_UNSEEN_S = 0.4, TRAIL_POINTS = 45;

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// Which layers a model has: [{key, label, ink, on}]
export function layersOf(about) {
  const layers = [];
  if (Object.keys(about.boxes).length) {
    layers.push({ key: "tracks", label: "Tracks", ink: "#4fc3f7", on: true });
    layers.push({ key: "trails", label: "Trails", ink: "#7c9cff", on: true });
    layers.push({ key: "boxes", label: "Boxes", ink: "#e6edf3", on: false });
  }
  let driving = false;
  for (const [head, classes] of Object.entries(about.heads)) {
    const names = classes.map(([name]) => name);
    if (!names.includes("drivable")) continue;
    driving = true;
    layers.push({ key: `${head}/drivable`, label: "Drivable", ink: ROAD, on: true });
    if (names.includes("lane marking")) layers.push({ key: `${head}/lanes`, label: "Lanes", ink: LANE, on: true });
  }
  for (const [head, classes] of Object.entries(about.heads)) {
    if (classes.some(([name]) => name === "drivable")) continue;
    layers.push({ key: head, label: head[0].toUpperCase() + head.slice(1), ink: "#b388ff", on: !driving });
  }
  return layers;
}

// What to paint of one head: 256 RGBA colours for the layers that are on, and which id fades with distance; null = nothing
function palette(head, classes, on) {
  const table = new Uint32Array(256);
  const put = (id, [r, g, b], alpha) => { table[id] = ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0; };
  let any = false, fading = -1;
  classes.forEach(([name, hex], id) => {
    if (name === "drivable" && on.has(`${head}/drivable`)) { put(id, rgb(ROAD), 0.34); any = true; fading = id; }
    else if (name === "lane marking" && on.has(`${head}/lanes`)) { put(id, rgb(LANE), 0.85); any = true; }
    else if (on.has(head)) { put(id, rgb(hex), 0.5); any = true; }
  });
  return any ? { table, fading } : null;
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.small = document.createElement("canvas");
    this.trails = new Map(); // track id -> [[x, y], ...], newest last
  }

  // Remember where the objects are, for their trails
  follow(record) {
    for (const track of record.tracks) {
      const trail = this.trails.get(track.id) ?? [];
      if (track.unseen_s === 0) trail.push([(track.xyxy[0] + track.xyxy[2]) / 2, track.xyxy[3]]);
      this.trails.set(track.id, trail.slice(-TRAIL_POINTS));
    }
    const alive = new Set(record.tracks.map((track) => track.id));
    for (const id of this.trails.keys()) if (!alive.has(id)) this.trails.delete(id);
  }

  draw(message, about, on, selected) {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(message.bitmap, 0, 0, width, height);
    for (const [head, map] of Object.entries(message.maps)) this.paint(map, palette(head, about.heads[head] ?? [], on));
    const [h, w] = message.record.hw;
    this.scale = width / w;
    this.unit = Math.max(width / 1000, ratio * 0.8);
    if (on.has("boxes")) for (const box of message.record.boxes) this.outline(box.xyxy, about.boxes[box.class], 1, [4, 3]);
    const tracks = message.record.tracks.filter((track) => track.unseen_s <= HIDE_UNSEEN_S);
    tracks.sort((a, b) => a.xyxy[3] - b.xyxy[3]); // far first
    if (on.has("trails")) for (const track of tracks) this.trail(track, about.boxes[track.class]);
    if (on.has("tracks")) {
      for (const track of tracks) this.track(track, about.boxes[track.class], track.id === selected);
      const taken = [];
      for (const track of [...tracks].reverse()) this.label(track, about.boxes[track.class], taken, track.id === selected);
    }
  }

  paint(map, colours) {
    if (!colours) return;
    const { table, fading } = colours;
    const [h, w] = map.hw;
    const { small, canvas, context } = this;
    if (small.width !== w || small.height !== h) { small.width = w; small.height = h; }
    const pixels = new Uint32Array(w * h);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[map.ids[i]];
    const first = fading < 0 ? h : Math.floor(map.ids.indexOf(fading) / w); // the road is stronger near the camera
    for (let y = Math.max(first, 0); y < h; y++) {
      const near = 0.35 + 0.65 * (y - first) / Math.max(h - first, 1);
      const tint = ((Math.round((table[fading] >>> 24) * near) << 24) | (table[fading] & 0xffffff)) >>> 0;
      for (let i = y * w; i < (y + 1) * w; i++) if (map.ids[i] === fading) pixels[i] = tint;
    }
    small.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), w, h), 0, 0);
    context.filter = `blur(${Math.max(0.45 * canvas.width / w, 0.5)}px)`; // no stairs
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.filter = "none";
  }

  outline(xyxy, colour, strength, dash = []) {
    const { context, scale, unit } = this;
    const [left, top, right, bottom] = xyxy.map((value) => value * scale);
    context.beginPath();
    context.roundRect(left, top, right - left, bottom - top, Math.min(4 * unit, (right - left) / 4));
    context.setLineDash(dash.map((value) => value * unit));
    context.lineWidth = strength * 1.5 * unit;
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
  }

  track(track, colour, selected) {
    const { context } = this;
    const dim = track.unseen_s > 0;
    context.globalAlpha = dim ? 0.5 : 1;
    this.outline(track.xyxy, DARK + "90", selected ? 3 : 2);
    this.outline(track.xyxy, selected ? "#ffffff" : colour, selected ? 1.8 : 1.15, dim ? [5, 4] : []);
    context.globalAlpha = dim ? 0.04 : selected ? 0.22 : 0.1;
    context.fillStyle = colour;
    context.fill();
    context.globalAlpha = 1;
  }

  trail(track, colour) {
    const points = this.trails.get(track.id) ?? [];
    const { context, scale, unit } = this;
    context.strokeStyle = colour;
    context.lineCap = "round";
    for (let i = 1; i < points.length; i++) {
      context.globalAlpha = 0.75 * i / points.length;
      context.lineWidth = (0.6 + 1.8 * i / points.length) * unit;
      context.beginPath();
      context.moveTo(points[i - 1][0] * scale, points[i - 1][1] * scale);
      context.lineTo(points[i][0] * scale, points[i][1] * scale);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  label(track, colour, taken, selected) {
    const { context, scale, unit, canvas } = this;
    const [left, top, right, bottom] = track.xyxy.map((value) => value * scale);
    const far = track.distance_m === undefined ? "" : ` ${track.distance_m.toFixed(0)} m`;
    const small = right - left < 46 * unit && !selected;
    const text = small ? `${track.id}` : `${track.class} ${track.id}${far}`;
    context.font = `600 ${11 * unit}px system-ui, sans-serif`;
    const wide = context.measureText(text).width + 8 * unit, high = 15 * unit;
    const x = Math.min(Math.max(left, 0), canvas.width - wide);
    for (const y of [top - high - 2 * unit, bottom + 2 * unit, Math.max(top, 0) + 3 * unit]) {
      const free = y >= 0 && y + high <= canvas.height
        && !taken.some((b) => x < b[2] && b[0] < x + wide && y < b[3] && b[1] < y + high);
      if (!free) continue;
      taken.push([x, y, x + wide, y + high]);
      context.globalAlpha = track.unseen_s > 0 ? 0.55 : 0.95;
      context.fillStyle = selected ? "#ffffff" : colour;
      context.beginPath();
      context.roundRect(x, y, wide, high, 4 * unit);
      context.fill();
      context.fillStyle = DARK;
      context.textBaseline = "middle";
      context.fillText(text, x + 4 * unit, y + high / 2 + 0.5 * unit);
      context.globalAlpha = 1;
      return;
    }
  }
}

// The track under (x, y) in pixels of the frame: the smallest, with a few pixels of mercy
export function trackAt(record, x, y, mercy) {
  const hits = record.tracks.filter(({ xyxy: [left, top, right, bottom], unseen_s }) => unseen_s <= HIDE_UNSEEN_S
    && x >= left - mercy && x <= right + mercy && y >= top - mercy && y <= bottom + mercy);
  const area = ({ xyxy: [left, top, right, bottom] }) => (right - left) * (bottom - top);
  return hits.sort((a, b) => area(a) - area(b))[0] ?? null;
}

// Names of the classes of all heads at (x, y) in [0, 1]
export function classesAt(message, about, x, y) {
  return Object.entries(message.maps).map(([head, { hw: [h, w], ids }]) => {
    const id = ids[Math.min(h - 1, Math.floor(y * h)) * w + Math.min(w - 1, Math.floor(x * w))];
    return `${head}: ${about.heads[head]?.[id]?.[0] ?? "-"}`;
  });
}
