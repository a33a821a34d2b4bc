"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- charts: drawn with the page's own colours, again when these change or the page is printed
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(name).trim();
  };
  const themed = (layout) => {
    const colour = colours();
    const changed = { ...layout, font: { ...layout.font, color: colour("--ink") } };
    for (const axis of ["xaxis", "yaxis"]) {
      changed[axis] = {
        ...layout[axis], gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--soft"),
      };
    }
    for (const shape of changed.shapes || []) shape.line = { ...shape.line, color: colour("--soft") };
    changed.hoverlabel = { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } };
    changed.hovermode = "closest";
    return changed;
  };
  const coloured = (trace) =>
    trace.meta === "ink" ? { ...trace, line: { ...trace.line, color: colours()("--ink") } } : trace;
  const draw = (size) => {
    for (const [key, figure] of Object.entries(figures)) {
      const options = { responsive: true, displaylogo: false, displayModeBar: false };
      const layout = { ...themed(figure.layout), ...(size ? { ...size, autosize: false } : { autosize: true }) };
      Plotly.react(`chart-${key}`, figure.data.map(coloured), layout, options);
    }
  };
  draw();
  dark.addEventListener("change", () => draw());
  // The events come while the page has the size and the colours of the screen: paper is narrower, and white.
  const PAPER = { width: 660, height: 330 };
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    draw(PAPER);
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    draw();
  });
  for (const button of document.querySelectorAll("button[data-save]")) {
    button.addEventListener("click", () => {
      const { chart, save } = button.dataset;
      Plotly.downloadImage(`chart-${chart}`, { format: save, filename: chart, width: 1200, height: 700, scale: 2 });
    });
  }

  // ---- the table: a heading sorts its column, numbers the largest first, and turns the order round
  const table = document.querySelector("#layers table");
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].dataset.value;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rows = [...body.rows];
      const numeric = rows.every((row) => !Number.isNaN(Number(value(row, column))));
      const was = head.getAttribute("aria-sort");
      const first = numeric && column > 0 ? "descending" : "ascending";
      const order = was === "none" ? first : was === "ascending" ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const compare = numeric
        ? (a, b) => Number(value(a, column)) - Number(value(b, column))
        : (a, b) => value(a, column).localeCompare(value(b, column), undefined, { numeric: true });
      rows.sort((a, b) => sign * compare(a, b));
      body.append(...rows);
      for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
    });
  });

  // ---- a link to a kernel opens it
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.querySelector("summary").focus();
    }
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (event) => {
    if (event.target.closest('a[href^="#kernel-"]')) setTimeout(open);
  });
  open();
})();
