//! How each page looks and weighs: nothing sticks out, no serious fault for people who use a
//! keyboard or a screen reader, no more bytes than a phone loads at once.

use std::{env, fs, path::PathBuf};

use jit_tests::{
    browser::{Browser, Driver, Scheme},
    controller::{CLIENT, people::access},
};
use serde_json::{Value, json};

use super::signed_in;

/// The widths that pages are looked at with, and a height: a small phone, a laptop, 4K.
const SIZES: [(u32, u32); 3] = [(360, 740), (1280, 800), (3840, 2160)];
/// The most that a page and its files weigh without a cache, bytes.
const MOST: u64 = 60 * 1024;

#[test]
fn every_page_is_legible_light_and_usable_without_a_mouse() {
    let (stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
    let driver = Driver::start(&stage, &stage.client);
    let nobody = driver.browser();
    looks(&nobody, "sign-in", "/sign-in");
    let ana = signed_in(&driver, &stage, &ana);
    let li = signed_in(&driver, &stage, &li);
    let admin = signed_in(&driver, &stage, &stage.admin);
    let request = format!("/requests/{}", asked.id);
    for (browser, name, path) in [
        (&ana, "find", "/"),
        (&ana, "found", "/?q=web"),
        (&ana, "ask", "/open?host=web-1"),
        (&ana, "requests", "/requests"),
        (&ana, "request", request.as_str()),
        (&ana, "me", "/me"),
        (&li, "decide", "/requests?which=decide"),
        (&li, "decision", request.as_str()),
        (&li, "not-found", "/nothing"),
        (&admin, "password", "/me/password"),
        (&admin, "hosts", "/hosts"),
        (&admin, "host", "/host/web-1"),
        (&admin, "policies", "/policies"),
        (&admin, "policy", "/policies/new"),
        (&admin, "rules", "/rules"),
        (&admin, "rules-history", "/rules/history"),
        (&admin, "audit", "/audit"),
        (&admin, "record", "/audit/1"),
        (&admin, "access", "/access"),
        (&admin, "closings", "/closings"),
        (&admin, "enrolments", "/enrolments"),
        (&admin, "health", "/health"),
    ] {
        looks(browser, name, path);
    }
    // What looks for faults finds one.
    ana.script("document.querySelector('main').append(new Image()); return 0;");
    let found = faults(&ana);
    assert!(found.len() == 1 && found[0].contains("image-alt"), "{found:?}");
}

/// Looks at a page in each size and colour, and leaves pictures in the directory that `JIT_TEST_PICTURES`
/// names: they are for people, and take half of the time.
fn looks(browser: &Browser, name: &str, path: &str) {
    let bytes = weight(browser, path);
    assert!(bytes > 0 && bytes <= MOST, "{name}: {bytes} bytes");
    println!("{name}: {bytes} bytes");
    for (width, height) in SIZES {
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.look(width, height, scheme);
            browser.open(path);
            let at = format!("{name} at {width}, {scheme:?}");
            let wide = browser.script("return document.documentElement.scrollWidth;");
            assert!(wide.as_u64().is_some_and(|wide| wide <= width.into()), "{at}: {wide} wide");
            let faults = faults(browser);
            assert!(faults.is_empty(), "{at}:\n{}", faults.join("\n"));
            if let Some(directory) = env::var_os("JIT_TEST_PICTURES").map(PathBuf::from) {
                fs::create_dir_all(&directory).unwrap();
                let file = directory.join(format!("{name}-{width}-{scheme:?}.png").to_lowercase());
                fs::write(file, browser.picture()).unwrap();
            }
        }
    }
}

/// What comes over the network for a page and its files, bytes.
fn weight(browser: &Browser, path: &str) -> u64 {
    browser.devtools("Network.enable", json!({}));
    browser.devtools("Network.clearBrowserCache", json!({}));
    browser.open(path);
    let sizes = browser.script(
        "return performance.getEntries().filter(one => 'transferSize' in one)\
         .map(one => one.transferSize);",
    );
    sizes.as_array().unwrap().iter().filter_map(Value::as_u64).sum()
}

/// What axe-core calls serious or critical (WCAG 2.2 A and AA).
fn faults(browser: &Browser) -> Vec<String> {
    browser.script(&fs::read_to_string(axe()).unwrap());
    let found = browser.script_with_answer(
        "const done = arguments[arguments.length - 1]; axe.run().then(done, why => done(String(why)));",
    );
    let violations = found["violations"].as_array().unwrap_or_else(|| panic!("{found}"));
    let serious = violations.iter().filter(|one| {
        one["impact"].as_str().is_none_or(|impact| ["serious", "critical"].contains(&impact))
    });
    let fault = |one: &Value| format!("{}: {}\n  {}", one["id"], one["help"], one["nodes"]);
    serious.map(fault).collect()
}

/// The program that finds faults, among the packages of tests/node: those that JIT_NODE_MODULES
/// names, or those that `cargo xtask setup` installed.
fn axe() -> PathBuf {
    let program = env::current_exe().unwrap();
    let modules = env::var_os("JIT_NODE_MODULES").map(PathBuf::from);
    let modules =
        modules.unwrap_or_else(|| program.ancestors().nth(3).unwrap().join("node/node_modules"));
    let axe = modules.join("axe-core/axe.min.js");
    assert!(axe.exists(), "{} is missing: run `cargo xtask setup`", axe.display());
    axe
}
