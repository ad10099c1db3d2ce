//! Handshakes that have not ended. Nothing is known of these peers yet, so the handshakes are
//! bounded in number and time, and whoever begins many cannot keep out the others.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jit_proto::SourcePrefix;
use rustls::ServerConfig;
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::control::server::network::Network;

/// A TLS handshake that takes longer is cut off.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Largest number of handshakes at once.
const MAX_HANDSHAKES: usize = 256;
/// Number of handshakes of one proven network that are kept whatever others do.
const KEPT: usize = 8;
/// Most proven networks that are remembered: of one controller, and in all; and for how long.
const MAX_PROVEN_PER_CONTROLLER: usize = 16;
const MAX_PROVEN: usize = 1024;
const PROVEN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes the TLS connection.
pub(super) async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "not done within 5 s"))?
}

/// The handshakes that have not ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct Handshakes(VecDeque<Running>);

#[derive(Debug)]
struct Running {
    network: Network,
    proven: bool,
    task: AbortHandle,
}

impl Handshakes {
    /// Whether all have ended.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|one| one.task.is_finished())
    }

    /// Adds a handshake. If there are too many, one of the network with the most is cut off: a
    /// random one, so that nobody can time it. So a sender with many silent ones loses them, and a
    /// newcomer gets its turn.
    pub(super) fn add(&mut self, network: Network, proven: bool, task: AbortHandle) {
        let Self(running) = self;
        running.retain(|one| !one.task.is_finished());
        if running.len() >= MAX_HANDSHAKES {
            let networks: Vec<_> = running.iter().map(|one| (one.network, one.proven)).collect();
            let victim = victim(&networks, random()).and_then(|at| running.remove(at));
            if let Some(Running { task, .. }) = victim {
                task.abort();
            }
        }
        running.push_back(Running { network, proven, task });
    }
}

/// Index of the handshake that is cut off. The first few of each proven network are spared, unless
/// there are no others.
fn victim(running: &[(Network, bool)], random: usize) -> Option<usize> {
    let mut kept: HashMap<SourcePrefix, usize> = HashMap::new();
    let mut spared = |network: &Network| {
        let count = kept.entry(network.narrow).or_default();
        *count += 1;
        *count <= KEPT
    };
    let mut open: Vec<_> = running
        .iter()
        .enumerate()
        .filter(|(_, (network, proven))| !(*proven && spared(network)))
        .map(|(at, (network, _))| (at, *network))
        .collect();
    if open.is_empty() {
        open.extend(running.iter().map(|(network, _)| *network).enumerate());
    }
    let open = busiest(open, |(_, network)| network.wide);
    let open = busiest(open, |(_, network)| network.narrow);
    let chosen = random.checked_rem(open.len())?;
    open.get(chosen).map(|(at, _)| *at)
}

/// Those whose key is the most frequent.
fn busiest<T, K: Eq + Hash>(of: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut counts: HashMap<K, usize> = HashMap::new();
    for one in &of {
        *counts.entry(key(one)).or_default() += 1;
    }
    let most = counts.values().copied().max();
    of.into_iter().filter(|one| counts.get(&key(one)).copied() == most).collect()
}

fn random() -> usize {
    let mut bytes = [0; size_of::<usize>()];
    // Without random bytes it is the oldest.
    let _none = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    usize::from_ne_bytes(bytes)
}

/// Networks from which a controller was let in lately, the oldest first. Each controller has a few,
/// so that one with many networks neither makes the others forgotten nor keeps all handshakes.
/// Clones share one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Proven(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    network: SourcePrefix,
    controller: String,
    at: Instant,
}

impl Proven {
    /// Remembers a network. The controller's oldest one is forgotten if it has too many, or the
    /// oldest of all.
    pub(super) fn note(&self, network: Network, controller: &str, now: Instant) {
        let network = network.narrow;
        let mut table = self.lock();
        table.retain(|entry| entry.network != network || entry.controller != controller);
        let own = |entry: &Entry| entry.controller == controller;
        if table.iter().filter(|entry| own(entry)).count() >= MAX_PROVEN_PER_CONTROLLER {
            table.iter().position(own).map(|oldest| table.remove(oldest));
        }
        if table.len() >= MAX_PROVEN {
            drop(table.remove(0));
        }
        table.push(Entry { network, controller: controller.to_owned(), at: now });
    }

    /// Whether a controller was let in from there lately.
    pub(super) fn holds(&self, network: Network, now: Instant) -> bool {
        let good = |entry: &Entry| now.saturating_duration_since(entry.at) < PROVEN;
        self.lock().iter().any(|entry| entry.network == network.narrow && good(entry))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        let Self(table) = self;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::of(text.parse().unwrap())
    }

    #[test]
    fn who_has_most_handshakes_loses_one_of_them() {
        let [one, two, three] = ["192.0.2.1", "198.51.100.2", "203.0.113.3"].map(network);
        for (networks, losing) in [
            (&[][..], &[][..]),
            (&[one], &[0]),
            (&[one, two, two], &[1, 2]),
            (&[two, one, three, three, one], &[1, 2, 3, 4]),
            (&[three, one, two, one], &[1, 3]),
        ] {
            let running: Vec<_> = networks.iter().map(|network| (*network, false)).collect();
            let mut lost: Vec<_> = (0..12).filter_map(|random| victim(&running, random)).collect();
            lost.sort_unstable();
            lost.dedup();
            assert_eq!(lost, losing, "{networks:?}");
        }
    }

    #[test]
    fn a_site_that_changes_its_network_for_each_handshake_is_one_sender() {
        let churn = (0..200).map(|low| network(&format!("2001:db8:7:{low:x}::1")));
        let mut running: Vec<_> = churn.map(|network| (network, false)).collect();
        running.push((network("2001:db8:8::1"), false));
        running.extend((0..3).map(|_| (network("192.0.2.1"), false)));
        for random in 0..1_000 {
            let lost = victim(&running, random).and_then(|at| running.get(at)).unwrap();
            assert_eq!(lost.0.wide, network("2001:db8:7::").wide);
        }
    }

    #[test]
    fn a_proven_network_keeps_a_few_handshakes_whoever_else_comes() {
        let good = network("192.0.2.1");
        let others = (0..=255).map(|third| (network(&format!("198.18.{third}.1")), false));
        let running: Vec<_> = [(good, true); 2].into_iter().chain(others).collect();
        for random in 0..1_000 {
            assert!(victim(&running, random).is_some_and(|at| at >= 2));
        }
        // A few, and no more.
        let running = [(good, true); KEPT + 1];
        assert_eq!(victim(&running, 7), Some(KEPT));
    }

    #[test]
    fn handshakes_are_bounded_also_when_all_are_of_proven_networks() {
        let site = (0..32).map(|low| network(&format!("2001:db8:7:{low:x}::1")));
        let mut running: Vec<_> = site.flat_map(|network| [(network, true); KEPT]).collect();
        running.insert(3, (network("192.0.2.1"), true));
        for random in 0..1_000 {
            // Of the site with the most.
            assert!(victim(&running, random).is_some_and(|at| at != 3));
        }
    }

    #[test]
    fn a_controller_with_many_networks_makes_no_others_forgotten() {
        let (proven, now) = (Proven::default(), Instant::now());
        let good = network("192.0.2.1");
        proven.note(good, "good", now);
        let later = now + Duration::from_secs(1);
        // They share a network, as by NAT.
        proven.note(good, "bad", now);
        let many: Vec<_> =
            (0..1_100).map(|low| network(&format!("2001:db8:7:{low:x}::1"))).collect();
        many.iter().for_each(|network| proven.note(*network, "bad", later));
        assert!(proven.holds(good, later));
        let count = many.iter().filter(|network| proven.holds(**network, later)).count();
        assert_eq!(count, MAX_PROVEN_PER_CONTROLLER);
    }

    #[test]
    fn networks_prove_good_for_a_time_and_in_a_bounded_number() {
        let (proven, began) = (Proven::default(), Instant::now());
        let good = network("192.0.2.1");
        assert!(!proven.holds(good, began));
        proven.note(good, "good", began);
        assert!(proven.holds(good, began) && !proven.holds(good, began + PROVEN));
        for number in 0..MAX_PROVEN {
            let [.., high, low] = number.to_be_bytes();
            let other = network(&format!("198.18.{high}.{low}"));
            proven.note(other, &format!("c{number}"), began + PROVEN);
        }
        assert!(!proven.holds(good, began), "the oldest is forgotten");
        assert_eq!(proven.lock().len(), MAX_PROVEN);
    }
}
