//! Signed revocations: what they end in the desk, and what hosts answer to them, with the real signer.

use jit_client::{public_key::PublicKey, revocation_order::Whose};
use jit_controller::{
    desk::{Close, Desk, DeskError, Settings},
    model::{Account, Answer, Host, State},
    store::{Closing, ClosingAnswer, RulesVersion, Store, Wanted, closings::Heard, hosts, rules},
};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::REVOCATION_TYPE};

use super::{HOUR, Office, now_ms, ssh};
use crate::{databases::Database, signers};

on_each_database! {
    one_payload_for_every_host_ends_all_that_was_granted_until_then,
    on_some_hosts_a_request_goes_on_at_the_others,
    only_what_is_named_ends,
    who_may_not_revoke_on_each_of_its_hosts_makes_none,
    one_host_that_rules_tell_from_the_others_bars_everything,
    a_refusal_is_recorded_once_and_the_last_answer_counts,
    another_process_signs_what_this_one_cannot,
    what_hosts_report_before_the_desk_has_ended_it_is_revoked_all_the_same,
    a_flood_of_one_person_stops_nobody_else_and_not_what_closes_everything,
    what_the_signer_cannot_sign_now_is_kept_and_signed_later,
}

fn everything() -> Close {
    Close {
        hosts: Vec::new(),
        groups: Vec::new(),
        every_host: true,
        whose: Whose::All,
        cut: false,
        reason: "stolen key".into(),
    }
}

fn answer(closing: &Closing, host: &str, heard: Heard, word: &str) -> ClosingAnswer {
    ClosingAnswer {
        closing: closing.id.clone(),
        host: host.into(),
        heard,
        word: word.into(),
        detail: String::new(),
        answered_ms: now_ms(),
    }
}

impl Office {
    /// By Max, who may.
    async fn close(&self, close: &Close) -> Closing {
        let max = self.account("max").await;
        let closing = self.desk.close(&max, close, now_ms()).await.unwrap();
        self.desk.tick(now_ms()).await.unwrap();
        closing
    }

    async fn hear(&self, answers: &[ClosingAnswer]) {
        self.desk.closed(answers, now_ms()).await.unwrap();
    }

    async fn state(&self, id: &str) -> State {
        self.read(id).await.state
    }

    /// Number of records with this code.
    async fn records(&self, code: &str) -> usize {
        let lines = self.store.audit_after(0, 10_000).await.unwrap();
        lines.iter().filter(|line| line.code == code).count()
    }
}

async fn one_payload_for_every_host_ends_all_that_was_granted_until_then(database: Database) {
    let office = Office::open(&database).await;
    let open = office.open_request(ssh()).await;
    let waits = office.submit("ana", ssh()).await;
    let max = office.account("max").await;
    let would = office.desk.would_close(&max, &everything(), now_ms()).await.unwrap();
    assert_eq!((would.hosts, would.requests), (2, vec![open.proposal.id.clone()]));
    assert_eq!(office.records("C001").await, 0, "a preview makes nothing");
    let closing = office.close(&everything()).await;
    // It is signed by the key for revocations alone.
    let envelope = closing.envelope.clone().unwrap();
    let keys = office.signer().revocation_keys();
    let message = pre_authentication_encoding(REVOCATION_TYPE, &envelope.payload);
    let [signature] = &envelope.signatures[..] else { panic!("{envelope:?}") };
    let key = PublicKey::from_pem(&keys[0].public_key).unwrap();
    assert!(key.verifies(&message, &signature.signature));
    assert!(closing.message.all && closing.message.every_host && closing.message.hosts.is_empty());
    assert!(closing.message.keep_until_ms > closing.message.issued_before_ms + 31 * 24 * HOUR);
    // The desk shows the end; who only waits for agreement was granted nothing.
    let read = office.read(&open.proposal.id).await;
    assert_eq!(read.state, State::Revoked);
    assert!(read.why.contains("stolen key") && read.why.contains(&closing.id), "{}", read.why);
    assert_eq!(office.state(&waits.proposal.id).await, State::Pending);
    let audit = office.store.audit_of(&open.proposal.id).await.unwrap();
    assert!(audit.iter().any(|line| line.code == "R011" && line.line.contains(&closing.id)));
    // Nobody is asked for each grant while there is time to carry it out.
    assert!(office.store.deliveries_due(now_ms(), 10).await.unwrap().is_empty());
    let late = office.store.deliveries_due(now_ms() + 31_000, 10).await.unwrap();
    assert_eq!(late.iter().filter(|row| row.wanted == Wanted::Revoke).count(), 2);
    office.hear(&[answer(&closing, "web-1", Heard::Delivered, "ok")]).await;
    assert!(office.store.closings_due("web-1", now_ms()).await.unwrap().is_empty());
    assert_eq!(office.store.closings_due("web-2", now_ms()).await.unwrap().len(), 1);
    // Also a host that comes later must hear it, until nobody needs to.
    assert_eq!(office.store.closings_due("web-9", now_ms()).await.unwrap().len(), 1);
    let end = closing.message.keep_until_ms;
    assert!(office.store.closings_due("web-9", end).await.unwrap().is_empty());
    assert_eq!(office.records("C002").await, 0);
    // Twice in one batch, and again later, is once.
    let last = answer(&closing, "web-2", Heard::Delivered, "ok");
    office.hear(&[last.clone(), last.clone()]).await;
    office.hear(&[last]).await;
    assert_eq!((office.records("C001").await, office.records("C002").await), (1, 1));
    let rows = office.store.deliveries_of(&open.proposal.id).await.unwrap();
    assert!(rows.iter().all(|row| row.answer == Answer::Closed && !row.pending), "{rows:?}");
    let counts = office.store.closing_counts(&closing.id).await.unwrap();
    assert_eq!(counts, [(Heard::Delivered, 2)].into());
    assert!(office.store.closing(&closing.id).await.unwrap().unwrap().complete_ms > 0);
    // What is approved from now on is granted later, and lives.
    let after = now_ms() + 1000;
    office.decide("li", &waits, after).await.unwrap();
    office.decide("bo", &waits, after).await.unwrap();
    office.bring_to_hosts().await;
    office.desk.tick(now_ms()).await.unwrap();
    assert_eq!(office.state(&waits.proposal.id).await, State::Open);
}

async fn on_some_hosts_a_request_goes_on_at_the_others(database: Database) {
    let office = Office::open(&database).await;
    let open = office.open_request(ssh()).await;
    let one = Close { hosts: vec!["web-1".into()], every_host: false, ..everything() };
    let closing = office.close(&one).await;
    assert_eq!(closing.message.hosts, ["web-1"]);
    let id = &open.proposal.id;
    assert_eq!(office.state(id).await, State::Open, "web-1 has not answered");
    assert!(office.store.closings_due("web-2", now_ms()).await.unwrap().is_empty());
    office.hear(&[answer(&closing, "web-1", Heard::Delivered, "ok")]).await;
    assert_eq!(office.state(id).await, State::Partly);
    let rows = office.store.deliveries_of(id).await.unwrap();
    assert_eq!((rows[0].answer, rows[1].answer), (Answer::Closed, Answer::Open));
    assert_eq!(office.records("C002").await, 1);
    let hosts = office.store.closing_hosts(&closing.id, None, "", 10).await.unwrap();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
}

async fn only_what_is_named_ends(database: Database) {
    let office = Office::open(&database).await;
    let (one, other) = (office.open_request(ssh()).await, office.open_request(ssh()).await);
    let li = Close { whose: Whose::Requester("li@example.org".into()), ..everything() };
    office.close(&li).await;
    for request in [&one, &other] {
        assert_eq!(office.state(&request.proposal.id).await, State::Open);
    }
    let grants = office.store.grants_of(&one.proposal.id).await.unwrap();
    let id = Close { whose: Whose::Ids(vec![grants[0].part.id]), ..everything() };
    office.close(&id).await;
    assert_eq!(office.state(&one.proposal.id).await, State::Revoked);
    assert_eq!(office.state(&other.proposal.id).await, State::Open);
    let ana = Close { whose: Whose::Requester("ana@example.org".into()), ..everything() };
    office.close(&ana).await;
    assert_eq!(office.state(&other.proposal.id).await, State::Revoked);
    assert_eq!(office.store.live_closings(now_ms()).await.unwrap().len(), 3);
}

async fn who_may_not_revoke_on_each_of_its_hosts_makes_none(database: Database) {
    let office = Office::open(&database).await;
    let open = office.open_request(ssh()).await;
    let (ana, max) = (office.account("ana").await, office.account("max").await);
    let refused = office.desk.close(&ana, &everything(), now_ms()).await;
    assert!(
        matches!(refused, Err(DeskError::Forbidden { word: "not_permitted", .. })),
        "{refused:?}"
    );
    let wrong: [(&str, Close); 8] = [
        ("reason", Close { reason: String::new(), ..everything() }),
        ("every_host", Close { hosts: vec!["web-1".into()], ..everything() }),
        ("every_host", Close { every_host: false, ..everything() }),
        ("hosts", Close { hosts: vec!["web-9".into()], every_host: false, ..everything() }),
        ("groups", Close { groups: vec!["none".into()], every_host: false, ..everything() }),
        ("what", Close { whose: Whose::Ids(Vec::new()), ..everything() }),
        ("what", Close { whose: Whose::Requester("x".repeat(257)), ..everything() }),
        ("reason", Close { reason: "x".repeat(2049), ..everything() }),
    ];
    for (field, close) in wrong {
        match office.desk.close(&max, &close, now_ms()).await {
            Err(DeskError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    office.desk.tick(now_ms()).await.unwrap();
    assert_eq!(office.state(&open.proposal.id).await, State::Open);
    assert!(office.store.live_closings(now_ms()).await.unwrap().is_empty());
}

/// Of every host only some are judged: those that rules can tell from each other.
async fn one_host_that_rules_tell_from_the_others_bars_everything(database: Database) {
    let office = Office::open(&database).await;
    let mut tx = office.store.begin().await.unwrap();
    for (id, env, group) in
        [("web-3", "prod", "web"), ("db-1", "dev", "db"), ("web-4", "dev", "web")]
    {
        let host = Host {
            id: id.into(),
            labels: [("env".to_owned(), env.to_owned())].into(),
            groups: [group.to_owned()].into(),
            ..Host::default()
        };
        hosts::put(&mut tx, &host).await.unwrap();
    }
    tx.commit().await.unwrap();
    let may = "permit (principal, action == Action::\"revoke\", resource";
    let any = format!("{may});\n");
    let never = format!("{any}forbid (principal, action == Action::\"revoke\", resource");
    let (max, mut version) = (office.account("max").await, 1);
    for (rules, barred) in [
        (any.clone(), None),
        (format!("{never} == Host::\"web-2\");"), Some("web-2")),
        // The first of those that are alike is named, and the others are not.
        (format!("{may} == Host::\"web-1\");"), Some("db-1")),
        (format!("{may}) unless {{ resource == Host::\"web-2\" }};"), Some("web-2")),
        (format!("{never} in HostGroup::\"db\");"), Some("db-1")),
        (
            format!(
                "{never}) when {{ resource.hasTag(\"env\") && resource.getTag(\"env\") == \"prod\" }};"
            ),
            Some("web-3"),
        ),
        (format!("{never}) when {{ resource.id like \"*-4\" }};"), Some("web-4")),
        (format!("{never} == Host::\"web-9\");"), None),
    ] {
        version += 1;
        let text = rules.clone();
        let (author, note) = ("ana@example.org".into(), String::new());
        let next = RulesVersion { version, text, author, note, saved_ms: 1 };
        let mut tx = office.store.begin().await.unwrap();
        rules::save(&mut tx, &next).await.unwrap();
        tx.commit().await.unwrap();
        match (office.desk.close(&max, &everything(), now_ms()).await, barred) {
            (Ok(_), None) => {}
            (Err(DeskError::Forbidden { word: "not_permitted", detail }), Some(host)) => {
                assert!(detail.ends_with(&format!("revoke on {host}")), "{rules}: {detail}");
            }
            (other, _) => panic!("{rules}: {other:?}"),
        }
    }
}

async fn a_refusal_is_recorded_once_and_the_last_answer_counts(database: Database) {
    let office = Office::open(&database).await;
    let closing = office.close(&everything()).await;
    let refused = answer(&closing, "web-1", Heard::Refused, "unknown_key");
    office.hear(std::slice::from_ref(&refused)).await;
    office.hear(std::slice::from_ref(&refused)).await;
    assert_eq!(office.records("C003").await, 1);
    assert_eq!(office.store.closings_due("web-1", now_ms()).await.unwrap().len(), 1);
    let counts = office.store.closing_counts(&closing.id).await.unwrap();
    assert_eq!(counts, [(Heard::Refused, 1), (Heard::Waiting, 1)].into());
    office.hear(&[answer(&closing, "web-1", Heard::Delivered, "ok")]).await;
    // What comes late does not undo it.
    office.hear(std::slice::from_ref(&refused)).await;
    let counts = office.store.closing_counts(&closing.id).await.unwrap();
    assert_eq!(counts, [(Heard::Delivered, 1), (Heard::Waiting, 1)].into());
}

async fn another_process_signs_what_this_one_cannot(database: Database) {
    let office = Office::open(&database).await;
    let open = office.open_request(ssh()).await;
    let store = Store::open(&database.url).await.unwrap();
    let keyless = Desk::new(store, None, Settings::default());
    let max = office.account("max").await;
    let made = keyless.close(&max, &everything(), now_ms()).await.unwrap();
    keyless.sign_closings(now_ms()).await.unwrap();
    office.desk.tick(now_ms()).await.unwrap();
    assert_eq!((made.envelope, office.state(&open.proposal.id).await), (None, State::Open));
    assert!(office.store.live_closings(now_ms()).await.unwrap().is_empty());
    office.desk.sign_closings(now_ms()).await.unwrap();
    office.desk.tick(now_ms()).await.unwrap();
    assert_eq!(office.state(&open.proposal.id).await, State::Revoked);
    let kept = office.store.closing(&made.id).await.unwrap().unwrap();
    assert_eq!((kept.payload, kept.trouble.as_str()), (made.payload, ""));
    assert_eq!(kept.envelope.unwrap().signatures.len(), 1);
}

async fn what_hosts_report_before_the_desk_has_ended_it_is_revoked_all_the_same(
    database: Database,
) {
    let office = Office::open(&database).await;
    let (old, open) = (office.open_request(ssh()).await, office.open_request(ssh()).await);
    let ended_there = async |id: &str| {
        for row in office.store.deliveries_of(id).await.unwrap() {
            let closed = office.desk.answered(&row, Answer::Closed, "revoked", "", now_ms());
            closed.await.unwrap();
        }
        assert_eq!(office.state(id).await, State::Ended);
    };
    // That was before.
    ended_there(&old.proposal.id).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let max = office.account("max").await;
    let closing = office.desk.close(&max, &everything(), now_ms()).await.unwrap();
    ended_there(&open.proposal.id).await;
    let heard = ["web-1", "web-2"].map(|host| answer(&closing, host, Heard::Delivered, "ok"));
    office.hear(&heard).await;
    office.desk.tick(now_ms()).await.unwrap();
    assert_eq!(office.state(&open.proposal.id).await, State::Revoked);
    assert_eq!(office.state(&old.proposal.id).await, State::Ended);
    let rows = office.store.deliveries_of(&open.proposal.id).await.unwrap();
    assert!(rows.iter().all(|row| row.answer == Answer::Closed && !row.pending), "{rows:?}");
}

async fn a_flood_of_one_person_stops_nobody_else_and_not_what_closes_everything(
    database: Database,
) {
    let office = Office::open(&database).await;
    let max = office.account("max").await;
    let bo = Account { groups: max.groups.clone(), ..office.account("bo").await };
    let narrow = Close { whose: Whose::Requester("ana@example.org".into()), ..everything() };
    let conflict = |made: Result<Closing, DeskError>, says: &str| match made {
        Err(DeskError::Conflict(why)) => assert!(why.contains(says), "{why}"),
        other => panic!("{other:?}"),
    };
    // No faster than a minute lets anybody.
    let began = now_ms() - 300_000;
    for number in 0..200 {
        office.desk.close(&max, &narrow, began + number * 1_100).await.unwrap();
    }
    let now = began + 220_000;
    conflict(office.desk.close(&max, &narrow, now).await, "--every-host --all");
    office.desk.close(&bo, &narrow, now).await.unwrap();
    office.desk.close(&max, &everything(), now).await.unwrap();
    // What hosts have carried out does not count, and stays for those that come later.
    let mine = office.store.closings("", "max@example.org", 500).await.unwrap();
    assert_eq!(mine.len(), 201);
    for one in &mine {
        let heard = ["web-1", "web-2"].map(|host| answer(one, host, Heard::Delivered, "ok"));
        office.hear(&heard).await;
    }
    office.desk.close(&max, &narrow, now + 60_000).await.unwrap();
    assert_eq!(office.store.live_closings(now_ms()).await.unwrap().len(), 2);
    assert!(office.store.has_closings(now_ms()).await.unwrap());
    assert_eq!(office.store.closings_due("web-9", now_ms()).await.unwrap().len(), 203);
    // Of everything, too, a minute has so many.
    for number in 0..59 {
        office.desk.close(&max, &everything(), now + 60_001 + number).await.unwrap();
    }
    conflict(office.desk.close(&max, &everything(), now + 61_000).await, "within a minute");
    office.desk.close(&bo, &everything(), now + 61_000).await.unwrap();
}

async fn what_the_signer_cannot_sign_now_is_kept_and_signed_later(database: Database) {
    let mut office = Office::open(&database).await;
    let open = office.open_request(ssh()).await;
    let slow = signers::at_most(1).await;
    let store = Store::open(&database.url).await.unwrap();
    let desk = Desk::new(store, Some(slow.signer.clone()), Settings::default());
    let max = office.account("max").await;
    let signed = desk.close(&max, &everything(), now_ms() - 90_000).await.unwrap();
    assert!(signed.envelope.is_some());
    let narrow = Close { whose: Whose::Requester("ana@example.org".into()), ..everything() };
    let (narrow, all) = (
        desk.close(&max, &narrow, now_ms()).await.unwrap(),
        desk.close(&max, &everything(), now_ms()).await.unwrap(),
    );
    assert_eq!((narrow.signed_ms, all.signed_ms), (0, 0));
    let waits = desk.sign_closings(now_ms()).await.unwrap_err();
    assert!(waits.to_string().contains("too_fast"), "{waits}");
    assert_eq!(office.state(&open.proposal.id).await, State::Open);
    // Another one has the time, for one of them: it is the one of everything.
    office.signing = signers::at_most(1).await;
    let store = Store::open(&database.url).await.unwrap();
    let later = Desk::new(store, Some(office.signing.signer.clone()), Settings::default());
    later.sign_closings(now_ms()).await.unwrap_err();
    let unsigned = office.store.unsigned_closings(now_ms()).await.unwrap();
    let unsigned: Vec<_> = unsigned.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(unsigned, [narrow.id.as_str()]);
    office.desk.tick(now_ms()).await.unwrap();
    let read = office.read(&open.proposal.id).await;
    assert!(read.state == State::Revoked && read.why.contains(&all.id), "{}", read.why);
}
