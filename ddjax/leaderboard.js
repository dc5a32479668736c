// Sorting and filtering of leaderboard.html; the page reads without it.
const all = (what, where = document) => [...where.querySelectorAll(what)];
const value = (row, i) => row.cells[i].dataset.sort ?? "";

function order(table, i, button) {
  const head = button.closest("th"), text = head.dataset.kind === "text";
  const up = head.ariaSort ? head.ariaSort === "descending" : text;
  all("th", table).forEach(th => th.removeAttribute("aria-sort"));
  head.ariaSort = up ? "ascending" : "descending";
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
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.onclick = () => order(table, i, button);
  head.append(button);
}));
all("#filter").forEach(form => {
  form.hidden = false;
  form.oninput = filter;
  form.onsubmit = event => event.preventDefault();
  filter();
});
