"use strict";
(() => {
  const layers = [...document.querySelectorAll(".layer")];
  const search = document.getElementById("search");
  const missed = document.getElementById("only-missed");
  const causes = document.getElementById("only-causes");
  const count = document.getElementById("count");
  const texts = layers.map((l) => l.textContent.toLowerCase());

  // A label stands at its bar's left edge: the policy allows no style attribute.
  for (const label of document.querySelectorAll("text.label")) {
    const rect = label.previousElementSibling;
    label.setAttribute("x", Number(rect.getAttribute("x")) + 5);
    label.setAttribute("y", Number(rect.getAttribute("y")) + Number(rect.getAttribute("height")) - 7);
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    layers.forEach((layer, i) => {
      const hide = (wanted && !texts[i].includes(wanted)) ||
        (missed.checked && layer.classList.contains("hit")) ||
        (causes.checked && layer.dataset.cause !== "true");
      layer.hidden = Boolean(hide);
      shown += hide ? 0 : 1;
    });
    count.textContent = shown + " of " + layers.length;
  }

  function reveal() {
    const layer = document.getElementById(location.hash.slice(1));
    if (!layer || !layer.classList.contains("layer")) return;
    layer.hidden = false;
    layer.open = true;
    layer.scrollIntoView({ block: "center" });
    layer.querySelector("summary").focus({ preventScroll: true });
  }

  function step(by) {
    const shown = layers.filter((l) => !l.hidden);
    const at = shown.findIndex((l) => l.contains(document.activeElement));
    const next = shown[Math.min(shown.length - 1, Math.max(0, at + by))];
    if (next) next.querySelector("summary").focus();
  }

  search.addEventListener("input", filter);
  missed.addEventListener("change", filter);
  causes.addEventListener("change", filter);
  window.addEventListener("hashchange", reveal);
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target === search) {
      if (e.key === "Escape") search.blur();
      return;
    }
    if (e.key === "/") { e.preventDefault(); search.focus(); }
    if (e.key === "j") step(1);
    if (e.key === "k") step(-1);
  });
  window.addEventListener("beforeprint", () => layers.forEach((l) => { l.open = true; }));
  filter();
  reveal();
})();
