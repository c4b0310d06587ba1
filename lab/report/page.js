"use strict";
/* What a reader may do: sort a table by a column, hide arms everywhere, read values off figures. The page is whole without it. */
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const number = (text) => {
    const digits = text.replace(/,/g, "").match(/[-+]?\d+\.?\d*(e[-+]?\d+)?/i);
    return digits ? parseFloat(digits[0]) : NaN;
  };
  const about = (element) => element.dataset.runs.split(" ");

  function sortable(table) {
    const rows = all("tbody tr", table);
    const arms = rows.some((row) => row.dataset.runs) ? rows.filter((row) => row.dataset.runs) : rows;
    if (arms.length < 2) return;
    const rest = rows.filter((row) => !arms.includes(row));
    all("th", table).forEach((head, column) => {
      const numeric = head.classList.contains("n");
      const button = make("button", { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.onclick = () => {
        const descending = head.ariaSort ? head.ariaSort === "ascending" : numeric;
        all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.ariaSort = descending ? "descending" : "ascending";
        const text = (row) => row.cells[column].textContent.trim();
        const order = (one, other) => {
          if (!numeric) return (descending ? -1 : 1) * text(one).localeCompare(text(other), "en", { numeric: true });
          const [a, b] = [number(text(one)), number(text(other))];
          return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : (descending ? -1 : 1) * (a - b);
        };
        table.tBodies[0].append(...arms.toSorted(order), ...rest);
      };
    });
  }

  function hideable(table) {
    const arms = all("tbody tr[data-runs]", table);
    const elsewhere = all("[data-runs]").filter((element) => !table.contains(element));
    const boxes = arms.map((row) => {
      const box = make("input", { type: "checkbox", checked: true, title: "show this arm" });
      row.cells[0].prepend(box);
      return box;
    });
    const search = make("input", { type: "search", placeholder: "show only arms whose name has ...", ariaLabel: "show only arms whose name has" });
    const shown = make("span", { ariaLive: "polite" });
    const pick = (value) => () => { boxes.forEach((box) => (box.checked = value)); apply(); };
    const tools = make("div", { className: "tools" });
    tools.append(search, make("button", { type: "button", textContent: "all", onclick: pick(true) }),
      make("button", { type: "button", textContent: "none", onclick: pick(false) }), shown);
    table.parentElement.before(tools);

    function apply() {
      const words = search.value.toLowerCase().split(/\s+/);
      const hidden = new Set();
      arms.forEach((row, place) => {
        const name = row.cells[0].textContent.toLowerCase();
        const named = words.every((word) => name.includes(word));
        row.classList.toggle("away", !named);
        row.classList.toggle("unpicked", !boxes[place].checked);
        if (!named || !boxes[place].checked) about(row).forEach((run) => hidden.add(run));
      });
      elsewhere.forEach((element) => element.classList.toggle("away", about(element).some((run) => hidden.has(run))));
      shown.textContent = `${arms.length - hidden.size} of ${arms.length} arms shown`;
    }
    search.oninput = apply;
    boxes.forEach((box) => (box.onchange = apply));
    apply();
  }

  function readable() {
    const tip = make("div", { className: "tip", hidden: true });
    document.body.append(tip);
    all("svg g > title").forEach((title) => {
      title.parentElement.dataset.tip = title.textContent;
      title.remove();
    });
    let hot = [];
    const point = (event) => {
      const target = event.target instanceof Element ? event.target : document.body;
      const marked = target.closest("[data-tip]");
      tip.hidden = !marked;
      if (marked) {
        tip.textContent = marked.dataset.tip;
        tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
        tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
      }
      const runs = target.closest("[data-runs]")?.dataset.runs;
      hot.forEach((element) => element.classList.remove("hot"));
      hot = runs && !runs.includes(" ") ? all(`[data-runs="${CSS.escape(runs)}"]`) : [];
      hot.forEach((element) => element.classList.add("hot"));
    };
    document.addEventListener("pointerover", point);
    document.addEventListener("click", point);
  }

  const main = document.querySelector("tbody tr[data-runs]")?.closest("table");
  if (main && main.tBodies[0].rows.length > 1) hideable(main);
  all("table").forEach(sortable);
  readable();
})();
