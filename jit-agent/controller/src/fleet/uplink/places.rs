//! Bounds of a hub: handshakes at the same time and connections that wait for one, of one network
//! too, connections in all and of one certificate. Who takes a place gives it back by dropping it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::super::backoff::{part, random};
use crate::sites::{self, Full, Sites};

/// SHA-256 of a certificate.
pub(super) type Fingerprint = [u8; 32];
/// Connections with the same certificate: the one in use, and the one that follows it.
const OF_ONE: usize = 2;
/// Connections that wait for a place for their handshake.
const WAITING: usize = 4096;
/// The longest wait: an agent gives all of its attempt 15 s.
const WAIT: Duration = Duration::from_secs(10);
/// Between two looks for a place, and up to twice as long.
const LOOK: Duration = Duration::from_millis(50);

/// All places.
pub(super) struct Places {
    waiting: Arc<Sites>,
    handshakes: Arc<Sites>,
    connections: usize,
    certificates: Mutex<HashMap<Fingerprint, usize>>,
    /// Connections that are held.
    held: watch::Sender<usize>,
}

/// A connection that is held.
pub(super) struct Held {
    of: Arc<Places>,
    certificate: Fingerprint,
}

impl Places {
    pub(super) fn new(handshakes: usize, connections: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Sites::new(WAITING),
            handshakes: Sites::new(handshakes),
            connections,
            certificates: Mutex::default(),
            held: watch::channel(0).0,
        })
    }

    /// Number of connections that are held.
    pub(super) fn held(&self) -> usize {
        *self.held.borrow()
    }

    /// Waits until no connection is held.
    pub(super) async fn empty(&self) {
        let mut held = self.held.subscribe();
        let _none = held.wait_for(|held| *held == 0).await;
    }

    /// Waits until a connection may wait.
    pub(super) async fn free(&self) {
        self.waiting.free().await;
    }

    /// A place to wait for a handshake with this address.
    pub(super) fn wait(&self, from: IpAddr) -> Result<sites::Place, &'static str> {
        self.waiting.take(from).map_err(|full| match full {
            Full::All => "too many connections wait for their handshake",
            Full::Site => "too many connections of its network wait for their handshake",
        })
    }

    /// A place for a handshake with this address, as soon as there is one. Whoever is sent away
    /// comes back much later: after a restart of the hub that would be most agents, and of agents
    /// behind one address nearly all.
    pub(super) async fn handshake(&self, from: IpAddr) -> Result<sites::Place, &'static str> {
        let until = Instant::now() + WAIT;
        loop {
            match self.handshakes.take(from) {
                Ok(place) => return Ok(place),
                Err(_) if Instant::now() < until => sleep(LOOK + part(LOOK, random())).await,
                Err(Full::All) => return Err("there were too many handshakes for 10 s"),
                Err(Full::Site) => {
                    return Err("there were too many handshakes of its network for 10 s");
                }
            }
        }
    }

    /// A place for a connection with this certificate. A `spare` one gets none of the second half of all:
    /// those are for agents that have no other connection.
    pub(super) fn hold(
        self: &Arc<Self>,
        certificate: Fingerprint,
        spare: bool,
    ) -> Result<Held, String> {
        let mut certificates = self.certificates();
        if spare && self.held() >= self.connections / 2 {
            return Err(
                "this hub takes spare connections only while half of its places are free".into()
            );
        }
        if self.held() >= self.connections {
            return Err(format!(
                "this hub holds {} connections, its [hub] connections",
                self.connections
            ));
        }
        let of_one = certificates.entry(certificate).or_default();
        if *of_one >= OF_ONE {
            return Err(format!("there are {OF_ONE} connections with its certificate already"));
        }
        *of_one += 1;
        self.held.send_modify(|held| *held += 1);
        Ok(Held { of: Arc::clone(self), certificate })
    }

    /// The lock of both numbers.
    fn certificates(&self) -> MutexGuard<'_, HashMap<Fingerprint, usize>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut certificates = self.of.certificates();
        if let Some(of_one) = certificates.get_mut(&self.certificate) {
            *of_one -= 1;
            if *of_one == 0 {
                certificates.remove(&self.certificate);
            }
        }
        self.of.held.send_modify(|held| *held -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_has_two_connections_and_all_have_their_number() {
        let places = Places::new(4, 3);
        let first = places.hold([1; 32], false).unwrap();
        let _second = places.hold([1; 32], false).unwrap();
        assert!(places.hold([1; 32], false).is_err());
        let _third = places.hold([2; 32], false).unwrap();
        assert!(places.hold([3; 32], false).is_err());
        assert_eq!(places.held(), 3);
        drop(first);
        assert!(places.hold([1; 32], false).is_ok());
    }

    #[test]
    fn spare_connections_leave_half_of_the_places() {
        let places = Places::new(4, 4);
        let _spares = [1, 2].map(|host| places.hold([host; 32], true).unwrap());
        assert!(places.hold([3; 32], true).is_err());
        let _used = [3, 4].map(|host| places.hold([host; 32], false).unwrap());
        assert!(places.hold([5; 32], false).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn agents_of_one_network_wait_for_their_turn_and_are_not_sent_away() {
        const AGENTS: usize = 1000;
        let places = Places::new(256, AGENTS);
        let network = IpAddr::from([192, 0, 2, 1]);
        let agents = (0..AGENTS).map(|_| async {
            let _waits = places.wait(network)?;
            let _place = places.handshake(network).await?;
            sleep(Duration::from_millis(200)).await;
            Ok::<_, &str>(())
        });
        let all = futures_util::future::join_all(agents).await;
        assert_eq!(all.iter().filter(|one| one.is_err()).count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_holds_its_handshakes_keeps_no_other_waiting() {
        let places = Places::new(256, 1000);
        let (silent, agent) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 1]));
        let mut held = Vec::new();
        while let Ok(place) = places.handshakes.take(silent) {
            held.push(place);
        }
        let waiting: Vec<_> = std::iter::from_fn(|| places.wait(silent).ok()).collect();
        assert!(waiting.len() < WAITING, "{}", waiting.len());
        let began = Instant::now();
        let _waits = places.wait(agent).unwrap();
        let _place = places.handshake(agent).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
        let refused = places.handshake(silent).await.unwrap_err();
        assert_eq!(refused, "there were too many handshakes of its network for 10 s");
        assert!((WAIT..WAIT + 2 * LOOK).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
