(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = (keys, width) => {
    for (const key of keys) charts.draw(key, figures[key], { width });
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
