//! Each page: what it takes to be answered, and what a browser loads for it that has nothing
//! cached.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jit_tests::{controller::Stage, figures::size};

use super::{
    browser::{Browser, Came},
    crowd::Crowd,
};
use crate::{at_99, millis, report};

/// A page.
struct Page {
    row: &'static str,
    path: String,
    /// The fields of the form that it answers to; empty: it is read.
    form: Vec<(&'static str, String)>,
    /// A text that it must have: an empty list would be quick.
    has: String,
    /// Only auditors and administrators see it.
    is_for_few: bool,
}

fn page(row: &'static str, path: impl Into<String>, has: impl Into<String>) -> Page {
    Page { row, path: path.into(), form: Vec::new(), has: has.into(), is_for_few: false }
}

fn few(page: Page) -> Page {
    Page { is_for_few: true, ..page }
}

fn pages(crowd: &Crowd) -> Vec<Page> {
    let Crowd { host, open, pending, policy, rollout, moment } = crowd;
    let field = |name, text: &str| (name, text.to_owned());
    let wish = vec![
        field("host", host),
        field("port", "22"),
        field("source", "203.0.113.7"),
        field("duration", "1h"),
        field("reason", "disk full"),
    ];
    let case = vec![
        field("case.host", host),
        field("case.port", "22"),
        field("case.source", "203.0.113.7"),
        field("case.duration", "1h"),
    ];
    vec![
        page("Open", "/", "host-00000.example.org"),
        page("Open, a search", "/?q=00017", "host-00017.example.org"),
        page("Open, a search by label", "/?q=env%3Dtest", "host-00001.example.org"),
        page("Open, a search in vain", "/hosts/found?q=no-such-name", "No host"),
        page("Open, the form for a host", format!("/open?host={host}"), "3389/tcp"),
        Page { form: wish, ..page("Open, what would be signed", "/open/preview", "disk full") },
        page("Requests", "/requests?which=all", "host-"),
        page("Requests in a state", "/requests?which=all&state=ended", "host-"),
        page("Requests, own", "/requests", "the disk of"),
        page("one request", format!("/requests/{open}"), "203.0.113.7"),
        page("Decide", "/requests?which=decide", "host-"),
        page("Decide, one", format!("/requests/{pending}"), "value=\"approve\""),
        page("Hosts", "/hosts", "host-"),
        page("Hosts, a search", "/hosts?q=env%3Dtest", "host-"),
        page("Hosts, a search in vain", "/hosts?q=no-such-name", "Hosts"),
        page("one host", format!("/host/{host}"), "person-"),
        page("Policies", "/policies", "change 49"),
        page("one policy", format!("/policies/{policy}"), "5985"),
        page("one rollout", format!("/rollouts/{rollout}"), "a host refused it"),
        page("Rules", "/rules", "prod-is-never-automatic"),
        Page { form: case, ..page("Rules, a case", "/rules/try", "id=\"tried\"") },
        page("Audit of a request", format!("/audit?request={open}"), "data-label=\"By\">person-"),
        few(page("Audit", "/audit", "host-")),
        few(page("Audit, a person", "/audit?who=person-07%40example.org", "person-07")),
        few(page("Audit, a person in vain", "/audit?who=nobody%40example.org", "Audit")),
        few(page("Audit, who could get in", format!("/access?at={moment}"), "the host opened it")),
        few(page("Health", "/health", "hosts")),
        page("own account", "/me", "form_key"),
        page("sign-in", "/sign-in", "name=\"password\""),
    ]
}

/// All pages, of an administrator and of somebody for whom the rules are asked.
pub(super) fn measure(stage: &Stage, crowd: &Crowd) {
    // Both have asked for much themselves.
    for (account, subject, groups) in [
        ("admin", "person-08@example.org", &["admins", "sre"][..]),
        ("person-07", "person-07@example.org", &["sre"]),
    ] {
        stage.admin.put_account(account, subject, groups, false);
    }
    for (who, account) in [("", "admin"), (", by rules", "person-07")] {
        let (browser, _) = Browser::sign_in(stage, account);
        let is_admin = account == "admin";
        for page in pages(crowd).iter().filter(|page| is_admin || !page.is_for_few) {
            let row = format!("{}{who}", page.row);
            let (times, weight) = browser.calls(async |browser| look(browser, page).await);
            let all = times.iter().copied().map(millis).collect();
            report("pages", &row, ("ms", false), all);
            let number = times.len();
            report("pages", &format!("{row}, p99 of {number}"), ("ms", false), vec![at_99(times)]);
            let kibibytes = f64::from(u32::try_from(weight).unwrap()) / 1024.0;
            report("page loads", &row, ("KiB", false), vec![kibibytes]);
        }
    }
}

/// What a page took each time but the first, and how much it and its files weigh.
async fn look(browser: &Browser, page: &Page) -> (Vec<Duration>, usize) {
    let key = browser.get("/me").await.field("form_key");
    let form = page.form.iter().map(|(name, text)| (*name, text.as_str()));
    let form: Vec<_> = form.chain([("form_key", key.as_str())]).collect();
    let mut times = Vec::new();
    loop {
        let began = Instant::now();
        let came = if page.form.is_empty() {
            browser.get(&page.path).await
        } else {
            browser.post(&page.path, &form).await
        };
        times.push(began.elapsed());
        let Page { path, has, .. } = page;
        assert_eq!(came.status, 200, "{path}: {}", came.text);
        assert!(came.text.contains(has.as_str()), "{path} without {has:?}: {}", came.text);
        if times.len() > size(100, 2) {
            let weight = came.bytes + files(browser, &came).await;
            return (times.split_off(1), weight);
        }
    }
}

/// Bytes of all files that a browser loads for a page.
async fn files(browser: &Browser, page: &Came) -> usize {
    let mut bytes = 0;
    let (mut known, mut wanted) = (BTreeSet::new(), named(&page.text));
    while let Some(path) = wanted.pop_first() {
        let came = browser.get(&path).await;
        assert_eq!(came.status, 200, "{path}");
        bytes += came.bytes;
        if path.contains(".css") {
            wanted.extend(came.text.split("url(").skip(1).map(|rest| {
                let path = rest.split(')').next().unwrap_or_default();
                path.trim_matches(['"', '\'']).to_owned()
            }));
        }
        known.insert(path);
        wanted.retain(|path| !known.contains(path));
    }
    assert!(!known.is_empty() || !page.text.contains("<html"), "a page has a style");
    bytes
}

/// The files that a page names: what a browser loads without a click.
fn named(text: &str) -> BTreeSet<String> {
    let tags = text.split('<').filter_map(|tag| {
        let (tag, attribute) = match tag.split_whitespace().next()? {
            "link" => (tag, "href=\""),
            _ => (tag, " src=\""),
        };
        let (_, rest) = tag.split_once(attribute)?;
        Some(rest.split('"').next()?.to_owned())
    });
    tags.collect()
}
