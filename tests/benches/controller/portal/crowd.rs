//! A site after weeks of use: requests that were agreed to, signed, opened and closed, some that
//! are open and some that wait, with their records in the audit; hosts with ports; policies and a
//! rollout.

use jit_controller::{
    audit::{self, Code, Record},
    clock::now_ms,
    model::{
        Answer, Decision, Host, Needs, Outcome, Proposal, Ruling, State, Verdict, grant,
        host::{Condition, Observed, ObservedPort},
        rollout::{HostState, RolloutState, Wave},
    },
    store::{
        Delivery, Policy, Request, Rollout, RolloutHost, Store, Tx, Wanted, deliveries, grants,
        hosts, requests, rollouts,
    },
};
use jit_proto::{WallTime, v1};
use serde_json::json;
use ulid::Ulid;

const MINUTE_MS: i64 = 60_000;
/// Somebody asks this often.
const EACH_MS: i64 = 5 * MINUTE_MS;
/// For this long: at each moment more are open than one page names.
const FOR_MS: i64 = 10 * 60 * MINUTE_MS;
/// Policies that were saved.
const POLICIES: usize = 50;

/// What pages are asked for.
pub(super) struct Crowd {
    /// A host where somebody has access now.
    pub(super) host: String,
    /// A request that is open.
    pub(super) open: String,
    /// One that waits.
    pub(super) pending: String,
    /// A policy, and its rollout, which has halted.
    pub(super) policy: String,
    pub(super) rollout: String,
    /// A moment in the middle of it all, RFC 3339.
    pub(super) moment: String,
}

/// Puts in this number of hosts and requests, each for one of the hosts. Of 100 requests one waits.
pub(super) async fn fill(store: &Store, hosts: usize, requests: usize) -> Crowd {
    let now = now_ms();
    let mut tx = store.begin().await.unwrap();
    let ids: Vec<_> = (0..hosts).map(|number| format!("host-{number:05}.example.org")).collect();
    for (number, id) in ids.iter().enumerate() {
        put_host(&mut tx, number, id, now).await;
    }
    let begin = now - EACH_MS * i64::try_from(requests).unwrap();
    let mut asked = Vec::new();
    for number in 0..requests {
        let created_ms = begin + EACH_MS * i64::try_from(number).unwrap();
        let host = ids.get(number % hosts).unwrap().clone();
        asked.push(ask(&mut tx, number, host, created_ms, now).await);
    }
    let (policy, rollout) = roll_out(&mut tx, ids, now).await;
    tx.commit().await.unwrap();
    let last = |wanted| asked.iter().rev().find(|(_, state)| *state == wanted).unwrap().0.clone();
    let (open, pending) = (last(State::Open), last(State::Pending));
    Crowd {
        host: open.hosts.first().unwrap().clone(),
        open: open.id,
        pending: pending.id,
        policy,
        rollout,
        moment: WallTime(begin + (now - begin) / 2).to_string(),
    }
}

async fn put_host(tx: &mut Tx, number: usize, id: &str, now: i64) {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let (env, role) = (["prod", "test"], ["db", "mail", "web"]);
    let host = Host {
        id: id.to_owned(),
        // Nothing listens there.
        address: "127.0.0.2:7443".into(),
        labels: [
            label("env", env.get(number % env.len()).unwrap()),
            label("role", role.get(number % role.len()).unwrap()),
        ]
        .into(),
        ..Host::default()
    };
    hosts::put(tx, &host).await.unwrap();
    let port = |port: &str| ObservedPort {
        port: port.to_owned(),
        mode: "enforce".into(),
        max_duration_ms: FOR_MS,
        approvals: 1,
        exemptions: Vec::new(),
    };
    let observed = Observed {
        condition: Condition::Enforcing,
        seen_ms: now,
        since_ms: now,
        version: "1.0.0".into(),
        ports: vec![port("22/tcp"), port("3389/tcp"), port("5432/tcp")],
        ..Observed::default()
    };
    hosts::set_observed(tx, id, &observed).await.unwrap();
}

/// Puts in a request with all that came of it. Returns what was asked for, and how far it is.
async fn ask(
    tx: &mut Tx,
    number: usize,
    host: String,
    created_ms: i64,
    now: i64,
) -> (Proposal, State) {
    let ends_ms = created_ms + FOR_MS;
    let state = match number % 100 {
        99 => State::Pending,
        // One that is about to end is none that is open for the whole bench.
        _ if ends_ms > now + 30 * MINUTE_MS => State::Open,
        _ => State::Ended,
    };
    let person = number % 40;
    let proposal = Proposal {
        id: Ulid::from_parts(u64::try_from(created_ms).unwrap(), 7).to_string(),
        requester: format!("person-{person:02}@example.org"),
        hosts: vec![host],
        sources: vec!["203.0.113.7".parse().unwrap()],
        ports: vec!["22".parse().unwrap()],
        duration_ms: FOR_MS,
        start_ms: None,
        reason: format!("the disk of the database is full for the {number}th time"),
        ticket: format!("INC-{number}"),
        sessions: None,
        max_connections: 0,
        replaces: None,
        created_ms,
        // A controller that runs does not end what waits.
        approve_until_ms: i64::MAX,
    };
    let request = Request {
        hash: proposal.hash(),
        account: format!("person-{person:02}"),
        idempotency_key: proposal.id.clone(),
        state,
        verdict: Verdict {
            rules_version: 1,
            outcome: Outcome::Manual,
            needs: Needs([("sre".to_owned(), 1)].into()),
            max_duration_ms: None,
            escalate: None,
            rules: Vec::new(),
            denied: Vec::new(),
        },
        why: String::new(),
        escalate_ms: 0,
        ends_ms: if state == State::Pending { 0 } else { ends_ms },
        replaced_by: String::new(),
        revision: 1,
        proposal,
    };
    requests::insert(tx, &request).await.unwrap();
    let asked = json!({ "hosts": request.proposal.hosts, "reason": request.proposal.reason });
    note(tx, &request, Code::Submitted, created_ms, asked).await;
    if state != State::Pending {
        open(tx, &request).await;
    }
    (request.proposal, state)
}

/// Somebody agreed, and the host opened it; if it has ended, the host has closed it.
async fn open(tx: &mut Tx, request: &Request) {
    let asked = &request.proposal;
    let at_ms = asked.created_ms;
    let approver = "li@example.org".to_owned();
    let decision = Decision {
        request: asked.id.clone(),
        subject: approver.clone(),
        account: "li".into(),
        ruling: Ruling::Approve,
        groups: ["sre".to_owned()].into(),
        reason: String::new(),
        hash: request.hash.clone(),
        at_ms,
    };
    requests::decide(tx, &decision).await.unwrap();
    let parts = grant::parts(asked, &[approver], &[], at_ms).unwrap();
    for (number, part) in parts.iter().enumerate() {
        let id = part.id.to_string();
        grants::insert(tx, &asked.id, number, part, 1).await.unwrap();
        let envelope = v1::Envelope { payload: part.payload.clone().into(), ..Default::default() };
        grants::set_envelope(tx, &id, &envelope, at_ms).await.unwrap();
        let until_ms = part.not_after_ms;
        deliveries::insert(tx, &asked.id, &id, &part.hosts, at_ms, until_ms).await.unwrap();
        for host in &part.hosts {
            let answer = json!({ "host": host, "grant": id, "wanted": "grant", "answer": "open" });
            note(tx, request, Code::Answered, at_ms, answer).await;
            let (answer, at_ms) = match request.state {
                State::Open => (Answer::Open, at_ms),
                _ => (Answer::Closed, part.not_after_ms),
            };
            let of = delivery(&id, host, &asked.id, until_ms);
            assert!(deliveries::answered(tx, &of, answer, "", "", at_ms).await.unwrap());
        }
    }
}

fn delivery(grant_id: &str, host: &str, request: &str, until_ms: i64) -> Delivery {
    Delivery {
        grant_id: grant_id.to_owned(),
        host: host.to_owned(),
        request: request.to_owned(),
        wanted: Wanted::Grant,
        pending: true,
        answer: Answer::Waiting,
        word: String::new(),
        detail: String::new(),
        trouble: String::new(),
        trouble_since_ms: 0,
        attempts: 0,
        next_ms: 0,
        answered_ms: 0,
        until_ms,
    }
}

async fn note(tx: &mut Tx, request: &Request, code: Code, at_ms: i64, fields: serde_json::Value) {
    let asked = &request.proposal;
    let record = Record::new(code, &asked.id, &asked.requester, fields);
    audit::append(tx, at_ms, &record).await.unwrap();
}

/// Puts in policies, and a rollout of the last one that has halted in its second wave. Returns both
/// ids.
async fn roll_out(tx: &mut Tx, mut ids: Vec<String>, now: i64) -> (String, String) {
    let ulid = |number: usize| {
        Ulid::from_parts(now.unsigned_abs(), u128::try_from(number).unwrap()).to_string()
    };
    let mut policy = String::new();
    for number in 0..POLICIES {
        policy = ulid(number);
        let saved = Policy {
            id: policy.clone(),
            text: text(number),
            author: "li@example.org".into(),
            justification: format!("change {number}"),
            saved_ms: now,
        };
        rollouts::insert_policy(tx, &saved).await.unwrap();
    }
    let rest = ids.split_off(ids.len() / 10);
    let bad = rest.first().unwrap().clone();
    let rollout = Rollout {
        id: ulid(POLICIES),
        policy: policy.clone(),
        waves: vec![Wave::Percent(10), Wave::All],
        state: RolloutState::Halted,
        why: "a host refused it".into(),
        wave: 1,
        wave_since_ms: now,
        confirm_s: 120,
        pause_ms: 300_000,
        created_by: "li@example.org".into(),
        created_ms: now,
    };
    rollouts::insert(tx, &rollout, &[ids, rest]).await.unwrap();
    let refused = RolloutHost {
        rollout: rollout.id.clone(),
        host: bad,
        wave: 1,
        state: HostState::Refused,
        word: "ceiling".into(),
        detail: "the host's own ceiling is lower".into(),
        version: 7,
        payload: Vec::new(),
        envelope: None,
        changes: String::new(),
        changed_ms: now,
    };
    rollouts::update_host(tx, &refused).await.unwrap();
    (policy, rollout.id)
}

/// A policy with some ports.
fn text(number: usize) -> String {
    let port = |port: usize| {
        format!(
            "[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n\
             max_duration = \"{}h\"\n\n",
            1 + number % 9
        )
    };
    [22, 80, 443, 3306, 3389, 5432, 5985, 5986, 8080, 8443].map(port).concat()
}
