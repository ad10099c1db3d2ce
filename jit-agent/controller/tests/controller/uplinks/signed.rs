//! Requests that are signed already, and their end; and signed revocations.

use jit_client::revocation_order::Whose;
use jit_controller::{
    clock::now_ms,
    desk::{Close, Desk},
    model::{Account, Needs, Outcome, Proposal, State, Verdict, grant::parts},
    store::{Closing, Request, RulesVersion, deliveries, grants, requests, rules},
};
use jit_proto::{payload_type::GRANT_TYPE, v1};

/// A request that is signed and on its way to this host.
pub(super) async fn request(desk: &Desk, host: &str) -> Request {
    let now = now_ms();
    let proposal = Proposal {
        id: ulid::Ulid::generate().to_string(),
        requester: "ana@example.org".into(),
        hosts: vec![host.to_owned()],
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22/tcp".parse().unwrap()],
        duration_ms: 3_600_000,
        start_ms: None,
        reason: "test".into(),
        ticket: String::new(),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms: now,
        approve_until_ms: now + 60_000,
    };
    let verdict = Verdict {
        rules_version: 1,
        outcome: Outcome::Automatic,
        needs: Needs::default(),
        max_duration_ms: None,
        rules: Vec::new(),
        denied: Vec::new(),
        escalate: None,
    };
    let request = Request {
        hash: proposal.hash(),
        account: "ana".into(),
        idempotency_key: proposal.id.clone(),
        state: State::Delivering,
        verdict,
        why: String::new(),
        escalate_ms: 0,
        ends_ms: now + proposal.duration_ms,
        replaced_by: String::new(),
        revision: 0,
        proposal,
    };
    let mut tx = desk.store().begin().await.unwrap();
    requests::insert(&mut tx, &request).await.unwrap();
    let of = &request.proposal.id;
    for (number, part) in parts(&request.proposal, &[], &[], now).unwrap().iter().enumerate() {
        let id = part.id.to_string();
        grants::insert(&mut tx, of, number, part, 1).await.unwrap();
        let envelope = v1::Envelope {
            payload_type: GRANT_TYPE.into(),
            payload: part.payload.clone().into(),
            signatures: Vec::new(),
        };
        grants::set_envelope(&mut tx, &id, &envelope, now).await.unwrap();
        let until = part.not_after_ms;
        deliveries::insert(&mut tx, of, &id, &part.hosts, now, until).await.unwrap();
    }
    tx.commit().await.unwrap();
    desk.changed();
    request
}

/// Revokes a request, as the desk does.
pub(super) async fn revoke(desk: &Desk, id: &str) {
    let mut tx = desk.store().begin().await.unwrap();
    let mut request = requests::lock(&mut tx, id).await.unwrap().unwrap();
    request.state = State::Revoked;
    requests::update(&mut tx, &request).await.unwrap();
    deliveries::revoke(&mut tx, id, now_ms()).await.unwrap();
    tx.commit().await.unwrap();
    desk.changed();
}

const RULES: &str = r#"
@id("close") permit (principal in Group::"admins", action == Action::"revoke", resource);
"#;

/// Ends everything that was granted until now, on these hosts or on all.
pub(super) async fn close(desk: &Desk, hosts: &[&str]) -> Closing {
    if desk.store().rules_in_force().await.unwrap().is_none() {
        let (text, author, note) = (RULES.into(), "root".into(), String::new());
        let first = RulesVersion { version: 1, text, author, note, saved_ms: 1 };
        let mut tx = desk.store().begin().await.unwrap();
        rules::save(&mut tx, &first).await.unwrap();
        tx.commit().await.unwrap();
    }
    let root = Account {
        name: "root".into(),
        subject: "root@example.org".into(),
        groups: ["admins".to_owned()].into(),
        disabled: false,
        created_ms: 1,
    };
    let close = Close {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        groups: Vec::new(),
        every_host: hosts.is_empty(),
        whose: Whose::All,
        cut: false,
        reason: "stolen key".into(),
    };
    desk.close(&root, &close, now_ms()).await.unwrap()
}
