// Sorting and filtering of leaderboard.html; the page reads without it.
const all = (what, where = document) => [...where.querySelectorAll(what)];
const value = (row, i) => row.cells[i].dataset.sort ?? "";

function order(table, i, head) {
  const text = head.dataset.kind === "text", now = head.getAttribute("aria-sort");
  const up = now ? now === "descending" : text;
  all("th", table).forEach(th => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const by = (a, b) => {
    const [x, y] = [value(a, i), value(b, i)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return (up ? 1 : -1) * (text ? x.localeCompare(y) : x - y);
  };
  all("tbody", table).forEach(body => body.append(...all("tr.line", body).sort(by)));
}

function filter() {
  const words = all("#words")[0].value.toLowerCase().split(/\s+/).filter(Boolean);
  const sets = !all("#baselines")[0].checked, rows = all("tr.line");
  rows.forEach(row => row.hidden = sets && !row.classList.contains("own")
    || !words.every(word => row.dataset.words.includes(word)));
  all("tbody.arch, .protocol, .section").forEach(part => part.hidden = !part.querySelector("tr.line:not([hidden])"));
  const left = rows.filter(row => !row.hidden).length;
  all("#count")[0].value = left === rows.length ? `${left} lines` : `${left} of ${rows.length} lines`;
}

all("table.board").forEach(table => all("thead th", table).forEach((head, i) => {
  if (!head.dataset.kind) return;
  const press = document.createElement("span");  // no button: browsers leave those out of a head repeated on paper
  press.setAttribute("role", "button");
  press.tabIndex = 0;
  press.append(...head.childNodes);
  press.onclick = () => order(table, i, head);
  press.onkeydown = event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    press.click();
  };
  head.append(press);
}));
all("#filter").forEach(form => {
  form.hidden = false;
  form.oninput = filter;
  form.onsubmit = event => event.preventDefault();
  filter();
});
