// Live pages: the region is morphed by htmx; this adds the charts, the age of what is shown, and care for open forms.
"use strict";
(() => {
  const STALE_AFTER_MS = 3500;
  const KEPT_S = 300;
  const liveness = document.getElementById("liveness");
  let heardAt = null;

  // --- how old is it

  function tellAge() {
    if (heardAt === null || document.hidden) return;
    const age = Date.now() - heardAt;
    const isStale = age > STALE_AFTER_MS;
    liveness.textContent = isStale ? `Stale since ${Math.round(age / 1000)} s` : "Live";
    liveness.classList.toggle("stale", isStale);
    liveness.classList.toggle("now", !isStale);
  }
  document.addEventListener("htmx:sse:after:message", () => { heardAt = Date.now(); tellAge(); });
  document.addEventListener("htmx:sse:error", (event) => {
    if (heardAt === null) heardAt = Date.now();
    if (event.detail.status === 401 || event.detail.status === 403) location.reload();
  });
  setInterval(tellAge, 1000);

  // --- a form that has the focus stays as it is, an opened table stays open

  const skip = "hx-morph-skip";
  function keep(event) {
    for (const form of document.querySelectorAll(`#region form[${skip}]`)) form.removeAttribute(skip);
    const form = event.type === "focusin" ? event.target.closest("#region form") : null;
    if (form) form.setAttribute(skip, "");
  }
  document.addEventListener("focusin", keep);
  document.addEventListener("focusout", (event) => { if (!event.relatedTarget) keep(event); });
  htmx.registerExtension("open", {
    htmx_before_morph_attr: (element, detail) => !(element.tagName === "DETAILS" && detail.attrName === "open"),
  });

  // --- charts: points by their second, so that none comes twice

  const points = new Map();
  const plots = new Map();

  function columns(name) {
    const rows = [...points.values()].sort((a, b) => a.at - b.at);
    const data = [[], [], []];
    let before = null;
    for (const row of rows) {
      if (before !== null && row.at - before > 3) {
        data[0].push(before + 1); data[1].push(null); data[2].push(null);
      }
      data[0].push(row.at); data[1].push(row[name][0]); data[2].push(row[name][1]);
      before = row.at;
    }
    return data;
  }

  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  function draw(element) {
    const name = element.dataset.chart;
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const series = (label, kind) => ({ label, stroke: colour(kind), width: 1.75, points: { show: false } });
    const options = {
      width: element.clientWidth, height: element.clientHeight, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.1] } },
      axes: [{ ...axis, space: 70, values: (_, moments) => moments.map((at) => new Date(1000 * at).toLocaleTimeString("en-GB")), size: 24 }, { ...axis, size: 44 }],
      series: [{}, series("V1", "v1"), series("V2", "v2")],
    };
    plots.get(name)?.destroy();
    const plot = new uPlot(options, columns(name), element);
    plot.root.setAttribute("aria-hidden", "true");
    plots.set(name, plot);
  }

  function redraw() {
    for (const element of document.querySelectorAll("[data-chart]")) draw(element);
  }

  document.getElementById("source").addEventListener("points", (event) => {
    for (const point of JSON.parse(event.detail.data)) points.set(point.at, point);
    const newest = Math.max(...points.keys());
    for (const at of points.keys()) if (at <= newest - KEPT_S) points.delete(at);
    for (const [name, plot] of plots) plot.setData(columns(name));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let resizing = null;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(redraw, 150); });
  redraw();
  window.poolshiftConsole = { points, plots };
})();
