//! Who sees policies and rollouts: those to named hosts say what these protect.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jit_controller::{
    clock::now_ms,
    model::{
        Host,
        rollout::{HostState, RolloutState, Wave},
    },
    store::{DefenderHost, Policy, Rollout, defender, hosts, rollouts},
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Caller, Site};
use crate::{databases::Database, portal::Browser};

on_each_database! {
    what_is_brought_to_named_hosts_is_seen_by_who_sees_all_of_them,
    a_page_of_what_is_seen_is_full_and_the_next_goes_on,
    of_rollouts_that_begin_together_one_does,
    who_was_refused_waits_for_the_turn,
    what_is_brought_to_a_host_is_noted_once,
    a_rollout_that_goes_on_brings_nothing_older_over_something_newer,
    why_a_rollout_halted_is_hidden_where_more_hosts_are_bad_than_are_looked_at,
    a_rollout_to_named_hosts_is_not_what_the_editor_begins_with,
}

/// A policy that says a name, and a rollout of it; `bad`: the host because of which that halted.
async fn brought(site: &Site, name: &str, waves: &[&str], bad: Option<&str>) {
    let policy = Policy {
        id: format!("01KPEXAMP1E00000000000{name}"),
        text: format!("# the text of {name}\n"),
        author: "root@example.org".into(),
        justification: format!("because of {name}"),
        saved_ms: now_ms(),
    };
    let rollout = Rollout {
        id: policy.id.clone(),
        policy: policy.id.clone(),
        waves: waves.iter().map(|wave| wave.parse().unwrap()).collect::<Vec<Wave>>(),
        state: if bad.is_some() { RolloutState::Halted } else { RolloutState::Done },
        why: bad.map(|host| format!("{host} is refused: no")).unwrap_or_default(),
        wave: 0,
        wave_since_ms: now_ms(),
        confirm_s: 60,
        pause_ms: 0,
        created_by: "root@example.org".into(),
        created_ms: now_ms(),
    };
    let hosts: Vec<_> = bad.iter().map(|host| (*host).to_owned()).collect();
    let mut tx = site.store().begin().await.unwrap();
    rollouts::insert_policy(&mut tx, &policy).await.unwrap();
    if !waves.is_empty() {
        rollouts::insert(&mut tx, &rollout, &[hosts]).await.unwrap();
        let refused = HostState::Refused;
        rollouts::move_hosts(&mut tx, &rollout.id, &[HostState::Waiting], refused, now_ms())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// From now on people outside of `approvers` and `sre` see no host but web-1.
async fn narrow(site: &Site) {
    let text = jit_controller::rules::DEFAULT.replace(
        "permit (principal, action == Action::\"read\", resource);",
        "permit (principal, action == Action::\"read\", resource) \
         when { resource.hasTag(\"env\") && resource.getTag(\"env\") == \"test\" };",
    );
    assert_ne!(text, jit_controller::rules::DEFAULT);
    let root = site.caller("root").await;
    let save = root.request(Method::PUT, "/api/v1/rules").header("if-match", "\"1\"");
    Answer::of(save.json(&json!({ "text": text })).send().await.unwrap()).await.ok(200);
}

fn names(page: &Value) -> BTreeSet<String> {
    let items = page["items"].as_array().unwrap().iter();
    let name = |item: &Value| {
        let id = item["id"].as_str().unwrap();
        id.strip_prefix("01KPEXAMP1E00000000000").unwrap().to_owned()
    };
    items.map(name).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn what_is_brought_to_named_hosts_is_seen_by_who_sees_all_of_them(database: Database) {
    let site = Site::with_fleet(database).await;
    brought(&site, "DRAFT", &[], None).await;
    brought(&site, "EVERY", &["10%", "all"], Some("db-1")).await;
    brought(&site, "FIRST", &["hosts:db-1", "all"], None).await;
    brought(&site, "GONE0", &["hosts:web-9"], None).await;
    brought(&site, "BOTH0", &["hosts:db-1,web-1"], None).await;
    brought(&site, "OWN00", &["hosts:web-1"], Some("web-1")).await;
    narrow(&site).await;
    let all = ["BOTH0", "DRAFT", "EVERY", "FIRST", "GONE0", "OWN00"];
    let (policies, rollouts) = ("/api/v1/policies", "/api/v1/rollouts");
    let of = |name: &str| format!("01KPEXAMP1E00000000000{name}");
    let root = site.caller("root").await;
    assert_eq!(names(&root.get(policies).await.ok(200)), set(&all));
    // Li approves everywhere, and sees every host; one was removed, and is nobody's but an
    // administrator's.
    let li = site.caller("li").await;
    let seen = set(&["BOTH0", "DRAFT", "EVERY", "FIRST", "OWN00"]);
    assert_eq!(names(&li.get(policies).await.ok(200)), seen);

    let eve = site.caller("eve").await;
    assert_eq!(names(&eve.get(policies).await.ok(200)), set(&["DRAFT", "EVERY", "OWN00"]));
    let list = eve.get(rollouts).await.ok(200);
    assert_eq!(names(&list), set(&["EVERY", "OWN00"]));
    // It halted because of a host that she does not see.
    assert!(!list.to_string().contains("db-1"), "{list:#}");
    let own = eve.get(&format!("{rollouts}/{}", of("OWN00"))).await.ok(200);
    assert_eq!(own["why"], "web-1 is refused: no");
    for name in ["BOTH0", "FIRST", "GONE0"] {
        for path in [format!("{policies}/{}", of(name)), format!("{rollouts}/{}", of(name))] {
            eve.get(&path).await.problem(404, "not_found");
            root.get(&path).await.ok(200);
        }
        // Her own host does not say it either.
        let preview = format!("{policies}/{}/preview?host=web-1", of(name));
        eve.get(&preview).await.problem(404, "not_found");
    }

    let page = Browser::of(&site, "eve").await;
    for path in ["/policies".to_owned(), format!("/rollouts/{}", of("EVERY"))] {
        let text = page.get(&path).await.ok().text;
        assert!(!text.contains("db-1") && !text.contains("web-9"), "{path}: {text}");
        assert!(!text.contains("because of BOTH0"), "{path}: {text}");
    }
    assert!(page.get("/policies").await.ok().text.contains("because of OWN00"));
    // Whoever has the id of a hidden one does not learn that it moves either.
    assert_eq!(page.get(&format!("/live?rollout={}", of("FIRST"))).await.status, 404);
    for kind in ["policies", "rollouts"] {
        assert_eq!(page.get(&format!("/{kind}/{}", of("FIRST"))).await.status, 404);
    }
    // A policy is compared with the one that is out, if that is seen.
    brought(&site, "NEWER", &["hosts:db-1", "all"], None).await;
    let own = page.get(&format!("/policies/{}", of("OWN00"))).await.ok().text;
    assert!(own.contains("the text of OWN00") && !own.contains("the text of NEWER"), "{own}");
}

async fn a_rollout_to_named_hosts_is_not_what_the_editor_begins_with(database: Database) {
    let site = Site::with_fleet(database).await;
    let page = Browser::of(&site, "root").await;
    brought(&site, "ONE00", &["hosts:db-1"], None).await;
    let editor = page.get("/policies/new").await.ok().text;
    assert!(!editor.contains("the text of"), "{editor}");
    for (name, waves) in [("ALL00", &["hosts:db-1", "all"][..]), ("GROUP", &["group:web"][..])] {
        brought(&site, name, waves, None).await;
        brought(&site, &format!("Z{}", &name[..4]), &["hosts:db-1,web-1"], None).await;
        let editor = page.get("/policies/new").await.ok().text;
        assert!(editor.contains(&format!("the text of {name}")), "{editor}");
        let mut tx = site.store().begin().await.unwrap();
        let id = format!("01KPEXAMP1E00000000000{name}");
        let known = rollouts::lock(&mut tx, &id).await.unwrap().unwrap();
        let ended = Rollout { state: RolloutState::Aborted, ..known };
        rollouts::update(&mut tx, &ended).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn a_page_of_what_is_seen_is_full_and_the_next_goes_on(database: Database) {
    let site = Site::new(database).await;
    for number in 0..40 {
        let waves = if number % 4 == 0 { "all" } else { "hosts:db-1" };
        brought(&site, &format!("N{number:04}"), &[waves], None).await;
    }
    narrow(&site).await;
    let eve = site.caller("eve").await;
    for list in ["/api/v1/policies", "/api/v1/rollouts"] {
        let (mut seen, mut cursor, mut pages) = (BTreeSet::new(), String::new(), Vec::new());
        loop {
            let page = eve.get(&format!("{list}?limit=4&cursor={cursor}")).await.ok(200);
            let of_page = names(&page);
            pages.push(of_page.len());
            assert!(of_page.is_disjoint(&seen));
            seen.extend(of_page);
            match page["next"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!(seen.len(), 10, "{list}: {seen:?}");
        assert!(pages.starts_with(&[4, 4, 2]), "{list}: {pages:?}");
    }
}

/// A policy that can be brought to hosts.
async fn saved(root: &Caller<'_>) -> String {
    let text = "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n\
                max_duration = \"2h\"\n";
    let made = json!({ "text": text, "justification": "tests" });
    root.post("/api/v1/policies", made).await.ok(201)["id"].as_str().unwrap().to_owned()
}

async fn of_rollouts_that_begin_together_one_does(database: Database) {
    let site = Site::with_fleet(database).await;
    let root = site.caller("root").await;
    let policy = saved(&root).await;
    let begin = async || {
        let body = json!({ "policy": policy, "waves": ["all"] });
        root.post("/api/v1/rollouts", body).await
    };
    let answers = join_all((0..12).map(|_| begin())).await;
    let begun = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((begun, refused), (1, 11));
    let list = root.get("/api/v1/rollouts").await.ok(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list:#}");
}

async fn who_was_refused_waits_for_the_turn(database: Database) {
    let site = Site::with_fleet(database).await;
    let root = site.caller("root").await;
    let waiting = async || site.store().rollout_waiting_ms().await.unwrap();
    let body = json!({ "policy": saved(&root).await, "waves": ["all"] });
    let act = async |id: &str, what: &str| {
        root.post(&format!("/api/v1/rollouts/{id}/{what}"), json!({})).await
    };
    let begin = async || {
        let begun = root.post("/api/v1/rollouts", body.clone()).await.ok(201);
        begun["id"].as_str().unwrap().to_owned()
    };
    let first = begin().await;
    act(&first, "halt").await.ok(200);
    assert_eq!(waiting().await, 0);
    let second = begin().await;
    // Two would overtake each other at the same hosts.
    let before = now_ms();
    let problem = act(&first, "resume").await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains(&second), "{problem}");
    assert!(waiting().await >= before);
    act(&second, "abort").await.ok(200);
    act(&first, "resume").await.ok(200);
    assert_eq!(waiting().await, 0);
    root.post("/api/v1/rollouts", body.clone()).await.problem(409, "conflict");
    assert!(waiting().await >= before);
    act(&first, "abort").await.ok(200);
    begin().await;
    assert_eq!(waiting().await, 0);
}

/// A rollout with hosts in these states.
async fn rolled(
    site: &Site,
    name: &str,
    why: &str,
    state: RolloutState,
    hosts: &[(&str, HostState)],
) -> Rollout {
    let policy = Policy {
        id: format!("01KPEXAMP1E00000000000{name}"),
        text: "[[port]]\nport = 22\nprotocol = \"tcp\"\n".into(),
        author: "root@example.org".into(),
        justification: why.into(),
        saved_ms: now_ms(),
    };
    let ids: BTreeSet<String> = hosts.iter().map(|(host, _)| (*host).to_owned()).collect();
    let rollout = Rollout {
        id: policy.id.clone(),
        policy: policy.id.clone(),
        waves: vec![Wave::Hosts(ids.clone())],
        state,
        why: String::new(),
        wave: 0,
        wave_since_ms: now_ms(),
        confirm_s: 60,
        pause_ms: 0,
        created_by: "root@example.org".into(),
        created_ms: now_ms(),
    };
    let mut tx = site.store().begin().await.unwrap();
    rollouts::insert_policy(&mut tx, &policy).await.unwrap();
    rollouts::insert(&mut tx, &rollout, &[ids.into_iter().collect()]).await.unwrap();
    tx.commit().await.unwrap();
    for mut one in site.store().rollout_hosts(&rollout.id, "", 1000).await.unwrap() {
        one.state = hosts.iter().find(|(host, _)| *host == one.host).unwrap().1;
        let mut tx = site.store().begin().await.unwrap();
        rollouts::update_host(&mut tx, &one).await.unwrap();
        tx.commit().await.unwrap();
    }
    rollout
}

async fn a_rollout_that_goes_on_brings_nothing_older_over_something_newer(database: Database) {
    use HostState::{Applied, Refused, Skipped, Waiting};
    let site = Site::with_fleet(database).await;
    let root = site.caller("root").await;
    let act = async |id: &str, what: &str| {
        root.post(&format!("/api/v1/rollouts/{id}/{what}"), json!({})).await
    };
    let states = async |rollout: &Rollout| {
        let hosts = site.store().rollout_hosts(&rollout.id, "", 10).await.unwrap();
        hosts.into_iter().map(|host| (host.host, host.state)).collect::<Vec<_>>()
    };
    let both = ["db-1".to_owned(), "web-1".to_owned()];
    let bring = async |rollout: &Rollout, again: bool| {
        let mut tx = site.store().begin().await.unwrap();
        for (host, _) in states(rollout).await {
            let author = "ana@example.org";
            defender::want(&mut tx, &host, &[], author, "Defender: x", again).await.unwrap();
        }
        tx.commit().await.unwrap();
        for (host, _) in site.store().defender_hosts(&both).await.unwrap().into_values() {
            let host = DefenderHost { rollout: rollout.id.clone(), ..host };
            let mut tx = site.store().begin().await.unwrap();
            assert!(defender::bring(&mut tx, &host).await.unwrap());
            tx.commit().await.unwrap();
        }
    };
    // db-1 halted it; the other one has left it, and something newer came to both.
    let halted = [("db-1", Refused), ("web-1", Waiting)];
    let first = rolled(&site, "DEF01", "Defender: x", RolloutState::Halted, &halted).await;
    bring(&first, false).await;
    site.store().defender_hosts_again(now_ms()).await.unwrap();
    let left = [("db-1".to_owned(), Refused), ("web-1".to_owned(), Skipped)];
    assert_eq!(states(&first).await, left);
    let wanted = site.store().defender_hosts(&both).await.unwrap();
    let brings = both.iter().map(|host| &wanted[host].0.rollout[..]);
    assert_eq!(brings.collect::<Vec<_>>(), [&first.id[..], ""]);
    let newer = [("db-1", Refused), ("web-1", Applied)];
    let second = rolled(&site, "DEF02", "Defender: x", RolloutState::Done, &newer).await;
    bring(&second, true).await;
    let problem = act(&first.id, "resume").await.problem(409, "conflict");
    assert!(problem["detail"].as_str().unwrap().contains("nothing left to bring"), "{problem}");
    assert_eq!(states(&first).await, left);
    act(&first.id, "abort").await.ok(200);

    // An administrator's goes on where no newer one has been.
    let halted = [("db-1", Refused), ("web-1", Refused)];
    let third = rolled(&site, "ADM03", "CHG-1", RolloutState::Halted, &halted).await;
    rolled(&site, "ADM04", "CHG-2", RolloutState::Done, &[("web-1", Applied)]).await;
    rolled(&site, "ADM05", "CHG-3", RolloutState::Aborted, &[("db-1", Skipped)]).await;
    act(&third.id, "resume").await.ok(200);
    let [db, web] = &states(&third).await[..] else { panic!("two hosts") };
    assert_eq!(web.1, Skipped);
    assert_ne!(db.1, Skipped);
}

async fn why_a_rollout_halted_is_hidden_where_more_hosts_are_bad_than_are_looked_at(
    database: Database,
) {
    let site = Site::new(database).await;
    let mut tx = site.store().begin().await.unwrap();
    let ids: Vec<_> = (0..101).map(|number| format!("n-{number:03}")).collect();
    for id in &ids {
        let labels = [("env".to_owned(), "test".to_owned())].into();
        let host =
            Host { id: id.clone(), address: "192.0.2.7:1".into(), labels, ..Host::default() };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    tx.commit().await.unwrap();
    narrow(&site).await;
    let eve = site.caller("eve").await;
    for (name, count, is_shown) in [("FEW00", 99, true), ("MANY0", 101, false)] {
        let bad: Vec<_> = ids.iter().take(count).map(|id| (&id[..], HostState::Silent)).collect();
        let mut rollout = rolled(&site, name, "CHG-1", RolloutState::Halted, &bad).await;
        rollout.why = "n-100 is silent: no answer".into();
        let mut tx = site.store().begin().await.unwrap();
        rollouts::update(&mut tx, &rollout).await.unwrap();
        tx.commit().await.unwrap();
        let shown = eve.get(&format!("/api/v1/rollouts/{}", rollout.id)).await.ok(200);
        assert_eq!(shown["why"].as_str().unwrap().contains("n-100"), is_shown, "{shown}");
    }
}

async fn what_is_brought_to_a_host_is_noted_once(database: Database) {
    let site = Site::new(database).await;
    let mut tx = site.store().begin().await.unwrap();
    for host in ["db-1", "web-1", "web-2"] {
        defender::want(&mut tx, host, &[], "ana@example.org", "tests", false).await.unwrap();
    }
    tx.commit().await.unwrap();
    let of = async |after: &str, most: u32| {
        let found = site.store().defender_hosts_waiting(after, most).await.unwrap();
        found.into_iter().map(|host| host.host).collect::<Vec<_>>()
    };
    assert_eq!(of("", 2).await, ["db-1", "web-1"]);
    assert_eq!(of("web-1", 2).await, ["web-2"]);
    // Two processes have read the same; the second one asks the host when the first has brought it.
    let one = site.store().defender_hosts_waiting("", 1).await.unwrap().remove(0);
    let first = DefenderHost { brought: "# a".into(), rollout: "R1".into(), ..one.clone() };
    let second = DefenderHost { replaced: "# a".into(), rollout: "R2".into(), ..one };
    for (of, is_noted) in [(&first, true), (&second, false), (&first, false)] {
        let mut tx = site.store().begin().await.unwrap();
        assert_eq!(defender::bring(&mut tx, of).await.unwrap(), is_noted);
        tx.commit().await.unwrap();
    }
    let kept = site.store().defender_hosts(&["db-1".into()]).await.unwrap();
    let kept = &kept["db-1"].0;
    assert_eq!((kept.rollout.as_str(), kept.replaced.as_str()), ("R1", ""));
}
