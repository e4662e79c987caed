/** The colours that the reader chose in `<select id="theme">`. No module, so that it runs before the page is painted. */
(() => {
  let storage = {};
  // Where storage is blocked, the choice holds until the page is left.
  try { storage = localStorage; } catch {}
  const apply = () => (document.documentElement.dataset.theme = storage["latchkey.theme"] ?? "");
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    if (!select) return;
    select.value = document.documentElement.dataset.theme;
    select.addEventListener("change", () => ((storage["latchkey.theme"] = select.value), apply()));
  });
})();
