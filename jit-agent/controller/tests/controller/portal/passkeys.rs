//! Passkeys at the pages: registered, used to sign in and to approve, and everything false about
//! them refused by name. The authenticator is one in software; its keys, CBOR and client data are
//! real.

mod approvals;

use jit_client::{
    authenticator::Authenticator,
    signing::{Algorithm, SigningKey},
};
use jit_controller::{
    api::RawSettings,
    clock::now_ms,
    model::Account,
    store::{accounts, passkeys},
};
use serde_json::{Value, json};

use super::{Browser, PASSWORD, Shown, set_password};
use crate::{api::Site, databases::Database};

on_each_database! {
    a_person_registers_a_passkey_and_signs_in_with_it,
    a_false_passkey_is_not_registered,
    a_false_sign_in_is_refused_by_name,
    nobody_learns_who_has_an_account,
    a_change_needs_the_password_or_a_passkey_once_more,
    who_signed_in_otherwise_adds_the_first_passkey_soon_after,
    there_are_none_where_no_browser_would_have_them,
}

const RP_ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org";

async fn site(database: Database) -> Site {
    let raw = RawSettings { public_url: Some(ORIGIN.into()), ..RawSettings::default() };
    Site::with(database, raw, |_| {}).await
}

fn authenticator(algorithm: Algorithm) -> Authenticator {
    let provider = rustls::crypto::ring::default_provider();
    let key = SigningKey::generate(algorithm, provider.secure_random).unwrap();
    Authenticator::new(key, RP_ID, ORIGIN)
}

impl Browser<'_> {
    /// The steps that the script asks for.
    async fn steps(&self, path: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let shown = self.post(path, fields).await.ok();
        assert_eq!(shown.header("content-type"), "application/json");
        serde_json::from_str(&shown.text).unwrap()
    }

    async fn sign_in_options(&self, name: &str) -> Value {
        let shown = self.submit("/sign-in/passkey/options", &[("name", name)]).await.ok();
        let steps: Value = serde_json::from_str(&shown.text).unwrap();
        assert_eq!(steps[0]["field"], "credential");
        steps[0]["get"].clone()
    }

    async fn sign_in_by(&self, credential: &str) -> Shown {
        self.submit("/sign-in/passkey", &[("credential", credential), ("next", "/me")]).await
    }

    /// Registers a passkey, confirmed by the password.
    async fn register(&self, name: &str, passkey: &mut Authenticator) -> Shown {
        self.register_with(name, PASSWORD, passkey).await
    }

    async fn register_with(
        &self,
        name: &str,
        password: &str,
        passkey: &mut Authenticator,
    ) -> Shown {
        let fields = [("name", name), ("current", password)];
        let steps = self.steps("/me/passkeys/options", &fields).await;
        let [step] = &steps[..] else { panic!("{steps:?}") };
        let credential = passkey.create(&step["create"]);
        let credential = ("credential", credential.as_str());
        self.post("/me/passkeys", &[fields[0], fields[1], credential]).await
    }
}

/// Takes all passwords away: who has just signed in adds a first passkey without one. Each check of
/// a password counts as an attempt.
async fn forget_passwords(site: &Site) {
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("DELETE FROM credential").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// The events of the audit, the oldest first.
async fn events(site: &Site) -> Vec<Value> {
    let lines = site.store().audit_after(0, 1000).await.unwrap();
    lines.iter().map(|line| serde_json::from_str(&line.line).unwrap()).collect()
}

async fn why_refused(site: &Site) -> Vec<String> {
    let all = events(site).await;
    let refused: Vec<_> = all.iter().filter(|one| one["event"] == "sign_in_refused").collect();
    assert!(refused.iter().all(|one| one["way"] == "passkey"), "{refused:#?}");
    refused.iter().map(|one| one["why"].as_str().unwrap().to_owned()).collect()
}

async fn a_person_registers_a_passkey_and_signs_in_with_it(database: Database) {
    let site = site(database).await;
    let ana = Browser::of(&site, "ana").await;
    let page = ana.get("/me").await.ok();
    assert!(page.text.contains("data-passkey=\"/me/passkeys/options\""), "{}", page.text);
    let steps =
        ana.steps("/me/passkeys/options", &[("name", "phone"), ("current", PASSWORD)]).await;
    let options = &steps[0]["create"];
    assert_eq!(options["rp"]["id"], RP_ID);
    assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
    assert_eq!(options["authenticatorSelection"]["residentKey"], "preferred");
    assert_eq!(options["attestation"], "none");

    for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
        let mut passkey = authenticator(algorithm);
        let key_id = passkey.key.key_id();
        let added = ana.register("  phone ", &mut passkey).await;
        assert_eq!(added.goes_to(), format!("/me/passkeys/{key_id}"));
        let page = ana.get(&format!("/me/passkeys/{key_id}")).await.ok();
        for part in ["[[approver]]", RP_ID, "BEGIN PUBLIC KEY", "Passkey phone"] {
            assert!(page.text.contains(part), "{part}: {}", page.text);
        }
        assert!(ana.get("/me").await.text.contains(&key_id));

        // With any passkey, and with those of a name.
        for name in ["", "ana"] {
            let browser = Browser::new(&site);
            let options = browser.sign_in_options(name).await;
            assert_eq!(
                (&options["rpId"], &options["userVerification"]),
                (&json!(RP_ID), &json!("required"))
            );
            let allowed = options["allowCredentials"].as_array().unwrap();
            assert_eq!(allowed.is_empty(), name.is_empty());
            assert_eq!(browser.sign_in_by(&passkey.get(&options)).await.goes_to(), "/me");
            assert!(browser.get("/me").await.ok().text.contains("ana@example.org"));
        }
        let other = ana.register("again", &mut passkey).await;
        assert_eq!(other.status, 409, "{}", other.text);
        let name = ana.post(&format!("/me/passkeys/{key_id}/name"), &[("name", "<b>key")]).await;
        assert_eq!(name.goes_to(), "/me");
        let page = ana.get("/me").await.ok();
        assert!(page.text.contains("&#60;b&#62;key") && !page.text.contains("<b>key"));
    }
    let stored = site.store().passkeys("ana").await.unwrap();
    let algorithms: Vec<_> = stored.iter().map(|one| one.algorithm.as_str()).collect();
    assert_eq!(algorithms, ["ECDSA P-256", "Ed25519"]);
    assert!(stored.iter().all(|one| one.used_ms > 0 && one.transports == "internal"));
    let events = events(&site).await;
    let of = |event: &str| events.iter().filter(|one| one["event"] == event).count();
    assert_eq!((of("passkey_added"), of("passkey_renamed")), (2, 2));
    let ways = events.iter().filter(|one| one["way"] == "passkey");
    assert_eq!(ways.filter(|one| one["by"] == "ana@example.org").count(), 4);
}

async fn a_false_passkey_is_not_registered(database: Database) {
    let site = site(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    forget_passwords(&site).await;
    let with = |change: fn(&mut Authenticator)| {
        let mut passkey = authenticator(Algorithm::P256);
        change(&mut passkey);
        passkey
    };
    for (mut passkey, part) in [
        (with(|one| one.origin = "https://jit.example.org.evil.example".into()), "the origin"),
        (with(|one| one.origin = "https://jit.example.org:8443".into()), "the origin"),
        (with(|one| one.rp_id = "evil.example".into()), "rpIdHash"),
        (with(|one| one.flags = 0b001), "user verification"),
        (with(|one| one.flags = 0b100), "user presence"),
        (with(|one| one.cross_origin = true), "another page"),
    ] {
        let shown = ana.register_with("phone", "", &mut passkey).await;
        assert_eq!(shown.status, 403, "{part}: {}", shown.text);
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    let mut passkey = authenticator(Algorithm::P256);
    let options = async |browser: &Browser<'_>| {
        browser.steps("/me/passkeys/options", &[("name", "phone")]).await[0]["create"].clone()
    };
    let add = async |browser: &Browser<'_>, name: &str, credential: &str| {
        browser.post("/me/passkeys", &[("name", name), ("credential", credential)]).await
    };
    // The challenge of another session; one that was used; one that nobody gave; an assertion.
    let others = passkey.create(&options(&bo).await);
    let mut given = options(&ana).await;
    let assertion = passkey.get(&given);
    given["challenge"] = "A".repeat(43).into();
    let never = passkey.create(&given);
    for (credential, part) in [
        (others.as_str(), "the challenge"),
        (others.as_str(), "the challenge"),
        (never.as_str(), "the challenge"),
        (assertion.as_str(), "attestationObject"),
        ("", "script did not run"),
        ("{}", "missing field"),
    ] {
        let shown = add(&ana, "phone", credential).await;
        assert_eq!(shown.status, 403, "{part}: {}", shown.text);
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    // Another id outside than inside.
    let inside = passkey.create(&options(&ana).await);
    let outside = serde_json::from_str::<Value>(&inside).map(|mut one| {
        one["id"] = "AAAA".into();
        one.to_string()
    });
    assert_eq!(add(&ana, "phone", &outside.unwrap()).await.status, 403);
    let long = "x".repeat(101);
    for name in ["", " ", "a\nb", &long] {
        let credential = passkey.create(&options(&ana).await);
        let shown = add(&ana, name, &credential).await;
        assert_eq!(shown.status, 422, "{name:?}: {}", shown.text);
    }
    assert!(site.store().passkeys("ana").await.unwrap().is_empty());
    // Too old.
    let credential = passkey.create(&options(&ana).await);
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("UPDATE passkey_challenge SET ends_ms = $1")
        .bind(now_ms())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let shown = add(&ana, "phone", &credential).await;
    assert!(shown.status == 403 && shown.text.contains("5 minutes"), "{}", shown.text);
    assert_eq!(ana.register_with("phone", "", &mut passkey).await.status, 303);
    // Somebody else does not get it too.
    assert_eq!(bo.register_with("phone", "", &mut passkey).await.status, 409);
}

async fn a_false_sign_in_is_refused_by_name(database: Database) {
    let site = site(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let mut passkey = authenticator(Algorithm::P256);
    passkey.sign_count = 7;
    assert_eq!(ana.register("phone", &mut passkey).await.status, 303);
    let mut of_bo = authenticator(Algorithm::Ed25519);
    assert_eq!(bo.register("phone", &mut of_bo).await.status, 303);
    let browser = Browser::new(&site);
    let refused = async |credential: &str, part: &str| {
        let shown = browser.sign_in_by(credential).await;
        assert_eq!(shown.status, 401, "{part}: {}", shown.text);
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
        assert!(shown.header("set-cookie").is_empty(), "{part}");
    };
    // Who has stolen an answer uses it again.
    let used = passkey.get(&browser.sign_in_options("").await);
    assert_eq!(Browser::new(&site).sign_in_by(&used).await.goes_to(), "/me");
    refused(&used, "the challenge").await;
    let own = passkey.origin.clone();
    passkey.origin = "https://evil.example.org".into();
    refused(&passkey.get(&browser.sign_in_options("").await), "the origin").await;
    passkey.origin = own;
    passkey.rp_id = "evil.example.org".into();
    refused(&passkey.get(&browser.sign_in_options("").await), "rpIdHash").await;
    passkey.rp_id = RP_ID.into();
    passkey.flags = 0b001;
    refused(&passkey.get(&browser.sign_in_options("").await), "user verification").await;
    passkey.flags = jit_client::authenticator::PRESENT_AND_VERIFIED;
    // What was asked for to confirm a change is no sign-in.
    let steps = ana.steps("/me/passkeys/confirm", &[]).await;
    refused(&passkey.get(&steps[0]["get"]), "the challenge").await;
    // Another key behind the same id; somebody else's name on it; one that nobody has.
    let mut forged = authenticator(Algorithm::P256);
    forged.id.clone_from(&passkey.id);
    forged.sign_count = 1000;
    refused(&forged.get(&browser.sign_in_options("").await), "not by the key").await;
    let handle = std::mem::replace(&mut passkey.user_handle, of_bo.user_handle.clone());
    refused(&passkey.get(&browser.sign_in_options("").await), "another account").await;
    passkey.user_handle = handle;
    let mut stranger = authenticator(Algorithm::P256);
    refused(&stranger.get(&browser.sign_in_options("").await), "nobody has registered").await;
    // A copy that has signed less often.
    passkey.sign_count = 3;
    refused(&passkey.get(&browser.sign_in_options("").await), "counted higher").await;
    passkey.sign_count = 0;
    refused(&passkey.get(&browser.sign_in_options("").await), "counted higher").await;
    passkey.sign_count = 100;
    let good = passkey.get(&browser.sign_in_options("").await);
    assert_eq!(Browser::new(&site).sign_in_by(&good).await.goes_to(), "/me");
    // One without a counter never counts back.
    for _ in 0..2 {
        let good = of_bo.get(&browser.sign_in_options("").await);
        assert_eq!(Browser::new(&site).sign_in_by(&good).await.goes_to(), "/me");
    }
    let account = site.store().account("bo").await.unwrap().unwrap();
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &Account { disabled: true, ..account }).await.unwrap();
    tx.commit().await.unwrap();
    refused(&of_bo.get(&browser.sign_in_options("").await), "nobody has registered").await;
    let why = why_refused(&site).await;
    assert!(why.iter().any(|why| why == "challenge_used"), "{why:?}");
}

async fn nobody_learns_who_has_an_account(database: Database) {
    let site = site(database).await;
    let ana = Browser::of(&site, "ana").await;
    let mut passkey = authenticator(Algorithm::P256);
    assert_eq!(ana.register("phone", &mut passkey).await.status, 303);
    let browser = Browser::new(&site);
    let mut ids = Vec::new();
    // One with a passkey, one without, one that there is not: the same form, and the same each
    // time.
    for name in ["ana", "bo", "nobody", "somebody"] {
        let first = browser.sign_in_options(name).await;
        let again = browser.sign_in_options(name).await;
        assert_eq!(first["allowCredentials"], again["allowCredentials"], "{name}");
        assert_ne!(first["challenge"], again["challenge"]);
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let options = ["challenge", "rpId", "timeout", "userVerification", "allowCredentials"];
        assert_eq!(names(&first), options, "{name}");
        let allowed = first["allowCredentials"].as_array().unwrap().clone();
        assert!((1..=2).contains(&allowed.len()), "{name}: {allowed:?}");
        for one in allowed {
            assert_eq!(names(&one), ["type", "id"], "{name}");
            ids.push(one["id"].as_str().unwrap().to_owned());
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "{ids:?}");
    // From one network it is slowed down.
    let mut last = 200;
    for _ in 0..100 {
        last = browser.submit("/sign-in/passkey/options", &[]).await.status;
        if last != 200 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert!(why_refused(&site).await.contains(&"too_many".to_owned()));
}

async fn a_change_needs_the_password_or_a_passkey_once_more(database: Database) {
    let site = site(database).await;
    let (ana, bo) = (Browser::of(&site, "ana").await, Browser::of(&site, "bo").await);
    let (mut first, mut of_bo) = (authenticator(Algorithm::P256), authenticator(Algorithm::P256));
    assert_eq!(ana.register("first", &mut first).await.status, 303);
    assert_eq!(bo.register("of bo", &mut of_bo).await.status, 303);
    let key_id = first.key.key_id();
    let remove = format!("/me/passkeys/{key_id}/remove");
    let without = ana.post(&remove, &[]).await;
    assert!(without.status == 403 && without.text.contains("once more"), "{}", without.text);
    assert_eq!(ana.post(&remove, &[("current", "wrong words here")]).await.status, 403);
    let steps = ana.steps("/me/passkeys/confirm", &[]).await;
    // Another's passkey, another's challenge, and one that was used.
    let foreign = of_bo.get(&steps[0]["get"]);
    let shown = ana.post(&remove, &[("proof", &foreign)]).await;
    assert!(shown.status == 403 && shown.text.contains("another account"), "{}", shown.text);
    let elsewhere = bo.steps("/me/passkeys/confirm", &[]).await;
    let elsewhere = first.get(&elsewhere[0]["get"]);
    assert_eq!(ana.post(&remove, &[("proof", &elsewhere)]).await.status, 403);
    let used = first.get(&steps[0]["get"]);
    assert_eq!(ana.post(&remove, &[("proof", &used)]).await.status, 403);
    // A second passkey, confirmed by the first one.
    let mut second = authenticator(Algorithm::Ed25519);
    let steps = ana.steps("/me/passkeys/options", &[("name", "second")]).await;
    let [get, create] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((&get["field"], &create["field"]), (&json!("proof"), &json!("credential")));
    let excluded = create["create"]["excludeCredentials"].as_array().unwrap();
    assert_eq!(excluded.len(), 1);
    let (proof, made) = (first.get(&get["get"]), second.create(&create["create"]));
    let bare = [("name", "second"), ("credential", made.as_str())];
    assert_eq!(ana.post("/me/passkeys", &bare).await.status, 403, "a stolen cookie is not enough");
    let all = [bare[0], bare[1], ("proof", proof.as_str())];
    assert_eq!(ana.post("/me/passkeys", &all).await.status, 303);
    // Nobody touches another's.
    let of_bo_path = format!("/me/passkeys/{}", of_bo.key.key_id());
    assert_eq!(ana.get(&of_bo_path).await.status, 404);
    assert_eq!(ana.post(&format!("{of_bo_path}/name"), &[("name", "mine")]).await.status, 403);
    let proof = second.get(&ana.steps("/me/passkeys/confirm", &[]).await[0]["get"]);
    assert_eq!(ana.post(&format!("{of_bo_path}/remove"), &[("proof", &proof)]).await.status, 403);
    // Removed: it signs nobody in, and whoever it has signed in is out.
    let lost = Browser::new(&site);
    assert_eq!(lost.sign_in_by(&first.get(&lost.sign_in_options("").await)).await.status, 303);
    let proof = second.get(&ana.steps("/me/passkeys/confirm", &[]).await[0]["get"]);
    assert_eq!(ana.post(&remove, &[("proof", &proof)]).await.goes_to(), "/me");
    assert!(ana.is_in().await && !lost.is_in().await);
    let shown = lost.sign_in_by(&first.get(&lost.sign_in_options("").await)).await;
    assert_eq!(shown.status, 401);
    // An administrator does it for who has lost it.
    let (root, caller) = (site.caller("root").await, site.caller("eve").await);
    let path = format!("/api/v1/accounts/ana/passkeys/{}", second.key.key_id());
    let list = root.get("/api/v1/accounts/ana/passkeys").await.ok(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(list["items"][0]["approver"].as_str().unwrap().contains("[[approver]]"));
    caller.get("/api/v1/accounts/ana/passkeys").await.problem(403, "not_admin");
    caller.delete(&path).await.problem(403, "not_admin");
    root.delete(&path).await.ok(204);
    root.delete(&path).await.problem(404, "not_found");
    assert!(!ana.is_in().await);
    let removed = events(&site).await;
    let removed = removed.iter().filter(|one| one["event"] == "passkey_removed").count();
    assert_eq!(removed, 2);
}

async fn who_signed_in_otherwise_adds_the_first_passkey_soon_after(database: Database) {
    let site = site(database).await;
    let ana = Browser::of(&site, "ana").await;
    forget_passwords(&site).await;
    let mut passkey = authenticator(Algorithm::P256);
    let add = async |passkey: &mut Authenticator| {
        let steps = ana.steps("/me/passkeys/options", &[("name", "phone")]).await;
        assert_eq!(steps.len(), 1);
        let made = passkey.create(&steps[0]["create"]);
        ana.post("/me/passkeys", &[("name", "phone"), ("credential", &made)]).await
    };
    let mut tx = site.store().begin().await.unwrap();
    let eleven = 11 * 60_000;
    sqlx::query("UPDATE session SET ends_ms = ends_ms - $1")
        .bind(eleven)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let late = add(&mut passkey).await;
    assert!(late.status == 403 && late.text.contains("10 minutes"), "{}", late.text);
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("UPDATE session SET ends_ms = ends_ms + $1")
        .bind(eleven)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(add(&mut passkey).await.status, 303);
    // From then on the passkey is needed.
    let steps = ana.steps("/me/passkeys/options", &[("name", "second")]).await;
    assert_eq!(steps.len(), 2);
    // But not one for pages at another address: it confirms nothing here, and shuts nobody out.
    let mut tx = site.store().begin().await.unwrap();
    let moved = "UPDATE passkey SET rp_id = 'old.example.org'";
    sqlx::query(moved).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let mut anew = authenticator(Algorithm::P256);
    assert_eq!(add(&mut anew).await.status, 303);
    let mut tx = site.store().begin().await.unwrap();
    let key_id = passkey.key.key_id();
    assert!(passkeys::remove(&mut tx, "ana", &key_id, now_ms()).await.unwrap());
    assert!(!passkeys::remove(&mut tx, "ana", &key_id, now_ms()).await.unwrap());
    tx.commit().await.unwrap();
}

async fn there_are_none_where_no_browser_would_have_them(database: Database) {
    let raw =
        RawSettings { public_url: Some("https://192.0.2.1:8443".into()), ..RawSettings::default() };
    let site = Site::with(database, raw, |_| {}).await;
    set_password(&site, "ana").await;
    let ana = Browser::new(&site);
    assert!(!ana.get("/sign-in").await.ok().text.contains("passkey"));
    assert_eq!(ana.sign_in("ana", PASSWORD).await.goes_to(), "/");
    let page = ana.get("/me").await.ok();
    assert!(page.text.contains("public_url") && !page.text.contains("data-passkey"));
    for path in ["/sign-in/passkey", "/sign-in/passkey/options"] {
        let shown = ana.submit(path, &[]).await;
        assert!(shown.status == 409 && shown.text.contains("public_url"), "{}", shown.text);
    }
    assert_eq!(ana.post("/me/passkeys/options", &[("name", "phone")]).await.status, 409);
}
