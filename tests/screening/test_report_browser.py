"""The report in a browser: it draws everything, and its rows follow clicks, filters and the address."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlip.screening.report import write_report
from mlip.screening.store import Row

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH")]

TOOLS = """
const wait = time => new Promise(done => setTimeout(done, time));
const ids = () => [...document.querySelectorAll("tr.row")].map(row => row.dataset.id);
const heading = name => document.querySelector(`th[data-name="${name}"] button`);
const type = async text => {
  const box = document.getElementById("filter");
  box.value = text;
  box.dispatchEvent(new Event("input"));
  await wait(400);
};
const texts = selector => [...document.querySelectorAll(selector)].map(each => each.textContent);
const log = {};
async function told(act) {
  try { await act(); } catch (error) { log.error = String(error.stack); }
  log.errors = document.getElementById("errors").textContent;
  document.body.append(Object.assign(document.createElement("pre"), {id: "log", textContent: JSON.stringify(log)}));
}
"""


def rows(count: int) -> list[Row]:
    """Crystals with bulk moduli 0, 1, ... GPa; every tenth is of Ni and Al; number 3 failed, for a reason with HTML."""
    found = []
    for i in range(count):
        about = {"id": f"c{i:05d}", "hash": str(i), "formula": "Ni3Al" if i % 10 == 0 else "Cu4", "atoms": 4,
                 "model": {"name": "m", "sha256": "12ab"}, "settings": {"relax": {"fmax": 1e-4}},
                 "versions": {"mlip-md": "1"}}
        if i == 3:
            found.append(Row(property="relax", status="failed", reason="StructureError: <b>no</b> cell", **about))
            continue
        found.append(Row(property="relax", status="done", value={"energy": -0.5 * i}, units={"energy": "eV"}, **about))
        volumes = [11.0, 11.5, 12.0, 12.5, 13.0]
        value = {"volumes": volumes, "energies": [0.1 * (v - 12) ** 2 for v in volumes], "equilibrium_volume": 12.0,
                 "equilibrium_energy": 0.0, "bulk_modulus": float(i), "bulk_modulus_derivative": 4.5,
                 "stable": i % 2 == 0}
        found.append(Row(property="eos", status="done", value=value, units={"bulk_modulus": "GPa"}, **about))
    bands = {"band_labels": [["G", "X"], ["K", "G"]], "band_distances": [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0]],
             "band_frequencies": [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]] * 2, "dos_frequencies": [0.0, 1.5, 3.0],
             "dos": [0.0, 1.0, 0.0]}
    return [*found, Row("c00000", "0", "phonon", "done", value=bands, formula="Ni3Al", atoms=4)]


def visit(page: Path, script: str, address: str = "") -> dict[str, object]:
    """Open a page, act, and return what the script has noted."""
    acting = page.with_suffix(".acting.html")
    acting.write_text(page.read_text() + f"<script>{{{TOOLS}told(async () => {{{script}}});}}</script>")
    done = subprocess.run([str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000",
                           "--virtual-time-budget=20000", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
                           f"{acting.as_uri()}{address}"], capture_output=True, text=True, timeout=240, check=True)
    noted = re.findall(r'<pre id="log">(.*?)</pre>', done.stdout, re.DOTALL)
    assert noted, re.findall(r'<p id="errors".*?</p>', done.stdout)
    log: dict[str, object] = json.loads(html.unescape(noted[0]))
    assert "error" not in log, log["error"]
    assert log.pop("errors") == ""
    return log


def test_everything_is_drawn(tmp_path: Path) -> None:
    references = [{"formula": "Ni3Al", "bulk_modulus": 5.0}]
    log = visit(write_report(rows(30), tmp_path / "report.html", references), """
        log.sections = texts("section:not([hidden]) h2");
        log.failures = texts(".entry");
        log.parity = texts("#parity .card");
        log.curves = document.querySelectorAll("#curves svg").length;
        log.marks = texts("#curves .card:first-child svg:nth-child(1) text");
        log.broken = [...document.querySelectorAll("svg *")].filter(e => /NaN|undefined/.test(e.outerHTML)).length;
        log.origin = texts("#provenance")[0];
        document.querySelector("#curves .more").click();
        log.more = document.querySelectorAll("#curves svg").length;
        await type("c00000");
        document.querySelector("tr.row").click();
        log.details = texts("#details h2")[0];
        log.bands = texts("#details svg text");
        log.address = decodeURIComponent(location.hash);
    """)
    assert log["sections"] == ["Ranking", "Failures", "Against references", "Distributions", "Curves",
                               "How it was computed"]
    assert log["failures"] == ["c00003 · Cu4 · relax: StructureError: <b>no</b> cell"]
    assert "3 structures; mean absolute error 8.3333 GPa" in log["parity"][0]  # 0, 10 and 20 beside 5
    assert (log["curves"], log["more"], log["broken"]) == (14, 26, 0)  # twelve at a time; the first has three drawings
    assert "fmax 0.0001" in log["origin"]
    assert "12ab" in log["origin"]
    assert "c00000 · Ni3Al" in log["details"]
    assert {"Γ", "X|K"} <= set(log["bands"])
    assert log["address"] == "#sort=id&filter=c00000&pick=c00000"


def test_clicks_and_filters_change_the_rows(tmp_path: Path) -> None:
    log = visit(write_report(rows(40), tmp_path / "report.html"), """
        log.address = ids();
        log.shown = texts("#count")[0];
        await type("");
        heading("eos.bulk_modulus").click();
        log.up = ids().slice(0, 3);
        log.last = ids().slice(-1);
        heading("eos.bulk_modulus").click();
        log.down = ids().slice(0, 3);
        log.downLast = ids().slice(-1);
        log.sorted = document.querySelector("th[aria-sort]").dataset.name;
        for (const [name, text] of [["elements", "has:Al"], ["range", "bulk_modulus=5..7"], ["failed", "is:failed"],
                                    ["flag", "stable=yes Cu4 energy>-4"], ["none", "has:Xe"]]) {
          await type(text);
          log[name] = ids();
        }
        await type("speed>3");
        log.complaint = texts("#complaint")[0];
        document.querySelector("#properties input[name=eos]").click();
        log.columns = [...document.querySelectorAll("th[data-name]")].map(th => th.dataset.name);
        location.hash = "#sort=-id&filter=c0001";
        await wait(200);
        log.again = ids();
        log.box = document.getElementById("filter").value;
    """, "#sort=-relax.energy&filter=has:Ni,Al")
    assert log["address"] == ["c00000", "c00010", "c00020", "c00030"]
    assert log["shown"] == "4 of 40 structures"
    assert log["up"] == ["c00000", "c00001", "c00002"]
    assert log["down"] == ["c00039", "c00038", "c00037"]
    assert log["last"] == log["downLast"] == ["c00003"]  # without a value: last in either order
    assert log["sorted"] == "eos.bulk_modulus"
    assert log["elements"] == ["c00030", "c00020", "c00010", "c00000"]
    assert log["range"] == ["c00007", "c00006", "c00005"]
    assert log["flag"] == ["c00006", "c00004", "c00002"]
    assert log["failed"] == ["c00003"]
    assert log["none"] == []
    assert log["complaint"] == "no column is called speed"
    assert log["columns"] == ["id", "formula", "atoms", "outcome", "relax.energy"]
    assert log["again"] == [f"c000{i}" for i in range(19, 9, -1)]
    assert log["box"] == "c0001"


def test_of_ten_thousand_rows_only_those_in_sight_exist(tmp_path: Path) -> None:
    log = visit(write_report(rows(10_000), tmp_path / "report.html"), """
        log.first = ids();
        const box = document.getElementById("table");
        box.scrollTop = box.scrollHeight;
        await wait(300);
        log.last = ids();
        heading("eos.bulk_modulus").click();
        heading("eos.bulk_modulus").click();
        box.scrollTop = 0;
        await wait(300);
        log.down = ids().slice(0, 2);
        await type("bulk_modulus>9997");
        log.filtered = ids();
        window.dispatchEvent(new Event("beforeprint"));
        await type("");
        window.dispatchEvent(new Event("beforeprint"));
        log.printed = ids().length;
    """)
    assert log["first"][0] == "c00000"
    assert log["last"][-1] == "c09999"
    assert 10 < len(log["first"]) < 100
    assert 10 < len(log["last"]) < 100
    assert log["down"] == ["c09999", "c09998"]
    assert log["filtered"] == ["c09999", "c09998"]
    assert log["printed"] == 500
