"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("chart-data").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  // On a touch screen a drag over a chart must scroll the page, not zoom the chart.
  const dragmode = window.matchMedia("(pointer: fine)").matches ? "zoom" : false;

  // "@first" becomes the value of the custom property --first; only colours are looked at, never texts.
  function painted(value, styles, isColor) {
    if (typeof value === "string") {
      return isColor && value.startsWith("@") ? styles.getPropertyValue(`--${value.slice(1)}`).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map((item) => painted(item, styles, isColor));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, painted(item, styles, /color(scale)?$/.test(key))]),
      );
    }
    return value;
  }

  function drawCharts() {
    const styles = getComputedStyle(document.documentElement);
    const family = getComputedStyle(document.body).fontFamily;
    for (const [id, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure, styles, false);
      layout.font.family = family;
      layout.dragmode = dragmode;
      const options = { displaylogo: false, displayModeBar: false, responsive: true };
      const place = document.getElementById(id);
      if (place.data) {
        Plotly.react(place, data, layout, options);
      } else {
        Plotly.newPlot(place, data, layout, options);
      }
    }
  }

  function sortTable(table, button) {
    const header = button.closest("th");
    const key = button.dataset.key;
    const rising = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) {
      other.removeAttribute("aria-sort");
    }
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => {
      const cell = [...row.cells].find((candidate) => candidate.dataset.key === key);
      return { row, text: cell ? cell.dataset.value : "" };
    });
    const turn = rising ? 1 : -1;
    rows.sort((a, b) => {
      if (key === "name") {
        return turn * a.text.localeCompare(b.text, undefined, { numeric: true, sensitivity: "base" });
      }
      if (a.text === "" || b.text === "") {
        return (a.text === "") - (b.text === ""); // undefined figures stay at the end, whichever way it goes
      }
      return turn * (Number(a.text) - Number(b.text));
    });
    body.append(...rows.map(({ row }) => row));
  }

  const batch = 24; // cards that "Show more" adds: a page of all of them is long on a phone

  function filterCards(section, controls, most) {
    const byClass = controls.querySelector('select[data-filter="class"]');
    const byDetector = controls.querySelector('select[data-filter="detector"]');
    const cards = [...section.querySelectorAll(".card")];
    const eligible = cards.filter((card) => !byDetector || card.dataset.detector === byDetector.value);
    const numbers = new Map();
    for (const card of eligible) {
      numbers.set(card.dataset.class, (numbers.get(card.dataset.class) || 0) + 1);
    }
    for (const option of byClass.options) {
      const all = option.hasAttribute("data-all");
      option.textContent = `${option.dataset.name} (${all ? eligible.length : numbers.get(option.value) || 0})`;
    }
    const chosen = byClass.selectedOptions[0];
    const every = chosen.hasAttribute("data-all");
    const kept = new Set(eligible.filter((card) => every || card.dataset.class === chosen.value));
    const more = section.querySelector("button.more");
    const shown = new Set(more ? [...kept].slice(0, most) : kept);
    for (const card of cards) {
      card.hidden = !shown.has(card);
    }
    if (more) {
      const left = kept.size - shown.size;
      more.hidden = left === 0;
      more.textContent = `Show ${Math.min(batch, left)} more of ${left}`;
    }
    for (const group of section.querySelectorAll("div.group")) {
      const left = group.querySelectorAll(".card:not([hidden])").length;
      group.hidden = left === 0;
      group.querySelector("h3 span").textContent = left;
    }
    controls.querySelector("output").textContent = `${kept.size} of ${eligible.length} cards`;
  }

  for (const table of document.querySelectorAll("#classes")) {
    for (const button of table.querySelectorAll("th button")) {
      button.addEventListener("click", () => sortTable(table, button));
    }
  }
  for (const controls of document.querySelectorAll(".controls")) {
    const section = controls.closest("section");
    controls.hidden = false;
    let most = batch;
    const refresh = (number) => {
      most = number;
      filterCards(section, controls, most);
    };
    controls.addEventListener("change", () => refresh(batch));
    section.querySelector("button.more")?.addEventListener("click", () => refresh(most + batch));
    refresh(batch);
  }
  drawCharts();
  scheme.addEventListener("change", drawCharts);
})();
