//! A passkey in a real browser: a virtual authenticator of Chromium makes it and signs with it.

use jit_client::controller::{
    call::Call,
    types::{Page, PasskeyView},
};
use jit_tests::{
    browser::{Browser, Driver},
    controller::{CLIENT, people::access},
};
use serde_json::{Value, json};

use super::{PASSWORD, sign_in};
use crate::{
    asked::{SCOPES, until},
    passkeys::{list, named},
};

/// Builds an authenticator into a browser, which keeps its keys and verifies its user. Returns its
/// id.
fn authenticator(browser: &Browser) -> Value {
    browser.devtools("WebAuthn.enable", json!({}));
    let options = json!({
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": true,
        "hasUserVerification": true, "isUserVerified": true, "automaticPresenceSimulation": true,
    });
    let answer =
        browser.devtools("WebAuthn.addVirtualAuthenticator", json!({ "options": options }));
    answer["authenticatorId"].clone()
}

#[test]
fn a_passkey_made_in_a_browser_signs_in_and_approves_what_the_host_itself_checks() {
    let mut stage = named();
    let number = stage.add_host("web-1", &[("env", "stage")]);
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let li = stage.person("li", "li@example.org", &["sre"], &SCOPES);
    let driver = Driver::start(&stage, &stage.client);
    let browser = driver.browser();
    let authenticator = authenticator(&browser);
    sign_in(&browser, &stage, &li);
    browser.open("/me");
    browser.fill("Name", "phone");
    browser.fill("Password of this account", PASSWORD);
    browser.press("Add it");
    browser.wait_for("never");
    browser.press("Sign out");
    browser.press("Sign in with a passkey");
    browser.wait_for("Sign out");

    stage.login(&stage.hub, &stage.admin);
    let made: Page<PasskeyView> = stage.admin.get(&Call::get(["accounts", "li", "passkeys"]));
    let [made] = &made.items[..] else { panic!("{made:?}") };
    list(&mut stage, number, "li", &made.key_id);
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    browser.open(&format!("/requests/{}", asked.id));
    browser.press("Agree");
    until(&ana, &asked.id, |view| view.state == "awaiting_signatures");
    assert!(!stage.client_opens(number, 22), "the controller's key alone");
    browser.open(&format!("/requests/{}", asked.id));
    browser.follow("Sign with a passkey");
    browser.wait_for("What is signed");
    // Somebody who has the phone, and not the finger.
    let verified = |is_verified: bool| {
        let parameters = json!({ "authenticatorId": authenticator, "isUserVerified": is_verified });
        browser.devtools("WebAuthn.setUserVerified", parameters);
    };
    verified(false);
    browser.press("Sign this with a passkey");
    browser.wait_for("No passkey was used");
    assert!(!stage.client_opens(number, 22));
    verified(true);
    browser.press("Sign this with a passkey");
    browser.wait_for("Signed.");
    assert_eq!(ana.settled(&asked.id).state, "open");
    assert!(stage.client_gets_in(number, 22), "{}", stage.host(number).log());
    assert!(!stage.stranger_opens(number, 22));
}
