// Lines over time, drawn on a canvas.

const WINDOW_S = 30;
const STYLE = getComputedStyle(document.documentElement);
const ink = (name) => STYLE.getPropertyValue(name).trim();

function begin(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

export function clear(canvas) {
  begin(canvas);
}

// a round number not below `value`
function ceiling(value) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((m) => m * ten).find((top) => top >= value * 0.999);
}

// series: [{points: [[seconds, value], ...], colour, fill}]; the newest is at the right
export function chart(canvas, series, now, span = WINDOW_S) {
  const { context, width, height } = begin(canvas);
  const values = series.flatMap((line) => line.points.map((point) => point[1]));
  const top = ceiling(Math.max(...values, 1e-3) * 1.08);
  const foot = height - 14, x = (s) => width - (now - s) / span * width, y = (v) => foot - v / top * (foot - 5);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = ink("--quiet");
  context.strokeStyle = ink("--line");
  context.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    context.beginPath();
    context.moveTo(0, Math.round(y(top * share)) + 0.5);
    context.lineTo(width, Math.round(y(top * share)) + 0.5);
    context.stroke();
  }
  for (const { points, colour, fill } of series) {
    if (!points.length) continue;
    context.beginPath();
    points.forEach(([s, v], i) => (i ? context.lineTo(x(s), y(v)) : context.moveTo(x(s), y(v))));
    context.strokeStyle = ink(colour);
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.stroke();
    if (fill) {
      context.lineTo(x(points.at(-1)[0]), foot);
      context.lineTo(x(points[0][0]), foot);
      context.globalAlpha = 0.14;
      context.fillStyle = ink(colour);
      context.fill();
      context.globalAlpha = 1;
    }
  }
  const text = (value) => (value >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toPrecision(2));
  context.fillStyle = ink("--quiet");
  context.fillText(text(top), 2, y(top) + 12);
  context.fillText(text(top / 2), 2, y(top / 2) + 12);
  context.fillText(`${span} s ago`, 2, height - 2);
  context.textAlign = "right";
  context.fillText("now", width - 1, height - 2);
  context.textAlign = "left";
}

// samples: [[seconds, score, class, seen], ...] -> the score from 0 to 1, coloured by class
export function scores(canvas, samples, colours) {
  const { context, width, height } = begin(canvas);
  const first = samples[0][0], last = Math.max(samples.at(-1)[0], first + 1);
  const x = (s) => 2 + (s - first) / (last - first) * (width - 4), y = (v) => height - 16 - v * (height - 22);
  context.font = "11px system-ui, sans-serif";
  context.strokeStyle = ink("--line");
  for (const value of [0, 0.5, 1]) {
    context.beginPath();
    context.moveTo(0, Math.round(y(value)) + 0.5);
    context.lineTo(width, Math.round(y(value)) + 0.5);
    context.stroke();
  }
  context.fillStyle = ink("--quiet");
  context.fillText("1", 2, y(1) + 12);
  context.fillText("0.5", 2, y(0.5) + 12);
  context.lineWidth = 2;
  context.lineCap = "round";
  for (let i = 0; i < samples.length; i++) {
    const [s, score, name, seen] = samples[i];
    if (!seen) continue;
    const before = i && samples[i - 1][3] ? samples[i - 1] : samples[i];
    context.strokeStyle = colours[name] ?? "#888";
    context.beginPath();
    context.moveTo(x(before[0]), y(before[1]));
    context.lineTo(x(s), y(score));
    context.stroke();
  }
  context.fillStyle = ink("--quiet");
  context.fillText(`${first.toFixed(1)} s`, 2, height - 3);
  context.textAlign = "right";
  context.fillText(`${samples.at(-1)[0].toFixed(1)} s`, width - 2, height - 3);
}

// points: [[seq, seconds, latency ms, model ms], ...] -> frames per second over the second before each point
export function rates(points) {
  const found = [];
  let from = 0;
  for (let i = 1; i < points.length; i++) {
    while (points[i][1] - points[from][1] > 1 && from < i - 1) from++;
    const seconds = points[i][1] - points[from][1];
    if (seconds > 0.2) found.push([points[i][1], (i - from) / seconds]);
  }
  return found;
}

export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0;
}
