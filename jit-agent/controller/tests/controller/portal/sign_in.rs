//! Who gets in, and for how long.

use std::time::{Duration, Instant};

use jit_controller::{
    clock::now_ms,
    model::Account,
    people::session,
    store::{Session, accounts, people},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Browser, PASSWORD, set_password};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_person_signs_in_and_out,
    every_refusal_looks_the_same,
    a_session_ends_by_time_and_with_its_account,
    a_sign_in_takes_no_secret_from_outside,
    guessing_is_slowed_down_and_recorded,
    a_person_sets_another_password_with_the_old_one,
}

async fn a_person_signs_in_and_out(database: Database) {
    let site = Site::new(database).await;
    let anybody = Browser::new(&site);
    assert_eq!(anybody.get("/me").await.goes_to(), "/sign-in?next=%2Fme");
    let page = anybody.get("/sign-in?next=%2Fme").await.ok();
    assert_eq!(page.field("next"), "/me");

    let ana = Browser::of(&site, "ana").await;
    let page = ana.get("/me").await.ok();
    assert!(page.text.contains("ana@example.org") && page.text.contains("sre"), "{}", page.text);
    let cookie = ana.cookie();
    assert_eq!(ana.post("/sign-out", &[]).await.goes_to(), "/sign-in");
    assert!(ana.cookie().is_empty());
    ana.set_cookie(&cookie);
    assert!(!ana.is_in().await, "the session has ended, not only the cookie");

    let root = site.caller("root").await;
    let audit = root.get("/api/v1/audit?limit=100").await.ok(200);
    let of =
        |event: &str| audit["items"].as_array().unwrap().iter().find(|one| one["event"] == event);
    assert_eq!(of("signed_in").unwrap()["by"], "ana@example.org");
    assert_eq!(of("signed_out").unwrap()["by"], "ana@example.org");
    assert!(!audit.to_string().contains(cookie.split_once('=').unwrap().1));
}

async fn every_refusal_looks_the_same(database: Database) {
    let site = Site::new(database).await;
    for account in ["ana", "bo"] {
        set_password(&site, account).await;
    }
    disable(&site, "bo").await;
    let mut seen = Vec::new();
    // A wrong password, a disabled account, one without a password, one that there is not.
    for (account, password) in
        [("ana", "wrong words here"), ("bo", PASSWORD), ("li", PASSWORD), ("xy", PASSWORD)]
    {
        let browser = Browser::new(&site);
        let mut times = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            let shown = browser.sign_in(account, password).await;
            times.push(began.elapsed());
            assert_eq!(shown.status, 401, "{account}");
            assert!(
                shown.header("set-cookie").is_empty()
                    && shown.header("www-authenticate").is_empty()
            );
            seen.push(shown.text.replace(&format!("value=\"{account}\""), ""));
        }
        times.sort();
        // The work of Argon2id is much longer than all the rest.
        assert!(times[1] > Duration::from_millis(5), "{account}: {times:?}");
        println!("{account}: {:?}", times[1]);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

async fn a_session_ends_by_time_and_with_its_account(database: Database) {
    let site = Site::new(database).await;
    let bo = Browser::of(&site, "bo").await;
    let secret = bo.cookie().split_once('=').unwrap().1.to_owned();
    let hash = hex::encode(Sha256::digest(secret.as_bytes()));
    let stored = site.store().session(&hash).await.unwrap().unwrap();
    assert_eq!(
        (stored.account.as_str(), stored.ends_ms - stored.created_ms),
        ("bo", session::LONGEST_MS)
    );
    let set = async |ends_ms: i64, used_ms: i64| {
        let mut tx = site.store().begin().await.unwrap();
        people::end_session(&mut tx, &hash).await.unwrap();
        let session = Session { ends_ms, used_ms, ..stored.clone() };
        people::add_session(&mut tx, &session).await.unwrap();
        tx.commit().await.unwrap();
    };
    let now = now_ms();
    set(now + 60_000, now - session::IDLE_MS + 60_000).await;
    assert!(bo.is_in().await, "used an hour ago but a minute");
    let used_ms = site.store().session(&hash).await.unwrap().unwrap().used_ms;
    assert!(used_ms >= now, "the use is written down");
    set(now + 60_000, now - session::IDLE_MS).await;
    assert!(!bo.is_in().await, "an hour without use");
    set(now, now).await;
    assert!(!bo.is_in().await, "12 hours");
    set(now + 60_000, now).await;
    assert!(bo.is_in().await);

    // Another password ends it, and an account that is disabled: also when it is enabled again.
    let root = site.caller("root").await;
    let words = json!({ "password": "other plain words" });
    root.put("/api/v1/accounts/bo/password", words).await.ok(204);
    assert!(!bo.is_in().await);
    assert_eq!(bo.sign_in("bo", "other plain words").await.goes_to(), "/");
    assert!(bo.is_in().await);
    let account = |disabled: bool| json!({ "subject": "bo@example.org", "groups": ["sre"], "disabled": disabled });
    root.put("/api/v1/accounts/bo", account(true)).await.ok(200);
    assert!(!bo.is_in().await);
    root.put("/api/v1/accounts/bo", account(false)).await.ok(200);
    assert!(!bo.is_in().await);
}

async fn a_sign_in_takes_no_secret_from_outside(database: Database) {
    let site = Site::new(database).await;
    set_password(&site, "ana").await;
    let ana = Browser::new(&site);
    let planted = format!("__Host-jit={}", "A".repeat(43));
    ana.set_cookie(&planted);
    assert_eq!(ana.sign_in("ana", PASSWORD).await.goes_to(), "/");
    let first = ana.cookie();
    assert_ne!(first, planted);
    assert_eq!(ana.sign_in("ana", PASSWORD).await.goes_to(), "/");
    assert_ne!(ana.cookie(), first, "a new secret each time");
    // Whoever planted a second cookie of the name gets nobody in.
    let both = format!("{planted}; {}", ana.cookie());
    ana.set_cookie(&both);
    assert!(!ana.is_in().await);
}

async fn guessing_is_slowed_down_and_recorded(database: Database) {
    let site = Site::new(database).await;
    set_password(&site, "ana").await;
    for account in ["ana", "nobody"] {
        let browser = Browser::new(&site);
        for _ in 0..5 {
            assert_eq!(browser.sign_in(account, "wrong words here").await.status, 401);
        }
        // Also the right one: who guesses does not learn that it was right.
        let stopped = browser.sign_in(account, PASSWORD).await;
        assert_eq!(stopped.status, 429);
        assert!((1..=31).contains(&stopped.header("retry-after").parse::<u64>().unwrap()));
        assert!(stopped.text.contains("too often"), "{}", stopped.text);
    }
    let root = site.caller("root").await;
    let audit = root.get("/api/v1/audit?limit=100").await.ok(200);
    let all = audit["items"].as_array().unwrap().iter();
    let refused: Vec<&Value> = all.filter(|one| one["event"] == "sign_in_refused").collect();
    assert_eq!(refused.len(), 2, "one a minute for each name: {audit}");
    assert!(refused.iter().any(|one| one["by"] == "ana@example.org"));
    assert!(refused.iter().any(|one| one["by"] == "unknown"));
    assert!(!audit.to_string().contains("nobody"), "people type passwords there");
}

async fn a_person_sets_another_password_with_the_old_one(database: Database) {
    let site = Site::new(database).await;
    let (ana, elsewhere) = (Browser::of(&site, "ana").await, Browser::new(&site));
    assert_eq!(elsewhere.sign_in("ana", PASSWORD).await.goes_to(), "/");
    assert!(ana.get("/me").await.ok().text.contains("/me/password"));
    let new = "other plain words";
    for (current, wanted, again, status) in [
        ("wrong words here", new, new, 403),
        (PASSWORD, new, "another one", 422),
        (PASSWORD, "short", "short", 422),
        (PASSWORD, "ana-ana-ana-ana", "ana-ana-ana-ana", 422),
    ] {
        let fields = [("current", current), ("wanted", wanted), ("again", again)];
        let shown = ana.post("/me/password", &fields).await;
        assert_eq!(shown.status, status, "{fields:?}: {}", shown.text);
        assert!(shown.text.contains("Nothing was changed"), "{}", shown.text);
    }
    assert!(ana.is_in().await && elsewhere.is_in().await);
    let fields = [("current", PASSWORD), ("wanted", new), ("again", new)];
    assert_eq!(ana.post("/me/password", &fields).await.goes_to(), "/sign-in");
    assert!(!ana.is_in().await && !elsewhere.is_in().await, "all sessions have ended");
    assert_eq!(ana.sign_in("ana", new).await.goes_to(), "/");
}

async fn disable(site: &Site, name: &str) {
    let account = site.store().account(name).await.unwrap().unwrap();
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &Account { disabled: true, ..account }).await.unwrap();
    tx.commit().await.unwrap();
}
