"use strict";
// The catalogue: search, filter and sort the models, open one, and keep all that in the URL.
// What the tables say only becomes text nodes, never HTML.
(() => {
  const ROWS = 50; // on a page
  const data = JSON.parse(document.getElementById("data").textContent);
  const collator = new Intl.Collator("en", { numeric: true });

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children.flat());
    return made;
  }

  // A name that can break into the next line after each of its parts.
  const breakable = (name) =>
    (name.match(/[^._-]+[._-]*|[._-]+/g) || []).flatMap((part) => [part, element("wbr")]);

  // Numbers for people

  function scaled(value, units) {
    if (typeof value !== "number") return "–";
    let unit = 0;
    while (value >= 1000 && unit < units.length - 1) {
      value /= 1000;
      unit += 1;
    }
    return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`.trim();
  }

  const grouped = (value) => value.toLocaleString("en");
  const plural = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
  const size = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"]);
  const counted = (count) => scaled(count, ["", "k", "M", "G"]);
  const giga = (count) => (typeof count === "number" ? String(Number((count / 1e9).toPrecision(3))) : "–");

  function power(value) {
    if (typeof value !== "number") return value || "–";
    if (value >= 10) return value.toFixed(0);
    return value >= 0.01 || value === 0 ? value.toPrecision(2) : value.toExponential(1);
  }

  // The models, each with what became of its variants

  const KEPT = "as the original's";
  const CHANGED = "changed";
  const UNNAMED = "without names";
  const MADE = "in the mirror";
  const STATES = { failed: "failed", unsupported: "unsupported", removed: "taken down" };

  // The rows of a table that is stored as columns. A text is stored as the number of its value.
  function rowsOf(columns) {
    const names = Object.keys(columns);
    const [first] = Object.values(columns);
    return Array.from({ length: (first.codes || first).length }, (_, index) =>
      Object.fromEntries(names.map((name) => {
        const column = columns[name];
        return [name, column.codes ? column.values[column.codes[index]] : column[index]];
      })));
  }

  function listed() {
    const models = rowsOf(data.models).map((model) => ({ ...model, outcomes: [] }));
    for (const variant of rowsOf(data.variants)) {
      const kept = variant.equivalent ? KEPT : variant.proof === "none" ? "not proved" : CHANGED;
      models[variant.model].outcomes.push({ ...variant, status: MADE, function: kept });
    }
    for (const failure of rowsOf(data.failures)) {
      models[failure.model].outcomes.push({ ...failure, status: STATES[failure.status] });
    }
    const zoos = new Map();
    for (const { model, zoo } of models) zoos.set(model, (zoos.get(model) || new Set()).add(zoo));
    for (const model of models) {
      model.ambiguous = zoos.get(model.model).size > 1;
      for (const outcome of model.outcomes) describe(model, outcome);
      model.outcomes.sort((a, b) =>
        a.in_chans - b.in_chans || collator.compare(a.bands, b.bands) ||
        collator.compare(a.scheme, b.scheme));
    }
    return models.sort((a, b) => collator.compare(a.model, b.model) || collator.compare(a.zoo, b.zoo));
  }

  // Give an outcome its name on a chip, the values that are filtered and sorted by, and its text.
  function describe(model, outcome) {
    const channels = outcome.bands || String(outcome.in_chans);
    const alike = model.outcomes.filter((one) =>
      one.in_chans === outcome.in_chans && one.bands === outcome.bands);
    const usual = outcome.bands || outcome.scheme === "repeat";
    outcome.chip = alike.length > 1 || !usual ? `${channels} ${outcome.scheme}` : channels;
    outcome.of = model;
    for (const name of ["zoo", "license", "input_height", "num_classes"]) outcome[name] = model[name];
    outcome.text = [model.zoo, model.model, model.architecture, model.license, outcome.bands,
      outcome.scheme, outcome.weights_dtype, outcome.reason].join("\n").toLowerCase();
  }

  const models = listed();

  // The lines that pull a variant and that load it

  // The text as one word for a shell. Characters that a terminal would obey or hide are escaped.
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f]/g;
  const escaped = (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`;

  function quoted(text) {
    if (/^[\w@%+=:,./-]+$/.test(text)) return text;
    if (text.search(UNSEEN) < 0) return `'${text.replaceAll("'", `'"'"'`)}'`;
    return `$'${text.replace(/[\\']/g, "\\$&").replace(UNSEEN, escaped)}'`;
  }

  // The text as a string for Python, which reads JSON's strings; what is hidden is escaped.
  const literal = (text) => JSON.stringify(text).replace(UNSEEN, escaped);

  // Where the scheme has a hash, the bands are from somebody's own file, and only it defines them.
  const OWN = "FILE.yaml";
  const own = (outcome) => outcome.scheme.includes(".");

  // What is said to get a variant, as pairs of an option and its value.
  function wanted(outcome) {
    const options = outcome.bands
      ? [["bands", own(outcome) ? OWN : outcome.bands]]
      : [["chans", outcome.in_chans]];
    const scheme = outcome.scheme.split(".")[0];
    if (outcome.bands || scheme !== "repeat") options.push(["scheme", scheme]);
    if (outcome.of.ambiguous) options.push(["zoo", outcome.zoo]);
    return [...options, ["mirror", data.mirror]];
  }

  function command(outcome) {
    const options = wanted(outcome).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const { model } = outcome.of;
    const words = model.startsWith("-") ? [...options, "--", model] : [model, ...options];
    return ["zooadapt", "pull", ...words].map(quoted).join(" ");
  }

  function python(outcome) {
    const options = wanted(outcome).map(([name, value]) =>
      `${name === "chans" ? "in_chans" : name}=${typeof value === "string" ? literal(value) : value}`);
    return `zooadapt.create_model(${[literal(outcome.of.model), ...options].join(", ")})`;
  }

  // Copying

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages that didn't come over https have no clipboard: copy from a text field instead.
      const area = element("textarea", { value: text, className: "unseen" });
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) return false;
    }
    return true;
  }

  const toast = document.querySelector(".toast");
  let fading;

  function say(title, text) {
    toast.replaceChildren(element("strong", {}, title), element("code", {}, text));
    toast.classList.add("shown");
    clearTimeout(fading);
    fading = setTimeout(() => toast.classList.remove("shown"), 6000);
  }

  function copyable(what, text, outcome) {
    const button = element("button", { type: "button", className: "copy" }, "Copy");
    button.setAttribute("aria-label", `Copy the ${what} line`);
    button.addEventListener("click", async () => {
      const done = await copy(text);
      const file = own(outcome) ? `; instead of ${OWN}, name the file that defines these bands` : "";
      say((done ? "Copied" : "Copy this line") + file, text);
      button.focus();
    });
    return element("div", { className: "line" },
      element("span", { className: "muted" }, what), element("code", {}, text), button);
  }

  // One model: its row, and what is shown when it is open

  const manyZoos = new Set(models.map((model) => model.zoo)).size > 1;
  const channels = (outcome) => outcome.bands || plural(outcome.in_chans, "channel");

  function chipOf(outcome, state, marked) {
    const kind = { [MADE]: "", [STATES.failed]: "failed" }[outcome.status] ?? "lacking";
    const chip = element("button", {
      type: "button",
      className: `chip ${kind} ${state.matches.has(outcome) ? "" : "other"}`,
      title: `${channels(outcome)} under ${outcome.scheme}: ${outcome.status}`,
    }, outcome.chip);
    chip.setAttribute("aria-pressed", String(outcome === marked));
    chip.addEventListener("click", () => state.mark(outcome));
    return chip;
  }

  function nameOf(model, isOpen, state) {
    const [architecture, ...tag] = model.model.split(/(?=\.)/);
    const button = element("button", { type: "button", className: "name" },
      breakable(architecture), element("span", { className: "muted" }, breakable(tag.join(""))));
    button.setAttribute("aria-expanded", String(isOpen));
    button.addEventListener("click", () => state.toggle(model));
    return [button, manyZoos ? [" ", element("small", {}, model.zoo)] : []].flat();
  }

  function rowOf(model, state) {
    const outcome = state.marked(model);
    const isOpen = state.open === model;
    const cell = (key, label, ...content) => {
      const made = element("td", { className: `figure of-${key}` }, ...content);
      made.dataset.label = label;
      return made;
    };
    const [wide, high] = [model.input_width, model.input_height];
    const changed = outcome.function === CHANGED
      ? [" ", element("span", { className: "badge failed" }, CHANGED)] : [];
    const state_ = outcome.status === MADE ? [] : [" ",
      element("span", { className: `badge ${outcome.status}` }, outcome.status)];
    const head = element("th", { scope: "row", className: "of-model" }, nameOf(model, isOpen, state),
      element("div", { className: "chips" },
        model.outcomes.map((one) => chipOf(one, state, outcome))));
    const license = element("td", { className: "of-license" }, model.license);
    license.dataset.label = "Licence";
    const row = element("tr", { className: isOpen ? "open" : "" }, head,
      cell("params", "Params", counted(outcome.params)),
      cell("macs", "GMACs", giga(outcome.macs)),
      cell("activations", "Activations", counted(outcome.activations)),
      cell("input_height", "Input", high ? (high === wide ? `${high}²` : `${high} × ${wide}`) : "–"),
      cell("num_classes", "Classes", model.num_classes === null ? "–" : grouped(model.num_classes)),
      cell("equivalence_error", "Error", power(outcome.equivalence_error), changed, state_),
      license);
    return isOpen ? [row, detailOf(model, outcome)] : [row];
  }

  function detailOf(model, outcome) {
    const facts = outcome.status === MADE ? made(outcome) : [
      ["channels", channels(outcome)], ["scheme", outcome.scheme],
      ["state", outcome.status], ["why", outcome.reason],
    ];
    const list = element("dl", {}, facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    const lines = outcome.status === MADE ? [
      copyable("command", command(outcome), outcome), copyable("Python", python(outcome), outcome),
    ] : [];
    const links = model.card ? [element("a", {
      href: model.card, rel: "noopener noreferrer", target: "_blank", className: "card",
    }, "The original's page on the Hub ↗")] : [];
    const cell = element("td", { colSpan: 8 }, list, lines, links);
    return element("tr", { className: "detail" }, cell);
  }

  function made(outcome) {
    const all = [
      ["channels", channels(outcome)], ["scheme", outcome.scheme], ["size", size(outcome.bytes)],
      ["weights", outcome.weights_dtype], ["error", power(outcome.equivalence_error)],
      ["control", power(outcome.control_error)],
      ["compared", { forward: "the outputs", stem: "the first layer's outputs" }[outcome.proof] || "–"],
    ];
    if (outcome.function !== KEPT) {
      const advice = outcome.function === CHANGED
        ? `${outcome.changed || "the stem standardises its weight, or shifts every pixel"}. As it ` +
          "is, its outputs aren't the original's: fine-tune it before you use it."
        : "only its stored bits were compared";
      all.push([outcome.function === CHANGED ? "function changed" : outcome.function, advice]);
    }
    return all;
  }

  // What is chosen: the form's fields, the order, the page, and the open model with its variant

  const section = document.getElementById("catalogue");
  const form = section.querySelector("form");
  const table = section.querySelector("table");
  const found = section.querySelector(".found");
  const none = section.querySelector(".none");
  const pager = section.querySelector(".pager");
  const more = section.querySelector("details.more");
  const heads = [...table.tHead.rows[0].cells];
  const { order } = form.elements;
  const CHOICES = ["in_chans", "bands", "zoo", "license", "function", "scheme", "status"];
  const FIELDS = ["text", ...CHOICES, "least", "most"];

  const state = {
    key: "", down: false, page: 0, rows: [], matches: new Set(), open: null, marks: new Map(),

    // The variant that a model's figures are of: the one that was marked, or else the first match.
    marked(model) {
      const found = model.outcomes.filter((one) => this.matches.has(one));
      const made = found.find((one) => one.status === MADE);
      return this.marks.get(model) || made || found[0] || model.outcomes[0];
    },
    mark(outcome) {
      this.marks.set(outcome.of, outcome);
      this.open = outcome.of;
      draw();
      focusOn(outcome.of, ".chip[aria-pressed=true]");
    },
    toggle(model) {
      this.open = this.open === model ? null : model;
      draw();
      focusOn(model, ".name");
    },
  };

  // Drawing makes new elements, so what had the keyboard's focus gets it again.
  function focusOn(model, selector) {
    const at = state.rows.indexOf(model) - state.page * ROWS;
    table.tBodies[0].querySelectorAll("tr:not(.detail)")[at]?.querySelector(selector)?.focus();
  }

  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
  const valueOf = (outcome, name) => String(outcome[name] || (name === "bands" ? UNNAMED : ""));

  // The test for an outcome that the fields make, but for those in `without`.
  function matcher(without = []) {
    const value = (name) => (without.includes(name) ? "" : form.elements[name].value);
    const searched = words(value("text"));
    const chosen = CHOICES.filter(value).map((name) => [name, value(name)]);
    const least = value("least") ? value("least") * 1e6 : 0;
    const most = value("most") ? value("most") * 1e6 : Infinity;
    const bounded = least > 0 || most < Infinity;
    return (outcome) =>
      searched.every((word) => outcome.text.includes(word)) &&
      chosen.every(([name, wish]) => valueOf(outcome, name) === wish) &&
      (!bounded || (least <= outcome.params && outcome.params <= most));
  }

  const having = (matches) => models.filter((model) => model.outcomes.some(matches));

  function sorted(rows) {
    const { key, down } = state;
    if (!key || (key === "model" && !down)) return rows;
    const sign = down ? -1 : 1;
    const value = (model) => (key === "model" ? model.model : state.marked(model)[key]);
    const known = (one) => typeof one === "string" || typeof one === "number";
    return [...rows].sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (!known(one) || !known(other)) return known(other) - known(one); // unknown ones last
      return sign * (typeof one === "string" || typeof other === "string"
        ? collator.compare(one, other) : one - other);
    });
  }

  function choose({ page = 0 } = {}) {
    const matches = matcher();
    const rows = having(matches);
    state.matches = new Set(rows.flatMap((model) => model.outcomes.filter(matches)));
    for (const [model, outcome] of state.marks) {
      if (!state.matches.has(outcome) && model !== state.open) state.marks.delete(model);
    }
    state.rows = sorted(rows);
    state.page = Math.min(page, Math.max(0, Math.ceil(rows.length / ROWS) - 1));
    draw();
  }

  // Drawing

  function draw() {
    const start = state.page * ROWS;
    const shown = state.rows.slice(start, start + ROWS);
    table.tBodies[0].replaceChildren(...shown.flatMap((model) => rowOf(model, state)));
    const all = state.rows.length;
    const made = [...state.matches].filter((one) => one.status === MADE).length;
    const lacking = state.matches.size - made;
    found.textContent =
      `${grouped(all)} of ${plural(models.length, "model")}: ${plural(made, "variant")} in the mirror` +
      (lacking ? `, ${grouped(lacking)} not there` : "");
    const last = Math.min(start + ROWS, all);
    pager.querySelector(".place").textContent =
      all ? `${grouped(start + 1)}–${grouped(last)} of ${grouped(all)}` : "none";
    for (const button of pager.querySelectorAll("button")) {
      // Not `disabled`, because the keyboard would then lose its focus on the last page.
      const end = Number(button.dataset.step) < 0 ? start === 0 : last === all;
      button.setAttribute("aria-disabled", String(end));
    }
    pager.hidden = models.length <= ROWS;
    table.parentElement.hidden = !all;
    none.hidden = Boolean(all);
    if (!all) suggest();
    for (const head of heads) {
      const way = state.down ? "descending" : "ascending";
      head.setAttribute("aria-sort", head.dataset.key === state.key ? way : "none");
    }
    order.value = state.key ? `${state.key} ${state.down ? "down" : "up"}` : "";
    const active = FIELDS.filter((name) => name !== "text" && form.elements[name].value).length;
    section.querySelector(".active").textContent = active ? ` (${active})` : "";
    keepInURL();
  }

  // Where nothing matches: which single condition to drop, and the names that are near.
  function suggest() {
    const button = (label, act) => {
      const made = element("button", { type: "button" }, label);
      made.addEventListener("click", act);
      return made;
    };
    const drops = FIELDS.filter((name) => form.elements[name].value).flatMap((name) => {
      const left = having(matcher([name])).length;
      const field = name === "text" ? "the search" : labelOf(name);
      const drop = () => {
        form.elements[name].value = "";
        choose();
      };
      return left ? [button(`without ${field}: ${plural(left, "model")}`, drop)] : [];
    });
    const near = nearest(form.elements.text.value).map((name) => button(name, () => {
      form.elements.text.value = name;
      choose();
    }));
    none.replaceChildren(element("p", {}, "No model in this mirror matches."),
      ...(near.length ? [element("p", {}, "Did you mean ", near)] : []),
      ...(drops.length ? [element("p", {}, drops)] : []));
  }

  const labelOf = (name) => {
    const label = form.querySelector(`label[for="choice-${name}"]`);
    return label ? label.textContent.toLowerCase() : "the number of parameters";
  };

  // The names that share the most pairs of letters with what was typed.
  function nearest(typed) {
    const pairs = (text) => new Set(Array.from(text.slice(1), (_, at) => text.slice(at, at + 2)));
    const wish = pairs(typed.toLowerCase().trim());
    const names = [...new Set(models.map((model) => model.architecture || model.model))];
    const near = names.map((name) => {
      const has = pairs(name.toLowerCase());
      const both = [...wish].filter((pair) => has.has(pair)).length;
      return [2 * both / (wish.size + has.size), name];
    });
    return near.filter(([likeness]) => likeness > 0.5).sort((a, b) => b[0] - a[0])
      .slice(0, 3).map(([, name]) => name);
  }

  // The URL: everything that is chosen, after the #, so that any file or server shows the same

  const keyOf = (outcome) => `${outcome.in_chans} ${outcome.bands} ${outcome.scheme}`;

  function keepInURL() {
    const kept = new URLSearchParams();
    for (const name of FIELDS) if (form.elements[name].value) kept.set(name, form.elements[name].value);
    if (state.key) kept.set("sort", order.value);
    if (state.page) kept.set("page", String(state.page + 1));
    if (state.open) {
      kept.set("model", `${state.open.zoo}/${state.open.model}`);
      kept.set("variant", keyOf(state.marked(state.open)));
    }
    const text = kept.toString();
    if (text || location.hash.includes("=")) history.replaceState(null, "", `#${text}`);
  }

  function takeFromURL() {
    const kept = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of FIELDS) form.elements[name].value = kept.get(name) || "";
    const [key, way] = (kept.get("sort") || "").split(" ");
    Object.assign(state, { key: key || "", down: way === "down" });
    const name = kept.get("model");
    const model = name && models.find((one) => `${one.zoo}/${one.model}` === name);
    state.open = model || null;
    state.marks.clear();
    const marked = model && model.outcomes.find((one) => keyOf(one) === kept.get("variant"));
    if (marked) state.marks.set(model, marked);
    const page = () => Math.floor(Math.max(0, state.rows.indexOf(model)) / ROWS);
    choose({ page: Math.max(0, (Number(kept.get("page")) || 1) - 1) });
    if (model && !kept.has("page")) choose({ page: page() });
  }

  // Fill a choice with the values that occur, and with how many models have them.
  function offer(name) {
    const counts = new Map();
    for (const model of models) {
      for (const value of new Set(model.outcomes.map((one) => valueOf(one, name)))) {
        if (value) counts.set(value, (counts.get(value) || 0) + 1);
      }
    }
    const field = form.querySelector(`[data-choice="${name}"]`);
    for (const value of [...counts.keys()].sort(collator.compare)) {
      const label = `${value} (${grouped(counts.get(value))})`;
      field.querySelector("select").append(element("option", { value }, label));
    }
    field.hidden = counts.size < 2;
  }

  function listen() {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th[aria-sort]");
      if (!head) return;
      state.down = state.key === head.dataset.key && !state.down;
      state.key = head.dataset.key;
      choose();
    });
    pager.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || button.getAttribute("aria-disabled") === "true") return;
      state.page += Number(button.dataset.step);
      draw();
      found.scrollIntoView({ block: "nearest" });
    });
    form.addEventListener("input", (event) => {
      if (event.target === order) {
        const [key, way] = order.value.split(" ");
        Object.assign(state, { key, down: way === "down" });
      }
      choose();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      Object.assign(state, { key: "", down: false, open: null });
      state.marks.clear();
      choose();
    }));
    addEventListener("hashchange", () => {
      if (location.hash.includes("=")) takeFromURL();
    });
    document.addEventListener("click", (event) => { // a link to a section leaves the choices
      const link = event.target.closest('a[href^="#"]');
      if (!link || !location.hash.includes("=")) return;
      event.preventDefault();
      const to = document.getElementById(link.hash.slice(1));
      to.scrollIntoView();
      to.focus({ preventScroll: true });
    });
  }

  order.append(element("option", { value: "" }, "model"));
  for (const head of heads) {
    for (const [way, arrow] of [["up", "↑"], ["down", "↓"]]) {
      const label = `${head.textContent.trim()} ${arrow}`;
      order.append(element("option", { value: `${head.dataset.key} ${way}` }, label));
    }
  }
  CHOICES.forEach(offer);
  const wide = matchMedia("(min-width: 60rem)");
  more.open = wide.matches;
  wide.addEventListener("change", () => { more.open = wide.matches; });
  listen();
  takeFromURL();
})();
