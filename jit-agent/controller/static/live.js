// Keeps a page up to date: reads it again when the controller says that it has changed, and lets the time
// left run. Without it the link "Look again" does the same.
(function () {
  "use strict";
  var shown = document.querySelector("[data-live]");
  if (!shown || !window.EventSource) { return; }
  var busy = false, again = false;

  function typing(part) {
    return Array.prototype.some.call(part.querySelectorAll("input:not([type=hidden]),textarea,select"),
      function (field) { return field === document.activeElement || (field.value !== field.defaultValue && field.tagName !== "SELECT"); });
  }
  function put(page, id) {
    var old = document.getElementById(id), part = page.getElementById(id);
    if (old && part && !typing(old)) { old.replaceWith(document.importNode(part, true)); }
  }
  function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    fetch(location.href, { headers: { "x-page-refresh": "1" }, credentials: "same-origin" }).then(function (answer) {
      if (answer.redirected || !answer.ok) { location.reload(); return null; }
      return answer.text();
    }).then(function (text) {
      if (text === null) { return; }
      var page = new DOMParser().parseFromString(text, "text/html");
      put(page, "live");
      put(page, "asked");
      put(page, "acts");
      var state = document.getElementById("state"), said = document.getElementById("said");
      if (said) { said.textContent = state ? state.textContent : "The list has changed"; }
      if (page.title) { document.title = page.title; }
    }).catch(function () { return null; }).then(function () {
      busy = false;
      if (again) { again = false; refresh(); }
    });
  }
  function tick() {
    Array.prototype.forEach.call(document.querySelectorAll("[data-ends]"), function (field) {
      var left = Math.max(0, Math.floor((Number(field.dataset.ends) - Date.now()) / 1000));
      var hours = Math.floor(left / 3600), minutes = Math.floor(left / 60) % 60, seconds = left % 60;
      var two = function (number) { return (number < 10 ? "0" : "") + number; };
      field.textContent = hours ? hours + "h" + two(minutes) + "m" : minutes ? minutes + "m" + two(seconds) + "s" : seconds + "s";
    });
  }
  var stream = new EventSource(shown.dataset.live);
  stream.addEventListener("changed", refresh);
  stream.addEventListener("end", function () { stream.close(); location.reload(); });
  // A broken stream comes back by itself, and says if the page is old by then. A refused one does not.
  stream.addEventListener("error", function () {
    if (stream.readyState === EventSource.CLOSED) { setInterval(refresh, 15000); }
  });
  setInterval(tick, 1000);
}());
