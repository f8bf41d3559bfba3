// Keeps the page as fresh as the server is, and makes it usable by keyboard. Without this
// file everything is there, too, when the page is loaded again.
import { Idiomorph } from "./idiomorph.js";

// Morphing leaves what did not change alone: the focus, the scroll position, the selection.
let loading = false;
let again = false;
async function load() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  try {
    const answer = await fetch(location.href);
    // What does not exist any more has a page that says so; a server that does not know
    // this browser has none.
    if (answer.ok || answer.status === 404) {
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } else {
      lost();
    }
  } catch {
    lost();
  } finally {
    loading = false;
    if (again) {
      again = false;
      load();
    }
  }
}

function show(fresh) {
  for (const part of ["page-links", "page-header", "page-main"]) {
    Idiomorph.morph(document.getElementById(part), fresh.getElementById(part), {
      callbacks: { beforeAttributeUpdated: keep },
    });
  }
  document.title = fresh.title;
}

// The cell that the keys have gone to stays the one that Tab comes back to, and what somebody
// has typed or chosen stays until it is sent.
function keep(name, node) {
  if (name === "tabindex") {
    return !node.closest("[role=grid]");
  }
  return !(name === "value" && node.matches("form input") || name === "selected" && node.closest("form"));
}

function lost() {
  const line = document.getElementById("lost");
  if (line && !line.textContent) {
    line.textContent = "disconnected since " + new Date().toTimeString().slice(0, 8) + ": kubectl static-ip web does not answer";
  }
}

// A page that nobody looks at holds no connection: a browser has six for one server.
let events;
function follow() {
  if (document.hidden) {
    events?.close();
    events = undefined;
    return;
  }
  if (!events) {
    events = new EventSource("/events");
    // Also after a pause, in which the page may have become old.
    events.addEventListener("open", load);
    events.addEventListener("message", load);
    events.addEventListener("error", lost);
  }
}
document.addEventListener("visibilitychange", follow);
follow();
document.documentElement.classList.add("live");

function move(link, key) {
  const cell = link.closest("[role=gridcell]");
  const row = cell.parentElement;
  const rows = [...row.closest("table").rows];
  const cells = (of) => [...(of?.querySelectorAll("[role=gridcell]") ?? [])];
  const inside = cells(row).filter((c) => c.firstElementChild);
  const column = cells(row).indexOf(cell);
  const at = inside.indexOf(cell);
  const to = {
    ArrowLeft: () => inside[at - 1],
    ArrowRight: () => inside[at + 1],
    Home: () => inside[0],
    End: () => inside.at(-1),
    ArrowUp: () => cells(rows[row.rowIndex - 1])[column],
    ArrowDown: () => cells(rows[row.rowIndex + 1])[column],
  }[key]()?.firstElementChild;
  if (to) {
    link.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }
}

const moves = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End"];
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const typing = event.target.matches("input, textarea");
  if (moves.includes(event.key) && event.target.closest("[role=gridcell]")) {
    event.preventDefault();
    move(event.target, event.key);
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    document.getElementById("search").focus();
  } else if (!typing && event.key === "?") {
    document.getElementById("help").showModal();
  }
});
