// Progress, agreement and undecided photos, as tables. Everything is shown as text, never as markup.

const $ = id => document.getElementById(id);
const percent = share => `${Math.round(100 * share)} %`;
const STATES = ["labelled", "open", "disputed", "undecided", "unclear", "elsewhere"];

function fill(id, rows) {
  $(id).tBodies[0].replaceChildren(...rows.map(cells => {
    const row = document.createElement("tr");
    row.append(...cells.map(text => {
      const cell = document.createElement("td");
      cell.textContent = text;
      return cell;
    }));
    return row;
  }));
}

export function showProgress(found) {
  const sum = state => found.days.reduce((total, day) => total + day[state], 0);
  const all = STATES.reduce((total, state) => total + sum(state), 0);
  const open = sum("open") + sum("disputed");
  $("bar").max = Math.max(all, 1);
  $("bar").value = all - open;
  $("left").textContent = `${found.mine} by you today · ${found.left} left for you · ${open} of ${all} open`;
  fill("days", found.days.map(day => [day.day, ...STATES.map(state => day[state] || "–")]));
  fill("pairs", found.pairs.map(pair => [
    `${pair.one} and ${pair.other}`, pair.photos, percent(pair.share), pair.kappa === null ? "–" : pair.kappa.toFixed(2),
  ]));
  $("pairs").hidden = !found.pairs.length;
  $("no-pairs").hidden = found.pairs.length > 0;
  fill("undecided", found.undecided.map(one => [
    one.image_id, one.day, Object.entries(one.said).map(([who, label]) => `${who}: ${label ?? "cannot tell"}`).join(", "),
  ]));
  $("undecided-part").hidden = !found.undecided.length;
  $("progress").hidden = false;
  return open;
}
