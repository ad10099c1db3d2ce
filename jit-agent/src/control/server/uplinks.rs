//! The connections to hubs, as the gate's process knows them: which it has made, what the front says
//! of them, and what `status` shows. It decides nothing.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jit_proto::{WallTime, v1};
use rustls::pki_types::ServerName;
use tokio::sync::{Notify, watch};

use crate::config::Hub;

/// The most uplinks that are remembered: a front may never say that one has ended.
const MOST: usize = 16;

/// The uplinks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Uplinks {
    state: Arc<Mutex<State>>,
    renewals: Arc<Notify>,
}

/// How far an uplink is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The front makes the handshakes.
    Begun,
    /// A spare one that waits until it is used.
    Waits,
    /// The hub may call, since this time.
    Connected(WallTime),
    /// There is none any more, and why.
    Ended(String),
}

#[derive(Debug, Default)]
struct State {
    /// Number of uplinks that were ever begun.
    last: u64,
    made: Vec<Made>,
    /// The configuration has an `[uplink]`.
    wanted: bool,
    /// Number of connections that were made.
    connects: u64,
    /// Number of tries that failed, and of connections that were lost.
    failures: u64,
    /// What went wrong last, and when.
    last_error: Option<(WallTime, String)>,
    /// When the next try begins.
    next: Option<WallTime>,
    /// The last hub that was tried.
    hub: String,
    /// Through which proxy; empty: none.
    proxy: String,
    /// End of the agent's certificate.
    certificate_end: Option<WallTime>,
}

/// An uplink that has not ended.
struct Made {
    number: u64,
    hub: String,
    host: ServerName<'static>,
    /// Through which proxy; empty: none.
    proxy: String,
    phase: watch::Sender<Phase>,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("number", &self.number).field("hub", &self.hub).finish()
    }
}

impl Uplinks {
    /// A new uplink to this hub, through this proxy: its number, and how far it is. A spare one is not
    /// shown as what was tried last.
    pub fn begin(
        &self,
        hub: &Hub,
        host: ServerName<'static>,
        proxy: String,
        spare: bool,
    ) -> (u64, watch::Receiver<Phase>) {
        let (phase, phases) = watch::channel(Phase::Begun);
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        let hub = hub.to_string();
        if !spare {
            state.hub.clone_from(&hub);
            state.proxy.clone_from(&proxy);
        }
        if state.made.len() >= MOST {
            state.made.remove(0);
        }
        state.made.push(Made { number, hub, host, proxy, phase });
        (number, phases)
    }

    /// The name in the configuration of the hub of this uplink; `None`: there is none.
    pub(super) fn host(&self, number: u64) -> Option<ServerName<'static>> {
        let state = self.lock();
        state.made.iter().find(|one| one.number == number).map(|one| one.host.clone())
    }

    /// This spare uplink waits until it is used.
    pub(super) fn waits(&self, number: u64) {
        let state = self.lock();
        if let Some(made) = state.made.iter().find(|one| one.number == number) {
            made.phase.send_if_modified(|phase| {
                let begun = *phase == Phase::Begun;
                *phase = if begun { Phase::Waits } else { phase.clone() };
                begun
            });
        }
    }

    /// The hub of this uplink may call.
    pub(crate) fn opened(&self, number: u64, now: WallTime) {
        let state = &mut *self.lock();
        let Some(made) = state.made.iter().find(|one| one.number == number) else { return };
        made.phase.send_replace(Phase::Connected(now));
        state.hub.clone_from(&made.hub);
        state.proxy.clone_from(&made.proxy);
        state.connects = state.connects.saturating_add(1);
        state.next = None;
    }

    /// This uplink has ended.
    pub fn ended(&self, number: u64, why: String) {
        let mut state = self.lock();
        if let Some(at) = state.made.iter().position(|one| one.number == number) {
            state.made.remove(at).phase.send_replace(Phase::Ended(why));
        }
    }

    /// All have ended, with the process that served them.
    pub fn all_ended(&self) {
        for made in self.lock().made.drain(..) {
            made.phase
                .send_replace(Phase::Ended("the agent's process for the network ended".into()));
        }
    }

    /// Notes what went wrong, and when the next try begins.
    pub fn failed(&self, why: &str, now: WallTime, next: WallTime) {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some((now, why.to_owned()));
        state.next = Some(next);
    }

    /// Notes the hub that is tried, also if its name leads nowhere.
    pub fn tries(&self, hub: &Hub) {
        let mut state = self.lock();
        state.hub = hub.to_string();
        state.next = None;
    }

    /// Asks for a new connection in the place of the one in use.
    pub(super) fn renew(&self) {
        self.renewals.notify_one();
    }

    /// Waits until somebody asks for that.
    pub async fn renewal(&self) {
        self.renewals.notified().await;
    }

    /// Whether there is to be one.
    pub fn set_wanted(&self, wanted: bool) {
        self.lock().wanted = wanted;
    }

    /// Sets the end of the agent's certificate.
    pub fn set_certificate_end(&self, end: Option<WallTime>) {
        self.lock().certificate_end = end;
    }

    /// What `status` shows; `None`: the configuration has no `[uplink]`.
    pub(crate) fn shown(&self, now: WallTime) -> Option<v1::Uplink> {
        let state = self.lock();
        if !state.wanted {
            return None;
        }
        // The newest: an older one is about to end.
        let connected = state.made.iter().rev().find_map(|one| match *one.phase.borrow() {
            Phase::Connected(since) => Some((one.hub.clone(), since)),
            _ => None,
        });
        let is_connected = connected.is_some();
        let spare = state.made.iter().find(|one| *one.phase.borrow() == Phase::Waits);
        let spare = spare.map(|one| one.hub.clone()).unwrap_or_default();
        let (hub, since) = connected.unwrap_or_else(|| (state.hub.clone(), WallTime(0)));
        let (error_at, error) = state.last_error.clone().unwrap_or((WallTime(0), String::new()));
        let next = state.next.and_then(|next| next.since(now)).filter(|_| !is_connected);
        Some(v1::Uplink {
            connected: is_connected,
            hub,
            since_ms: since.0,
            last_error: error,
            last_error_ms: error_at.0,
            proxy: state.proxy.clone(),
            certificate_not_after_ms: state.certificate_end.map_or(0, |end| end.0),
            next_attempt_in_ms: next
                .map_or(0, |next| u64::try_from(next.as_millis()).unwrap_or(u64::MAX)),
            connects: state.connects,
            failures: state.failures,
            spare,
            ..v1::Uplink::default()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uplinks_that_were_begun_and_have_not_ended_count() {
        let uplinks = Uplinks::default();
        assert_eq!(uplinks.shown(WallTime(0)), None);
        uplinks.set_wanted(true);
        let hub = Hub::parse("hub.example.org:443").unwrap();
        let begin = || uplinks.begin(&hub, hub.name().unwrap(), String::new(), false);
        let ((one, first), (two, second)) = (begin(), begin());
        assert_ne!(one, two);
        assert!(uplinks.host(0).is_none() && uplinks.host(two + 1).is_none());
        uplinks.opened(two + 1, WallTime(7));
        assert!(!uplinks.shown(WallTime(9)).unwrap().connected, "nobody began that one");
        uplinks.opened(one, WallTime(7));
        let shown = uplinks.shown(WallTime(9)).unwrap();
        assert_eq!((shown.connected, shown.since_ms, shown.connects), (true, 7, 1));
        uplinks.ended(one, "cut".into());
        assert_eq!(*first.borrow(), Phase::Ended("cut".into()));
        assert!(uplinks.host(one).is_none(), "it cannot be opened again");
        uplinks.all_ended();
        assert!(matches!(*second.borrow(), Phase::Ended(_)));
        uplinks.failed("no route", WallTime(10), WallTime(2_010));
        let shown = uplinks.shown(WallTime(1_010)).unwrap();
        assert_eq!((shown.last_error.as_str(), shown.next_attempt_in_ms), ("no route", 1_000));
    }

    #[test]
    fn a_spare_one_is_shown_beside_the_one_in_use_and_takes_its_place() {
        let uplinks = Uplinks::default();
        uplinks.set_wanted(true);
        let hubs = ["a.example.org:443", "b.example.org:443"].map(|hub| Hub::parse(hub).unwrap());
        let begin =
            |hub: &Hub, spare| uplinks.begin(hub, hub.name().unwrap(), String::new(), spare);
        let ((used, _), (spare, phases)) = (begin(&hubs[0], false), begin(&hubs[1], true));
        uplinks.opened(used, WallTime(7));
        uplinks.waits(used);
        uplinks.waits(spare);
        assert_eq!(*phases.borrow(), Phase::Waits);
        let shown = uplinks.shown(WallTime(9)).unwrap();
        assert_eq!(
            (shown.hub.as_str(), shown.spare.as_str()),
            (hubs[0].to_string().as_str(), "b.example.org:443")
        );
        assert!(shown.connected, "a front that says that it waits changes nothing of one in use");
        uplinks.ended(used, "cut".into());
        assert!(!uplinks.shown(WallTime(9)).unwrap().connected, "it is not used yet");
        uplinks.opened(spare, WallTime(8));
        let shown = uplinks.shown(WallTime(9)).unwrap();
        assert_eq!(
            (shown.connected, shown.hub.as_str(), shown.spare.as_str()),
            (true, "b.example.org:443", "")
        );
    }
}
