(() => {
  const plots = [...document.querySelectorAll(".plot")].map((place) => ({
    place,
    figure: JSON.parse(place.parentElement.querySelector("script").textContent),
  }));

  // Figures name CSS variables where they have colours; Plotly wants the colours themselves.
  const coloured = (value, style) => {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style)]));
    }
    return value;
  };

  // Where there is no pointer, a finger on a plot scrolls the page.
  const still = ({ xaxis, yaxis, yaxis2 }) => {
    for (const axis of [xaxis, yaxis, yaxis2]) if (axis) axis.fixedrange = true;
  };

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    const pointer = matchMedia("(hover: hover)").matches;
    for (const { place, figure } of plots) {
      const { data, layout } = coloured(figure, style);
      layout.dragmode = pointer && "zoom";
      if (!pointer) still(layout);
      Plotly.react(place, data, layout, { displayModeBar: false });
    }
  };

  draw();
  // A window that is resized is not all that changes a plot's width: fonts, scroll bars and printing do too.
  const widths = new Map();
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      if (widths.get(target) !== contentRect.width) {
        widths.set(target, contentRect.width);
        Plotly.Plots.resize(target);
      }
    }
  });
  for (const { place } of plots) observer.observe(place);
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", draw);
  }
})();
