//! What people did while programs died, and what must be true afterwards.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use jit_client::{
    CallError,
    controller::{
        call::Call,
        types::{NewRequest, RequestView},
    },
};
use jit_tests::{
    controller::{
        Stage,
        people::{Person, access, decision, revocation},
    },
    random::Random,
};

/// What somebody knows of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tried {
    #[default]
    Never,
    /// It may have been done.
    Perhaps,
    /// The controller has said so.
    Done,
}

/// What is known of a request that was accepted.
#[derive(Clone, Debug, Default)]
struct Fact {
    hash: String,
    approved: Tried,
    denied: Tried,
    revoked: Tried,
}

/// What is known of all of them.
#[derive(Default)]
pub(crate) struct History {
    facts: Mutex<BTreeMap<String, Fact>>,
    /// Calls whose answer never came, with their keys.
    unanswered: Mutex<Vec<(String, NewRequest)>>,
    next: AtomicU32,
    ended: AtomicBool,
}

impl History {
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::SeqCst)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Fact)) {
        change(self.facts.lock().unwrap().entry(id.to_owned()).or_default());
    }

    fn accepted(&self, view: &RequestView) {
        self.change(&view.id, |fact| {
            assert!(fact.hash.is_empty() || fact.hash == view.hash, "{} has two contents", view.id);
            fact.hash.clone_from(&view.hash);
        });
    }

    /// One of the newest requests of which this is true, and what is known of it.
    fn pick(
        &self,
        random: &mut Random,
        condition: impl Fn(&Fact) -> bool,
    ) -> Option<(String, Fact)> {
        let facts = self.facts.lock().unwrap();
        let back = random.below(12);
        let fitting = facts.iter().rev().filter(|(_, fact)| condition(fact));
        fitting.take(back + 1).last().map(|(id, fact)| (id.clone(), fact.clone()))
    }

    /// Asks again and again.
    pub(crate) fn submit(&self, who: &Person, hosts: &[&str], mut random: Random) {
        while self.goes_on() {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            // A source of its own, so that each request is seen alone.
            let source = format!("198.19.{}.{}", number / 250, 1 + number % 250);
            let hosts: Vec<_> = hosts.iter().copied().filter(|_| random.chance(60)).collect();
            if hosts.is_empty() {
                continue;
            }
            let new = access(&hosts, &source, "2h");
            let key = format!("history-{number}");
            match who.call::<RequestView>(&Call::post(["requests"]).json(&new).key(&key)) {
                Ok(view) => self.accepted(&view),
                Err(CallError::Refused { word, detail }) if word != "unavailable" => {
                    panic!("{word}: {detail}")
                }
                Err(_) => self.unanswered.lock().unwrap().push((key, new)),
            }
            thread::sleep(Duration::from_millis(u64::try_from(random.below(60)).unwrap()));
        }
    }

    /// Agrees and says no, again and again.
    pub(crate) fn decide(&self, who: &Person, mut random: Random) {
        while self.goes_on() {
            thread::sleep(Duration::from_millis(u64::try_from(random.below(40)).unwrap()));
            let undecided =
                |fact: &Fact| fact.approved == Tried::Never && fact.denied == Tried::Never;
            let Some((id, fact)) = self.pick(&mut random, undecided) else { continue };
            let denies = random.chance(15);
            let set = move |fact: &mut Fact, tried| match denies {
                true => fact.denied = tried,
                false => fact.approved = tried,
            };
            self.change(&id, |fact| set(fact, Tried::Perhaps));
            let ruling = if denies { "deny" } else { "approve" };
            let done = who.call::<RequestView>(&decision(&id, ruling, &fact.hash));
            self.change(&id, |fact| match done {
                Ok(_) => set(fact, Tried::Done),
                Err(CallError::Refused { word, .. }) if word != "unavailable" => {
                    set(fact, Tried::Never);
                }
                Err(_) => {}
            });
        }
    }

    /// Ends again and again.
    pub(crate) fn revoke(&self, who: &Person, mut random: Random) {
        while self.goes_on() {
            thread::sleep(Duration::from_millis(u64::try_from(random.below(150)).unwrap()));
            let agreed =
                |fact: &Fact| fact.revoked == Tried::Never && fact.approved != Tried::Never;
            let Some((id, _)) = self.pick(&mut random, agreed) else { continue };
            self.change(&id, |fact| fact.revoked = Tried::Perhaps);
            let done = who.call::<RequestView>(&revocation(&id));
            self.change(&id, |fact| match done {
                Ok(_) => fact.revoked = Tried::Done,
                Err(CallError::Refused { word, .. }) if word != "unavailable" => {
                    fact.revoked = Tried::Never;
                }
                Err(_) => {}
            });
        }
    }

    /// Whoever got no answer asks again by the same key. Each gets one request, the same each time.
    pub(crate) fn ask_again(&self, who: &Person) {
        for (key, new) in self.unanswered.lock().unwrap().drain(..) {
            let call = Call::post(["requests"]).json(&new).key(&key);
            let (first, second): (RequestView, RequestView) = (who.get(&call), who.get(&call));
            assert_eq!(first.id, second.id, "{key} has two requests");
            self.accepted(&first);
        }
    }

    /// Waits until everything has come to rest, and checks all that must be true.
    pub(crate) fn check(&self, stage: &Stage, li: &Person) {
        let facts = self.facts.lock().unwrap().clone();
        let journal = journal(stage);
        let (mut opened, mut digests) = (BTreeMap::<String, Vec<usize>>::new(), 0);
        for number in 0..stage.hosts.len() {
            for record in stage.host(number).audit() {
                let (Some(grant), Some(digest)) =
                    (record["grant"].as_str(), record["digest"].as_str())
                else {
                    continue;
                };
                // One payload for each id, and it is the one that the signer has noted.
                assert_eq!(journal.get(grant).map(String::as_str), Some(digest), "{record:#}");
                digests += 1;
            }
            let status = stage.host(number).status();
            for grant in status["grants"].as_array().unwrap() {
                let id = grant["id"].as_str().unwrap_or_else(|| panic!("{grant:#}"));
                opened.entry(id.to_owned()).or_default().push(number);
            }
        }
        let mut counts = BTreeMap::<String, usize>::new();
        for (id, fact) in &facts {
            let view = li.settled(id);
            *counts.entry(view.state.clone()).or_default() += 1;
            assert_eq!(view.hash, fact.hash, "{id}: what was asked is not what was accepted");
            let said = |ruling: &str| view.decisions.iter().any(|one| one.ruling == ruling);
            assert!(fact.approved != Tried::Done || said("approve"), "lost approval: {view:#?}");
            assert!(fact.denied != Tried::Done || said("deny"), "lost denial: {view:#?}");
            assert!(fact.approved != Tried::Never || !said("approve"), "nobody agreed: {view:#?}");
            let is_open = opened.contains_key(id);
            let closed = view.state == "revoked" || view.is_final;
            if fact.revoked == Tried::Done {
                assert_eq!(view.state, "revoked", "lost revocation: {view:#?}");
            }
            assert!(!is_open || said("approve"), "open without an approval: {view:#?}");
            assert!(!is_open || !closed, "open and ended: {view:#?}");
            for grant in &view.grants {
                if grant.signed_by.is_empty() {
                    continue;
                }
                assert!(said("approve") && !said("deny"), "signed without an approval: {view:#?}");
                assert_eq!(journal.get(&grant.id), Some(&grant.payload_hash), "{view:#?}");
            }
            if view.state == "open" {
                assert_eq!(opened.get(id).map_or(0, Vec::len), view.hosts.len(), "{view:#?}");
            }
        }
        for id in opened.keys() {
            assert!(facts.contains_key(id), "{id} is open, and nobody asked for it");
        }
        println!("{} requests: {counts:?}; {digests} payloads in agents' audits", facts.len());
        assert!(counts.get("open").is_some_and(|open| *open > 0), "nothing opened: {counts:?}");
    }

    /// Waits until no host still has to hear something.
    pub(crate) fn settle(&self, li: &Person) {
        for id in self.facts.lock().unwrap().keys() {
            li.settled(id);
        }
    }
}

/// What the signer has noted: the hash of each grant's payload.
fn journal(stage: &Stage) -> BTreeMap<String, String> {
    let text = fs::read_to_string(stage.own("signer.journal")).unwrap();
    let mut grants = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["g", id, hash, ..] = words[..] else { continue };
        let before = grants.insert(id.to_owned(), hash.to_owned());
        assert!(before.is_none_or(|before| before == hash), "{id} was signed with other bytes");
    }
    grants
}
