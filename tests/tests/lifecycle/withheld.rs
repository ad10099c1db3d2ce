//! A hub that withholds, forks, rolls back and replays: what the host says of it, and how soon.

use std::{
    thread,
    time::{Duration, Instant},
};

use jit_client::{Agent, revocation_order::Whose};
use jit_proto::{
    GrantId, mailbox,
    merkle::Hash,
    payload_type::{GRANT_TYPE, REVOCATION_TYPE},
    v1,
};
use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    checkpoints::{Checkpoints, FRESHNESS, Point},
    revoker::{REVOKER, Revoker, delivery},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    audit::shown,
    hub::{Hub, assert_uplink},
    metrics::{TCP, scrape_with},
    uplink::{BACK, configure, hub, is_connected, site},
};

pub(crate) const LONG: Duration = Duration::from_secs(600);
/// Within this time each must be reported.
const WITHIN: Duration = Duration::from_secs(35);
/// How long checkpoints count as fresh where that is not what is tested, and where it is.
pub(crate) const AMPLE: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(2);

/// A host that expects checkpoints, and the hub that it is connected to.
pub(crate) struct World {
    pub(crate) site: Site,
    pub(crate) hub: Hub,
    pub(crate) agent: Agent,
    pub(crate) checkpoints: Checkpoints,
    revoker: Revoker,
}

impl World {
    pub(crate) fn new(freshness: &str) -> Self {
        let mut site = site();
        let hub = hub(&site, 7444, "hub");
        let (checkpoints, revoker) = (Checkpoints::new(&site), Revoker::new(&site));
        configure(&site, &[7444], &format!("{REVOKER}{FRESHNESS}[freshness]\n{freshness}{TCP}"));
        site.start();
        let agent = hub.agent(BACK);
        Self { site, hub, agent, checkpoints, revoker }
    }

    /// The configuration has this section for checkpoints from now on.
    pub(crate) fn reload(&self, section: &str) {
        configure(&self.site, &[7444], &format!("{REVOKER}{FRESHNESS}{section}{TCP}"));
        self.site.signal(Signal::HUP);
    }

    /// What the host says of a checkpoint at first, and of the list if it asks for it.
    fn bring(&mut self, point: &Point) -> (String, u32) {
        let Self { hub, agent, .. } = self;
        let mut said = hub.run(agent.compare_mailbox(point.request(false))).unwrap();
        if said.standing == "list_wanted" {
            said = hub.run(agent.compare_mailbox(point.request(true))).unwrap();
        }
        (said.standing, said.missing)
    }

    /// The same of a new checkpoint.
    pub(crate) fn check(&mut self, number: u64, items: &[Hash]) -> (String, u32) {
        let point = self.checkpoints.point(number, AMPLE, items);
        self.bring(&point)
    }

    /// What comes of a grant: `ok`, or the refusal.
    pub(crate) fn push(&mut self, grant: &v1::Grant) -> String {
        let envelope = self.site.sign(grant);
        match self.hub.run(self.agent.push(envelope)) {
            Ok(outcome) if outcome.accepted => "ok".into(),
            Ok(outcome) => outcome.reason,
            Err(error) => error.to_string(),
        }
    }

    fn deliver(&mut self, signed: &v1::Envelope) {
        self.hub.run(self.agent.revoke(delivery(signed.clone()))).unwrap();
    }

    pub(crate) fn freshness(&self) -> Value {
        self.site.status().0["freshness"].clone()
    }

    /// The host says so by this word within the time, in its status, its audit and its metrics.
    #[track_caller]
    fn assert_reported(&self, word: &str, began: Instant, metric: &str) {
        let end = began + WITHIN;
        let said = format!("[{word}]");
        loop {
            let (status, exit) = self.site.status();
            if status["problems"].to_string().contains(&said) {
                println!("{word}: said {:?} later", began.elapsed());
                assert_eq!((&status["state"], exit), (&"degraded".into(), 1), "{status:#}");
                break;
            }
            assert!(Instant::now() < end, "no {word}: {status:#}\n{}", self.site.log());
            thread::sleep(Duration::from_millis(100));
        }
        let is_raised = |record: &Value| record["alarm"] == word;
        while !shown(&self.site, &["--code", "S003"]).iter().any(is_raised) {
            assert!(Instant::now() < end, "no S003 of {word}");
            thread::sleep(Duration::from_millis(100));
        }
        scrape_with(&self.site, metric);
        assert!(Instant::now() < end, "{word}: {:?}", began.elapsed());
    }

    #[track_caller]
    pub(crate) fn assert_fresh(&self) {
        assert_eq!(self.freshness()["state"], "fresh", "{:#}", self.freshness());
        let problems = self.site.status().0["problems"].to_string();
        assert!(!problems.contains("[withheld]") && !problems.contains("[frozen]"), "{problems}");
    }

    /// The agent is killed, and connects to the hub again.
    fn kill(&mut self) {
        self.site.end(Signal::KILL);
        self.site.start();
        self.agent = self.hub.agent(BACK);
        assert_uplink(&self.site, BACK, is_connected);
    }
}

fn piece(site: &Site, grant: &v1::Grant) -> Hash {
    mailbox::item(GRANT_TYPE, &site.sign(grant).payload)
}

fn id(grant: &v1::Grant) -> GrantId {
    GrantId::from_bytes(&grant.id).unwrap()
}

pub(crate) fn word(text: &str) -> (String, u32) {
    (text.to_owned(), 0)
}

fn missing(number: u32) -> (String, u32) {
    ("missing".to_owned(), number)
}

#[test]
fn a_withheld_grant_or_signed_revocation_is_said_until_it_comes() {
    let mut world = World::new("");
    let open = world.site.grant(&CLIENT, LONG);
    let late = world.site.grant(&STRANGER, LONG);
    let [open_piece, late_piece] = [&open, &late].map(|grant| piece(&world.site, grant));
    assert_eq!(world.push(&open), "ok");
    world.site.assert_open_to_the_client_alone();
    assert_eq!(world.check(1, &[open_piece]), word("complete"));
    world.assert_fresh();
    let began = Instant::now();
    assert_eq!(world.check(2, &[open_piece, late_piece]), missing(1));
    world.assert_reported("withheld", began, "jit_agent_checkpoint_withheld 1");
    assert_eq!(world.freshness()["missing"], 1);
    assert_eq!(world.push(&late), "ok");
    assert_eq!(world.check(3, &[open_piece, late_piece]), word("complete"));
    world.assert_fresh();
    // A revocation that ends one of them.
    let signed = world.revoker.of(Whose::Ids(vec![id(&open)]));
    let revocation = mailbox::item(REVOCATION_TYPE, &signed.payload);
    let items = [mailbox::ended(id(&open)), late_piece, revocation];
    let began = Instant::now();
    assert_eq!(world.check(4, &items), missing(2));
    assert!(world.site.client_opens(0, 22), "nobody has brought it");
    world.assert_reported("withheld", began, "jit_agent_checkpoint_withheld 1");
    world.deliver(&signed);
    assert!(!world.site.client_opens(0, 22));
    assert_eq!(world.check(5, &items), word("complete"));
    world.assert_fresh();
    // And one that covers no grant yet.
    let early = world.revoker.of(Whose::Requester("eve@example.org".into()));
    let items = [&items[..], &[mailbox::item(REVOCATION_TYPE, &early.payload)]].concat();
    let began = Instant::now();
    assert_eq!(world.check(6, &items), missing(1));
    world.assert_reported("withheld", began, "jit_agent_checkpoint_withheld 1");
    world.deliver(&early);
    assert_eq!(world.check(7, &items), word("complete"));
    world.assert_fresh();
    scrape_with(&world.site, "jit_agent_checkpoint_withheld 0");
}

#[test]
fn a_hub_that_brings_nothing_more_or_the_same_again_is_seen() {
    let mut world = World::new("");
    let point = world.checkpoints.point(1, SHORT, &[]);
    let began = Instant::now();
    assert_eq!(world.bring(&point), word("complete"));
    world.assert_fresh();
    world.assert_reported("frozen", began, "jit_agent_checkpoint_frozen 1");
    for _ in 0..3 {
        assert_eq!(world.bring(&point), word("known"));
        assert_eq!(world.freshness()["state"], "frozen");
    }
    assert_eq!(world.check(2, &[]), word("complete"));
    world.assert_fresh();
    scrape_with(&world.site, "jit_agent_checkpoint_frozen 0");
}

#[test]
fn a_hub_that_never_brings_a_checkpoint_is_seen_and_then_opens_nothing() {
    let mut world = World::new("on_stale = \"refuse_new\"\n");
    let began = Instant::now();
    let early = world.site.grant(&CLIENT, LONG);
    assert_eq!(world.push(&early), "ok", "none is due yet");
    world.assert_reported("frozen", began, "jit_agent_checkpoint_frozen 1");
    let late = world.site.grant(&STRANGER, LONG);
    let refused = world.push(&late);
    assert!(refused.contains("stale"), "{refused}");
    // What is open stays, until its end or a revocation.
    world.site.assert_open_to_the_client_alone();
}

#[test]
fn a_fork_and_a_replay_of_an_old_checkpoint_are_seen_at_once() {
    let mut world = World::new("");
    let old = world.checkpoints.point(6, AMPLE, &[]);
    assert_eq!(world.bring(&old), word("complete"));
    assert_eq!(world.check(7, &[]), word("complete"));
    let began = Instant::now();
    assert_eq!(world.check(7, &[[1; 32]]), word("forked"));
    let contradictions = "jit_agent_checkpoint_contradictions_total 1";
    world.assert_reported("forked", began, contradictions);
    let began = Instant::now();
    assert_eq!(world.bring(&old), word("rolled_back"));
    let contradictions = "jit_agent_checkpoint_contradictions_total 2";
    world.assert_reported("rolled_back", began, contradictions);
    let records = shown(&world.site, &["--code", "F001"]);
    let reasons: Vec<_> = records.iter().map(|record| record["reason"].as_str()).collect();
    assert_eq!(reasons, [Some("forked"), Some("rolled_back")]);
    assert_eq!(world.freshness()["number"], 7, "neither was taken");
}

#[test]
fn a_grant_that_was_withheld_until_it_was_revoked_opens_nothing() {
    let mut world = World::new("on_stale = \"refuse_new\"\n");
    let withheld = world.site.grant(&STRANGER, LONG);
    let awaited = world.site.grant(&CLIENT, LONG);
    let item = piece(&world.site, &awaited);
    assert_eq!(world.check(1, &[item]), missing(1));
    let refused = world.push(&withheld);
    assert!(refused.contains("stale"), "{refused}");
    world.site.assert_closed_to_all();
    assert_eq!(world.push(&awaited), "ok", "the list names it");
    assert_eq!(world.check(2, &[item]), word("complete"));
    world.site.assert_open_to_the_client_alone();
    let new = world.site.grant(&STRANGER, LONG);
    assert_eq!(world.push(&new), "ok");
    assert!(world.site.stranger_opens(0, 22));
}

#[test]
fn what_is_withheld_while_the_agent_is_killed_is_seen() {
    let mut world = World::new("");
    let open = world.site.grant(&CLIENT, LONG);
    let item = piece(&world.site, &open);
    assert_eq!(world.push(&open), "ok");
    let before = world.checkpoints.point(1, SHORT, &[item]);
    assert_eq!(world.bring(&before), word("complete"));
    let signed = world.revoker.of(Whose::Ids(vec![id(&open)]));
    let items = [mailbox::ended(id(&open)), mailbox::item(REVOCATION_TYPE, &signed.payload)];
    world.kill();
    // The checkpoint of before is no fresh one, whatever is still known of it.
    let began = Instant::now();
    assert_eq!(world.bring(&before), word("complete"));
    world.assert_reported("frozen", began, "jit_agent_checkpoint_frozen 1");
    let began = Instant::now();
    assert_eq!(world.check(2, &items), missing(2));
    world.assert_reported("withheld", began, "jit_agent_checkpoint_withheld 1");
    assert!(world.site.client_opens(0, 22));
    world.deliver(&signed);
    assert!(!world.site.client_opens(0, 22));
    assert_eq!(world.check(3, &items), word("complete"));
    world.assert_fresh();
    // What had arrived before it is killed may come again, and then all is there.
    world.kill();
    world.deliver(&signed);
    assert_eq!(world.check(4, &items), word("complete"));
    world.assert_fresh();
    world.site.assert_closed_to_all();
}
