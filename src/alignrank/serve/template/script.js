"use strict";
(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const at = (id) => document.getElementById(id);
  const canvas = at("canvas");
  const pen = canvas.getContext("2d");
  const MAX_TAGS = 60; // boxes, above which names would hide the picture
  const MOST = 300; // boxes that are asked for
  const LARGEST = 4; // times that a small picture is enlarged

  let token = "";
  let waiting = null; // the file that is sent again once there is a token
  let asked = 0; // a later picture's answer is not replaced by an earlier one's
  let shown = null; // {file, picture, answer, objects}
  let hidden = new Set(); // classes that are switched off
  let active = null; // the object under the pointer, or chosen by keys

  const colorOf = (object) => settings.colors[object.label % settings.colors.length];
  const inWords = (score) => score.toFixed(3);

  function say(text, bad = false) {
    at("status").textContent = text;
    at("status").classList.toggle("bad", bad);
  }

  async function send(file) {
    const number = ++asked;
    waiting = file;
    say(`Looking at ${file.name || "the picture"} …`);
    const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" };
    if (token) {
      headers.Authorization = `Bearer ${token}`;
    }
    const began = performance.now();
    let response;
    let answer;
    try {
      response = await fetch(`predict?conf=${settings.floor}&max_dets=${MOST}`, { method: "POST", headers, body: file });
      answer = await response.json();
    } catch {
      if (number === asked) {
        say("The server cannot be reached, or did not answer. Is it still running?", true);
      }
      return;
    }
    if (number !== asked) {
      return;
    }
    if (response.status === 401) {
      say(token ? "This is not the server's token." : "", Boolean(token));
      at("token-form").hidden = false;
      at("token").focus();
      return;
    }
    if (!response.ok) {
      say(`${answer.error[0].toUpperCase()}${answer.error.slice(1)}.`, true);
      return;
    }
    at("token-form").hidden = true;
    waiting = null;
    const seconds = (performance.now() - began) / 1000;
    const picture = await createImageBitmap(file).catch(() => null);
    if (number === asked) {
      show(file, picture, answer, seconds);
    }
  }

  function show(file, picture, answer, seconds) {
    const objects = answer.boxes.map((box, i) => ({
      box, score: answer.scores[i], label: answer.labels[i], name: answer.names[i],
    }));
    shown = { file, picture, answer, objects };
    hidden = new Set();
    active = null;
    const [height, width] = answer.size;
    const unseen = picture ? "" : " This browser cannot show the picture itself.";
    say(`${file.name || "Picture"}, ${width} × ${height} px, answered in ${seconds.toFixed(2)} s.${unseen}`);
    at("drop").classList.add("small");
    at("result").hidden = false;
    listClasses();
    update();
  }

  const threshold = () => Number(at("threshold").value);
  const visible = () => shown.objects.filter((object) => object.score > threshold() && !hidden.has(object.label));

  function listClasses() {
    const names = new Map(shown.objects.map((object) => [object.label, object]));
    const chips = [...names.values()].sort((a, b) => a.label - b.label).map((object) => {
      const chip = document.createElement("label");
      const box = document.createElement("input");
      const dot = document.createElement("i");
      const count = document.createElement("span");
      box.type = "checkbox";
      box.checked = true;
      dot.className = "dot";
      dot.style.background = colorOf(object);
      count.dataset.label = object.label;
      box.addEventListener("change", () => {
        hidden[box.checked ? "delete" : "add"](object.label);
        update();
      });
      chip.append(box, dot, object.name, count);
      return chip;
    });
    at("class-list").replaceChildren(...chips);
    at("classes").hidden = chips.length === 0;
  }

  function update() {
    at("threshold-value").textContent = threshold().toFixed(2);
    if (!shown) {
      return;
    }
    const objects = visible();
    if (!objects.includes(active)) {
      active = null;
    }
    const above = shown.objects.filter((object) => object.score > threshold());
    for (const count of at("class-list").querySelectorAll("span")) {
      count.textContent = above.filter((object) => object.label === Number(count.dataset.label)).length;
    }
    const all = objects.length === shown.objects.length ? "" : ` of ${shown.objects.length}`;
    at("count").textContent = shown.objects.length
      ? `${objects.length}${all} object${objects.length === 1 && !all ? "" : "s"}`
      : `No object scores above ${settings.floor}`;
    canvas.setAttribute("aria-label", `The picture with ${objects.length} boxes`);
    at("rows").replaceChildren(...objects.map(row));
    draw();
  }

  function row(object) {
    const line = document.createElement("tr");
    const name = document.createElement("th");
    const dot = document.createElement("i");
    name.scope = "row";
    dot.className = "dot";
    dot.style.background = colorOf(object);
    name.append(dot, object.name);
    line.append(name);
    for (const text of [inWords(object.score), ...object.box.map((value) => value.toFixed(1))]) {
      const cell = document.createElement("td");
      cell.className = "n";
      cell.textContent = text;
      line.append(cell);
    }
    line.tabIndex = 0;
    line.object = object;
    line.addEventListener("pointerenter", () => choose(object));
    line.addEventListener("pointerleave", () => choose(null));
    line.addEventListener("focus", () => choose(object));
    line.addEventListener("blur", () => choose(null));
    return line;
  }

  /** px of the page for each px of the picture. */
  function scale() {
    const [height, width] = shown.answer.size;
    const room = at("stage").clientWidth - 16;
    return Math.min(room / width, Math.max(0.7 * innerHeight, 240) / height, LARGEST);
  }

  function draw() {
    if (!shown) {
      return;
    }
    const [height, width] = shown.answer.size;
    const factor = scale();
    const ratio = devicePixelRatio || 1;
    canvas.style.width = `${Math.max(1, Math.round(width * factor))}px`;
    canvas.style.height = `${Math.max(1, Math.round(height * factor))}px`;
    canvas.width = Math.max(1, Math.round(width * factor * ratio));
    canvas.height = Math.max(1, Math.round(height * factor * ratio));
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (shown.picture) {
      pen.imageSmoothingQuality = "high";
      pen.drawImage(shown.picture, 0, 0, width * factor, height * factor);
    } else {
      pen.fillStyle = "#64748b";
      pen.fillRect(0, 0, width * factor, height * factor);
    }
    const objects = visible();
    // The best last, above the others, and the chosen one above all.
    for (const object of [...objects].reverse()) {
      if (object !== active) {
        drawBox(object, factor, active ? 0.35 : 1, objects.length <= MAX_TAGS && !active);
      }
    }
    if (active) {
      drawBox(active, factor, 1, true);
    }
  }

  function drawBox(object, factor, opacity, tagged) {
    const [x0, y0, x1, y1] = object.box.map((value) => value * factor);
    pen.globalAlpha = opacity;
    pen.lineJoin = "round";
    if (object === active) {
      pen.strokeStyle = "#ffffff";
      pen.lineWidth = 5;
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    pen.strokeStyle = colorOf(object);
    pen.lineWidth = object === active ? 3 : 2;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    if (tagged) {
      pen.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
      const text = object === active ? `${object.name} ${inWords(object.score)}` : object.name;
      const room = pen.measureText(text).width + 8;
      const left = Math.max(0, Math.min(x0 - 1, canvas.clientWidth - room));
      const top = y0 >= 17 ? y0 - 17 : y0;
      pen.fillStyle = colorOf(object);
      pen.fillRect(left, top, room, 17);
      pen.fillStyle = "#ffffff";
      pen.textBaseline = "middle";
      pen.fillText(text, left + 4, top + 9);
    }
    pen.globalAlpha = 1;
  }

  function choose(object) {
    if (object === active) {
      return;
    }
    active = object;
    for (const line of at("rows").rows) {
      line.classList.toggle("active", line.object === active);
    }
    draw();
  }

  function point(event) {
    const place = canvas.getBoundingClientRect();
    const factor = scale();
    const [x, y] = [(event.clientX - place.left) / factor, (event.clientY - place.top) / factor];
    const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
    const near = 3 / factor; // the line itself counts
    const under = visible().filter(
      ({ box }) => x >= box[0] - near && x <= box[2] + near && y >= box[1] - near && y <= box[3] + near,
    );
    choose(under.sort((a, b) => area(a) - area(b))[0] || null);
    const tip = at("tip");
    tip.hidden = !active;
    if (active) {
      tip.textContent = `${active.name} ${inWords(active.score)}`;
      const stage = at("stage").getBoundingClientRect();
      const left = event.clientX - stage.left + 14;
      tip.style.left = `${Math.max(0, Math.min(left, stage.width - tip.offsetWidth - 4))}px`;
      tip.style.top = `${event.clientY - stage.top + 18}px`;
    }
  }

  function leave() {
    at("tip").hidden = true;
    choose(null);
  }

  function step(event) {
    const turn = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const objects = shown ? visible() : [];
    if (event.key === "Escape") {
      leave();
    } else if (turn && objects.length) {
      event.preventDefault();
      const now = objects.indexOf(active);
      const next = now < 0 ? (turn > 0 ? 0 : objects.length - 1) : (now + turn + objects.length) % objects.length;
      choose(objects[next]);
      canvas.setAttribute("aria-label", `${active.name}, score ${inWords(active.score)}`);
    }
  }

  function download() {
    const objects = visible();
    const { source, path, ...rest } = shown.answer;
    const kept = {
      source: shown.file.name || source, path, ...rest,
      boxes: objects.map(({ box }) => box),
      scores: objects.map(({ score }) => score),
      labels: objects.map(({ label }) => label),
      names: objects.map(({ name }) => name),
    };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(kept)], { type: "application/json" }));
    link.download = `${(shown.file.name || "picture").replace(/\.[^.]*$/, "")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function firstPicture(list) {
    return [...(list || [])].find((file) => file.type.startsWith("image/")) || [...(list || [])][0];
  }

  function take(files, event) {
    const file = firstPicture(files);
    if (file) {
      event.preventDefault();
      send(file);
    }
  }

  at("threshold").min = settings.floor;
  at("threshold").max = 1;
  at("threshold").value = settings.conf;
  at("threshold").addEventListener("input", update);
  at("file").addEventListener("change", (event) => {
    take(event.target.files, event);
    event.target.value = ""; // the same file can be chosen again
  });
  addEventListener("paste", (event) => take(event.clipboardData.files, event));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) {
      at("drop").classList.remove("over");
    }
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    at("drop").classList.remove("over");
    take(event.dataTransfer.files, event);
  });
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    if (waiting) {
      send(waiting);
    }
  });
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("keydown", step);
  canvas.addEventListener("blur", leave);
  at("download").addEventListener("click", download);
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(at("stage"));
  update();
})();
