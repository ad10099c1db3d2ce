//! A store with a row in every table, for tests of copies and of migrations.

use std::collections::BTreeSet;

use jit_controller::{
    audit::{self, Code, Record},
    model::{
        Account, Answer, Decision, GrantPart, Host, Needs, Outcome, Proposal, Ruling, State,
        Verdict, grant,
    },
    store::{
        Request, RulesVersion, Store, Token, Tx, accounts, deliveries, grants, hosts, requests,
        rules, settings,
    },
};
use jit_proto::v1;
use serde_json::json;
use sqlx::{AnyConnection, Connection as _, Row as _};

/// When the requests of these tests are approved.
pub(crate) const NOW: i64 = 1_803_888_060_000;
pub(crate) const HOUR: i64 = 3_600_000;

/// A request for SSH on hosts from one address for an hour.
pub(crate) fn proposal(number: u8, hosts: &[&str]) -> Proposal {
    Proposal {
        id: format!("01KPEXAMP1E0000000000{number:03}00"),
        requester: "ana@example.org".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: HOUR,
        start_ms: None,
        reason: "disk full".into(),
        ticket: "INC-4211".into(),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms: NOW - 60_000,
        approve_until_ms: NOW + HOUR,
    }
}

/// The request as it is stored after somebody agreed.
pub(crate) fn request(proposal: Proposal, state: State) -> Request {
    let verdict = Verdict {
        rules_version: 1,
        outcome: Outcome::Manual,
        needs: Needs([("sre".to_owned(), 1)].into()),
        max_duration_ms: Some(HOUR),
        rules: Vec::new(),
        denied: Vec::new(),
        escalate: None,
    };
    Request {
        hash: proposal.hash(),
        account: "ana".into(),
        idempotency_key: proposal.id.clone(),
        state,
        verdict,
        why: String::new(),
        escalate_ms: 0,
        ends_ms: NOW + proposal.duration_ms,
        replaced_by: String::new(),
        revision: 0,
        proposal,
    }
}

/// Puts in a request whose grants are signed and on their way.
pub(crate) async fn sign(tx: &mut Tx, proposal: Proposal) -> Vec<GrantPart> {
    let parts = grant::parts(&proposal, &["li@example.org".to_owned()], &[], NOW).unwrap();
    let request = request(proposal, State::Delivering);
    requests::insert(tx, &request).await.unwrap();
    for (number, part) in parts.iter().enumerate() {
        let id = part.id.to_string();
        grants::insert(tx, &request.proposal.id, number, part, 1).await.unwrap();
        let envelope = v1::Envelope { payload: part.payload.clone().into(), ..Default::default() };
        grants::set_envelope(tx, &id, &envelope, NOW).await.unwrap();
        let (id, hosts) = (id.as_str(), part.hosts.as_slice());
        deliveries::insert(tx, &request.proposal.id, id, hosts, NOW, part.not_after_ms)
            .await
            .unwrap();
    }
    parts
}

/// Writes records.
pub(crate) async fn record(store: &Store, from: i64, count: i64) {
    for number in from..from + count {
        let mut tx = store.begin().await.unwrap();
        let fields = json!({ "host": "web-1", "number": number, "text": "\u{202e}ünal" });
        let record = Record::new(Code::HostCondition, "", "controller", fields);
        audit::append(&mut tx, NOW + number, &record).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// Puts rows into all tables of the first version.
pub(crate) async fn fill(store: &Store) {
    let mut tx = store.begin().await.unwrap();
    let ana = Account {
        name: "ana".into(),
        subject: "ana@example.org".into(),
        groups: ["sre".to_owned()].into(),
        disabled: false,
        created_ms: 7,
    };
    accounts::put(&mut tx, &ana).await.unwrap();
    let token = Token {
        id: "t1".into(),
        hash: "ab".repeat(32),
        account: "ana".into(),
        scopes: ["request".to_owned()].into(),
        label: "laptop".into(),
        created_ms: 7,
        ends_ms: NOW,
        used_ms: 0,
        revoked_ms: 0,
    };
    accounts::add_token(&mut tx, &token).await.unwrap();
    let web = Host { id: "web-1".into(), address: "192.0.2.10:7443".into(), ..Host::default() };
    hosts::put(&mut tx, &web).await.unwrap();
    let saved = RulesVersion {
        version: 7,
        text: "// none".into(),
        author: "ana".into(),
        note: "'quoted' \"twice\"\n".into(),
        saved_ms: 7,
    };
    rules::save(&mut tx, &saved).await.unwrap();
    let asked = proposal(1, &["web-1", "web-2"]);
    let hash = asked.hash();
    let request = asked.id.clone();
    let parts = sign(&mut tx, asked).await;
    let decision = Decision {
        request: request.clone(),
        subject: "li@example.org".into(),
        account: "li".into(),
        ruling: Ruling::Approve,
        groups: BTreeSet::new(),
        reason: String::new(),
        hash,
        at_ms: NOW,
    };
    requests::decide(&mut tx, &decision).await.unwrap();
    settings::set(&mut tx, "name", "value").await.unwrap();
    let record = Record::new(Code::Signed, &request, "controller", json!({ "bytes": "\u{7}" }));
    audit::append(&mut tx, NOW, &record).await.unwrap();
    let statement = "INSERT INTO host_audit_head (host, seq, hash, signed, at_ms) \
                     VALUES ('web-1', 5, 'ab', '{}', 7)";
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let deliveries = store.deliveries_of(&request).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert!(parts.len() == 1 && deliveries.len() == 2);
    deliveries::answered(&mut tx, &deliveries[0], Answer::Open, "", "", NOW + 5).await.unwrap();
    tx.commit().await.unwrap();
}

/// Puts two rows into each of these tables, by hand, whatever columns it has. A text says the same in all
/// tables, so that one row is what another refers to.
pub(crate) async fn fill_all(url: &str, tables: &[&str]) {
    for table in tables {
        let columns = columns(url, table).await;
        assert!(!columns.is_empty(), "{table} has columns");
        for number in 1..=2 {
            let value = |(name, kind): &(String, String)| match kind.to_lowercase().as_str() {
                "text" if name.ends_with("_json") => format!("'[{number}]'"),
                "text" => format!("'row {number} ünal'"),
                "bigint" => (10 + number).to_string(),
                "blob" => format!("X'00ff0{number}'"),
                "bytea" => format!("'\\x00ff0{number}'::bytea"),
                other => panic!("{table}.{name} is {other}: say here what is in it"),
            };
            let values: Vec<_> = columns.iter().map(value).collect();
            let names: Vec<_> = columns.iter().map(|(name, _)| name.as_str()).collect();
            let (names, values) = (names.join(", "), values.join(", "));
            by_hand(url, &format!("INSERT INTO {table} ({names}) VALUES ({values})")).await;
        }
    }
}

/// Name and type of a table's columns.
async fn columns(url: &str, table: &str) -> Vec<(String, String)> {
    let select = match url.starts_with("postgres") {
        true => format!(
            "SELECT CAST(column_name AS TEXT) AS name, CAST(data_type AS TEXT) AS kind \
             FROM information_schema.columns WHERE table_schema = current_schema() \
             AND table_name = '{table}' ORDER BY ordinal_position"
        ),
        false => format!("SELECT name, type AS kind FROM pragma_table_info('{table}')"),
    };
    let mut connection = AnyConnection::connect(url).await.unwrap();
    let rows = sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| (row.get("name"), row.get("kind"))).collect()
}

/// The rows of a table, by hand: a program that is not the controller.
pub(crate) async fn count(url: &str, table: &str) -> i64 {
    let mut connection = AnyConnection::connect(url).await.unwrap();
    let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) AS count FROM {table}"));
    let row = sqlx::query(count).fetch_one(&mut connection).await.unwrap();
    row.get("count")
}

/// Changes the database by hand.
pub(crate) async fn by_hand(url: &str, statement: &str) {
    let mut connection = AnyConnection::connect(url).await.unwrap();
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
