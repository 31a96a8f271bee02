"""What the pages of reports look like, and how their tables are sorted."""

# Also that of the benchmark's plots.
STYLE = """
:root{--bg:#fff;--ink:#1c2733;--soft:#5b6875;--line:#d9dfe5;--card:#fff;--page:#f4f6f8;
--c0:#2563a8;--c1:#c2571a;--c2:#3d8b5f;--accent:#d1335b;
--r0:#c9d6e2;--r1:#a9c3da;--r2:#85add0;--r3:#6195c4;--r4:#417db4;--r5:#28649c;--r6:#154a7e}
@media (prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b3;--line:#37424d;
--card:#1c232a;--page:#12171c;--c0:#6aa7e8;--c1:#ef935a;--c2:#6fc596;--accent:#ff6f91;
--r0:#3a4a5a;--r1:#3f5d7a;--r2:#457099;--r3:#4c84b6;--r4:#5c9ad0;--r5:#7db2e2;--r6:#a8cdf0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header,main{max-width:1240px;margin:0 auto;padding:20px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:16px;margin:0 0 10px}
header p{color:var(--soft);margin:0 0 14px}
.tiles{display:flex;flex-wrap:wrap;gap:12px}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:8px 16px;color:var(--soft);font-size:13px}
.tiles b{display:block;color:var(--ink);font-size:20px;font-variant-numeric:tabular-nums}
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px;
padding-top:0}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px;
min-width:0}
.wide{grid-column:1/-1}
svg{display:block;width:100%;height:auto}
.tick{fill:var(--soft);font-size:11px}.label{fill:var(--ink);font-size:12px}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:4 4}
.bar{fill:var(--c0)}
circle{fill:var(--c);fill-opacity:.8}.line{fill:none;stroke:var(--c);stroke-width:2}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.accent{--c:var(--accent)}
.ink{--c:var(--ink)}.faint{--c:var(--soft)}
.r0{--c:var(--r0)}.r1{--c:var(--r1)}.r2{--c:var(--r2)}.r3{--c:var(--r3)}.r4{--c:var(--r4)}
.r5{--c:var(--r5)}.r6{--c:var(--r6)}
.legend{margin:0 0 6px;display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12px;color:var(--soft)}
.key{display:inline-block;width:10px;height:10px;border-radius:5px;background:var(--c);
margin-right:6px}
.note,.none{color:var(--soft);font-size:13px;margin:8px 0 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
td{white-space:nowrap}td.genes{white-space:normal;min-width:320px;color:var(--soft)}
th.num{text-align:right}
th{white-space:nowrap;color:var(--soft);font-weight:600}
#trials td.genes{min-width:220px;max-width:420px;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap;cursor:pointer}
#trials td.open{white-space:normal}
#trials th{cursor:pointer;user-select:none}#trials th[data-on]{color:var(--ink)}
.num{text-align:right}
.controls{display:flex;gap:8px;align-items:center;margin:0 0 8px}
input,button{font:inherit;padding:4px 10px;border:1px solid var(--line);border-radius:6px;
background:var(--page);color:var(--ink)}
#where{color:var(--soft);font-size:13px}
"""

SCRIPT = """
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("trials"), size = 50;
  let by = 0, up = true, page = 0, words = "";
  const number = data.head.map((_, c) => data.rows.every(
    r => r[c] === null || r[c] === "diverged" || typeof r[c] === "number"));
  const big = v => Math.abs(v) >= 1e4 ? v.toLocaleString("en", {maximumFractionDigits: 0}) : v;
  function order(a, b) {
    const x = a[by], y = b[by];
    if (x === y) return a[0] - b[0];
    if (x === null || x === "diverged") return 1;
    if (y === null || y === "diverged") return -1;
    return (x < y ? -1 : 1) * (up ? 1 : -1);
  }
  function draw() {
    const rows = data.rows.filter(r => r.join(" ").toLowerCase().includes(words)).sort(order);
    const pages = Math.max(1, Math.ceil(rows.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    table.replaceChildren();
    const head = table.createTHead().insertRow();
    data.head.forEach((name, c) => {
      const cell = document.createElement("th");
      cell.textContent = name + (c === by ? (up ? " \\u25b4" : " \\u25be") : "");
      if (c === by) cell.dataset.on = 1;
      if (number[c]) cell.className = "num";
      cell.onclick = () => {
        up = c === by ? !up : !number[c] || c === 0; by = c; page = 0; draw(); };
      head.append(cell);
    });
    const body = table.createTBody();
    for (const row of rows.slice(page * size, (page + 1) * size)) {
      const line = body.insertRow();
      row.forEach((value, c) => {
        const cell = line.insertCell();
        cell.textContent = value === null ? "" : typeof value === "number" ? big(value) : value;
        if (number[c]) cell.className = "num";
        if (c === row.length - 1) {
          cell.className = "genes"; cell.title = value;
          cell.onclick = () => cell.classList.toggle("open");
        }
      });
    }
    document.getElementById("where").textContent =
      `${rows.length} trials, page ${page + 1} of ${pages}`;
  }
  document.getElementById("back").onclick = () => { page--; draw(); };
  document.getElementById("on").onclick = () => { page++; draw(); };
  document.getElementById("filter").oninput = e => {
    words = e.target.value.toLowerCase(); page = 0; draw(); };
  draw();
})();
"""
