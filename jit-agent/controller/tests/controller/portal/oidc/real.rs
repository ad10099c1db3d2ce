//! At a real provider.

use jit_controller::{model::Account, store::accounts};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::{CREATE, Visitor, audited, groups, node::Provider, site};
use crate::{
    api::Site,
    databases::Database,
    portal::{PASSWORD, Shown, set_password},
    ports::free_port,
};

on_each_database! {
    a_person_signs_in_and_groups_follow_the_provider,
    sign_in_works_after_the_keys_rotate,
    signing_out_leads_to_the_sign_out_of_the_provider,
    the_provider_ends_sessions_by_itself,
    who_has_no_account_is_refused,
    an_address_is_the_person_if_it_is_verified,
    two_browsers_of_a_new_person_get_one_account,
    without_the_provider_local_accounts_sign_in,
}

const ROLES: &str =
    "scopes = [\"email\", \"groups\"]\n[roles]\nops = [\"sre\"]\nboss = [\"approvers\"]\n";

impl Visitor<'_> {
    /// Follows where it is sent, signs in at the provider as this person where it asks, and agrees.
    /// Returns what it shows at last, and where.
    async fn follow(&self, start: &str, login: &str) -> (Url, Shown) {
        let site = Url::parse(&self.site.base).unwrap();
        let (mut url, mut method, mut fields) =
            (site.join(start).unwrap(), Method::GET, Vec::<(&str, String)>::new());
        for _ in 0..20 {
            let pairs: Vec<_> = fields.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let shown = self.call(method, &url, &pairs).await;
            (method, fields) = (Method::GET, Vec::new());
            if matches!(shown.status, 302 | 303) {
                url = url.join(shown.header("location")).unwrap();
                continue;
            }
            let asked =
                |name: &str| shown.text.contains(&format!("name=\"prompt\" value=\"{name}\""));
            if url.authority() == site.authority() {
                return (url, shown);
            } else if asked("login") {
                fields = vec![
                    ("prompt", "login".into()),
                    ("login", login.into()),
                    ("password", "x".into()),
                ];
            } else if asked("consent") {
                fields = vec![("prompt", "consent".into())];
            } else if shown.text.contains("op.logoutForm") {
                fields = vec![("xsrf", shown.field("xsrf")), ("logout", "yes".into())];
                url = url.join("/session/end/confirm").unwrap();
            } else {
                return (url, shown);
            }
            method = Method::POST;
        }
        panic!("it is sent round and round: {url}");
    }

    /// Signs in, and goes on to /me.
    async fn sign_in(&self, login: &str) -> Shown {
        self.follow("/sign-in/oidc?next=%2Fme", login).await.1
    }
}

fn people(groups: &[&str]) -> Value {
    json!({
        "ana": { "email": "ana@example.org", "email_verified": true, "groups": groups },
        "zoe": { "email": "zoe@example.org", "email_verified": false, "groups": groups },
        "ina": { "email": "ina@example.org", "email_verified": true, "groups": groups },
        "<b>&\"": {},
    })
}

async fn started(database: Database, algorithm: &str, more: &str) -> (Site, Provider) {
    let port = free_port();
    let site = site(database, &format!("https://127.0.0.1:{port}"), more).await;
    let provider = Provider::start(&site, port, algorithm, &people(&["ops", "other"]));
    (site, provider)
}

async fn a_person_signs_in_and_groups_follow_the_provider(database: Database) {
    let (site, provider) = started(database, "RS256", &format!("create = true\n{ROLES}")).await;
    let ana = Visitor::new(&site);
    let page = ana.get("/sign-in?next=%2Fme").await.ok();
    assert!(page.text.contains("Sign in with Test SSO"), "{}", page.text);
    assert!(page.text.contains("href=\"/sign-in/oidc?next=%2Fme\""), "{}", page.text);
    let (_, given) = ana.begin("%2Fme").await;
    assert_eq!(given["response_type"], "code");
    assert_eq!(given["code_challenge_method"], "S256");
    assert_eq!(given["scope"], "openid email groups");
    assert_eq!(given["redirect_uri"], format!("{}/sign-in/oidc/back", site.base));

    let ina = Visitor::new(&site);
    let (url, shown) = ina.follow("/sign-in/oidc?next=%2Fme", "ina").await;
    assert_eq!((url.path(), shown.status), ("/me", 200), "{}", shown.text);
    assert_eq!(ina.who().await.as_deref(), Some("ina"));
    assert!(ina.cookie("__Host-jit-oidc").is_empty());
    let first = ina.cookie("__Host-jit");
    // The account ana is of another person: nobody gets into it by a name.
    let refused = ana.sign_in("ana").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("the account ana is somebody else"), "{}", refused.text);
    assert_eq!(groups(&site, "ana").await, ["sre"]);

    let zoe = Visitor::new(&site);
    zoe.sign_in("zoe").await.ok();
    let account = site.store().account("zoe").await.unwrap().unwrap();
    assert_eq!((account.subject.as_str(), account.disabled), ("zoe", false));
    assert_eq!(groups(&site, "zoe").await, ["sre"]);
    let made = audited(&site, "account_changed").await;
    let made = made.iter().find(|one| one["account"] == "zoe").unwrap();
    assert_eq!((&made["by"], &made["is_new"]), (&json!("oidc"), &json!(true)));
    let signed_in = &audited(&site, "signed_in").await[0];
    assert_eq!((&signed_in["by"], &signed_in["way"]), (&json!("zoe"), &json!("oidc")));

    // Groups that roles give follow at the next sign-in; what an administrator gave stays.
    let mut tx = site.store().begin().await.unwrap();
    let both = ["oncall".to_owned(), "sre".to_owned()].into();
    assert!(accounts::set_groups(&mut tx, "zoe", &both).await.unwrap());
    tx.commit().await.unwrap();
    provider.people(&people(&["boss"])).await;
    zoe.sign_in("zoe").await.ok();
    assert_eq!(groups(&site, "zoe").await, ["approvers", "oncall"]);
    provider.people(&people(&[])).await;
    ina.sign_in("ina").await.ok();
    assert_ne!(ina.cookie("__Host-jit"), first, "a new secret each time");
    assert!(groups(&site, "ina").await.is_empty());

    disable(&site, "zoe").await;
    provider.people(&people(&["ops"])).await;
    let refused = zoe.sign_in("zoe").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("disabled"), "{}", refused.text);
    let account = site.store().account("zoe").await.unwrap().unwrap();
    assert!(account.disabled && !account.groups.contains("sre"));
    let why = &audited(&site, "sign_in_refused").await;
    assert_eq!(why.last().unwrap()["why"], "no_account", "of ana, and then one a minute");
}

async fn sign_in_works_after_the_keys_rotate(database: Database) {
    let (site, provider) = started(database, "ES256", CREATE).await;
    let zoe = Visitor::new(&site);
    zoe.sign_in("zoe").await.ok();
    provider.rotate().await;
    zoe.sign_in("zoe").await.ok();
    // Keys are read again once a minute at most, whoever makes up new ones.
    provider.rotate().await;
    let refused = zoe.sign_in("zoe").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("a key that the provider does not have"), "{}", refused.text);
    for algorithm in ["PS256", "EdDSA"] {
        let (site, _provider) = started(crate::databases::sqlite().await, algorithm, CREATE).await;
        Visitor::new(&site).sign_in("zoe").await.ok();
    }
}

async fn signing_out_leads_to_the_sign_out_of_the_provider(database: Database) {
    let (site, _provider) = started(database, "ES256", CREATE).await;
    let zoe = Visitor::new(&site);
    let page = zoe.sign_in("zoe").await.ok();
    let cookie = zoe.cookie("__Host-jit");
    let out = zoe.post("/sign-out", &[("form_key", &page.field("form_key"))]).await.ok();
    assert!(out.text.contains("still signed in at Test SSO"), "{}", out.text);
    zoe.set_cookie("__Host-jit", &cookie);
    assert_eq!(zoe.who().await, None, "the session has ended, not only the cookie");

    let (_, rest) = out.text.split_once("class=\"button\" href=\"").unwrap();
    let link = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
    assert!(
        link.contains("id_token_hint=") && link.contains("post_logout_redirect_uri="),
        "{link}"
    );
    let (url, _) = zoe.follow(&link, "").await;
    assert_eq!(url.as_str(), format!("{}/sign-in", site.base));
    // It has to say again who it is.
    let (begin, _) = zoe.begin("%2Fme").await;
    let asked = zoe.call(Method::GET, &begin, &[]).await;
    assert!(asked.header("location").contains("/interaction/"), "{:?}", asked.headers);
    // Who signed in by password signs out here only.
    set_password(&site, "bo").await;
    let bo = Visitor::new(&site);
    bo.post("/sign-in", &[("name", "bo"), ("password", PASSWORD)]).await.goes_to();
    let key = bo.get("/me").await.field("form_key");
    assert_eq!(bo.post("/sign-out", &[("form_key", &key)]).await.goes_to(), "/sign-in");
}

async fn the_provider_ends_sessions_by_itself(database: Database) {
    let (site, provider) = started(database, "ES256", CREATE).await;
    let (desk, phone) = (Visitor::new(&site), Visitor::new(&site));
    let page = desk.sign_in("zoe").await.ok();
    phone.sign_in("zoe").await.ok();
    assert_eq!(desk.who().await.as_deref(), Some("zoe"), "{}", page.text);
    // The person signs out at the provider, which calls the controller: that session ends, the
    // other stays.
    let end = format!("{}/session/end", provider.issuer);
    desk.follow(&end, "").await;
    assert_eq!(desk.who().await, None);
    assert_eq!(phone.who().await.as_deref(), Some("zoe"));
    let ended = &audited(&site, "signed_out").await[0];
    assert_eq!((&ended["by"], &ended["account"]), (&json!("oidc"), &json!("zoe")));
}

async fn who_has_no_account_is_refused(database: Database) {
    let (site, _provider) = started(database, "ES256", ROLES).await;
    let zoe = Visitor::new(&site);
    let refused = zoe.sign_in("zoe").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("no account for zoe"), "{}", refused.text);
    assert!(zoe.cookie("__Host-jit").is_empty());
    assert!(site.store().account("zoe").await.unwrap().is_none());
    assert_eq!(audited(&site, "sign_in_refused").await[0]["by"], "zoe");
    let hostile = Visitor::new(&site).sign_in("<b>&\"").await;
    assert_eq!(hostile.status, 403);
    assert!(!hostile.text.contains("<b>"), "{}", hostile.text);
    // With an account it is that one, whatever its name.
    let mut tx = site.store().begin().await.unwrap();
    let account = Account {
        name: "z".into(),
        subject: "zoe".into(),
        groups: ["sre".to_owned()].into(),
        disabled: false,
        created_ms: 1,
    };
    accounts::put(&mut tx, &account).await.unwrap();
    tx.commit().await.unwrap();
    zoe.sign_in("zoe").await.ok();
    assert_eq!(zoe.who().await.as_deref(), Some("z"));
}

async fn an_address_is_the_person_if_it_is_verified(database: Database) {
    let more = format!("subject = \"email\"\naccount = \"sub\"\n{ROLES}");
    let (site, _provider) = started(database, "ES256", &more).await;
    // Ana has two accounts here; the provider names one.
    let ana = Visitor::new(&site);
    ana.sign_in("ana").await.ok();
    assert_eq!(ana.who().await.as_deref(), Some("ana"));
    assert_eq!(groups(&site, "ana-admin").await, ["admins", "approvers", "sre"]);
    let refused = Visitor::new(&site).sign_in("zoe").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("not verified"), "{}", refused.text);
}

async fn two_browsers_of_a_new_person_get_one_account(database: Database) {
    let (site, _provider) = started(database, "ES256", CREATE).await;
    let browsers: Vec<_> = (0..4).map(|_| Visitor::new(&site)).collect();
    let shown = futures_util::future::join_all(browsers.iter().map(|one| one.sign_in("zoe"))).await;
    for (browser, shown) in browsers.iter().zip(shown) {
        assert_eq!(shown.status, 200, "{}", shown.text);
        assert_eq!(browser.who().await.as_deref(), Some("zoe"));
    }
    assert_eq!(audited(&site, "account_changed").await.len(), 1);
}

async fn without_the_provider_local_accounts_sign_in(database: Database) {
    let site = site(database, &format!("https://127.0.0.1:{}", free_port()), "").await;
    set_password(&site, "bo").await;
    let bo = Visitor::new(&site);
    let down = bo.get("/sign-in/oidc?next=%2Fme").await;
    assert_eq!(down.status, 503);
    assert!(down.text.contains("a local account still works"), "{}", down.text);
    assert_eq!(down.field("next"), "/me");
    let fields = [("name", "bo"), ("password", PASSWORD), ("next", "/me")];
    assert_eq!(bo.post("/sign-in", &fields).await.goes_to(), "/me");
    assert_eq!(bo.who().await.as_deref(), Some("bo"));
}

async fn disable(site: &Site, name: &str) {
    let account = site.store().account(name).await.unwrap().unwrap();
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &Account { disabled: true, ..account }).await.unwrap();
    tx.commit().await.unwrap();
}
