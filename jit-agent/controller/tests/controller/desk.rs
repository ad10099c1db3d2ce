//! What may be done with a request, each with the real signer, on both databases.

mod closings;
mod extensions;
mod replaced;
mod signatures;

use jit_controller::{
    clock::now_ms,
    desk::{Ask, Desk, DeskError, Settings},
    model::{Account, Answer, Decision, Host, Outcome, Ruling, State},
    store::{Request, RulesVersion, Store, Wanted, accounts, hosts, requests, rules},
};
use jit_proto::v1;
use prost::Message as _;

use crate::{
    databases::Database,
    signers::{self, Signing},
};

on_each_database! {
    a_key_makes_one_request_of_equal_wishes_and_refuses_another,
    nobody_approves_with_a_second_account,
    another_subject_makes_no_other_person,
    what_was_not_seen_is_not_approved,
    an_approver_who_was_removed_no_longer_counts,
    a_removed_approver_stops_a_grant_that_is_not_signed,
    a_shorter_request_replaces_the_longer_one_and_names_its_approvers,
    an_extension_begins_at_the_end_of_what_it_extends,
    a_pending_request_that_is_replaced_loses_its_approvals,
    an_answer_to_what_is_no_longer_wanted_changes_nothing,
    time_ends_what_nobody_agreed_to_and_what_has_passed,
    oncall_counts_for_every_group_after_the_escalation,
    a_host_that_asks_for_two_signatures_waits_for_the_second,
    forged_rows_are_not_signed,
}

const HOUR: i64 = 3_600_000;
const RULES: &str = r#"
@id("two") @require("1 of sre and 1 of approvers") @max("4h") @escalate("15m to oncall")
permit (principal in Group::"sre", action == Action::"initiate", resource);

@id("auto")
permit (principal in Group::"robots", action == Action::"auto_approve", resource);

@id("approve")
permit (principal, action == Action::"approve", resource);

@id("close")
permit (principal in Group::"oncall", action == Action::"revoke", resource);
"#;

struct Office {
    desk: Desk,
    store: Store,
    signing: Signing,
}

impl Office {
    async fn open(database: &Database) -> Self {
        let store = Store::open(&database.url).await.unwrap();
        let signing = signers::pem().await;
        let mut tx = store.begin().await.unwrap();
        for (name, subject, groups) in [
            ("ana", "ana@example.org", &["sre"][..]),
            ("ana-admin", "ana@example.org", &["approvers", "sre"]),
            ("bo", "bo@example.org", &["approvers"]),
            ("li", "li@example.org", &["sre"]),
            ("max", "max@example.org", &["oncall"]),
            ("robot", "robot", &["robots"]),
        ] {
            accounts::put(&mut tx, &account(name, subject, groups)).await.unwrap();
        }
        for id in ["web-1", "web-2"] {
            let host = Host { id: id.into(), address: "192.0.2.1:7443".into(), ..Host::default() };
            hosts::put(&mut tx, &host).await.unwrap();
        }
        let first = RulesVersion {
            version: 1,
            text: RULES.into(),
            author: "ana@example.org".into(),
            note: String::new(),
            saved_ms: 1,
        };
        rules::save(&mut tx, &first).await.unwrap();
        tx.commit().await.unwrap();
        // Nothing of the desk asks for a second connection while it has one.
        let of_desk = Store::open_with(&database.url, 1).await.unwrap();
        let desk = Desk::new(of_desk, Some(signing.signer.clone()), Settings::default());
        Self { desk, store, signing }
    }

    fn signer(&self) -> &jit_controller::signer::Signer {
        &self.signing.signer
    }

    async fn account(&self, name: &str) -> Account {
        self.store.account(name).await.unwrap().unwrap()
    }

    /// The account gets another subject, and nothing that it asked for is withdrawn: it came
    /// meanwhile.
    async fn renamed(&self, name: &str, subject: &str) {
        let account = Account { subject: subject.into(), ..self.account(name).await };
        let mut tx = self.store.begin().await.unwrap();
        accounts::put(&mut tx, &account).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn submit(&self, name: &str, ask: Ask) -> Request {
        self.desk.submit(&self.account(name).await, ask, "", now_ms()).await.unwrap()
    }

    async fn decide(
        &self,
        name: &str,
        request: &Request,
        at_ms: i64,
    ) -> Result<Request, DeskError> {
        let (who, id) = (self.account(name).await, &request.proposal.id);
        self.desk.decide(&who, id, Ruling::Approve, "", &request.hash, at_ms).await
    }

    /// Approved by both groups, signed, and open on its hosts.
    async fn open_request(&self, ask: Ask) -> Request {
        let request = self.submit("ana", ask).await;
        self.decide("li", &request, now_ms()).await.unwrap();
        let request = self.decide("bo", &request, now_ms()).await.unwrap();
        assert_eq!(request.state, State::Approved);
        self.bring_to_hosts().await;
        self.read(&request.proposal.id).await
    }

    /// Signs what waits, and lets every host accept it.
    async fn bring_to_hosts(&self) {
        self.desk.sign_waiting(now_ms()).await.unwrap();
        for row in self.store.deliveries_due(now_ms(), 100).await.unwrap() {
            let answer = match row.wanted {
                Wanted::Grant => Answer::Open,
                Wanted::Revoke => Answer::Closed,
            };
            self.desk.answered(&row, answer, "ok", "", now_ms()).await.unwrap();
        }
    }

    async fn read(&self, id: &str) -> Request {
        self.store.request(id).await.unwrap().unwrap()
    }

    async fn payload(&self, id: &str) -> v1::Grant {
        let grants = self.store.grants_of(id).await.unwrap();
        v1::Grant::decode(grants[0].part.payload.as_slice()).unwrap()
    }
}

fn account(name: &str, subject: &str, groups: &[&str]) -> Account {
    Account {
        name: name.into(),
        subject: subject.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        disabled: false,
        created_ms: 1,
    }
}

fn ssh() -> Ask {
    Ask {
        hosts: vec!["web-1".into(), "web-2".into()],
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: HOUR,
        start_ms: None,
        reason: "disk full".into(),
        ticket: String::new(),
        sessions: None,
        max_connections: 0,
        replaces: None,
    }
}

#[track_caller]
fn word(refused: Result<Request, DeskError>) -> &'static str {
    match refused {
        Err(DeskError::Forbidden { word, .. }) => word,
        other => panic!("it was not forbidden: {other:?}"),
    }
}

async fn a_key_makes_one_request_of_equal_wishes_and_refuses_another(database: Database) {
    let office = Office::open(&database).await;
    let ana = office.account("ana").await;
    let submit = async |ask: Ask, key: &str| office.desk.submit(&ana, ask, key, now_ms()).await;
    let (first, second) = tokio::join!(submit(ssh(), "k"), submit(ssh(), "k"));
    assert_eq!(first.unwrap().proposal, second.unwrap().proposal);
    let other = Ask { duration_ms: 2 * HOUR, ..ssh() };
    assert!(matches!(submit(other, "k").await, Err(DeskError::Conflict(_))));
    // Another person's key is another key.
    let li = office.account("li").await;
    let of_li = office.desk.submit(&li, ssh(), "k", now_ms()).await.unwrap();
    assert_eq!(of_li.proposal.requester, "li@example.org");
}

async fn nobody_approves_with_a_second_account(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana", ssh()).await;
    assert_eq!((request.state, request.verdict.outcome), (State::Pending, Outcome::Manual));
    for name in ["ana", "ana-admin"] {
        assert_eq!(word(office.decide(name, &request, now_ms()).await), "self_approval");
    }
    assert_eq!(word(office.decide("robot", &request, now_ms()).await), "not_eligible");
    let refused = office.store.audit_of(&request.proposal.id).await.unwrap();
    assert_eq!(refused.iter().filter(|line| line.code == "R014").count(), 3);
}

async fn another_subject_makes_no_other_person(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana-admin", ssh()).await;
    office.renamed("ana-admin", "ana.married@example.org").await;
    assert_eq!(word(office.decide("ana-admin", &request, now_ms()).await), "self_approval");
    let (_, eligible) = office.desk.open_needs(&request, now_ms()).await.unwrap();
    assert!(eligible.iter().all(|one| !one.accounts.contains(&"ana-admin".into())), "{eligible:?}");
    // An agreement that is there already, whoever made it, counts for nothing.
    let mut tx = office.store.begin().await.unwrap();
    let own = Decision {
        request: request.proposal.id.clone(),
        subject: "ana.married@example.org".into(),
        account: "ana-admin".into(),
        ruling: Ruling::Approve,
        groups: ["approvers".to_owned()].into(),
        reason: String::new(),
        hash: request.hash.clone(),
        at_ms: now_ms(),
    };
    requests::decide(&mut tx, &own).await.unwrap();
    tx.commit().await.unwrap();
    let after = office.decide("li", &request, now_ms()).await.unwrap();
    assert_eq!(after.state, State::Pending);
    let after = office.decide("bo", &request, now_ms()).await.unwrap();
    assert_eq!(after.state, State::Approved);
}

async fn what_was_not_seen_is_not_approved(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana", ssh()).await;
    let seen = Request { hash: "0".repeat(64), ..request.clone() };
    assert_eq!(word(office.decide("li", &seen, now_ms()).await), "changed");
    office.decide("li", &request, now_ms()).await.unwrap();
    // The same again is the same; another word is not.
    office.decide("li", &request, now_ms()).await.unwrap();
    let li = office.account("li").await;
    let no =
        office.desk.decide(&li, &request.proposal.id, Ruling::Deny, "no", &request.hash, now_ms());
    assert_eq!(word(no.await), "already_decided");
    let late = request.proposal.approve_until_ms;
    assert_eq!(word(office.decide("bo", &request, late).await), "too_late");
}

async fn an_approver_who_was_removed_no_longer_counts(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana", ssh()).await;
    office.decide("li", &request, now_ms()).await.unwrap();
    let mut tx = office.store.begin().await.unwrap();
    let gone = Account { disabled: true, ..office.account("li").await };
    accounts::put(&mut tx, &gone).await.unwrap();
    tx.commit().await.unwrap();
    let after = office.decide("bo", &request, now_ms()).await.unwrap();
    assert_eq!(after.state, State::Pending);
    let (missing, _) = office.desk.open_needs(&after, now_ms()).await.unwrap();
    assert_eq!(missing.text(), "1 of sre");
    assert_eq!(
        word(
            office
                .desk
                .decide(&gone, &request.proposal.id, Ruling::Approve, "", &request.hash, now_ms())
                .await
        ),
        "account_disabled"
    );
}

async fn a_removed_approver_stops_a_grant_that_is_not_signed(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana", ssh()).await;
    office.decide("li", &request, now_ms()).await.unwrap();
    office.decide("bo", &request, now_ms()).await.unwrap();
    let mut tx = office.store.begin().await.unwrap();
    let moved = Account { groups: ["dba".to_owned()].into(), ..office.account("bo").await };
    accounts::put(&mut tx, &moved).await.unwrap();
    tx.commit().await.unwrap();
    office.bring_to_hosts().await;
    let after = office.read(&request.proposal.id).await;
    assert_eq!(after.state, State::Denied);
    assert!(after.why.contains("approval_missing"), "{}", after.why);
    assert!(office.store.deliveries_of(&request.proposal.id).await.unwrap().is_empty());
}

async fn a_shorter_request_replaces_the_longer_one_and_names_its_approvers(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    assert_eq!(old.state, State::Open);
    let ana = office.account("ana").await;
    let id = &old.proposal.id;
    let later = office.desk.shorten(&ana, id, old.ends_ms + 1, "", now_ms()).await;
    assert!(matches!(later, Err(DeskError::Invalid { field: "ends", .. })), "{later:?}");
    let li = office.account("li").await;
    assert_eq!(
        word(office.desk.shorten(&li, id, old.ends_ms - HOUR / 2, "", now_ms()).await),
        "not_permitted"
    );
    let new =
        office.desk.shorten(&ana, id, old.ends_ms - HOUR / 2, "done", now_ms()).await.unwrap();
    office.bring_to_hosts().await;
    let new = office.read(&new.proposal.id).await;
    assert_eq!((new.state, new.ends_ms), (State::Open, old.ends_ms - HOUR / 2));
    let payload = office.payload(&new.proposal.id).await;
    assert_eq!(payload.approvers, ["bo@example.org", "li@example.org"]);
    assert_eq!(payload.replaces, office.payload(id).await.id);
    let old = office.read(id).await;
    assert_eq!((old.state, old.replaced_by.as_str()), (State::Ended, new.proposal.id.as_str()));
}

async fn an_extension_begins_at_the_end_of_what_it_extends(database: Database) {
    let office = Office::open(&database).await;
    let old = office.open_request(ssh()).await;
    let ana = office.account("ana").await;
    let extend =
        async || office.desk.extend(&ana, &old.proposal.id, HOUR, "", "more", now_ms()).await;
    let new = extend().await.unwrap();
    assert_eq!(extend().await.unwrap().proposal, new.proposal);
    assert_eq!(new.state, State::Pending);
    let start = new.proposal.start_ms.unwrap();
    assert!(start < old.ends_ms && start + new.proposal.duration_ms == old.ends_ms + HOUR);
    let li = office.account("li").await;
    let of_another = office.desk.extend(&li, &old.proposal.id, HOUR, "", "", now_ms()).await;
    assert!(matches!(of_another, Err(DeskError::NotFound(_))), "{of_another:?}");
}

async fn a_pending_request_that_is_replaced_loses_its_approvals(database: Database) {
    let office = Office::open(&database).await;
    let first = office.submit("ana", ssh()).await;
    office.decide("li", &first, now_ms()).await.unwrap();
    let changed = Ask { replaces: Some(first.proposal.id.clone()), duration_ms: 2 * HOUR, ..ssh() };
    let second = office.submit("ana", changed).await;
    assert_eq!(office.read(&first.proposal.id).await.state, State::Withdrawn);
    assert_eq!(word(office.decide("bo", &first, now_ms()).await), "not_pending");
    let after = office.decide("bo", &second, now_ms()).await.unwrap();
    assert_eq!(after.state, State::Pending);
    // What was said of the first does not count for the second.
    let old = Request { proposal: second.proposal.clone(), ..first };
    assert_eq!(word(office.decide("li", &old, now_ms()).await), "changed");
}

async fn an_answer_to_what_is_no_longer_wanted_changes_nothing(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("robot", ssh()).await;
    assert_eq!(request.state, State::Approved);
    office.desk.sign_waiting(now_ms()).await.unwrap();
    let before = office.store.deliveries_due(now_ms(), 10).await.unwrap();
    let robot = office.account("robot").await;
    let id = &request.proposal.id;
    office.desk.revoke(&robot, id, "over", now_ms()).await.unwrap();
    office.desk.answered(&before[0], Answer::Open, "ok", "", now_ms()).await.unwrap();
    let rows = office.store.deliveries_of(id).await.unwrap();
    assert!(rows.iter().all(|row| row.wanted == Wanted::Revoke && row.pending), "{rows:?}");
    assert_eq!(office.read(id).await.state, State::Revoked);
    office.bring_to_hosts().await;
    let rows = office.store.deliveries_of(id).await.unwrap();
    assert!(rows.iter().all(|row| row.answer == Answer::Closed && !row.pending), "{rows:?}");
}

async fn time_ends_what_nobody_agreed_to_and_what_has_passed(database: Database) {
    let office = Office::open(&database).await;
    let pending = office.submit("ana", ssh()).await;
    let open = office.open_request(ssh()).await;
    office.desk.tick(open.ends_ms - 1).await.unwrap();
    assert_eq!(office.read(&open.proposal.id).await.state, State::Open);
    office.desk.tick(open.ends_ms).await.unwrap();
    let ended = office.read(&open.proposal.id).await;
    assert_eq!(ended.state, State::Ended);
    assert!(ended.why.contains("2 of 2 hosts"), "{}", ended.why);
    office.desk.tick(pending.proposal.approve_until_ms).await.unwrap();
    assert_eq!(office.read(&pending.proposal.id).await.state, State::ExpiredUnapproved);
}

async fn oncall_counts_for_every_group_after_the_escalation(database: Database) {
    let office = Office::open(&database).await;
    let request = office.submit("ana", ssh()).await;
    let due = request.escalate_ms;
    assert_eq!(due, request.proposal.created_ms + 15 * 60_000);
    assert_eq!(word(office.decide("max", &request, due - 1).await), "not_eligible");
    office.desk.tick(due).await.unwrap();
    let lines = office.store.audit_of(&request.proposal.id).await.unwrap();
    assert!(lines.iter().any(|line| line.code == "R007"));
    let after = office.decide("max", &request, due).await.unwrap();
    let (missing, _) = office.desk.open_needs(&after, due).await.unwrap();
    assert_eq!(missing.count(), 1, "one person counts for one group");
}

async fn a_host_that_asks_for_two_signatures_waits_for_the_second(database: Database) {
    let office = Office::open(&database).await;
    let mut observed = office.store.host("web-2").await.unwrap().unwrap().observed;
    observed.ports = vec![jit_controller::model::host::ObservedPort {
        port: "22/tcp".into(),
        mode: "enforce".into(),
        max_duration_ms: HOUR,
        approvals: 2,
        exemptions: Vec::new(),
    }];
    office.store.observe("web-2", &observed).await.unwrap();
    let request = office.submit("robot", ssh()).await;
    office.desk.sign_waiting(now_ms()).await.unwrap();
    let id = &request.proposal.id;
    assert_eq!(office.read(id).await.state, State::AwaitingSignatures);
    assert!(office.store.deliveries_of(id).await.unwrap().is_empty());
    assert_eq!(office.store.grants_of(id).await.unwrap()[0].signatures_needed, 2);
}

/// Somebody writes to the database itself: what people have not agreed to is not signed.
async fn forged_rows_are_not_signed(database: Database) {
    let office = Office::open(&database).await;
    let honest = office.open_request(ssh()).await;
    let forged = office.submit("ana", Ask { reason: "mine".into(), ..ssh() }).await;
    let id = forged.proposal.id.as_str();
    // As if it had been approved: its grants are made, its state is set, a decision is copied.
    let mut tx = office.store.begin().await.unwrap();
    let made = jit_controller::model::grant::parts(
        &forged.proposal,
        &["bo@example.org".into()],
        &[],
        now_ms(),
    );
    for (number, part) in made.unwrap().iter().enumerate() {
        jit_controller::store::grants::insert(&mut tx, id, number, part, 1).await.unwrap();
    }
    for decision in office.store.decisions(&honest.proposal.id).await.unwrap() {
        let copied = Decision { request: id.into(), ..decision };
        requests::decide(&mut tx, &copied).await.unwrap();
    }
    let approved = Request { state: State::Approved, ends_ms: now_ms() + HOUR, ..forged.clone() };
    requests::update(&mut tx, &approved).await.unwrap();
    tx.commit().await.unwrap();
    office.bring_to_hosts().await;
    let after = office.read(id).await;
    assert_eq!(after.state, State::Denied);
    assert!(after.why.contains("the signer refuses it: hash_differs"), "{}", after.why);
    assert!(office.store.deliveries_of(id).await.unwrap().is_empty());
}
