"use strict";
// Drawings of the report: every function takes numbers and returns an element. Texts are set as texts, never as HTML.

const GPA_PER_EV_A3 = 160.2176634;

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// A number as people read it: about five digits.
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace("-", "−").replace("e−", "e-");
  return value.toFixed(Math.max(0, Math.min(6, 4 - Math.floor(Math.log10(size))))).replace("-", "−");
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(n => n * power).find(s => s >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-6); n * step <= high + 1e-6 * step; n++) {
    const value = n * step;
    const text = Math.abs(value) >= 1e6 || step < 1e-3 ? value.toExponential(1) : value.toFixed(decimals);
    found.push([value, n === 0 ? "0" : text.replace("-", "−")]);
  }
  return found;
}

function widened(low, high, share) {
  const room = high > low ? share * (high - low) : 0.5 * Math.max(Math.abs(low) * 1e-3, 1e-6);
  return [low - room, high + room];
}

// An empty plot with axes; `x` and `y` say where a number is drawn. Marks are [number, text].
function frame({width = 300, height = 210, left = 56, xRange, yRange, xLabel = "", yLabel = "", xMarks, yMarks}) {
  const right = 12, top = 8, bottom = 34, w = width - left - right, h = height - top - bottom;
  const x = value => left + (value - xRange[0]) / (xRange[1] - xRange[0]) * w;
  const y = value => top + h - (value - yRange[0]) / (yRange[1] - yRange[0]) * h;
  const svg = shape("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img"},
    shape("rect", {class: "axis", x: left, y: top, width: w, height: h}));
  for (const [value, text] of xMarks ?? ticks(...xRange, Math.max(2, Math.floor(w / 45)))) {
    svg.append(shape("line", {class: "axis", x1: x(value), x2: x(value), y1: top + h, y2: top + h + 4}),
      shape("text", {x: x(value), y: top + h + 15, "text-anchor": "middle"}, text));
  }
  for (const [value, text] of yMarks ?? ticks(...yRange, Math.floor(h / 32))) {
    svg.append(shape("line", {class: "axis", x1: left - 4, x2: left, y1: y(value), y2: y(value)}),
      shape("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, text));
  }
  const middle = top + h / 2;
  svg.append(shape("text", {x: left + w / 2, y: height - 4, "text-anchor": "middle"}, xLabel),
    shape("text", {x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})`}, yLabel));
  return {svg, x, y, top, bottom: top + h};
}

function line(xs, ys) {
  return xs.map((x, i) => `${i ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`).join("");
}

function histogram(values, label) {
  const [low, high] = extent(values);
  const bins = low === high ? 1 : Math.max(5, Math.min(40, Math.ceil(Math.sqrt(values.length))));
  const width = (high - low) / bins || 1, counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((value - low) / width))] += 1;
  const most = Math.max(...counts);
  const range = low === high ? widened(low, high, 0) : [low, high];
  const plot = frame({width: 260, height: 160, left: 44, xRange: range, yRange: [0, most * 1.05], xLabel: label,
                      xMarks: ticks(...range, 3),
                      yMarks: ticks(0, most, Math.min(4, most)).filter(([v]) => Number.isInteger(v))});
  counts.forEach((count, i) => {
    const [from, to] = low === high ? range : [low + i * width, low + (i + 1) * width];
    if (count) plot.svg.append(shape("rect", {class: "fill", x: plot.x(from) + 0.5, y: plot.y(count),
      width: Math.max(1, plot.x(to) - plot.x(from) - 1), height: plot.bottom - plot.y(count)},
      shape("title", {}, `${short(from)} to ${short(to)}: ${count}`)));
  });
  return plot.svg;
}

// Birch and Murnaghan, third order; bulk modulus in GPa.
function birchMurnaghan(v, v0, e0, bulk, derivative) {
  const f = (v0 / v) ** (2 / 3) - 1;
  return e0 + 9 * v0 * bulk / GPA_PER_EV_A3 / 16 * (f ** 3 * derivative + f ** 2 * (2 - 4 * f));
}

// Volumes in A^3/atom, energies in eV/atom; `fit` is [v0, e0, bulk modulus, its derivative].
function equationOfState(volumes, energies, fit) {
  const xRange = widened(...extent(volumes), 0.05), above = energies.map(e => 1000 * (e - fit[1]));
  const xs = Array.from({length: 61}, (_, i) => xRange[0] + (xRange[1] - xRange[0]) * i / 60);
  const ys = xs.map(v => 1000 * (birchMurnaghan(v, ...fit) - fit[1]));
  const plot = frame({xRange, yRange: widened(...extent([...above, ...ys]), 0.05), xLabel: "volume, Å³/atom",
                      yLabel: "energy, meV/atom"});
  plot.svg.append(shape("path", {class: "curve", d: line(xs.map(plot.x), ys.map(plot.y))}),
    ...volumes.map((v, i) => shape("circle", {class: "dot", cx: plot.x(v), cy: plot.y(above[i]), r: 3},
      shape("title", {}, `${short(v)} Å³/atom, ${short(above[i])} meV/atom`))));
  return plot.svg;
}

function bandMarks(labels, distances) {
  const greek = label => label.replace(/^(G|GAMMA|Gamma)(?=\d*$)/, "Γ"), marks = [];
  labels.forEach(([from, to], i) => {
    const last = marks[marks.length - 1];
    if (!last) marks.push([distances[i][0], greek(from)]);
    else if (last[1] !== greek(from)) last[1] += "|" + greek(from);
    marks.push([distances[i][distances[i].length - 1], greek(to)]);
  });
  return marks;
}

// Bands [part][point][band] in THz beside the density of states.
function phonons({band_labels: labels, band_distances: distances, band_frequencies: parts, dos_frequencies: at, dos}) {
  const yRange = widened(...extent(parts.flat(2)), 0.04), marks = bandMarks(labels, distances);
  const end = marks[marks.length - 1][0];
  const bands = frame({width: 430, height: 240, xRange: [0, end], yRange, xMarks: marks, yLabel: "frequency, THz"});
  for (const [value] of marks) {
    const x = bands.x(value);
    bands.svg.append(shape("line", {class: "axis", x1: x, x2: x, y1: bands.top, y2: bands.bottom}));
  }
  bands.svg.append(shape("path", {class: "guide", d: line([0, end].map(bands.x), [0, 0].map(bands.y))}));
  parts.forEach((part, i) => part[0].forEach((_, band) => bands.svg.append(shape("path", {class: "curve",
    d: line(distances[i].map(bands.x), part.map(point => bands.y(point[band])))}))));
  if (!dos || !at) return element("div", {class: "grid"}, bands.svg);
  const side = frame({width: 130, height: 240, left: 8, xRange: [0, 1.05 * extent(dos)[1] || 1], yRange, xMarks: [],
                      yMarks: [], xLabel: "states"});
  const inside = at.map((f, i) => [f, dos[i]]).filter(([f]) => f >= yRange[0] && f <= yRange[1]);
  const rim = inside.map(([f, d]) => [side.x(Math.max(0, d)), side.y(f)]);
  if (rim.length) side.svg.append(shape("path", {class: "second", d: line([side.x(0), ...rim.map(p => p[0]), side.x(0)],
    [rim[0][1], ...rim.map(p => p[1]), rim[rim.length - 1][1]])}));
  return element("div", {class: "grid", style: "gap:0;flex-wrap:nowrap"}, bands.svg, side.svg);
}

// Points are {reference, value, id}.
function parityPlot(points, label) {
  const range = widened(...extent(points.flatMap(p => [p.reference, p.value])), 0.05), marks = ticks(...range, 4);
  const plot = frame({width: 280, height: 260, left: 62, xRange: range, yRange: range, xMarks: marks, yMarks: marks,
                      xLabel: `reference, ${label}`, yLabel: "here"});
  plot.svg.append(shape("path", {class: "guide", d: line(range.map(plot.x), range.map(plot.y))}),
    ...points.map(p => shape("circle", {class: "dot", cx: plot.x(p.reference), cy: plot.y(p.value), r: 3},
      shape("title", {}, `${p.id}: ${short(p.value)} here, ${short(p.reference)} in the references`))));
  return plot.svg;
}

function errorsOf(points) {
  const errors = points.map(p => p.value - p.reference), mean = list => list.reduce((a, b) => a + b, 0) / list.length;
  return {mae: mean(errors.map(Math.abs)), rmse: Math.sqrt(mean(errors.map(e => e * e))), bias: mean(errors)};
}
