"use strict";
// One chart in its place, in the colors of the theme in force.
const charts = (() => {
  const config = { responsive: true, displayModeBar: false, scrollZoom: false };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  // "@accent" is the accent of the theme.
  const paint = (value, key) => {
    if (Array.isArray(value)) return value.map((item) => paint(item, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, paint(v, k)]));
    }
    const color = typeof value === "string" && /color$/.test(key) && value.startsWith("@");
    return color ? css(value.slice(1)) : value;
  };

  const draw = (key, figure, { width, size = 13 } = {}) => {
    const { data, layout } = paint(figure, "");
    if (width) layout.width = width;
    layout.font = { family: getComputedStyle(document.body).fontFamily, size, color: css("ink") };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: css("card"), bordercolor: css("rule"), font: { color: css("ink") } };
    for (const axis of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((name) => /^[xy]axis/.test(name))])) {
      layout[axis] = { gridcolor: css("rule"), linecolor: css("rule"), zerolinecolor: css("muted"), fixedrange: true, ...layout[axis] };
      if (layout[axis].title) Object.assign(layout[axis].title, { standoff: 12, font: { size, color: css("quiet") } });
    }
    return Plotly.react(key, data, layout, config);
  };
  return { draw, css };
})();
