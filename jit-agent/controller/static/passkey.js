// Lets a passkey do what a form needs, and then sends the form. The form names where to ask for what is
// needed: a list of steps, each with the field that its result goes into.
(function () {
  "use strict";
  if (!window.PublicKeyCredential) { return; }

  function bytes(text) {
    var plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
    return Uint8Array.from(plain, function (letter) { return letter.charCodeAt(0); });
  }
  function text(buffer) {
    var plain = "";
    new Uint8Array(buffer).forEach(function (byte) { plain += String.fromCharCode(byte); });
    return btoa(plain).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  }
  function listed(list) {
    return (list || []).map(function (one) { return Object.assign({}, one, { id: bytes(one.id) }); });
  }
  function asked(options) {
    var all = Object.assign({}, options, { challenge: bytes(options.challenge) });
    if (all.user) { all.user = Object.assign({}, all.user, { id: bytes(all.user.id) }); }
    if (all.excludeCredentials) { all.excludeCredentials = listed(all.excludeCredentials); }
    if (all.allowCredentials) { all.allowCredentials = listed(all.allowCredentials); }
    return { publicKey: all };
  }
  function written(made) {
    var response = {};
    ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"].forEach(function (name) {
      if (made.response[name]) { response[name] = text(made.response[name]); }
    });
    if (made.response.getTransports) { response.transports = made.response.getTransports(); }
    return JSON.stringify({ id: made.id, type: made.type, response: response });
  }
  function step(form, one) {
    var made = one.create ? navigator.credentials.create(asked(one.create)) : navigator.credentials.get(asked(one.get));
    return made.then(function (credential) {
      var field = form.elements.namedItem(one.field) || form.appendChild(document.createElement("input"));
      field.type = "hidden";
      field.name = one.field;
      field.value = written(credential);
    });
  }
  function steps(form) {
    var body = new URLSearchParams(new FormData(form));
    return fetch(form.dataset.passkey, { method: "POST", body: body, credentials: "same-origin" }).then(function (answer) {
      if (answer.redirected) { location.reload(); return new Promise(function () {}); }
      if (answer.ok) { return answer.json(); }
      return answer.text().then(function (page) {
        var said = new DOMParser().parseFromString(page, "text/html").querySelector("[role=alert]");
        throw new Error(said ? said.textContent : "the controller refused it");
      });
    }).then(function (all) {
      return all.reduce(function (before, one) { return before.then(function () { return step(form, one); }); }, Promise.resolve());
    });
  }
  function say(form, why) {
    var said = form.querySelector("[role=alert]");
    var cancelled = why.name === "NotAllowedError";
    said.textContent = cancelled ? "No passkey was used: it was cancelled, took too long, or none fits." : why.message;
    said.hidden = false;
  }
  Array.prototype.forEach.call(document.querySelectorAll("form[data-passkey]"), function (form) {
    form.hidden = false;
    form.addEventListener("submit", function (event) {
      event.preventDefault();
      event.stopImmediatePropagation();
      var button = form.querySelector("button");
      Array.prototype.forEach.call(form.querySelectorAll("[data-copy]"), function (field) {
        field.value = document.getElementById(field.dataset.copy).value;
      });
      button.disabled = true;
      steps(form).then(function () { form.submit(); }, function (why) { say(form, why); }).then(function () {
        button.disabled = false;
      });
    });
  });
}());
