//! *Enrolments*, without a script: a token is shown once, and a person decides on a machine that
//! waits.

use jit_controller::{
    clock::now_ms,
    enrol::{
        admit,
        opened::Opened,
        request::Request,
        token::{self, Taken},
    },
    store::{Enrolment, EnrolmentState},
};
use rcgen::{CertificateParams, KeyPair};

use super::Browser;
use crate::{api::Site, databases::Database};

on_each_database! {
    an_administrator_makes_a_token_and_decides_who_is_a_host,
    where_nobody_enrols_the_page_says_so,
}

fn request() -> Request {
    let params = CertificateParams::new(Vec::<String>::new()).unwrap();
    let made = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    Request::read(&made.pem().unwrap()).unwrap()
}

/// A machine asks with this token.
async fn asks(site: &Site, text: &str, request: &Request) -> Enrolment {
    let mut tx = site.store().begin().await.unwrap();
    let token: Taken = token::take(&mut tx, text, now_ms()).await.unwrap().expect("a use is left");
    let proof = token.prove("web-9").unwrap();
    let (_, kept) =
        admit::admit(&mut tx, &proof, request, Some(&token), &[], now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    kept.unwrap()
}

async fn an_administrator_makes_a_token_and_decides_who_is_a_host(database: Database) {
    let opened = Opened {
        hubs: vec!["hub.example.org:7444".into()],
        hub_ca: "-- the CA --".into(),
        ..Opened::default()
    };
    let site = Site::enrolling(database, opened).await;
    let (root, bo) = (Browser::of(&site, "root").await, Browser::of(&site, "bo").await);
    let shown = root.get("/enrolments").await.ok();
    assert!(shown.text.contains("None waits") && !shown.text.contains("Nobody can enrol"));
    for (typed, words) in [
        ([("labels", "test"), ("uses", "2")], "no label"),
        ([("labels", "env=test"), ("uses", "many")], "how many hosts"),
        ([("labels", "env=test"), ("uses", "0")], "1 to 100000 hosts"),
        ([("labels", "env=test"), ("duration", "1 year")], "duration"),
    ] {
        let shown = root.post("/enrolments/tokens", &typed).await;
        assert_eq!(shown.status, 422, "{typed:?}: {}", shown.text);
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    assert!(site.store().enrolment_tokens().await.unwrap().is_empty());
    let typed = [("labels", "env=test role=<web>"), ("uses", "2"), ("duration", "30m")];
    let shown = root.post("/enrolments/tokens", &typed).await;
    assert_eq!((shown.status, shown.header("cache-control")), (201, "no-store"), "{}", shown.text);
    let (_, rest) = shown.text.split_once("id=\"token\">").unwrap();
    let text = rest.split('<').next().unwrap().to_owned();
    assert!(text.starts_with("jit_enrol_") && shown.text.contains("2 hosts"), "{}", shown.text);
    let listed = root.get("/enrolments").await.ok();
    assert!(listed.text.contains("env=test, role=") && !listed.text.contains(&text));

    let (first, second) = (request(), request());
    assert_eq!(asks(&site, &text, &first).await.state, EnrolmentState::Issued);
    let waits = asks(&site, &text, &second).await;
    let shown = root.get("/enrolments").await.ok();
    for words in ["web-9 has asked before", &second.sha256()[..16], "let in", "used"] {
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    let path = format!("/enrolments/{}/decision", waits.id);
    assert!(shown.text.contains(&format!("action=\"{path}\"")), "{}", shown.text);
    assert_eq!(bo.post(&path, &[("ruling", "accept")]).await.status, 403);
    assert_eq!(root.post(&path, &[("ruling", "perhaps")]).await.status, 422);
    assert_eq!(root.post(&path, &[("ruling", "accept")]).await.goes_to(), "/enrolments");
    let kept = site.store().enrolment(&waits.id).await.unwrap().unwrap();
    assert_eq!((kept.state, kept.decided_by.is_empty()), (EnrolmentState::Issued, false));
    let again = root.post(&path, &[("ruling", "refuse")]).await;
    assert_eq!(again.status, 409, "it does not wait any more: {}", again.text);

    let made = root.post("/enrolments/tokens", &[("labels", "env=prod")]).await;
    assert_eq!(made.status, 201);
    let tokens = site.store().enrolment_tokens().await.unwrap();
    let prod = tokens.iter().find(|one| one.state(now_ms()) == "valid").unwrap();
    let path = format!("/enrolments/tokens/{}/withdraw", prod.id);
    assert_eq!(bo.post(&path, &[]).await.status, 403);
    assert_eq!(root.post(&path, &[]).await.goes_to(), "/enrolments");
    assert!(root.get("/enrolments").await.ok().text.contains("withdrawn"));
    assert_eq!(bo.get("/enrolments").await.status, 403);
    assert_eq!(bo.post("/enrolments/tokens", &typed).await.status, 403);
}

async fn where_nobody_enrols_the_page_says_so(database: Database) {
    let site = Site::new(database).await;
    let root = Browser::of(&site, "root").await;
    assert!(root.get("/enrolments").await.ok().text.contains("Nobody can enrol"));
    let refused = root.post("/enrolments/tokens", &[("labels", "env=test")]).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
}
