// Keeps the page as fresh as the server is, and makes it usable by keyboard. Without this
// file everything is there, too, when the page is loaded again.
import { Idiomorph } from "./idiomorph.js";

const asOf = () => document.getElementById("as-of");

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
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of ["page-header", "page-main"]) {
        Idiomorph.morph(document.getElementById(part), fresh.getElementById(part), {
          ignoreActiveValue: true,
          callbacks: { beforeAttributeUpdated: keep },
        });
      }
      document.title = fresh.title;
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

// The cell that the keys have gone to stays the one that Tab comes back to.
function keep(name, node) {
  return !(name === "tabindex" && node.closest("[role=grid]"));
}

function lost() {
  const line = asOf();
  if (line && !line.classList.contains("lost")) {
    line.classList.add("lost");
    line.textContent = "disconnected since " + new Date().toTimeString().slice(0, 8);
  }
}

const events = new EventSource("/events");
let connected = false;
events.addEventListener("open", () => {
  if (connected) {
    load();
  }
  connected = true;
});
events.addEventListener("message", load);
events.addEventListener("error", lost);

function move(cell, rows, columns) {
  const row = cell.parentElement;
  const table = row.closest("table");
  const all = [...table.rows];
  const cells = (of) => [...of.querySelectorAll("[role=gridcell]")];
  const at = cells(row).indexOf(cell);
  const to = rows === 0 ? cells(row)[at + columns] : all[row.rowIndex + rows] && cells(all[row.rowIndex + rows])[at];
  if (to && !to.classList.contains("out")) {
    cell.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }
}

const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  const typing = event.target.matches("input, textarea");
  const cell = event.target.closest("[role=gridcell]");
  if (cell && arrows[event.key]) {
    event.preventDefault();
    move(cell, ...arrows[event.key]);
  } else if (cell && event.key === "Enter" && cell.dataset.href) {
    location.href = cell.dataset.href;
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    document.getElementById("search").focus();
  } else if (!typing && event.key === "?") {
    document.getElementById("help").showModal();
  }
});
document.addEventListener("click", (event) => {
  const cell = event.target.closest("[role=gridcell]");
  if (cell && cell.dataset.href) {
    location.href = cell.dataset.href;
  }
});
