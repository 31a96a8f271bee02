(() => {
  const table = document.getElementById("trials"), body = table.tBodies[0], size = 50;
  const heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  const filter = document.getElementById("filter");
  let page = 0;
  for (const row of rows) row.lastElementChild.title = row.lastElementChild.textContent;
  function draw() {
    const found = rows.filter(r => r.textContent.toLowerCase().includes(filter.value.toLowerCase()));
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    body.replaceChildren(...found.slice(page * size, (page + 1) * size));
    document.getElementById("where").textContent =
      `${found.length} ${found.length == 1 ? "trial" : "trials"}, page ${page + 1} of ${pages}`;
  }
  heads.forEach((head, column) => head.firstElementChild.onclick = () => {
    const text = head.classList.contains("text"), before = head.getAttribute("aria-sort");
    // A number's first order is from the best; of trials it is from the first.
    const up = before ? before === "descending" : text || column === 0;
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keys = new Map(rows.map(row => {
      const shown = row.cells[column].textContent;
      return [row, text ? shown : Number.parseFloat(shown.replaceAll(",", ""))];
    }));
    const missing = row => keys.get(row) === "" || Number.isNaN(keys.get(row));
    rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 :
      ((keys.get(a) > keys.get(b)) - (keys.get(a) < keys.get(b))) * (up ? 1 : -1)));
    page = 0; draw();
  });
  document.getElementById("back").onclick = () => { page--; draw(); };
  document.getElementById("on").onclick = () => { page++; draw(); };
  filter.oninput = () => { page = 0; draw(); };
  draw();
})();
