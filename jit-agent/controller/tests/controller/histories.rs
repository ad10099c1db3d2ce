//! Random histories of requests against a model, with the desk cut off at any moment: whatever is
//! interrupted, nothing accepted is lost, nothing is signed twice with other bytes, and nothing goes to a
//! host that was not agreed to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jit_controller::{
    desk::{Ask, Desk, DeskError, Settings},
    model::{Account, Answer, Decision, Host, Outcome, Ruling, State},
    rules,
    signer::Signer,
    store::{Request, RulesVersion, Store, Wanted, accounts, hosts},
};
use jit_proto::v1;
use prost::Message as _;

use crate::{databases::Database, signers};

on_each_database! {
    random_histories_with_interruptions_open_nothing_that_was_not_agreed_to,
}

/// Number of steps of the test run. `JIT_TEST_HISTORY=20000` makes it longer.
const STEPS: u32 = 400;
const START: i64 = 1_803_888_000_000;
const PEOPLE: [(&str, &str, &[&str]); 7] = [
    ("ana", "ana@example.org", &["sre"]),
    // A second account of the same person.
    ("ana-admin", "ana@example.org", &["admins", "approvers", "sre"]),
    ("li", "li@example.org", &["sre"]),
    ("bo", "bo@example.org", &["approvers"]),
    ("cy", "cy@example.org", &["approvers", "sre"]),
    ("di", "di@example.org", &["developers"]),
    ("eve", "eve@example.org", &[]),
];
const RULES: &str = r#"
@id("prod") @require("1 of sre and 1 of approvers") @max("2h")
permit (principal in Group::"sre", action == Action::"initiate", resource)
when { resource.hasTag("env") && resource.getTag("env") == "prod" };

@id("stage") @require("1 of sre")
permit (principal in Group::"sre", action == Action::"initiate", resource)
when { resource.hasTag("env") && resource.getTag("env") == "stage" };

@id("dev")
permit (principal in Group::"developers", action == Action::"auto_approve", resource)
when { resource.hasTag("env") && resource.getTag("env") == "dev" };

@id("approve")
permit (principal, action == Action::"approve", resource);

@id("revoke")
permit (principal in Group::"admins", action == Action::"revoke", resource);
"#;

/// What is known of a request without the desk: what people did, and were told of it.
#[derive(Default)]
struct Known {
    requester: String,
    hosts: BTreeSet<String>,
    /// What people tried to say of it: account and word. Not all of it counts.
    tried: BTreeSet<(String, &'static str)>,
    /// Somebody ended it, and was told so.
    ended: bool,
}

struct Story {
    url: String,
    desk: Desk,
    signer: Signer,
    accounts: BTreeMap<String, Account>,
    known: BTreeMap<String, Known>,
    /// The payload that each grant id had when it was first seen.
    payloads: BTreeMap<String, Vec<u8>>,
    now_ms: i64,
    random: fastrand::Rng,
    interrupted: u32,
}

async fn random_histories_with_interruptions_open_nothing_that_was_not_agreed_to(
    database: Database,
) {
    let steps = std::env::var("JIT_TEST_HISTORY").map_or(STEPS, |steps| steps.parse().unwrap());
    let signer = signers::pem().await;
    let mut story = Story::begin(&database.url, signer.signer.clone()).await;
    for _ in 0..steps {
        story.step().await;
    }
    story.settle().await;
    story.check(true).await;
    let ends = story.ends().await;
    println!("{} requests, {} interruptions: {ends:?}", story.known.len(), story.interrupted);
    assert!(story.interrupted > 0);
    for state in [State::Open, State::Pending] {
        assert!(ends.contains_key(state.word()), "none is {}: {ends:?}", state.word());
    }
}

impl Story {
    async fn begin(url: &str, signer: Signer) -> Self {
        let store = Store::open(url).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let mut known = BTreeMap::new();
        for (name, subject, groups) in PEOPLE {
            let account = Account {
                name: name.into(),
                subject: subject.into(),
                groups: groups.iter().map(|group| (*group).to_owned()).collect(),
                disabled: false,
                created_ms: START,
            };
            accounts::put(&mut tx, &account).await.unwrap();
            known.insert(name.to_owned(), account);
        }
        for env in ["dev", "stage", "prod"] {
            for number in 0..2 {
                let host = Host {
                    id: format!("{env}-{number}"),
                    address: "192.0.2.1:7443".into(),
                    labels: [("env".to_owned(), env.to_owned())].into(),
                    ..Host::default()
                };
                hosts::put(&mut tx, &host).await.unwrap();
            }
        }
        let first = RulesVersion {
            version: 1,
            text: RULES.into(),
            author: "ana@example.org".into(),
            note: String::new(),
            saved_ms: START,
        };
        jit_controller::store::rules::save(&mut tx, &first).await.unwrap();
        tx.commit().await.unwrap();
        rules::Rules::parse(1, RULES).unwrap();
        let desk = Desk::new(store, Some(signer.clone()), Settings::default());
        let seed = std::env::var("JIT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(rand_seed);
        println!("JIT_TEST_SEED={seed}");
        Self {
            url: url.to_owned(),
            desk,
            signer,
            accounts: known,
            known: BTreeMap::new(),
            payloads: BTreeMap::new(),
            now_ms: jit_controller::clock::now_ms(),
            random: fastrand::Rng::with_seed(seed),
            interrupted: 0,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.usize(..end)
    }

    fn somebody(&mut self) -> Account {
        let number = self.below(PEOPLE.len());
        self.accounts[PEOPLE[number].0].clone()
    }

    fn some_request(&mut self) -> Option<String> {
        let count = self.known.len();
        let number = (count > 0).then(|| self.below(count))?;
        self.known.keys().nth(number).cloned()
    }

    /// Lets a future run, or cuts it off after a short time, as the end of the process would. The
    /// database is then opened anew.
    async fn maybe<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if self.random.u8(..4) > 0 {
            return Some(work.await);
        }
        let micros = self.random.u64(..8000);
        if let Ok(done) = tokio::time::timeout(Duration::from_micros(micros), work).await {
            return Some(done);
        }
        self.interrupted += 1;
        let store = Store::open(&self.url).await.unwrap();
        self.desk = Desk::new(store, Some(self.signer.clone()), Settings::default());
        None
    }

    async fn step(&mut self) {
        self.now_ms += i64::try_from(self.below(50)).unwrap();
        match self.below(12) {
            0..3 => self.submit().await,
            3..7 => self.decide().await,
            7 => self.end().await,
            8..10 => {
                let (desk, now) = (self.desk.clone(), self.now_ms);
                self.maybe(async move { desk.sign_waiting(now).await.unwrap() }).await;
            }
            10 => self.answer().await,
            _ => {
                let (desk, now) = (self.desk.clone(), self.now_ms);
                self.maybe(async move { desk.tick(now).await.unwrap() }).await;
            }
        }
        if self.below(10) == 0 {
            self.check(false).await;
        }
    }

    async fn submit(&mut self) {
        let who = self.somebody();
        let env = ["dev", "stage", "prod"][self.below(3)];
        let count = 1 + self.below(2);
        let ask = Ask {
            hosts: (0..count).map(|number| format!("{env}-{number}")).collect(),
            sources: vec!["203.0.113.7".parse().unwrap()],
            ports: vec!["22".parse().unwrap()],
            duration_ms: 60_000 * i64::try_from(1 + self.below(90)).unwrap(),
            start_ms: None,
            reason: "disk full".into(),
            ticket: String::new(),
            sessions: None,
            max_connections: 0,
            replaces: None,
        };
        let key = format!("key-{}", self.known.len());
        let (desk, now) = (self.desk.clone(), self.now_ms);
        let (sent, account, again) = (ask.clone(), who.clone(), key.clone());
        let first = self
            .maybe(async move { desk.submit(&account, sent, &again, now).await.unwrap() })
            .await;
        // A client that heard nothing asks again with the same key, and gets the same request.
        let request = self.desk.submit(&who, ask.clone(), &key, self.now_ms).await.unwrap();
        if let Some(first) = first {
            assert_eq!(first.proposal, request.proposal);
        }
        let known = Known {
            requester: who.subject,
            hosts: ask.hosts.into_iter().collect(),
            ..Known::default()
        };
        self.known.insert(request.proposal.id, known);
    }

    async fn decide(&mut self) {
        let Some(id) = self.some_request() else { return };
        let who = self.somebody();
        let hash = self.desk.store().request(&id).await.unwrap().unwrap().hash;
        let hash = if self.below(8) == 0 { "0".repeat(64) } else { hash };
        let ruling = if self.below(10) == 0 { Ruling::Deny } else { Ruling::Approve };
        let (desk, now, account, of) = (self.desk.clone(), self.now_ms, who.clone(), id.clone());
        let sent = hash.clone();
        let answer = self
            .maybe(async move { desk.decide(&account, &of, ruling, "no", &sent, now).await })
            .await;
        // What was cut off may have happened, or happen a moment later: either is right.
        let known = self.known.get_mut(&id).unwrap();
        known.tried.insert((who.name.clone(), ruling.word()));
        match answer {
            Some(Ok(_)) => {
                let made = self.desk.store().decisions(&id).await.unwrap();
                let made =
                    made.iter().any(|one| one.subject == who.subject && one.ruling == ruling);
                assert!(made, "an accepted decision of {} on {id} is lost", who.subject);
            }
            Some(Err(DeskError::Forbidden { word, .. })) => {
                let own = who.subject == known.requester;
                assert!(!own || word == "self_approval", "{word}");
            }
            Some(Err(other)) => panic!("{other}"),
            None => {}
        }
    }

    async fn end(&mut self) {
        let Some(id) = self.some_request() else { return };
        let who = self.somebody();
        let is_revocation = self.below(2) == 0;
        let (desk, now, of) = (self.desk.clone(), self.now_ms, id.clone());
        let done = self
            .maybe(async move {
                match is_revocation {
                    true => desk.revoke(&who, &of, "over", now).await,
                    false => desk.withdraw(&who, &of, now).await,
                }
            })
            .await;
        if let Some(Ok(_)) = done {
            self.known.get_mut(&id).unwrap().ended = true;
        }
    }

    /// Hosts answer to what is due.
    async fn answer(&mut self) {
        let due = self.desk.store().deliveries_due(self.now_ms, 20).await.unwrap();
        for row in due {
            let (answer, word) = match row.wanted {
                Wanted::Revoke => (Answer::Closed, "ok"),
                Wanted::Grant => (Answer::Open, "ok"),
            };
            let (desk, now) = (self.desk.clone(), self.now_ms);
            let of = row.clone();
            self.maybe(async move { desk.answered(&of, answer, word, "", now).await.unwrap() })
                .await;
        }
    }

    /// Lets everything come to its end, without interruptions.
    async fn settle(&mut self) {
        for _ in 0..20 {
            self.desk.sign_waiting(self.now_ms).await.unwrap();
            for row in self.desk.store().deliveries_due(self.now_ms, 500).await.unwrap() {
                let answer = match row.wanted {
                    Wanted::Revoke => Answer::Closed,
                    Wanted::Grant => Answer::Open,
                };
                self.desk.answered(&row, answer, "ok", "", self.now_ms).await.unwrap();
            }
        }
    }

    /// Everything that must hold at every moment; `settled`: also what must hold in the end.
    async fn check(&mut self, settled: bool) {
        let store = self.desk.store().clone();
        for id in self.known.keys().cloned().collect::<Vec<_>>() {
            let request = store.request(&id).await.unwrap();
            let request = request.unwrap_or_else(|| panic!("the accepted request {id} is lost"));
            let granted = self.check_grants(&store, &request).await;
            let known = &self.known[&id];
            let decisions = store.decisions(&id).await.unwrap();
            for made in &decisions {
                let tried = (made.account.clone(), made.ruling.word());
                assert!(known.tried.contains(&tried), "nobody said {tried:?} of {id}");
                assert_ne!(made.subject, known.requester, "somebody decided on his own request");
            }
            let agreed = agreed(&request, known, &decisions);
            let denied = decisions.iter().any(|made| made.ruling == Ruling::Deny);
            assert!(!granted || agreed, "{id} has a grant, and nobody agreed: {request:#?}");
            let rows = store.deliveries_of(&id).await.unwrap();
            assert!(rows.is_empty() || granted, "{id} is delivered without a grant");
            for row in &rows {
                assert!(known.hosts.contains(&row.host), "{id} goes to {}", row.host);
            }
            if known.ended {
                let open = rows.iter().any(|row| row.wanted == Wanted::Grant);
                assert!(request.state.is_final() && !open, "{id} was ended: {request:#?}");
            }
            if settled && agreed && !denied {
                let ended = request.state.is_final();
                assert!(ended || request.state == State::Open, "{id} is stuck: {request:#?}");
            }
        }
        check_chain(&store).await;
    }

    /// Number of requests by state.
    async fn ends(&self) -> BTreeMap<&'static str, u32> {
        let mut ends = BTreeMap::new();
        for id in self.known.keys() {
            let request = self.desk.store().request(id).await.unwrap().unwrap();
            *ends.entry(request.state.word()).or_insert(0) += 1;
        }
        ends
    }

    /// Whether a request has grants. Their bytes never change.
    async fn check_grants(&mut self, store: &Store, request: &Request) -> bool {
        let grants = store.grants_of(&request.proposal.id).await.unwrap();
        for grant in &grants {
            let id = grant.part.id.to_string();
            let first = self.payloads.entry(id).or_insert_with(|| grant.part.payload.clone());
            assert_eq!(*first, grant.part.payload, "another payload with the same id");
            let payload = v1::Grant::decode(grant.part.payload.as_slice()).unwrap();
            assert_eq!(payload.requester, request.proposal.requester);
            if let Some(envelope) = &grant.envelope {
                assert_eq!(envelope.payload.as_ref(), grant.part.payload);
            }
        }
        !grants.is_empty()
    }
}

/// Whether enough people agreed, by the words of the rules alone.
fn agreed(request: &Request, known: &Known, decisions: &[Decision]) -> bool {
    if request.verdict.outcome == Outcome::Automatic {
        let dev = known.hosts.iter().all(|host| host.starts_with("dev-"));
        return dev && known.requester == "di@example.org";
    }
    let is = |made: &Decision, group: &str| {
        PEOPLE.iter().any(|(name, _, groups)| *name == made.account && groups.contains(&group))
    };
    let yes: Vec<_> = decisions.iter().filter(|made| made.ruling == Ruling::Approve).collect();
    if known.hosts.iter().any(|host| host.starts_with("prod-")) {
        return yes.iter().any(|one| {
            let other = |other: &&&Decision| one.subject != other.subject && is(other, "approvers");
            is(one, "sre") && yes.iter().any(|two| other(&two))
        });
    }
    yes.iter().any(|one| is(one, "sre"))
}

async fn check_chain(store: &Store) {
    let (mut after, mut prev) = (0, "0".repeat(64));
    loop {
        let lines = store.audit_after(after, 1000).await.unwrap();
        if lines.is_empty() {
            break;
        }
        for line in lines {
            let value: serde_json::Value = serde_json::from_str(&line.line).unwrap();
            assert_eq!((line.seq, value["prev"].as_str()), (after + 1, Some(prev.as_str())));
            (after, prev) = (line.seq, line.hash);
        }
    }
    assert_eq!(store.audit_tip().await.unwrap(), (after, prev));
}

fn rand_seed() -> u64 {
    u64::try_from(jit_controller::clock::now_ms()).unwrap()
}
