//! Whoever writes into the controller's database gets nothing signed that nobody agreed to: the signer
//! refuses each forgery by its word, and no host opens.

use jit_controller::{
    clock::now_ms,
    model::{GrantPart, Proposal, grant},
    store::Store,
};
use jit_proto::{SourcePrefix, v1};
use jit_tests::controller::{
    CLIENT, STRANGER, Stage,
    people::{Person, access},
};
use prost::Message as _;
use rustix::process::Signal;
use sqlx::{AnyConnection, Connection as _, Row as _, any::install_default_drivers, query};
use tokio::runtime::Runtime;

use crate::asked::{SCOPES, stage, until};

/// A thief with the database open.
struct Thief {
    runtime: Runtime,
    database: AnyConnection,
}

impl Thief {
    fn new(stage: &Stage) -> Self {
        install_default_drivers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = Store::sqlite_url(&stage.own("controller.db"));
        let database = runtime.block_on(AnyConnection::connect(&url)).unwrap();
        Self { runtime, database }
    }

    fn proposal(&mut self, request: &str) -> Proposal {
        let row = query("SELECT proposal FROM request WHERE id = $1").bind(request);
        let row = self.runtime.block_on(row.fetch_one(&mut self.database)).unwrap();
        serde_json::from_str(row.get("proposal")).unwrap()
    }

    /// Runs a statement whose first parameter is the request.
    fn set(&mut self, statement: &'static str, request: &str, text: &str) {
        let statement = query(statement).bind(request).bind(text.to_owned());
        let done = self.runtime.block_on(statement.execute(&mut self.database)).unwrap();
        assert_eq!(done.rows_affected(), 1, "{request}");
    }

    /// Makes a request look approved by these people, now, with the grant that follows from that.
    fn approve(&mut self, request: &str, approvers: &[&str]) {
        let proposal = self.proposal(request);
        let approvers: Vec<_> = approvers.iter().map(|one| (*one).to_owned()).collect();
        let parts = grant::parts(&proposal, &approvers, &[], now_ms()).unwrap();
        let [part] = &parts[..] else { panic!("one grant") };
        self.insert(request, part);
        let statement = query("UPDATE request SET state = 'approved', ends_ms = $2 WHERE id = $1");
        let statement = statement.bind(request).bind(part.not_after_ms);
        self.runtime.block_on(statement.execute(&mut self.database)).unwrap();
    }

    fn insert(&mut self, request: &str, part: &GrantPart) {
        let statement = query(
            "INSERT INTO grant_part (id, request, number, hosts_json, not_before_ms, not_after_ms, \
             payload, payload_hash, envelope, signatures_needed, signed_ms) \
             VALUES ($1, $2, 0, $3, $4, $5, $6, $7, $8, 1, 0)",
        );
        let statement = statement
            .bind(part.id.to_string())
            .bind(request)
            .bind(serde_json::to_string(&part.hosts).unwrap())
            .bind(part.not_before_ms)
            .bind(part.not_after_ms)
            .bind(part.payload.clone())
            .bind(part.payload_hash())
            .bind(Vec::<u8>::new());
        self.runtime.block_on(statement.execute(&mut self.database)).unwrap();
    }

    /// Writes a decision with the hash of a request.
    fn decide(&mut self, request: &str, subject: &str, account: &str, hash: &str) {
        let statement = query(
            "INSERT INTO decision (request, subject, account, ruling, groups_json, reason, hash, at_ms) \
             VALUES ($1, $2, $3, 'approve', '[\"sre\"]', 'seen', $4, $5)",
        );
        let statement =
            statement.bind(request).bind(subject).bind(account).bind(hash).bind(now_ms());
        self.runtime.block_on(statement.execute(&mut self.database)).unwrap();
    }

    /// Replaces the payload of a request's grant.
    fn replace_payload(&mut self, request: &str, payload: Vec<u8>) {
        let statement = query("UPDATE grant_part SET payload = $2 WHERE request = $1");
        let statement = statement.bind(request).bind(payload);
        let done = self.runtime.block_on(statement.execute(&mut self.database)).unwrap();
        assert_eq!(done.rows_affected(), 1);
    }

    /// The request's own verdict, changed so that nobody must agree. Its rules stay: they name people.
    fn automatic_verdict(&mut self, request: &str) -> String {
        let row = query("SELECT verdict_json FROM request WHERE id = $1").bind(request);
        let row = self.runtime.block_on(row.fetch_one(&mut self.database)).unwrap();
        let mut verdict: serde_json::Value = serde_json::from_str(row.get("verdict_json")).unwrap();
        verdict["outcome"] = "automatic".into();
        verdict["needs"] = serde_json::json!({});
        verdict.to_string()
    }

    fn payload(&mut self, request: &str) -> v1::Grant {
        let row = query("SELECT payload FROM grant_part WHERE request = $1").bind(request);
        let row = self.runtime.block_on(row.fetch_one(&mut self.database)).unwrap();
        v1::Grant::decode(row.get::<&[u8], _>("payload")).unwrap()
    }
}

#[test]
fn the_signer_refuses_each_forgery_by_its_word() {
    let (mut stage, ana, li) = stage(None, &["web-1"], "stage");
    let bo = stage.person("bo", "bo@example.org", &["sre"], &SCOPES);
    let second = stage.person("ana-admin", "ana@example.org", &["sre"], &SCOPES);
    // Nothing is signed while the thief is at work: the signer is not there.
    stage.end_controller(Signal::TERM);
    stage.start_controller(&["api", "hub"]);
    let ask = |source: &str| ana.ask(&access(&["web-1"], source, "30m"));
    let (l, lid) = ("li@example.org", "li");
    let mut thief = Thief::new(&stage);

    let good = ask(CLIENT);
    li.approve(&good.id);
    let nobody = ask(STRANGER);
    thief.approve(&nobody.id, &[l]);
    let copied = ask(STRANGER);
    thief.decide(&copied.id, l, lid, &good.hash);
    thief.approve(&copied.id, &[l]);
    let own = ask(STRANGER);
    thief.decide(&own.id, "ana@example.org", &second.account, &own.hash);
    thief.approve(&own.id, &["ana@example.org"]);
    let stranger: SourcePrefix = STRANGER.parse().unwrap();
    let swapped = ask(CLIENT);
    li.approve(&swapped.id);
    let payload = v1::Grant { sources: vec![(&stranger).into()], ..thief.payload(&swapped.id) };
    thief.replace_payload(&swapped.id, payload.encode_to_vec());
    let widened = ask(CLIENT);
    thief.decide(&widened.id, l, lid, &widened.hash);
    let proposal = Proposal { sources: vec![stranger], ..thief.proposal(&widened.id) };
    thief.set("UPDATE request SET proposal = $2 WHERE id = $1", &widened.id, &proposal.json());
    thief.approve(&widened.id, &[l]);
    let automatic = ask(STRANGER);
    let verdict = thief.automatic_verdict(&automatic.id);
    thief.set("UPDATE request SET verdict_json = $2 WHERE id = $1", &automatic.id, &verdict);
    thief.approve(&automatic.id, &[]);
    // No forgery: who agreed is shut out before it is signed.
    let removed = ask(STRANGER);
    bo.approve(&removed.id);
    stage.admin.put_account("bo", "bo@example.org", &["sre"], true);

    stage.end_controller(Signal::TERM);
    stage.start_controller(&[]);
    for (name, request, word) in [
        ("no decision", &nobody, "approval_missing"),
        ("a decision of another request", &copied, "hash_differs"),
        ("an own approval", &own, "self_approval"),
        ("another payload", &swapped, "payload_differs"),
        ("another proposal", &widened, "hash_differs"),
        ("another verdict", &automatic, "not_covered"),
        ("an approver who was shut out", &removed, "approval_missing"),
    ] {
        let view = until(&li, &request.id, |view| view.is_final);
        println!("{name}: {}", view.why);
        assert_eq!(view.state, "denied", "{name}: {view:#?}");
        assert!(view.why.contains(word), "{name}: {word}: {}", view.why);
        refused_in_the_audit(&stage.admin, &request.id, word);
    }
    // What was agreed to opens all the same.
    let open = li.settled(&good.id);
    assert_eq!(open.state, "open", "{open:#?}");
    assert!(stage.client_gets_in(0, 22));
    assert!(!stage.stranger_opens(0, 22));
    let grants = stage.host(0).audit();
    let ids: Vec<_> = grants.iter().filter_map(|one| one["grant"].as_str()).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == good.id), "{ids:?}");
}

fn refused_in_the_audit(admin: &Person, request: &str, word: &str) {
    let records = admin.audit();
    let found = records.iter().find(|one| one.request == request && one.code == "R009");
    let found = found.unwrap_or_else(|| panic!("no R009 of {request}"));
    assert_eq!(found.record["word"], word, "{:#}", found.record);
}
