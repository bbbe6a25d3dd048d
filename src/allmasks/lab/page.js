(() => {
  const page = JSON.parse(document.getElementById("figures").textContent);
  const { chapter, words } = page;
  const at = (id) => document.getElementById(id);
  const state = {};
  let shown = null;

  // The answers of a static page, in the order of its controls' stops.
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  const stored = page.server ? null : unpack(page.answers);
  const place = (control) =>
    control.kind === "pick"
      ? control.values.reduce((bits, key, i) => bits + (state[control.key].includes(key) ? 2 ** i : 0), 0)
      : control.values.indexOf(state[control.key]);
  const stops = (control) => (control.kind === "pick" ? 2 ** control.values.length : control.values.length);

  // ---- the picture ----
  const surface = ({ z, low, high, x, y, xref = "x", yref = "y" }) => {
    // Painted small and stretched: two colors that differ for every eye, white between them.
    const canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = [z.length, z[0].length];
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const ends = [[200, 87, 27], [11, 111, 164]];
    z.forEach((row, i) => row.forEach((value, j) => {
      const t = Math.max(-1, Math.min(1, (2 * (value - low)) / (high - low) - 1));
      const end = ends[t > 0 ? 1 : 0];
      const k = 4 * ((canvas.height - 1 - i) * canvas.width + j);
      for (let c = 0; c < 3; c += 1) image.data[k + c] = end[c];
      image.data[k + 3] = 200 * Math.abs(t);
    }));
    context.putImageData(image, 0, 0);
    return { source: canvas.toDataURL(), xref, yref, x: x[0], y: y[1], sizex: x[1] - x[0], sizey: y[1] - y[0], sizing: "stretch", layer: "below" };
  };

  const draw = (width) => {
    const { heat = [], data, layout } = shown.figure;
    const size = document.documentElement.classList.contains("projector") ? 20 : 13;
    const figure = { data, layout: { ...layout, uirevision: "kept", images: heat.map(surface) } };
    if (size > 13) figure.layout.height = Math.round(1.3 * layout.height);
    at("picture").style.minHeight = `${figure.layout.height}px`;
    charts.draw("picture", figure, { width, size });
  };

  const show = (answer) => {
    shown = answer;
    at("sentence").textContent = answer.sentence;
    at("sentence").classList.remove("problem");
    at("code").textContent = answer.code;
    const body = at("numbers").tBodies[0];
    const rows = answer.numbers.map(({ key, label, text, kind, value }) => {
      const row = document.createElement("tr");
      row.dataset.key = key;
      row.dataset.value = value;
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = label;
      row.append(name, ...[text, kind].map((words_, i) => {
        const cell = document.createElement("td");
        cell.textContent = words_;
        if (i === 0) cell.className = "n";
        return cell;
      }));
      return row;
    });
    body.replaceChildren(...rows);
    draw();
    document.documentElement.dataset.answers = 1 + Number(document.documentElement.dataset.answers || 0);
  };

  const fail = (text) => {
    at("sentence").textContent = text;
    at("sentence").classList.add("problem");
  };

  // ---- where answers come from ----
  const query = () => {
    const given = new URLSearchParams({ lang: page.lang });
    for (const { key } of chapter.controls) given.set(key, [].concat(state[key]).join(","));
    return given;
  };

  let running = null;
  const run = async (pause) => {
    // A newer wish ends the one before it: the page never waits for an answer that nobody wants any more.
    if (running) running.abort();
    const mine = (running = new AbortController());
    const busy = chapter.long || chapter.live;
    at("stop").hidden = !busy;
    if (chapter.live) at("go").hidden = true;
    if (busy) at("state").textContent = "";
    try {
      if (page.server) await ask(mine.signal);
      else await recall(mine.signal, pause);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      fail(problem instanceof TypeError ? words.gone : problem.message);
    } finally {
      if (running === mine) rest();
    }
  };
  const rest = () => {
    running = null;
    at("stop").hidden = true;
    at("bar").hidden = true;
    if (chapter.live) at("go").hidden = false;
    else if (chapter.long) at("state").textContent = "";
  };

  const take = (step) => {
    if (step.error) throw new Error(step.error);
    if (step.share === undefined) return show(step);
    at("bar").hidden = false;
    at("bar").value = step.share;
    at("state").textContent = words.progress.replace("{share}", Math.round(100 * step.share));
  };

  const ask = async (signal) => {
    const kind = chapter.long || chapter.live ? "steps" : "answer";
    const response = await fetch(`/${kind}/${chapter.key}?${query()}`, { signal });
    if (kind === "answer" || !response.ok) return take(await response.json());
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest_ = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      const lines = (rest_ + value).split("\n");
      rest_ = lines.pop();
      for (const line of lines) take(JSON.parse(line));
    }
  };

  const recall = async (signal, pause = 80) => {
    const all = await stored;
    const found = all[chapter.controls.reduce((i, control) => i * stops(control) + place(control), 0)];
    for (const [i, answer] of (chapter.live ? found : [found]).entries()) {
      if (i) await new Promise((go) => setTimeout(go, pause));
      if (signal.aborted) return;
      show(answer);
    }
  };

  // ---- controls and the address ----
  const nearest = (values, wanted) => values.reduce((best, v) => (Math.abs(v - wanted) < Math.abs(best - wanted) ? v : best));
  const understood = (control, text) => {
    if (text === null) text = [].concat(control.start).join(",");
    if (control.kind === "pick") return control.values.filter((key) => text.split(",").includes(key));
    if (control.kind === "choice") return control.values.includes(text) ? text : control.start;
    return nearest(control.values, Number.isFinite(Number(text)) ? Number(text) : control.start);
  };

  const remember = () => {
    const found = new URLSearchParams();
    for (const { key, start } of chapter.controls) {
      if (String(state[key]) !== String(start)) found.set(key, [].concat(state[key]).join(","));
    }
    if (document.documentElement.classList.contains("projector")) found.set("projector", "1");
    history.replaceState(null, "", `#${found}`.replace(/^#$/, location.pathname + location.search));
  };

  const changed = () => {
    remember();
    if (!chapter.live) return void run();
    if (running) running.abort();
    rest();
    first();
  };

  const build = (control) => {
    const box = document.createElement(control.kind === "pick" ? "fieldset" : "div");
    const label = document.createElement(control.kind === "pick" ? "legend" : "label");
    label.textContent = control.label + " ";
    box.append(label);
    if (control.kind === "slide") {
      const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: control.values.length - 1, step: 1, id: `control-${control.key}` });
      const output = document.createElement("output");
      label.htmlFor = input.id;
      output.htmlFor = input.id;
      label.append(output);
      control.set = () => {
        input.value = control.values.indexOf(state[control.key]);
        output.textContent = state[control.key];
        input.setAttribute("aria-valuetext", `${control.label} ${state[control.key]}`);
      };
      const moved = () => {
        state[control.key] = control.values[Number(input.value)];
        control.set();
        changed();
      };
      input.addEventListener("input", moved);
      box.append(input);
      if (control.again) {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: control.again, id: `again-${control.key}` });
        button.addEventListener("click", () => {
          input.value = Number(input.value) >= control.values.length - 1 ? 0 : Number(input.value) + 1;
          moved();
        });
        box.append(button);
      }
    } else if (control.kind === "choice") {
      const input = Object.assign(document.createElement("select"), { id: `control-${control.key}` });
      label.htmlFor = input.id;
      input.append(...control.values.map((key) => new Option(control.names[key] || key, key)));
      control.set = () => { input.value = state[control.key]; };
      input.addEventListener("change", () => {
        state[control.key] = input.value;
        changed();
      });
      box.append(input);
    } else {
      const boxes = control.values.map((key) => {
        const input = Object.assign(document.createElement("input"), { type: "checkbox", id: `control-${control.key}-${key}` });
        const name = document.createElement("label");
        name.append(input, ` ${control.names[key] || key}`);
        input.addEventListener("change", () => {
          state[control.key] = control.values.filter((_, i) => boxes[i].checked);
          changed();
        });
        box.append(name);
        return input;
      });
      control.set = () => boxes.forEach((input, i) => { input.checked = state[control.key].includes(control.values[i]); });
    }
    at("controls").append(box);
  };

  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const control of chapter.controls) {
      state[control.key] = understood(control, given.get(control.key));
      control.set();
    }
    projector(given.get("projector") === "1");
  };

  // Before training begins: its first picture.
  const first = async () => {
    try {
      if (page.server) take(await (await fetch(`/answer/${chapter.key}?${query()}`)).json());
      else show((await stored)[chapter.controls.reduce((i, control) => i * stops(control) + place(control), 0)][0]);
    } catch (problem) {
      fail(problem instanceof TypeError ? words.gone : problem.message);
    }
  };

  // ---- tools ----
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    at("told").textContent = words.copied;
    setTimeout(() => { at("told").textContent = ""; }, 2000);
  };
  const python = (value) => JSON.stringify(value).replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False");
  const projector = (on) => {
    document.documentElement.classList.toggle("projector", on);
    at("projector").setAttribute("aria-pressed", String(on));
  };
  at("copy-code").addEventListener("click", () => {
    const rows = shown.figure.data.map(({ name = "", x, y }) => `    ${python({ name, x, y })},`);
    copy(`${shown.code}\n# What the picture shows, to five digits.\npicture = [\n${rows.join("\n")}\n]\n`);
  });
  at("copy-address").addEventListener("click", () => copy(location.href));
  at("projector").addEventListener("click", () => {
    projector(!document.documentElement.classList.contains("projector"));
    remember();
    if (shown) draw();
  });
  at("question").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("given").value.trim().replace(",", ".");
    const off = Math.abs(Number(text) - page.question.answer);
    at("verdict").textContent = text === "" || Number.isNaN(off) ? words.no_number : off <= page.question.tolerance + 1e-9 ? words.right : words.not_yet;
  });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("running").hidden = !(chapter.long || chapter.live);
  at("go").hidden = !chapter.live;
  at("go").addEventListener("click", () => run());
  at("stop").addEventListener("click", () => {
    if (running) running.abort();
    rest();
    at("state").textContent = words.stopped;
  });

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && draw());
  window.addEventListener("hashchange", () => { read(); changed(); });
  window.addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    if (shown) draw(660);
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    if (shown) draw();
  });

  chapter.controls.forEach(build);
  read();
  if (chapter.live) first();
  else run();
})();
