//! A request from the first field to its end, by two people in two browsers.

use std::time::{Duration, Instant};

use jit_client::controller::types::NewRequest;
use jit_tests::{
    browser::{Browser, Driver, ENTER},
    controller::{CLIENT, Stage, people::access},
};

use super::signed_in;

/// Longest time for what a bench measures: this only ends a wait for what does not come.
const LONG: Duration = Duration::from_secs(60);

/// Waits until the client's port 22 is open, or closed.
pub(super) fn until(stage: &Stage, open: bool) {
    let began = Instant::now();
    while stage.client_opens(0, 22) != open {
        assert!(began.elapsed() < LONG, "port 22 is not {}", if open { "open" } else { "closed" });
    }
}

/// What a page loses when it is loaded again.
pub(super) const MARK: &str = "window.stays = 'it was not loaded again'; return 0;";

pub(super) fn assert_not_loaded_again(browser: &Browser) {
    let mark = browser.script("return window.stays;");
    assert_eq!(mark, "it was not loaded again");
}

#[test]
fn what_one_asks_for_and_another_agrees_to_opens_and_both_pages_show_it() {
    let (stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    let asks = Driver::start(&stage, &stage.client);
    let decides = Driver::start(&stage, &stage.hub);
    let ana = signed_in(&asks, &stage, &ana);
    let li = signed_in(&decides, &stage, &li);

    // Three fields: the host, the port, the reason. Then one click. The address is found, and who
    // must agree is shown before.
    ana.open("/");
    ana.fill("Which host?", "web");
    ana.follow("web-1");
    ana.tick("22");
    assert!(ana.text().contains(CLIENT), "{}", ana.text());
    ana.wait_for("must agree");
    ana.wait_for("Who can: li@example.org");
    ana.fill("Why", "disk full");
    ana.press("Ask for it");
    ana.wait_for("waits");
    ana.script(MARK);
    assert!(!stage.client_opens(0, 22));

    li.open("/");
    li.follow("Decide");
    li.wait_for("disk full");
    li.follow("22/tcp on web-1");
    li.wait_for("What will be signed");
    li.script(MARK);
    let clicked = Instant::now();
    li.press("Agree");
    until(&stage, true);
    println!("open {:?} after the click", clicked.elapsed());
    println!("shown to who asked {:?} later", ana.wait_for("left"));
    assert_not_loaded_again(&ana);
    li.wait_for("left");

    let clicked = Instant::now();
    ana.press("End it now");
    until(&stage, false);
    println!("closed {:?} after the click", clicked.elapsed());
    ana.wait_for("ended");
    println!("shown to who agreed {:?} later", li.wait_for("ended"));
}

/// With the keyboard alone, and without a script, it is the same.
#[test]
fn a_request_is_made_decided_and_ended_by_keyboard_and_without_a_script() {
    let (stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    let driver = Driver::start(&stage, &stage.client);
    let ana = signed_in(&driver, &stage, &ana);
    let li = signed_in(&driver, &stage, &li);
    for browser in [&ana, &li] {
        browser.without_scripts();
    }
    ana.open("/");
    // The search has the focus; its key sends it.
    ana.keys("web");
    ana.keys(ENTER);
    ana.follow("web-1");
    ana.tab_to("22");
    ana.keys(" ");
    ana.tab_to("Why");
    ana.keys("disk full");
    ana.tab_to("Ask for it");
    ana.keys(ENTER);
    ana.wait_for("waits for agreement");

    li.open("/requests?which=decide");
    li.tab_to("22/tcp on web-1");
    li.keys(ENTER);
    li.wait_for("What will be signed");
    li.tab_to("Agree");
    li.keys(ENTER);
    until(&stage, true);
    ana.follow("Look again");
    ana.wait_for("left");
    ana.press("End it now");
    until(&stage, false);
    li.follow("Look again");
    li.wait_for("ended");
}

/// What people type is text on every page, whoever reads it.
#[test]
fn what_somebody_typed_runs_nowhere() {
    let (stage, ana, li) = crate::asked::stage(None, &["web-1"], "stage");
    let driver = Driver::start(&stage, &stage.client);
    let hostile = "<img src=x onerror=window.hit=1><script>window.hit=2</script>'\"--></title>";
    let request = ana.ask(&NewRequest {
        reason: hostile.into(),
        ticket: hostile.into(),
        ..access(&["web-1"], CLIENT, "30m")
    });
    let pages = [
        "/requests?which=all".to_owned(),
        "/requests?which=decide".into(),
        format!("/requests/{}", request.id),
        format!("/?q={}", "%3Cscript%3Ewindow.hit=3%3C/script%3E"),
        format!("/sign-in?next={}", "/%22%3E%3Cscript%3Ewindow.hit=4%3C/script%3E"),
    ];
    let li = signed_in(&driver, &stage, &li);
    for path in &pages {
        li.open(path);
        let hit =
            li.script("return [window.hit || 0, document.querySelectorAll('main img').length];");
        assert_eq!(hit, serde_json::json!([0, 0]), "{path}");
    }
    li.open(&pages[2]);
    assert!(li.text().contains(hostile), "{}", li.text());
}
