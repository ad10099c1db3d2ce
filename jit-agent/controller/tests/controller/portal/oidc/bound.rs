//! What a person keeps here after the provider has let him go, and who is the same person.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use jit_controller::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::Account,
    store::{Arrival, accounts, oidc},
};
use serde_json::{Value, json};

use super::{
    CREATE, Visitor, audited,
    forged::{Liar, header, signed, with},
    groups,
    node::AUDIENCE,
    programs::claims,
    site,
};
use crate::{
    api::{
        Caller, Site,
        defender::{initiate_path, path, ssh_policy, wish},
    },
    databases::Database,
    portal::{PASSWORD, Shown, set_password},
};

on_each_database! {
    groups_of_the_provider_lapse_however_somebody_signs_in,
    the_provider_ends_all_that_a_person_has,
    only_who_is_expected_gets_an_account,
    an_account_is_bound_to_one_person,
    an_access_token_counts_for_the_bound_person_alone,
    another_address_makes_no_second_person,
    what_an_administrator_changes_meanwhile_stays,
    an_address_is_not_verified_by_another_answer,
    two_addresses_at_once_make_no_two_persons,
    who_signs_in_and_who_is_signed_out_do_not_stand_in_each_others_way,
}

const ROLES: &str = "create = true\n[roles]\nops = [\"sre\"]\nboss = [\"admins\"]\n";

impl Liar {
    /// Signs in with these claims beside the usual ones.
    async fn with_claims(&self, visitor: &Visitor<'_>, more: Value) -> Shown {
        self.with_token(visitor, |mut claims| {
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            signed(&header(), &claims, 1)
        })
        .await
    }

    /// Calls the controller to end what this person has.
    async fn end(&self, visitor: &Visitor<'_>, id: &str, who: Value) {
        let now_s = now_ms() / 1000;
        let event = "http://schemas.openid.net/event/backchannel-logout";
        let mut claims = json!({
            "iss": self.issuer, "aud": "jit", "iat": now_s, "exp": now_s + 120, "jti": id,
            "events": { event: {} },
        });
        claims.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
        let token = signed(&with(&header(), "typ", json!("logout+jwt")), &claims, 1);
        let url = format!("{}/sign-out/oidc", visitor.site.base);
        let kind = "application/x-www-form-urlencoded";
        let call = visitor.client.post(url).header("content-type", kind);
        let answer = call.body(format!("logout_token={token}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

async fn by_password<'s>(site: &'s Site, name: &str) -> Visitor<'s> {
    let visitor = Visitor::new(site);
    let fields = [("name", name), ("password", PASSWORD), ("next", "/me")];
    assert_eq!(visitor.post("/sign-in", &fields).await.goes_to(), "/me");
    visitor
}

/// The groups of an account, as its token has them.
async fn acting(site: &Site, account: &str) -> Vec<String> {
    let me = site.caller(account).await.get("/api/v1/me").await.ok(200);
    serde_json::from_value(me["groups"].clone()).unwrap()
}

async fn groups_of_the_provider_lapse_however_somebody_signs_in(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("groups_for = \"30m\"\n{ROLES}")).await;
    let zoe = Visitor::new(&site);
    let boss = json!({ "groups": ["ops", "boss"] });
    assert_eq!(liar.with_claims(&zoe, boss.clone()).await.goes_to(), "/me");
    let arrival = site.store().arrival("zoe").await.unwrap().unwrap();
    let left_ms = arrival.until_ms - now_ms();
    assert!((29 * 60_000..=30 * 60_000).contains(&left_ms), "{left_ms}");
    let mut tx = site.store().begin().await.unwrap();
    let set = ["admins", "oncall", "sre"].map(str::to_owned).into();
    assert!(accounts::set_groups(&mut tx, "zoe", &set).await.unwrap());
    tx.commit().await.unwrap();
    set_password(&site, "zoe").await;
    let other = by_password(&site, "zoe").await;
    assert_eq!(acting(&site, "zoe").await, ["admins", "oncall", "sre"]);
    assert!(other.get("/me").await.ok().text.contains("count until"));
    assert_eq!(other.get("/health").await.status, 200);
    let calls = site.caller("zoe").await;
    calls.get("/api/v1/accounts").await.ok(200);

    // The half hour is over.
    let mut tx = site.store().begin().await.unwrap();
    let lapsed = Arrival { until_ms: now_ms() - 1, ..arrival };
    oidc::arrived(&mut tx, "zoe", &lapsed).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(calls.get("/api/v1/accounts").await.status, 403, "a token from before");
    assert_eq!(acting(&site, "zoe").await, ["oncall"], "a new token");
    let page = other.get("/me").await.ok();
    assert!(page.text.contains("count no more") && !page.text.contains(">sre<"), "{}", page.text);
    assert_eq!(other.get("/health").await.status, 403, "a session from before");
    let again = by_password(&site, "zoe").await;
    assert_eq!(again.get("/health").await.status, 403, "a new session");
    // Who could agree is still asked, and an administrator still sees what is set.
    assert_eq!(groups(&site, "zoe").await, ["admins", "oncall", "sre"]);

    assert_eq!(liar.with_claims(&zoe, json!({ "groups": ["boss"] })).await.goes_to(), "/me");
    assert_eq!(acting(&site, "zoe").await, ["admins", "oncall"]);
    // Somebody who never came by the provider keeps his groups.
    assert_eq!(acting(&site, "root").await, ["admins"]);
}

async fn the_provider_ends_all_that_a_person_has(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, ROLES).await;
    let (desk, phone) = (Visitor::new(&site), Visitor::new(&site));
    for (visitor, sid) in [(&desk, "s-1"), (&phone, "s-2")] {
        let said = json!({ "sid": sid, "groups": ["ops"] });
        assert_eq!(liar.with_claims(visitor, said).await.goes_to(), "/me");
    }
    set_password(&site, "bo").await;
    let bo = by_password(&site, "bo").await;
    // It ends all sessions of the account.
    set_password(&site, "zoe").await;
    for (visitor, sid) in [(&desk, "s-1"), (&phone, "s-2")] {
        let said = json!({ "sid": sid, "groups": ["ops"] });
        assert_eq!(liar.with_claims(visitor, said).await.goes_to(), "/me");
    }
    let own = by_password(&site, "zoe").await;
    // One session of two: the person is still there.
    liar.end(&desk, "1", json!({ "sub": "zoe", "sid": "s-1" })).await;
    assert_eq!(desk.who().await, None);
    assert!(phone.who().await.is_some() && own.who().await.is_some());
    assert_eq!(acting(&site, "zoe").await, ["sre"]);
    // The last one.
    liar.end(&desk, "2", json!({ "sub": "zoe", "sid": "s-2" })).await;
    assert_eq!((phone.who().await, own.who().await), (None, None));
    assert!(acting(&site, "zoe").await.is_empty());
    // A person who has only a session of another way, and a time.
    let said = json!({ "groups": ["ops"] });
    assert_eq!(liar.with_claims(&desk, said).await.goes_to(), "/me");
    let key = desk.get("/me").await.field("form_key");
    desk.post("/sign-out", &[("form_key", &key)]).await;
    let own = by_password(&site, "zoe").await;
    assert_eq!(acting(&site, "zoe").await, ["sre"]);
    let before = audited(&site, "signed_out").await.len();
    liar.end(&desk, "3", json!({ "sub": "zoe" })).await;
    assert_eq!(own.who().await, None);
    assert!(acting(&site, "zoe").await.is_empty());
    assert_eq!(audited(&site, "signed_out").await.len(), before + 1);
    // Whoever has the subject is the person, also with an account that has not come by the
    // provider.
    put(
        &site,
        Account { name: "zoe-two".into(), ..site.store().account("zoe").await.unwrap().unwrap() },
    )
    .await;
    set_password(&site, "zoe-two").await;
    let two = by_password(&site, "zoe-two").await;
    liar.end(&desk, "5", json!({ "sub": "zoe", "sid": "s-9" })).await;
    assert!(two.who().await.is_some(), "one session that was another");
    liar.end(&desk, "6", json!({ "sub": "zoe" })).await;
    assert_eq!(two.who().await, None);
    liar.end(&desk, "4", json!({ "sub": "bo" })).await;
    assert!(bo.who().await.is_some(), "somebody else, who is not of the provider");
}

async fn only_who_is_expected_gets_an_account(database: Database) {
    let liar = Liar::start().await;
    let more = "create = true\nrequire = { hd = \"example.org\" }\n[roles]\nops = [\"sre\"]\n";
    let site = site(database, &liar.issuer, more).await;
    for said in [
        json!({}),
        json!({ "hd": "example.com" }),
        json!({ "groups": ["other"] }),
        json!({ "hd": "example.com", "groups": ["sre"] }),
    ] {
        let zoe = Visitor::new(&site);
        liar.lie(|lies| lies.userinfo = json!({ "sub": "zoe" }));
        let shown = liar.with_claims(&zoe, said.clone()).await;
        assert_eq!(shown.status, 403, "{said}");
        assert!(shown.text.contains("none is made"), "{said}: {}", shown.text);
        assert!(site.store().account("zoe").await.unwrap().is_none());
    }
    for (sub, said) in
        [("zoe", json!({ "hd": "example.org" })), ("kim", json!({ "groups": ["ops"] }))]
    {
        liar.lie(|lies| lies.userinfo = json!({ "sub": sub }));
        let mut said = said;
        said["sub"] = json!(sub);
        let visitor = Visitor::new(&site);
        assert_eq!(liar.with_claims(&visitor, said).await.goes_to(), "/me");
        assert_eq!(visitor.who().await.as_deref(), Some(sub));
    }
}

fn address(sub: &str, email: &str) -> Value {
    json!({ "sub": sub, "email": email, "email_verified": true })
}

async fn an_account_is_bound_to_one_person(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("subject = \"email\"\n{CREATE}")).await;
    let zoe = Visitor::new(&site);
    let zoes = "zoe@example.org";
    assert_eq!(liar.with_claims(&zoe, address("zoe", zoes)).await.goes_to(), "/me");
    // Somebody else has the address now.
    let other = Visitor::new(&site);
    let shown = liar.with_claims(&other, address("kim", zoes)).await;
    assert_eq!(shown.status, 403);
    assert!(shown.text.contains("belongs to somebody else"), "{}", shown.text);
    assert!(other.cookie("__Host-jit").is_empty());
    let refused = &audited(&site, "sign_in_refused").await[0];
    assert_eq!((&refused["why"], &refused["account"]), (&json!("other_person"), &json!(zoes)));
    assert_eq!(liar.with_claims(&zoe, address("zoe", zoes)).await.goes_to(), "/me");
    // An administrator says that it is the same person.
    let before = site.store().account(zoes).await.unwrap().unwrap();
    put(&site, Account { disabled: true, ..before.clone() }).await;
    assert!(liar.with_claims(&other, address("kim", zoes)).await.text.contains("disabled"));
    put(&site, before).await;
    assert_eq!(liar.with_claims(&other, address("kim", zoes)).await.goes_to(), "/me");
    assert_eq!(liar.with_claims(&zoe, address("zoe", zoes)).await.status, 403);
}

/// A program with a good access token of whom the provider knows by this `sub`.
fn program<'s>(liar: &Liar, site: &'s Site, (sub, address): (&str, &str), id: &str) -> Caller<'s> {
    let mut claims = claims(liar);
    for (field, value) in [("sub", sub), ("email", address), ("jti", id)] {
        claims[field] = json!(value);
    }
    claims["email_verified"] = json!(true);
    site.caller_with(signed(&header(), &claims, 1))
}

async fn an_access_token_counts_for_the_bound_person_alone(database: Database) {
    let liar = Liar::start().await;
    let more = format!("subject = \"email\"\naudience = \"{AUDIENCE}\"\n");
    let site = site(database, &liar.issuer, &more).await;
    let root = site.caller("root").await;
    root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await.ok(200);
    // Both sign in, and have their accounts from then on.
    let (bos, lis) = ("bo@example.org", "li@example.org");
    for (sub, email) in [("7", bos), ("8", lis)] {
        liar.lie(|lies| lies.userinfo = json!({ "sub": sub }));
        let shown = liar.with_claims(&Visitor::new(&site), address(sub, email)).await;
        assert_eq!(shown.goes_to(), "/me", "{email}");
    }
    let own = program(&liar, &site, ("7", bos), "own");
    assert_eq!(own.get("/api/v1/me").await.ok(200)["account"], "bo");
    let asked = wish("web-1", Some("203.0.113.9"), 30);
    own.post(&initiate_path("rg1", "default"), asked.clone()).await.ok(202);
    let before = audited(&site, "request_submitted").await.len();

    // Somebody else has got the address at the provider.
    let other = program(&liar, &site, ("9", bos), "other");
    let refused = other.get("/api/v1/me").await.problem(401, "account_missing");
    let why = refused["detail"].as_str().unwrap();
    assert!(why.contains("the account bo belongs to somebody else"), "{refused}");
    let records = audited(&site, "attempt_refused").await;
    let [record] = &records[..] else { panic!("one a minute: {records:#?}") };
    assert_eq!(
        (&record["by"], &record["account"], &record["token"], &record["word"]),
        (&json!(bos), &json!(""), &json!("oidc:other"), &json!("account_missing"))
    );
    assert_eq!(record["detail"], json!(why));

    // At Defender's API it is the same, in Azure's words.
    let other = program(&liar, &site, ("9", lis), "azure");
    let policy = path("rg1", "default");
    for answer in [
        other.post(&initiate_path("rg1", "default"), asked).await,
        other.get(&policy).await,
        other.put(&policy, ssh_policy(&[])).await,
        other.delete(&policy).await,
    ] {
        let error = answer.azure(401, "AuthenticationFailed");
        assert_eq!(error["details"][0]["code"], "account_missing");
        let why = error.to_string();
        assert!(why.contains("the account li belongs to somebody else"), "{why}");
    }
    let record = &audited(&site, "attempt_refused").await[0];
    assert_eq!(
        (&record["by"], &record["token"], &record["word"]),
        (&json!(lis), &json!("oidc:azure"), &json!("account_missing"))
    );
    assert_eq!(audited(&site, "request_submitted").await.len(), before, "nothing was asked for");
    own.get("/api/v1/me").await.ok(200);

    // An administrator lets the other one in: from his sign-in on it is the first who is refused.
    let account = site.store().account("bo").await.unwrap().unwrap();
    put(&site, Account { disabled: true, ..account.clone() }).await;
    put(&site, account).await;
    liar.lie(|lies| lies.userinfo = json!({ "sub": "9" }));
    let shown = liar.with_claims(&Visitor::new(&site), address("9", bos)).await;
    assert_eq!(shown.goes_to(), "/me");
    let other = program(&liar, &site, ("9", bos), "again");
    assert_eq!(other.get("/api/v1/me").await.ok(200)["account"], "bo");
    own.get("/api/v1/me").await.problem(401, "account_missing");
}

async fn another_address_makes_no_second_person(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("subject = \"email\"\n{CREATE}")).await;
    let zoe = Visitor::new(&site);
    let (old, new) = ("zoe@example.org", "zoe.married@example.org");
    assert_eq!(liar.with_claims(&zoe, address("zoe", old)).await.goes_to(), "/me");
    let shown = liar.with_claims(&zoe, address("zoe", new)).await;
    assert_eq!(shown.status, 403);
    assert!(shown.text.contains(&format!("--subject {new}")), "{}", shown.text);
    assert!(site.store().account(new).await.unwrap().is_none());
    let account = site.store().account(old).await.unwrap().unwrap();
    // Nor does it make a new account of one that was disabled.
    put(&site, Account { disabled: true, ..account.clone() }).await;
    assert_eq!(liar.with_claims(&zoe, address("zoe", new)).await.status, 403);
    put(&site, Account { subject: new.into(), ..account }).await;
    assert_eq!(liar.with_claims(&zoe, address("zoe", new)).await.goes_to(), "/me");
    assert_eq!(zoe.who().await.as_deref(), Some(old), "the same account");
}

async fn what_an_administrator_changes_meanwhile_stays(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, ROLES).await;
    let zoe = Visitor::new(&site);
    assert_eq!(liar.with_claims(&zoe, json!({ "groups": ["ops"] })).await.goes_to(), "/me");
    // A change is under way while the person signs in again.
    let mut tx = site.store().begin().await.unwrap();
    let set = ["oncall", "sre"].map(str::to_owned).into();
    assert!(accounts::set_groups(&mut tx, "zoe", &set).await.unwrap());
    let finish = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        tx.commit().await.unwrap();
    };
    let again = liar.with_claims(&zoe, json!({ "groups": ["boss"] }));
    let (shown, ()) = futures_util::future::join(again, finish).await;
    assert_eq!(shown.goes_to(), "/me");
    assert_eq!(groups(&site, "zoe").await, ["admins", "oncall"]);
}

async fn an_address_is_not_verified_by_another_answer(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("subject = \"email\"\n{CREATE}")).await;
    let visitor = Visitor::new(&site);
    // Only the other answer says it, of another address or of none.
    liar.lie(|lies| lies.userinfo = json!({ "sub": "zoe", "email_verified": true }));
    let shown = liar.with_claims(&visitor, json!({ "email": "root@example.org" })).await;
    assert_eq!(shown.status, 403);
    assert!(shown.text.contains("not verified"), "{}", shown.text);
    liar.lie(|lies| lies.userinfo = address("zoe", "zoe@example.org"));
    let shown = liar.with_claims(&visitor, json!({ "email": "root@example.org" })).await;
    assert_eq!(shown.goes_to(), "/me");
    assert_eq!(visitor.who().await.as_deref(), Some("zoe@example.org"));
}

async fn two_addresses_at_once_make_no_two_persons(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, &format!("subject = \"email\"\n{CREATE}")).await;
    let (zoe, other) = (Visitor::new(&site), Visitor::new(&site));
    // Somebody binds an account to this person at this moment.
    let mut tx = site.store().begin().await.unwrap();
    oidc::lock_person(&mut tx, (&liar.issuer, "zoe"), now_ms()).await.unwrap();
    let held = AtomicBool::new(true);
    let hold = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        held.store(false, Ordering::SeqCst);
        tx.commit().await.unwrap();
    };
    let sign_in = async {
        let shown = liar.with_claims(&zoe, address("zoe", "zoe@example.org")).await;
        assert!(!held.load(Ordering::SeqCst), "it has waited for that");
        shown
    };
    let (shown, ()) = futures_util::future::join(sign_in, hold).await;
    assert_eq!(shown.goes_to(), "/me");
    assert_eq!(liar.with_claims(&other, address("zoe", "zoe.two@example.org")).await.status, 403);
}

async fn who_signs_in_and_who_is_signed_out_do_not_stand_in_each_others_way(database: Database) {
    let liar = Liar::start().await;
    let site = site(database, &liar.issuer, ROLES).await;
    let zoe = Visitor::new(&site);
    assert_eq!(liar.with_claims(&zoe, json!({ "groups": ["ops"] })).await.goes_to(), "/me");
    // A session that nobody has used for long, and a change that holds its row and then writes to
    // the audit.
    set_password(&site, "bo").await;
    let _bo = by_password(&site, "bo").await;
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("UPDATE session SET used_ms = 1 WHERE account = 'bo'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("UPDATE session SET used_ms = 2 WHERE account = 'bo'")
        .execute(&mut *tx)
        .await
        .unwrap();
    let finish = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let record = Record::new(Code::SignedOut, "", "bo", json!({}));
        audit::append(&mut tx, now_ms(), &record).await.unwrap();
        tx.commit().await.unwrap();
    };
    // Its groups change, which is written to the audit too.
    let again = liar.with_claims(&zoe, json!({ "groups": ["boss"] }));
    let (shown, ()) = futures_util::future::join(again, finish).await;
    assert_eq!(shown.goes_to(), "/me");
    assert_eq!(groups(&site, "zoe").await, ["admins"]);
}

async fn put(site: &Site, account: Account) {
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
}
