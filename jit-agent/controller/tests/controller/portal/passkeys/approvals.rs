//! Approvals by passkey of what waits for signatures, at the page and over the API.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jit_client::{
    authenticator::Authenticator,
    inspect::{Inspection, SignatureState},
    public_key::PublicKey,
    signing::Algorithm,
    trusted::Trusted,
};
use jit_controller::{
    clock::now_ms,
    desk::{Desk, Settings},
    model::host::ObservedPort,
};
use jit_proto::{
    dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1, webauthn::RelyingParty,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{super::Browser, ORIGIN, RP_ID, authenticator, site};
use crate::{
    api::{Caller, Site},
    databases::Database,
    signers::{self, Signing},
};

on_each_database! {
    what_a_passkey_signs_at_the_page_goes_to_the_hosts,
    a_false_approval_is_refused_by_name,
    nobody_signs_what_he_cannot_be_shown,
    a_removed_passkey_counts_no_longer_also_where_it_has_signed,
}

/// What is false about a passkey.
type Change = fn(&mut Authenticator);

/// A site whose host web-1 asks for signatures by this number of keys, and its signer.
async fn office(database: Database, approvals: u32) -> (Site, Desk, Signing) {
    let site = site(database).await;
    let signing = signers::pem().await;
    let mut observed = site.store().host("web-1").await.unwrap().unwrap().observed;
    observed.ports = vec![ObservedPort {
        port: "22/tcp".into(),
        mode: "enforce".into(),
        max_duration_ms: 3_600_000,
        approvals,
        exemptions: Vec::new(),
    }];
    site.store().observe("web-1", &observed).await.unwrap();
    let desk = Desk::new(site.store().clone(), Some(signing.signer.clone()), Settings::default());
    (site, desk, signing)
}

/// A byte that no version of a grant has: somebody has written into the database, or a newer
/// controller has.
async fn nobody_signs_what_he_cannot_be_shown(database: Database) {
    let (site, desk, _signing) = office(database, 2).await;
    let (li, _passkey) = passkey_of(&site, "li").await;
    let id = waiting(&site, &desk).await;
    let link = format!("/requests/{id}/sign");
    assert!(li.get(&link).await.ok().text.contains("data-passkey"));
    let grant = li_grant(&site, &id).await;
    let mut payload = site.store().grants_of(&id).await.unwrap()[0].part.payload.clone();
    // A field 1000 of no meaning.
    payload.extend([0xc0, 0x3e, 0x01]);
    let mut tx = site.store().begin().await.unwrap();
    sqlx::query("UPDATE grant_part SET payload = $1")
        .bind(payload)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let page = li.get(&link).await.ok();
    assert!(!page.text.contains("data-passkey"), "{}", page.text);
    for part in ["fields that this version does not know", "no grant that hosts read"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    let field = format!("credential-{grant}");
    for (path, fields) in
        [(format!("{link}/options"), &[][..]), (link.clone(), &[(field.as_str(), "{}")][..])]
    {
        let refused = li.post(&path, fields).await;
        assert_eq!(refused.status, 409, "{path}: {}", refused.text);
        assert!(refused.text.contains("is not signed here"), "{path}: {}", refused.text);
    }
}

/// A request of Ana that Li has agreed to and the controller has signed.
async fn waiting(site: &Site, desk: &Desk) -> String {
    let (ana, li) = (site.caller("ana").await, site.caller("li").await);
    let request = ana.ask("web-1").await;
    let id = request["id"].as_str().unwrap().to_owned();
    let yes = json!({ "ruling": "approve", "hash": request["hash"] });
    li.post(&format!("/api/v1/requests/{id}/decision"), yes).await.ok(200);
    desk.sign_waiting(now_ms()).await.unwrap();
    assert_eq!(state(&ana, &id).await, "awaiting_signatures");
    id
}

async fn state(caller: &Caller<'_>, id: &str) -> String {
    let view = caller.get(&format!("/api/v1/requests/{id}")).await.ok(200);
    view["state"].as_str().unwrap().to_owned()
}

async fn passkey_of<'s>(site: &'s Site, account: &str) -> (Browser<'s>, Authenticator) {
    let browser = Browser::of(site, account).await;
    let mut passkey = authenticator(Algorithm::P256);
    assert_eq!(browser.register("phone", &mut passkey).await.status, 303);
    (browser, passkey)
}

async fn message(site: &Site, id: &str) -> Vec<u8> {
    let grants = site.store().grants_of(id).await.unwrap();
    pre_authentication_encoding(GRANT_TYPE, &grants[0].part.payload)
}

async fn envelope(site: &Site, id: &str) -> v1::Envelope {
    site.store().grants_of(id).await.unwrap()[0].envelope.clone().unwrap()
}

/// The body of the API's call with an approval.
fn body(grant: &str, approval: &v1::Signature) -> Value {
    let assertion = approval.assertion.as_ref().unwrap();
    json!({
        "grant": grant,
        "key_id": approval.key_id,
        "signature": BASE64_STANDARD.encode(&approval.signature),
        "authenticator_data": BASE64_STANDARD.encode(&assertion.authenticator_data),
        "client_data_json": BASE64_STANDARD.encode(&assertion.client_data_json),
    })
}

async fn what_a_passkey_signs_at_the_page_goes_to_the_hosts(database: Database) {
    let (site, desk, _signing) = office(database, 2).await;
    let (li, mut passkey) = passkey_of(&site, "li").await;
    let id = waiting(&site, &desk).await;
    let link = format!("/requests/{id}/sign");
    let request = li.get(&format!("/requests/{id}")).await.ok();
    assert!(request.text.contains(&format!("href=\"{link}\"")), "{}", request.text);
    let page = li.get(&link).await.ok();
    for part in ["web-1", "203.0.113.7", "disk full", "ana@example.org", "1 of 2"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    // Who asked sees it, and has no button; who may not see it does not.
    let ana = Browser::of(&site, "ana").await;
    let own = ana.get(&link).await.ok();
    assert!(own.text.contains("somebody else signs") && !own.text.contains("data-passkey"));
    assert!(!ana.get(&format!("/requests/{id}")).await.ok().text.contains(&link));

    let steps = li.steps(&format!("{link}/options"), &[]).await;
    let [step] = &steps[..] else { panic!("{steps:?}") };
    let grant = li_grant(&site, &id).await;
    assert_eq!(step["field"], format!("credential-{grant}"));
    assert_eq!(step["get"]["challenge"], challenge(&site, &grant).await);
    let answer = passkey.get(&step["get"]);
    let field = format!("credential-{grant}");
    let signed = li.post(&link, &[(&field, &answer)]).await;
    assert_eq!(signed.goes_to(), format!("{link}?done=1"));
    let page = li.get(signed.goes_to()).await.ok();
    assert!(page.text.contains("on its way"), "{}", page.text);
    let caller = site.caller("li").await;
    assert_eq!(state(&caller, &id).await, "delivering");
    assert_eq!(site.store().deliveries_of(&id).await.unwrap().len(), 1);

    // The envelope is what a host with this [[approver]] takes.
    let sent = envelope(&site, &id).await;
    let approver = Trusted {
        name: "li".into(),
        key: PublicKey::from_pem(&passkey.key.public_pem()).unwrap(),
        approver: Some(RelyingParty::new(RP_ID, vec![ORIGIN.into()]).unwrap()),
    };
    let inspected = Inspection::of(&sent.encode_to_vec(), &[approver], now_ms()).unwrap();
    assert_eq!(inspected.signatures[1], SignatureState::Good("li".into()));
    assert!(sent.signatures[0].assertion.is_none(), "the controller signs plainly");
    let view = caller.get(&format!("/api/v1/grants/{grant}")).await.ok(200);
    let approval = &view["signatures"][1];
    assert_eq!(approval["key_id"], passkey.key.key_id());
    assert!(approval["client_data_json"].is_string() && approval["authenticator_data"].is_string());
    let lines = site.store().audit_of(&id).await.unwrap();
    let by_li = lines.iter().filter(|line| line.code == "R008" && line.line.contains("li@"));
    assert!(by_li.clone().any(|line| line.line.contains(&passkey.key.key_id())));
}

async fn li_grant(site: &Site, id: &str) -> String {
    site.store().grants_of(id).await.unwrap()[0].part.id.to_string()
}

/// The challenge as the API names it.
async fn challenge(site: &Site, grant: &str) -> String {
    let view = site.caller("li").await.get(&format!("/api/v1/grants/{grant}")).await.ok(200);
    view["challenge"].as_str().unwrap().to_owned()
}

async fn a_false_approval_is_refused_by_name(database: Database) {
    let (site, desk, _signing) = office(database, 2).await;
    let (browser, mut passkey) = passkey_of(&site, "li").await;
    let (_bo, mut of_bo) = passkey_of(&site, "bo").await;
    let (_ana, mut of_ana) = passkey_of(&site, "ana-admin").await;
    let (_eve, mut of_eve) = passkey_of(&site, "eve").await;
    let (id, other) = (waiting(&site, &desk).await, waiting(&site, &desk).await);
    let grant = li_grant(&site, &id).await;
    let path = format!("/api/v1/requests/{id}/signatures");
    let (message, elsewhere) = (message(&site, &id).await, message(&site, &other).await);
    let li = site.caller("li").await;
    let refused = async |who: &Caller<'_>, approval: &v1::Signature, word: &str, part: &str| {
        let status = if word == "already_signed" { 409 } else { 403 };
        let problem = who.post(&path, body(&grant, approval)).await.problem(status, word);
        assert!(problem["detail"].as_str().unwrap().contains(part), "{part}: {problem}");
    };
    let good = passkey.approve(&message);
    // Another payload, another page, another domain, nobody verified, nobody there.
    refused(&li, &passkey.approve(&elsewhere), "wrong_signature", "challenge").await;
    let with = |passkey: &mut Authenticator, change: fn(&mut Authenticator)| {
        change(passkey);
        let approval = passkey.approve(&message);
        passkey.origin = ORIGIN.into();
        passkey.rp_id = RP_ID.into();
        passkey.flags = jit_client::authenticator::PRESENT_AND_VERIFIED;
        passkey.cross_origin = false;
        approval
    };
    let cases: [(Change, &str); 5] = [
        (|one| one.origin = "https://evil.example.org".into(), "the origin"),
        (|one| one.rp_id = "evil.example.org".into(), "rpIdHash"),
        (|one| one.flags = 0b001, "user verification"),
        (|one| one.flags = 0b100, "user presence"),
        (|one| one.cross_origin = true, "another page"),
    ];
    for (change, part) in cases {
        refused(&li, &with(&mut passkey, change), "wrong_signature", part).await;
    }
    // A sign-in's answer, and a signature by another key under Li's name.
    let sign_in = browser.sign_in_options("").await;
    let sign_in = passkey.get(&sign_in);
    let field = format!("credential-{grant}");
    let shown = browser.post(&format!("/requests/{id}/sign"), &[(&field, &sign_in)]).await;
    assert!(shown.status == 403 && shown.text.contains("challenge"), "{}", shown.text);
    let renamed = v1::Signature { key_id: passkey.key.key_id(), ..of_bo.approve(&message) };
    refused(&li, &renamed, "wrong_signature", "not by its key").await;
    // Without what makes it an approval it is another key's: nobody's.
    let plain = json!({ "grant": grant, "key_id": good.key_id,
        "signature": BASE64_STANDARD.encode(&good.signature) });
    li.post(&path, plain).await.problem(403, "unknown_key");
    let mut half = body(&grant, &good);
    half["client_data_json"] = Value::Null;
    li.post(&path, half).await.problem(422, "invalid");
    // Another's passkey; who asked, with a second account; who may approve nowhere; nobody's
    // passkey.
    refused(&li, &of_bo.approve(&message), "not_your_key", "").await;
    let root_of_ana = site.caller("ana-admin").await;
    refused(&root_of_ana, &of_ana.approve(&message), "self_approval", "").await;
    let eve = site.caller("eve").await;
    refused(&eve, &of_eve.approve(&message), "not_eligible", "web-1").await;
    let mut stranger = authenticator(Algorithm::Ed25519);
    refused(&li, &stranger.approve(&message), "unknown_key", "/me").await;
    assert_eq!(envelope(&site, &id).await.signatures.len(), 1);
    let refusals = site.store().audit_of(&id).await.unwrap();
    assert!(refusals.iter().filter(|line| line.code == "R014").count() >= 12);
    // It still waits, and the good one is taken.
    li.post(&path, body(&grant, &good)).await.ok(200);
    assert_eq!(state(&li, &id).await, "delivering");
    li.post(&path, body(&grant, &good)).await.problem(409, "not_pending");
}

async fn a_removed_passkey_counts_no_longer_also_where_it_has_signed(database: Database) {
    let (site, desk, _signing) = office(database, 3).await;
    let (browser, mut passkey) = passkey_of(&site, "li").await;
    let (_bo, mut of_bo) = passkey_of(&site, "bo").await;
    let id = waiting(&site, &desk).await;
    let grant = li_grant(&site, &id).await;
    let path = format!("/api/v1/requests/{id}/signatures");
    let message = message(&site, &id).await;
    let (li, bo) = (site.caller("li").await, site.caller("bo").await);
    let approval = passkey.approve(&message);
    // Twice is once; a second passkey of the same person is no second person.
    for _ in 0..2 {
        li.post(&path, body(&grant, &approval)).await.ok(200);
    }
    let mut second = authenticator(Algorithm::Ed25519);
    assert_eq!(browser.register("second", &mut second).await.status, 303);
    let again = body(&grant, &second.approve(&message));
    li.post(&path, again).await.problem(409, "already_signed");
    assert_eq!(envelope(&site, &id).await.signatures.len(), 2);
    let root = site.caller("root").await;
    let remove = format!("/api/v1/accounts/li/passkeys/{}", passkey.key.key_id());
    root.delete(&remove).await.ok(204);
    bo.post(&path, body(&grant, &of_bo.approve(&message))).await.ok(200);
    assert_eq!(state(&li, &id).await, "awaiting_signatures");
    assert_eq!(envelope(&site, &id).await.signatures.len(), 2, "the controller's and Bo's");
    li.post(&path, body(&grant, &approval)).await.problem(403, "unknown_key");
    li.post(&path, body(&grant, &second.approve(&message))).await.ok(200);
    assert_eq!(state(&li, &id).await, "delivering");
}
