//! The pages in a real browser, with real agents: what people press opens and ends what they see.

mod asked;
mod looks;
mod passkeys;
mod rollouts;

use jit_client::controller::call::Call;
use jit_tests::{
    browser::{Browser, Driver},
    controller::{Stage, people::Person},
};
use serde_json::json;

/// What people of these tests type to sign in.
const PASSWORD: &str = "four plain words here";

/// Gives somebody a password.
fn give_password(stage: &Stage, person: &Person) {
    let input = json!({ "password": PASSWORD });
    stage.admin.done(&Call::put(["accounts", person.account.as_str(), "password"]).json(&input));
}

/// A browser in which this person has signed in.
#[track_caller]
fn signed_in(driver: &Driver, stage: &Stage, person: &Person) -> Browser {
    let browser = driver.browser();
    sign_in(&browser, stage, person);
    browser
}

/// Signs a person in with a password.
#[track_caller]
fn sign_in(browser: &Browser, stage: &Stage, person: &Person) {
    give_password(stage, person);
    browser.open("/");
    browser.fill("Account", &person.account);
    browser.fill("Password", PASSWORD);
    browser.press("Sign in");
    browser.wait_for("Sign out");
}
