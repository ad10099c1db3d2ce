//! A link is cut while grants and revocations are made. They come when it is back: late, in the reverse
//! order, twice. The host is then as if each had come once and in order.

use std::{
    collections::BTreeMap,
    env, fs, thread,
    time::{Duration, Instant},
};

use jit_client::{Agent, CallError, revocation_order::Whose};
use jit_proto::{GrantId, v1};
use jit_tests::{
    agent::{CLIENT, STRANGER, Site},
    revoker::{REVOKER, Revoker, delivery},
};

use crate::{
    hub::{Hub, assert_uplink},
    uplink::{BACK, configure, hub, is_connected, site},
};

const LONG: Duration = Duration::from_secs(900);
/// How long the link is cut, unless `JIT_TEST_CUT` says the seconds. After 20 s the kernel gives the
/// connection up.
const CUT: Duration = Duration::from_secs(15);
/// Moments at which something is made are apart.
const APART: Duration = Duration::from_millis(5);

/// What a hub brings.
#[derive(Clone)]
enum Message {
    Grant(v1::Envelope),
    Revocation(v1::Envelope),
}

/// What people decide while the link is cut, in the order in which they do it: the last two grants of the
/// client live.
fn messages(site: &Site, revoker: &Revoker) -> Vec<Message> {
    let grant = |sources: &[&str], requester: &str| {
        thread::sleep(APART);
        let grant = v1::Grant { requester: requester.into(), ..site.grant(sources, LONG) };
        let id = GrantId::from_bytes(&grant.id).unwrap();
        (id, Message::Grant(site.sign(&grant)))
    };
    let revoke = |whose: Whose| {
        thread::sleep(APART);
        Message::Revocation(revoker.of(whose))
    };
    let (_, early) = grant(&CLIENT, "ana@example.org");
    let (by_id, named) = grant(&STRANGER, "bo@example.org");
    let first = revoke(Whose::Ids(vec![by_id]));
    let (_, covered) = grant(&STRANGER, "ana@example.org");
    let all = revoke(Whose::All);
    let (_, of_cy) = grant(&STRANGER, "cy@example.org");
    let (_, stays) = grant(&CLIENT, "ana@example.org");
    let requester = revoke(Whose::Requester("cy@example.org".into()));
    let (late_id, late) = grant(&STRANGER, "dee@example.org");
    let last = revoke(Whose::Ids(vec![late_id]));
    let (_, more) = grant(&CLIENT[..1], "cy@example.org");
    vec![early, named, first, covered, all, of_cy, stays, requester, late, last, more]
}

/// A hub and the agent that is connected to it, over whichever connection there is.
struct Line<'a> {
    hub: &'a Hub,
    agent: Agent,
}

impl<'a> Line<'a> {
    fn new(hub: &'a Hub) -> Self {
        Self { hub, agent: hub.agent(BACK) }
    }

    /// Calls until there is an answer, also over a new connection.
    fn call<T>(
        &mut self,
        what: impl AsyncFn(&mut Agent) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let end = Instant::now() + 3 * BACK;
        loop {
            match self.hub.run(what(&mut self.agent)) {
                Err(error @ CallError::Unavailable(_)) => {
                    assert!(Instant::now() < end, "{error}");
                    if let Some(agent) = self.hub.try_agent(Duration::from_millis(200)) {
                        self.agent = agent;
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Brings it. Returns how the agent answers: `ok`, or the word of a refusal.
    fn bring(&mut self, message: &Message) -> String {
        match message {
            Message::Grant(grant) => {
                match self.call(async |agent| agent.push(grant.clone()).await) {
                    Ok(outcome) if outcome.accepted => "ok".into(),
                    Ok(outcome) => outcome.reason,
                    Err(refused) => refused.to_string(),
                }
            }
            Message::Revocation(signed) => {
                let answer =
                    self.call(async |agent| agent.revoke(delivery(signed.clone())).await).unwrap();
                assert_eq!(answer.warning, "");
                answer.reason
            }
        }
    }

    /// What the host is: what lives, the floors, how each grant is answered that comes once more.
    fn state(&mut self, all: &[Message]) -> State {
        let answers = all.iter().filter(|one| matches!(one, Message::Grant(_)));
        let answers: Vec<_> = answers.map(|one| self.bring(one) == "ok").collect();
        let live = self.call(async |agent| agent.list(false).await).unwrap();
        let id = |one: &v1::GrantState| {
            let grant: v1::Grant = prost::Message::decode(&*one.grant).unwrap();
            grant.id.to_vec()
        };
        let mut live: Vec<_> = live.iter().map(id).collect();
        live.sort();
        let floors = self.call(async |agent| agent.status().await).unwrap().revoked_before;
        let floors = floors.unwrap_or_default();
        let by_requester = floors.by_requester.into_iter().collect();
        State { live, answers, all_ms: floors.all_ms, by_requester }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    live: Vec<Vec<u8>>,
    answers: Vec<bool>,
    all_ms: i64,
    by_requester: BTreeMap<String, i64>,
}

#[test]
fn what_comes_late_reversed_and_twice_after_a_cut_gives_the_state_of_in_order() {
    let seconds = |text: String| text.parse().expect("JIT_TEST_CUT is a number of seconds");
    let cut = env::var("JIT_TEST_CUT").map_or(CUT, |text| Duration::from_secs(seconds(text)));
    let [mut site, mut other] = [(); 2].map(|()| site());
    let revoker = Revoker::new(&site);
    for file in ["signer.pem", "revoker.pem"] {
        fs::copy(site.path(file), other.path(file)).unwrap();
    }
    let [hub, other_hub] = [&site, &other].map(|site| hub(site, 7444, "hub"));
    for one in [&mut site, &mut other] {
        configure(one, &[7444], REVOKER);
        one.start();
        assert_uplink(one, BACK, is_connected);
    }
    let mut line = Line::new(&hub);

    site.client.ip(&["link", "set", "p0", "down"]);
    let began = Instant::now();
    let all = messages(&site, &revoker);
    // The hub tries while the link is cut: these are on the way, and come late or never.
    let [Message::Grant(tried), .., Message::Revocation(also), _] = &all[..] else {
        panic!("a grant first, a revocation last but one")
    };
    hub.run(async {
        let (mut one, mut other) = (line.agent.clone(), line.agent.clone());
        let pushed = tokio::time::timeout(cut / 3, one.push(tried.clone())).await;
        assert!(!matches!(pushed, Ok(Ok(_))), "nothing gets through: {pushed:?}");
        let revoked = tokio::time::timeout(cut / 3, other.revoke(delivery(also.clone()))).await;
        assert!(!matches!(revoked, Ok(Ok(_))), "nothing gets through: {revoked:?}");
    });
    let (status, _) = site.status();
    assert_eq!(status["grants"].as_array().map(Vec::len), Some(0), "{status:#}");
    thread::sleep(cut.saturating_sub(began.elapsed()));
    site.client.ip(&["link", "set", "p0", "up"]);
    let second = format!("{}/64", CLIENT[1]);
    site.client.ip(&["-6", "addr", "add", &second, "dev", "p0", "nodad"]);

    for message in all.iter().rev().chain(all.iter().rev()).chain(&all) {
        line.bring(message);
    }
    let late = line.state(&all);
    site.assert_open_to_the_client_alone();

    // The same messages in order, at a host with the same id and keys.
    let mut line = Line::new(&other_hub);
    let words: Vec<_> = all.iter().map(|message| line.bring(message)).collect();
    assert!(words.iter().all(|word| word == "ok"), "{words:?}");
    let in_order = line.state(&all);
    other.assert_open_to_the_client_alone();
    assert_eq!(in_order.live.len(), 2);
    println!("cut for {:?}; live after it: {}", began.elapsed(), late.live.len());
    assert_eq!(late, in_order);
}
