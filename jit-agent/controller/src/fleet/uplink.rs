//! Hosts that nobody can dial: their agents connect to this hub, and are called over that connection
//! (`jit_proto::uplink`). Here is who may connect, as which host, and how many; what is done with a
//! connection is the follower's. No key that signs is needed here.

mod identity;
mod listener;
mod places;
mod settings;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jit_client::Budget;
use jit_proto::printable::clean;
use tokio::sync::watch;

#[cfg(feature = "nats")]
pub(super) use self::identity::host_by_uri;
use self::places::Places;
pub use self::settings::{HubSettings, RawHubSettings};
pub(super) use self::{
    identity::{Names, Own, host},
    listener::{Hub, run},
};
use super::connection::{Connection, Turn};
use crate::clock::now_ms;

/// Who gets the connections that agents make.
pub(super) trait Reception: Send + Sync + 'static {
    /// Waits until it is known which hosts there are.
    fn opens(&self) -> impl Future<Output = ()> + Send;

    /// The host with these names. `own`: who the hub is.
    ///
    /// # Errors
    /// A sentence that says why it is none.
    fn host(&self, names: &Names, own: &Own) -> Result<String, String>;

    /// Waits for the turn of this host, before the first call over its connection; `None`: it needs none.
    fn begins(&self, host: &str) -> impl Future<Output = Option<Turn>> + Send;

    /// Gives a host's connection to who follows the host.
    ///
    /// # Errors
    /// A sentence that says why it is not taken.
    fn arrive(self: &Arc<Self>, host: &str, uplink: Connection) -> Result<(), String>;

    /// Says when the process ends.
    fn draining(&self) -> watch::Receiver<bool>;

    /// The longest wait for an answer.
    fn timeout(&self) -> Duration;

    /// Room for large answers of hosts.
    fn room(&self) -> &Arc<Budget>;
}

/// The last connections that were refused, at most.
const REFUSED: usize = 20;
/// Lines of the log about them at once; then one a second.
const LINES: NonZeroU32 = NonZeroU32::new(20).expect("it is not 0");
/// Longest sentence about one, characters.
const LONGEST: usize = 300;

/// A connection that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where the last one came from.
    pub peer: SocketAddr,
    /// Why, in words.
    pub why: String,
    /// When the last one came, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Number of such ones.
    pub count: u64,
}

/// What a hub has to say of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubReport {
    /// Connections that are held.
    pub held: usize,
    /// The most that are.
    pub most: usize,
    /// The last ones that were refused, by address and reason; the newest last.
    pub refused: Vec<Refused>,
}

/// Connections that were refused, by network address and reason.
struct Refusals {
    last: Mutex<VecDeque<Refused>>,
    /// Who calls from many addresses fills no log.
    log: DefaultDirectRateLimiter,
}

impl Default for Refusals {
    fn default() -> Self {
        let log = RateLimiter::direct(Quota::per_second(NonZeroU32::MIN).allow_burst(LINES));
        Self { last: Mutex::default(), log }
    }
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one. Whoever tries again and again is one line, in the log too.
    fn add(&self, peer: SocketAddr, why: &str) {
        let why = clean(why, LONGEST);
        let mut all = self.lock();
        let same = |old: &Refused| old.peer.ip() == peer.ip() && old.why == why;
        let before = all.iter().position(same).and_then(|place| all.remove(place));
        if before.is_none() && self.log.check().is_ok() {
            tracing::warn!(%peer, why, "an agent's connection was refused");
        }
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        all.push_back(Refused { peer, why, at_ms: now_ms(), count });
        if all.len() > REFUSED {
            all.pop_front();
        }
    }
}

/// Connections of agents, as everybody sees them.
pub(super) struct Uplinks {
    places: Arc<Places>,
    most: usize,
    refusals: Refusals,
}

impl Uplinks {
    fn new(settings: &HubSettings) -> Self {
        let places = Places::new(settings.handshakes, settings.connections);
        Self { places, most: settings.connections, refusals: Refusals::default() }
    }

    pub(super) fn report(&self) -> HubReport {
        let refused = self.refusals.lock().iter().cloned().collect();
        HubReport { held: self.places.held(), most: self.most, refused }
    }

    /// Waits until no connection is held.
    pub(super) async fn empty(&self) {
        self.places.empty().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_one_line_and_the_list_is_bounded() {
        let refusals = Refusals::default();
        let peer = |last, port| SocketAddr::from(([192, 0, 2, last], port));
        for port in 1..=5 {
            refusals.add(peer(1, port), "no certificate");
        }
        assert_eq!(refusals.lock().len(), 1);
        assert_eq!(refusals.lock()[0].count, 5);
        assert_eq!(refusals.lock()[0].peer.port(), 5);
        for last in 2..=100 {
            refusals.add(peer(last, 1), "another\nhost");
        }
        assert_eq!(refusals.lock().len(), REFUSED);
        assert_eq!(refusals.lock()[REFUSED - 1].why, "another\\nhost");
    }
}
