export function start(e){ e.querySelector("h1").textContent="started"; document.body.dataset.ok="1"; }
