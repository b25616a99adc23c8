// The report itself: what rows are shown, in which order, and everything that follows from them.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const ROW = 28;      // px, as in the style
const WIDE = 500;    // rows on paper
const STEP = 12;     // cards at a time
const FIT = ["equilibrium_volume", "equilibrium_energy", "bulk_modulus", "bulk_modulus_derivative"];
const DRAWN = ["volumes", "energies", "band_labels", "band_distances", "band_frequencies", "dos_frequencies", "dos"];
const BEST = ["formation.hull_distance", "formation.formation_energy"];

window.addEventListener("error", event => complain(`This page has an error: ${event.message}`));

function complain(text) {
  byId("errors").hidden = false;
  byId("errors").append(element("span", {}, text + " "));
}

const structures = data.structures.map(([id, formula, elements, atoms, failed, seconds, ...values], place) =>
  ({place, id, formula, elements, atoms, failed, seconds, values, text: `${id} ${formula}`.toLowerCase()}));
const columns = [
  {name: "id", key: "structure", kind: "text", width: 220, get: s => s.id},
  {name: "formula", key: "formula", kind: "text", width: 90, get: s => s.formula},
  {name: "atoms", key: "atoms", kind: "number", width: 70, get: s => s.atoms},
  {name: "outcome", key: "outcome", kind: "text", width: 110, get: outcome},
  ...data.columns.map((column, i) => ({...column, width: column.kind === "text" ? 130 : 104, get: s => s.values[i]})),
];
for (const column of columns.filter(c => c.kind === "number")) column.show = display(column);
// Where all structures are of one folder, the table leaves it out.
function folderOf(ids) {
  let folder = ids.length ? ids[0].slice(0, ids[0].lastIndexOf("/") + 1) : "";
  while (folder && !ids.every(id => id.startsWith(folder))) folder = folder.replace(/[^/]*\/$/, "");
  return folder;
}

function outcome(s) {
  return s.failed.length ? `failed: ${s.failed.join(", ")}` : "done";
}

const folder = folderOf(structures.map(s => s.id));
const properties = [...new Set(data.columns.map(c => c.property))];
const state = {sort: "", filter: "", hide: new Set(), pick: ""};
let shown = structures;

// Decimals of a column follow from how far its values are apart.
function display(column) {
  const values = structures.map(column.get).filter(v => v !== null);
  const [low, high] = extent(values), size = Math.max(Math.abs(low), Math.abs(high)), spread = high - low || size;
  if (!values.length || values.every(Number.isInteger)) return value => String(value).replace("-", "−");
  if (size < 1e-3 || size >= 1e7) return value => short(value);
  const decimals = Math.max(0, Math.min(6, 4 - Math.floor(Math.log10(spread))));
  return value => value.toFixed(decimals).replace("-", "−");
}

function cellText(column, value) {
  if (value === null || value === undefined) return "";
  return column.kind === "flag" ? (value ? "yes" : "no") : column.kind === "number" ? column.show(value) : value;
}

// --- filter and order

function findColumn(name) {
  const exact = columns.find(c => c.name === name);
  const found = exact ? [exact] : columns.filter(c => c.key === name);
  if (found.length === 1) return found[0];
  throw new Error(found.length ? `${name} is the name of ${found.map(c => c.name).join(" and ")}; write one of them`
                               : `no column is called ${name}`);
}

function condition(token) {
  const [, word, list] = /^(has|only|without|is):(.*)$/.exec(token) ?? [];
  const asked = (list ?? "").split(",").filter(Boolean);
  if (word === "has") return s => asked.every(e => s.elements.includes(e));
  if (word === "only") return s => s.elements.every(e => asked.includes(e));
  if (word === "without") return s => !asked.some(e => s.elements.includes(e));
  if (word === "is") {
    if (!["done", "failed"].includes(list)) throw new Error("write is:done or is:failed");
    return s => (s.failed.length > 0) === (list === "failed");
  }
  const [, name, sign, text] = /^([\w.]+)(<=|>=|<|>|=)(.*)$/.exec(token) ?? [];
  if (!name) return s => s.text.includes(token.toLowerCase());
  const column = findColumn(name);
  if (column.kind === "text") return s => (column.get(s) ?? "").toLowerCase().includes(text.toLowerCase());
  if (column.kind === "flag") {
    if (!["yes", "no"].includes(text)) throw new Error(`write ${name}=yes or ${name}=no`);
    return s => column.get(s) === (text === "yes");
  }
  const ends = text.split("..").map(Number);
  if (text === "" || ends.length > 2 || ends.some(Number.isNaN) || (ends.length === 2 && sign !== "=")) {
    throw new Error(`${text || "nothing"} is no number; write ${name}>1 or ${name}=1..2`);
  }
  const tests = {"<": v => v < ends[0], ">": v => v > ends[0], "<=": v => v <= ends[0], ">=": v => v >= ends[0],
                 "=": v => v >= ends[0] && v <= ends[ends.length - 1]};
  return s => column.get(s) !== null && tests[sign](column.get(s));
}

function select() {
  byId("complaint").hidden = true;
  try {
    const conditions = state.filter.split(/\s+/).filter(Boolean).map(condition);
    shown = structures.filter(s => conditions.every(holds => holds(s)));
  } catch (error) {  // the rows stay as they were while somebody is typing
    byId("complaint").hidden = false;
    byId("complaint").textContent = error.message;
  }
  const column = columns.find(c => c.name === state.sort.replace(/^-/, "")) ?? columns[0];
  const sign = state.sort.startsWith("-") ? -1 : 1;
  const compare = column.kind === "text" ? (a, b) => a.localeCompare(b, "en", {numeric: true}) : (a, b) => a - b;
  shown = [...shown].sort((s, t) => {
    const a = column.get(s), b = column.get(t), none = v => v === null || v === "";
    if (none(a) || none(b)) return none(a) - none(b) || s.place - t.place;
    return sign * compare(a, b) || s.place - t.place;
  });
}

// --- the address keeps the state

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.sort = given.get("sort") ?? BEST.find(name => columns.some(c => c.name === name)) ?? "id";
  state.filter = given.get("filter") ?? "";
  state.hide = new Set((given.get("hide") ?? "").split(",").filter(Boolean));
  state.pick = given.get("pick") ?? "";
}

function writeAddress() {
  const kept = {sort: state.sort, filter: state.filter, hide: [...state.hide].join(","), pick: state.pick};
  const text = new URLSearchParams(Object.entries(kept).filter(([, value]) => value)).toString();
  history.replaceState(null, "", "#" + text);
}

function change(changes) {
  Object.assign(state, changes);
  writeAddress();
  update();
}

// --- the table; only rows in sight exist

const visible = () => columns.filter(c => !c.property || !state.hide.has(c.property));

function drawTable() {
  const ranked = [{name: "#", key: "#", kind: "number", width: 60}, ...visible()];
  const width = ranked.reduce((sum, c) => sum + c.width, 0);
  const table = element("table", {style: `width:${width}px`, "aria-rowcount": shown.length + 1},
    element("colgroup", {}, ...ranked.map(c => element("col", {style: `width:${c.width}px`}))),
    element("thead", {}, element("tr", {}, ...ranked.map(heading))), element("tbody"));
  byId("table").replaceChildren(table);
  drawRows();
}

function heading(column) {
  if (column.name === "#") return element("th", {class: "number", scope: "col"}, "#");
  const sorted = state.sort.replace(/^-/, "") === column.name;
  const label = [column.property ? element("small", {}, column.property) : null, column.key.replaceAll("_", " "),
                 column.unit ? element("small", {}, column.unit) : null];
  const turned = sorted && !state.sort.startsWith("-") ? "-" + column.name : column.name;
  return element("th", {class: column.kind, scope: "col", "data-name": column.name,
    "aria-sort": sorted ? (state.sort.startsWith("-") ? "descending" : "ascending") : null},
    element("button", {type: "button", click: () => change({sort: turned})}, ...label));
}

function drawRows(all = false) {
  const box = byId("table"), body = box.querySelector("tbody"), own = visible();
  const first = all ? 0 : Math.max(0, Math.min(Math.floor(box.scrollTop / ROW) - 10, shown.length - 1));
  const last = Math.min(shown.length, all ? WIDE : first + Math.ceil(window.innerHeight / ROW) + 20);
  const space = count => element("tr", {class: "space", "aria-hidden": "true"},
    element("td", {colspan: own.length + 1, style: `height:${count * ROW}px`}));
  body.replaceChildren(space(first), ...shown.slice(first, last).map((s, i) => tableRow(s, first + i, own)),
    space(all ? 0 : shown.length - last));
}

function tableRow(s, rank, own) {
  const cells = own.map((column, i) => {
    const text = cellText(column, column.get(s)), bad = column.name === "outcome" && s.failed.length;
    const classes = bad ? `${column.kind} bad` : column.kind;
    return i ? element("td", {class: classes, title: text.length > 11 ? text : null}, text)
             : element("td", {title: text},
                       element("button", {type: "button", class: "link"}, text.slice(folder.length)));
  });
  const picked = s.id === state.pick;
  return element("tr", {class: picked ? "row picked" : "row", "aria-rowindex": rank + 2, "data-id": s.id,
    click: () => change({pick: picked ? "" : s.id})},
    element("td", {class: "number soft"}, String(rank + 1)), ...cells);
}

function saveCsv() {
  const quote = value => /[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  const plain = value => value === null || value === undefined ? "" : String(value);
  const own = visible(), names = own.map(c => c.unit ? `${c.name} (${c.unit})` : c.name);
  const lines = [names, ...shown.map(s => own.map(c => plain(c.get(s))))];
  const blob = new Blob([lines.map(cells => cells.map(quote).join(",") + "\r\n").join("")], {type: "text/csv"});
  const link = element("a", {href: URL.createObjectURL(blob), download: "screening.csv"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- what follows from the rows

// Show items a few at a time.
function inSteps(box, items, draw, step = STEP) {
  const button = element("button", {type: "button", class: "more", click: more});
  const grid = element("div", {class: "grid"});
  let count = 0;
  function more() {
    grid.append(...items.slice(count, count + step).map(draw));
    count = Math.min(items.length, count + step);
    button.textContent = `Show more (${items.length - count} left)`;
    button.hidden = count === items.length;
  }
  box.replaceChildren(grid, button);
  more();
}

function value(s, name) {
  const index = data.columns.findIndex(c => c.name === name);
  return index < 0 ? null : s.values[index];
}

function curvesOf(s) {
  const lists = data.lists[s.id] ?? {}, found = [], fit = FIT.map(name => value(s, `eos.${name}`));
  if (lists.eos?.volumes && !fit.includes(null)) {
    found.push(equationOfState(lists.eos.volumes, lists.eos.energies, fit));
  }
  if (lists.phonon?.band_frequencies) found.push(phonons(lists.phonon));
  return found;
}

function card(heading, ...content) {
  return element("div", {class: "card"}, element("h3", {}, heading), ...content);
}

function title(s) {
  return s.formula ? `${s.id} · ${s.formula}` : s.id;
}

function called(column) {
  return `${column.property}: ${column.key.replaceAll("_", " ")}`;
}

function drawCurves() {
  const own = shown.filter(s => data.lists[s.id]?.eos?.volumes || data.lists[s.id]?.phonon?.band_frequencies);
  byId("curves").hidden = own.length === 0;
  const box = byId("curves").querySelector("div"), list = element("div");
  box.replaceChildren(list);
  inSteps(list, own, s => card(title(s), element("div", {class: "grid"}, ...curvesOf(s))));
  if (data.listsLeftOut) {
    box.append(element("p", {class: "soft"}, `Curves and lists of ${data.listsLeftOut} more results would make this `
      + "page too large; they are in the store."));
  }
}

function drawHistograms() {
  const cards = visible().filter(c => c.property && c.kind === "number").flatMap(c => {
    const values = shown.map(c.get).filter(v => v !== null);
    return values.length < 2 ? [] : [element("figure", {class: "card", style: "margin:0"},
      element("h3", {}, called(c)), histogram(values, c.unit))];
  });
  byId("histograms").hidden = cards.length === 0;
  byId("histograms").querySelector("div").replaceChildren(...cards);
}

function drawParity() {
  const {given, used, unknown, values} = data.references, section = byId("parity");
  section.hidden = given === 0;
  const cards = Object.entries(values).flatMap(([name, references]) => {
    const column = columns.find(c => c.name === name);
    const points = shown.filter(s => references[s.place] !== undefined && typeof column.get(s) === "number")
      .map(s => ({id: s.id, value: column.get(s), reference: references[s.place]}));
    if (!points.length) return [];
    const {mae, rmse, bias} = errorsOf(points), unit = column.unit ? ` ${column.unit}` : "";
    return [card(called(column), parityPlot(points, column.unit || "no unit"), element("p", {class: "soft narrow"},
      `${points.length} structures; mean absolute error ${short(mae)}${unit}, root mean square ${short(rmse)}${unit}, `
      + `mean ${short(bias)}${unit}`))];
  });
  const notes = [`${used} of ${given} references belong to a structure here.`];
  if (unknown.length) notes.push(`No result is called ${unknown.join(", ")}.`);
  section.querySelector("div").replaceChildren(element("p", {class: "soft"}, notes.join(" ")),
    element("div", {class: "grid"}, ...cards));
}

function drawFailures() {
  byId("failures").hidden = data.failures.length === 0;
  const kinds = new Map();
  for (const failure of data.failures) {
    const kind = failure.reason.split(":")[0];
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  const counts = [...kinds].sort((a, b) => b[1] - a[1]).map(([kind, count]) => `${count} ${kind}`).join(", ");
  const list = element("div");
  byId("failures").querySelector("div").replaceChildren(element("p", {class: "soft"}, counts), list);
  inSteps(list, data.failures, f => element("p", {class: "entry"}, element("strong", {}, title(f)),
    ` · ${f.property}: `, element("span", {class: "bad"}, f.reason),
    f.then.length ? ` (and so no ${f.then.join(", ")})` : ""), 200);
}

// A list as a table, where it is one of numbers in rows.
function listed(list) {
  if (!Array.isArray(list) || !list.every(Array.isArray)) return element("code", {}, JSON.stringify(list));
  const cell = each => element("td", {class: "number"}, typeof each === "number" ? short(each) : JSON.stringify(each));
  return element("table", {class: "plain"}, ...list.map(row => element("tr", {}, ...row.map(cell))));
}

function drawDetails() {
  const box = byId("details"), s = structures.find(each => each.id === state.pick);
  box.hidden = !s;
  if (!s) return;
  const cards = [...new Set([...properties, ...s.failed])].flatMap(property => {
    const reasons = data.failures.filter(f => f.id === s.id && f.property === property)
      .map(f => element("p", {class: "bad"}, f.reason));
    const rows = columns.filter(c => c.property === property && ![null, ""].includes(c.get(s))).map(c => {
      const reference = data.references.values[c.name]?.[s.place];
      return element("tr", {}, element("th", {scope: "row"}, c.key.replaceAll("_", " ")),
        element("td", {class: "number"}, c.kind === "number" ? String(c.get(s)) : cellText(c, c.get(s))),
        element("td", {}, c.unit),
        element("td", {class: "soft"}, reference === undefined ? "" : `reference ${reference}`));
    });
    const lists = Object.entries(data.lists[s.id]?.[property] ?? {}).filter(([key]) => !DRAWN.includes(key))
      .map(([key, list]) => element("details", {}, element("summary", {}, key.replaceAll("_", " ")), listed(list)));
    if (!rows.length && !reasons.length && !lists.length) return [];
    return [card(`${property} · ${short(s.seconds[property])} s`, ...reasons,
      element("table", {class: "plain"}, ...rows), ...lists)];
  });
  const curves = curvesOf(s).map(plot => element("div", {class: "card"}, plot));
  box.replaceChildren(element("h2", {}, title(s), " ",
    element("button", {type: "button", click: () => change({pick: ""})}, "Close")),
    element("div", {class: "grid"}, ...cards, ...curves));
}

function items(table) {
  if (table === null || typeof table !== "object") return String(table);
  const text = each => each !== null && typeof each === "object" ? JSON.stringify(each) : String(each);
  return Object.entries(table).map(([key, each]) => `${key} ${text(each)}`).join(", ") || "nothing to set";
}

function drawProvenance() {
  const line = (name, values) => element("tr", {}, element("th", {scope: "row"}, name),
    element("td", {}, element("code", {}, values)));
  const cards = data.provenance.map(p => {
    const settings = Object.entries(p.settings).map(([name, values]) => line(`with ${name}`, items(values)));
    const lines = [line("model", items(p.model)), ...settings, line("versions", items(p.versions))];
    return card(`${p.property}: ${p.done} done` + (p.failed ? `, ${p.failed} failed` : ""),
      element("table", {class: "plain"}, ...lines));
  });
  byId("provenance").querySelector("div").replaceChildren(element("div", {class: "grid"}, ...cards),
    element("p", {class: "soft"}, data.time ? `The last of these results is of ${data.time}.` : ""));
}

// --- all together

function update() {
  if (byId("filter").value !== state.filter) byId("filter").value = state.filter;
  for (const box of byId("properties").querySelectorAll("input")) box.checked = !state.hide.has(box.name);
  select();
  const all = structures.length;
  byId("count").textContent = (shown.length < all ? `${shown.length} of ` : "") + `${all} structures`;
  drawTable();
  drawDetails();
  drawParity();
  drawHistograms();
  drawCurves();
}

function start() {
  const failed = structures.filter(s => s.failed.length).length;
  const models = [...new Set(data.provenance.map(p => p.model.name).filter(Boolean))];
  byId("summary").textContent = `${structures.length} structures, ${failed} with failures`
    + (models.length ? `; model ${models.join(", ")}` : "");
  byId("properties").append(...properties.map(name => element("label", {}, element("input", {type: "checkbox", name,
    change: event => {
      event.target.checked ? state.hide.delete(name) : state.hide.add(name);
      change({});
    }}), ` ${name}`)));
  let typing;
  byId("filter").addEventListener("input", event => {
    clearTimeout(typing);
    typing = setTimeout(() => change({filter: event.target.value}), 150);
  });
  byId("csv").addEventListener("click", saveCsv);
  byId("table").addEventListener("scroll", () => requestAnimationFrame(() => drawRows()));
  window.addEventListener("resize", () => drawRows());
  window.addEventListener("beforeprint", () => drawRows(true));
  window.addEventListener("afterprint", () => drawRows());
  window.addEventListener("hashchange", () => {
    readAddress();
    update();
  });
  readAddress();
  drawFailures();
  drawProvenance();
  update();
  for (const section of document.querySelectorAll("section:not(#details):not([hidden])")) {
    byId("sections").append(element("button", {type: "button", class: "link", click: () => section.scrollIntoView()},
      section.querySelector("h2").textContent));
  }
}

start();
