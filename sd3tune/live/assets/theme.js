// Light or dark, before anything is drawn: what the switch chose, else what the system prefers.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("sd3tune-theme"); } catch { /* no storage: the system's */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
