"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displayModeBar: false, scrollZoom: false };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  // "@accent" is the accent of the theme in force.
  const paint = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => paint(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, k)]));
    }
    const color = typeof value === "string" && /color$/.test(key) && value.startsWith("@");
    return color ? css(value.slice(1)) : value;
  };

  const draw = (keys, width) => {
    for (const key of keys) {
      const figure = figures[key];
      const { data, layout } = paint(figure, "");
      if (width) layout.width = width;
      layout.font = { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("ink") };
      layout.hoverlabel = { ...layout.hoverlabel, bgcolor: css("card"), bordercolor: css("rule"), font: { color: css("ink") } };
      for (const axis of ["xaxis", "yaxis"]) {
        layout[axis] = { gridcolor: css("rule"), linecolor: css("rule"), zerolinecolor: css("muted"), fixedrange: true, ...layout[axis] };
        if (layout[axis].title) Object.assign(layout[axis].title, { standoff: 12, font: { size: 13, color: css("quiet") } });
      }
      Plotly.react(key, data, layout, config);
    }
  };

  // Each chart is drawn when it comes near the window; its place is held until then.
  const keys = Object.keys(figures);
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    const near = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target.id);
    for (const key of near) {
      watch.unobserve(document.getElementById(key));
      seen.add(key);
    }
    draw(near);
  }, { rootMargin: "600px" });
  for (const key of keys) {
    const place = document.getElementById(key);
    place.style.minHeight = `${figures[key].layout.height}px`;
    watch.observe(place);
  }
  dark.addEventListener("change", () => draw(seen));

  // On paper: every chart as wide as a page, the light colors, and the numbers, since no pointer will ask for them.
  const PAGE = 660;
  let closed = [];
  window.addEventListener("beforeprint", () => {
    document.documentElement.classList.add("paper");
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
    draw(keys, PAGE);
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("paper");
    for (const one of closed) one.open = false;
    for (const key of keys) seen.add(key);
    draw(keys);
  });
})();
