setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("market");
    if (!fresh) return;
    // Wide tables stay where their reader moved them.
    const tables = () => [...document.querySelectorAll(".wide")];
    const moved = tables().map((table) => table.scrollLeft);
    document.getElementById("market").replaceWith(fresh);
    tables().forEach((table, at) => { table.scrollLeft = moved[at] ?? 0; });
  } catch (_) { /* the next try comes by itself */ }
}, 5000);
