setInterval(async () => {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("market");
    if (fresh) document.getElementById("market").replaceWith(fresh);
  } catch (_) { /* the next try comes by itself */ }
}, 5000);
