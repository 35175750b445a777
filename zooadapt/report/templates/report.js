"use strict";
// The catalogue and the table of models: search and sort them, and show a page at a time.
// What the tables say only becomes text nodes, never HTML.
(() => {
  const ROWS = 50; // on a page
  const data = JSON.parse(document.getElementById("data").textContent);
  const collator = new Intl.Collator("en", { numeric: true });

  // The rows of a table that is stored as columns. A text is stored as the number of its value.
  function rowsOf(columns) {
    const names = Object.keys(columns);
    const count = (columns.in_chans || []).length;
    return Array.from({ length: count }, (_, index) =>
      Object.fromEntries(names.map((name) => {
        const column = columns[name];
        return [name, column.codes ? column.values[column.codes[index]] : column[index]];
      })));
  }

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // A name that can break into the next line after each of its parts.
  const breakable = (name) =>
    (name.match(/[^._-]+[._-]*|[._-]+/g) || []).flatMap((part) => [part, element("wbr")]);

  // Numbers for people

  function scaled(value, units) {
    let unit = 0;
    while (value >= 1000 && unit < units.length - 1) {
      value /= 1000;
      unit += 1;
    }
    return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`.trim();
  }

  const grouped = (value) => value.toLocaleString("en");
  const size = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"]);
  const params = (count) => scaled(count, ["", "k", "M", "G"]);

  function power(value) {
    if (typeof value !== "number") return value;
    if (value >= 10) return value.toFixed(0);
    return value >= 0.01 ? value.toPrecision(2) : value.toExponential(1);
  }

  // The line that pulls a variant

  // The text as one word for a shell. Characters that a terminal would obey or hide are escaped.
  function quoted(text) {
    const unseen = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f]/g;
    if (/^[\w@%+=:,./-]+$/.test(text)) return text;
    if (text.search(unseen) < 0) return `'${text.replaceAll("'", `'"'"'`)}'`;
    const code = (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`;
    return `$'${text.replace(/[\\']/g, "\\$&").replace(unseen, code)}'`;
  }

  // Where the scheme has a hash, the bands are from somebody's own file, and only it defines them.
  const OWN = "FILE.yaml";
  const own = (row) => row.scheme.includes(".");

  function command(row) {
    const options = row.bands
      ? ["--bands", own(row) ? OWN : row.bands]
      : ["--chans", String(row.in_chans)];
    const scheme = row.scheme.split(".")[0];
    if (row.bands || scheme !== "repeat") options.push("--scheme", scheme);
    if (row.ambiguous) options.push("--zoo", row.zoo);
    options.push("--mirror", data.mirror);
    const words = row.model.startsWith("-") ? [...options, "--", row.model] : [row.model, ...options];
    return ["zooadapt", "pull", ...words].map(quoted).join(" ");
  }

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

  function copyButton(row) {
    const button = element("button", { type: "button", className: "copy" }, "Copy");
    button.setAttribute("aria-label", `Copy the line that pulls ${row.model} for ${channels(row)}`);
    button.title = command(row);
    button.addEventListener("click", async () => {
      const text = command(row);
      const done = await copy(text);
      const file = own(row) ? `; instead of ${OWN}, name the file that defines these bands` : "";
      say((done ? "Copied" : "Copy this line") + file, text);
      button.focus();
    });
    return button;
  }

  const channels = (row) => row.bands || `${row.in_chans} channel${row.in_chans === 1 ? "" : "s"}`;

  // A table with its form, sorting and pages

  function listing(section, what, rows, cells, matcher) {
    const table = section.querySelector("table.cards");
    const form = section.querySelector("form");
    const found = section.querySelector(".found");
    const pager = section.querySelector(".pager");
    const heads = [...table.tHead.rows[0].cells];
    const order = form.elements.order;
    const state = { page: 0, key: "", down: false, rows };

    function sortBy(key, down) {
      Object.assign(state, { key, down, page: 0 });
      for (const head of heads) {
        if (!head.hasAttribute("aria-sort")) continue;
        const way = down ? "descending" : "ascending";
        head.setAttribute("aria-sort", head.dataset.key === key ? way : "none");
      }
      if (order) order.value = key ? `${key} ${down ? "down" : "up"}` : "";
    }

    function sorted(chosen) {
      if (!state.key) return chosen;
      const sign = state.down ? -1 : 1;
      const rank = (value) => (typeof value === "number" ? value : Infinity);
      const compare = (one, other) =>
        (typeof one === "string" && typeof other === "string"
          ? collator.compare(one, other)
          : rank(one) - rank(other) || 0);
      return [...chosen].sort((a, b) => sign * compare(a[state.key], b[state.key]));
    }

    function draw() {
      const start = state.page * ROWS;
      const shown = state.rows.slice(start, start + ROWS);
      table.tBodies[0].replaceChildren(...shown.map((row) => {
        const line = element("tr");
        cells(row).forEach((content, index) => {
          const { key, kind } = heads[index].dataset;
          const cell = element(index ? "td" : "th", { className: `${kind || ""} of-${key}` });
          if (index) cell.dataset.label = heads[index].textContent;
          else cell.scope = "row";
          cell.hidden = heads[index].hidden;
          cell.append(...[content].flat());
          line.append(cell);
        });
        return line;
      }));
      const all = state.rows.length;
      found.textContent = `${grouped(all)} of ${grouped(rows.length)} ${what}`;
      const last = Math.min(start + ROWS, all);
      pager.querySelector(".place").textContent =
        all ? `${grouped(start + 1)}–${grouped(last)} of ${grouped(all)}` : "none";
      for (const button of pager.querySelectorAll("button")) {
        // Not `disabled`, because the keyboard would then lose its focus on the last page.
        const end = Number(button.dataset.step) < 0 ? start === 0 : last === all;
        button.setAttribute("aria-disabled", String(end));
      }
      pager.hidden = rows.length <= ROWS;
    }

    function choose() {
      const matches = matcher(new FormData(form));
      state.rows = sorted(rows.filter(matches));
      state.page = 0;
      draw();
    }

    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th[aria-sort]");
      if (!head) return;
      sortBy(head.dataset.key, state.key === head.dataset.key && !state.down);
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
        const [key, direction] = order.value.split(" ");
        sortBy(key, direction === "down");
      }
      choose();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => {
      sortBy("", false);
      choose();
    }));
    if (order) {
      order.append(element("option", { value: "" }, "model, then channels"));
      for (const head of heads.filter((one) => one.hasAttribute("aria-sort") && !one.hidden)) {
        for (const [way, arrow] of [["up", "↑"], ["down", "↓"]]) {
          const label = `${head.textContent} ${arrow}`;
          order.append(element("option", { value: `${head.dataset.key} ${way}` }, label));
        }
      }
    }
    choose();
  }

  const words = (form) => form.get("text").toLowerCase().split(/\s+/).filter(Boolean);

  // The catalogue

  const KEPT = "the same";
  const CHANGED = "changed";

  function variants() {
    const section = document.getElementById("catalogue");
    const rows = rowsOf(data.variants);
    const zoos = new Map();
    for (const row of rows) zoos.set(row.model, (zoos.get(row.model) || new Set()).add(row.zoo));
    for (const row of rows) {
      row.ambiguous = zoos.get(row.model).size > 1;
      row.function = row.equivalent ? KEPT : CHANGED;
      const texts = [row.zoo, row.model, row.architecture, row.bands, row.scheme, row.license,
        row.weights_dtype];
      row.text = texts.join("\n").toLowerCase();
    }
    const names = ["zoo", "in_chans", "bands", "scheme", "license", "function"];
    for (const name of names) offer(section, name, rows);

    const zoo = new Set(rows.map((row) => row.zoo)).size < 2;
    const cells = (row) => [
      [...breakable(row.model), ...(zoo ? [] : [" ", element("small", {}, row.zoo)])],
      [String(row.in_chans), ...(row.bands ? [" ", element("small", {}, row.bands)] : [])],
      row.scheme,
      row.license,
      params(row.params),
      size(row.bytes),
      `${row.input_height} × ${row.input_width}`,
      power(row.equivalence_error),
      power(row.control_error),
      [
        element("span", { className: `badge ${row.equivalent ? "usable" : "failed"}` }, row.function),
        ...(row.changed ? [" ", element("small", {}, row.changed)] : []),
      ],
      copyButton(row),
    ];

    function matcher(form) {
      const searched = words(form);
      const wanted = names.filter((name) => form.get(name)).map((name) => [name, form.get(name)]);
      const least = form.get("least") ? form.get("least") * 1e6 : 0;
      const most = form.get("most") ? form.get("most") * 1e6 : Infinity;
      return (row) =>
        searched.every((word) => row.text.includes(word)) &&
        wanted.every(([name, value]) => String(row[name] || UNNAMED) === value) &&
        least <= row.params && row.params <= most;
    }

    listing(section, "variants", rows, cells, matcher);
  }

  const UNNAMED = "unnamed";

  // Fill a choice with the values that occur. With fewer than two, hide it, and a scheme's column.
  function offer(section, name, rows) {
    const counts = new Map();
    for (const row of rows) counts.set(row[name], (counts.get(row[name]) || 0) + 1);
    const field = section.querySelector(`[data-choice="${name}"]`);
    const head = section.querySelector(`th[data-key="${name}"]`);
    const values = [...counts.keys()].sort((a, b) => collator.compare(a, b));
    for (const value of values) {
      const label = `${value || UNNAMED} (${grouped(counts.get(value))})`;
      field.querySelector("select").append(
        element("option", { value: String(value || UNNAMED) }, label));
    }
    field.hidden = values.length < 2;
    if (name === "scheme") head.hidden = values.length < 2;
  }

  // The models

  const MARKS = { usable: "✓", unsupported: "–", failed: "✗", removed: "⊘" };
  const MEANT = {
    usable: "in the mirror", unsupported: "unsupported", failed: "failed", removed: "taken down",
  };

  function models() {
    const section = document.getElementById("coverage");
    const outcomes = [
      ...rowsOf(data.variants).map((row) => ({ ...row, status: "usable" })),
      ...rowsOf(data.failures),
    ];
    const targets = new Map();
    const found = new Map();
    for (const row of outcomes) {
      const plain = !row.bands && row.scheme === "repeat";
      const target = `${row.bands || row.in_chans}${plain ? "" : ` ${row.scheme}`}`;
      targets.set(target, row);
      const name = `${row.zoo}\n${row.model}`;
      if (!found.has(name)) {
        found.set(name, { model: row.model, zoo: row.zoo, statuses: {}, reasons: new Set() });
      }
      const model = found.get(name);
      model.statuses[target] = row.status;
      if (row.reason) model.reasons.add(row.reason);
    }
    const columns = [...targets.keys()].sort((a, b) =>
      targets.get(a).in_chans - targets.get(b).in_chans || collator.compare(a, b));
    const heads = section.querySelector(".matrix").tHead.rows[0];
    for (const column of columns) {
      const head = element("th", { scope: "col", className: "mark" }, column);
      Object.assign(head.dataset, { key: "status", kind: "mark" });
      heads.append(head);
    }
    heads.append(element("th", { scope: "col" }, "Why"));
    heads.lastChild.dataset.key = "why";
    const rows = [...found.values()].sort((a, b) => collator.compare(a.model, b.model));
    for (const row of rows) {
      row.why = [...row.reasons].join("; ");
      row.text = `${row.zoo}\n${row.model}\n${row.why}`.toLowerCase();
      row.has = new Set(Object.values(row.statuses));
    }

    const mark = (status) => (status
      ? element("span", { className: `badge ${status}` },
        element("span", { className: "symbol" }, MARKS[status]),
        element("span", { className: "meaning" }, MEANT[status]))
      : element("span", { className: "meaning" }, "not asked for"));
    const cells = (row) =>
      [breakable(row.model), ...columns.map((column) => mark(row.statuses[column])), row.why];

    function matcher(form) {
      const searched = words(form);
      const shown = form.get("shown");
      return (row) => searched.every((word) => row.text.includes(word)) &&
        (!shown || row.has.has(shown) ||
          (shown === "lacking" && ["unsupported", "failed", "removed"].some((s) => row.has.has(s))));
    }

    listing(section, "models", rows, cells, matcher);
  }

  variants();
  models();
})();
