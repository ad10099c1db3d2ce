//! Bounds of a hub: handshakes at the same time, of one network, connections in all and of one
//! certificate. Who takes a place gives it back by dropping it.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// SHA-256 of a certificate.
pub(super) type Fingerprint = [u8; 32];
/// Connections with the same certificate: the one in use, and the one that follows it.
const OF_ONE: usize = 2;

/// Places that are counted by a key.
struct Counted<K>(Mutex<HashMap<K, usize>>);

impl<K: Eq + Hash> Counted<K> {
    fn take(&self, key: K, most: usize) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key).or_default();
        let free = *count < most;
        if free {
            *count += 1;
        }
        free
    }

    fn free(&self, key: &K) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(key);
            }
        }
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// All places.
pub(super) struct Places {
    handshakes: usize,
    connections: usize,
    networks: Counted<IpAddr>,
    certificates: Counted<Fingerprint>,
    /// Handshakes, and connections that are held.
    shaking: watch::Sender<usize>,
    held: watch::Sender<usize>,
}

/// A handshake.
pub(super) struct Handshake {
    of: Arc<Places>,
    network: IpAddr,
}

/// A connection that is held.
pub(super) struct Held {
    of: Arc<Places>,
    certificate: Fingerprint,
}

impl Places {
    pub(super) fn new(handshakes: usize, connections: usize) -> Arc<Self> {
        Arc::new(Self {
            handshakes,
            connections,
            networks: Counted::default(),
            certificates: Counted::default(),
            shaking: watch::channel(0).0,
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

    /// Waits until there is a place for a handshake.
    pub(super) async fn free(&self) {
        let mut shaking = self.shaking.subscribe();
        let _free = shaking.wait_for(|shaking| *shaking < self.handshakes).await;
    }

    /// A place for a handshake with this address; one network gets half of them.
    pub(super) fn handshake(self: &Arc<Self>, from: IpAddr) -> Result<Handshake, &'static str> {
        if !below(&self.shaking, self.handshakes) {
            return Err("there are too many handshakes at once");
        }
        let network = network(from);
        if !self.networks.take(network, self.handshakes.div_ceil(2)) {
            self.shaking.send_modify(|count| *count -= 1);
            return Err("there are too many handshakes at once of its network");
        }
        Ok(Handshake { of: Arc::clone(self), network })
    }

    /// A place for a connection with this certificate.
    pub(super) fn hold(self: &Arc<Self>, certificate: Fingerprint) -> Result<Held, String> {
        if !below(&self.held, self.connections) {
            return Err(format!(
                "this hub holds {} connections, its [hub] connections",
                self.connections
            ));
        }
        if !self.certificates.take(certificate, OF_ONE) {
            self.held.send_modify(|count| *count -= 1);
            return Err(format!("there are {OF_ONE} connections with its certificate already"));
        }
        Ok(Held { of: Arc::clone(self), certificate })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.of.networks.free(&self.network);
        self.of.shaking.send_modify(|count| *count -= 1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.certificates.free(&self.certificate);
        self.of.held.send_modify(|count| *count -= 1);
    }
}

/// Counts one more, if there is room.
fn below(count: &watch::Sender<usize>, most: usize) -> bool {
    count.send_if_modified(|count| {
        let room = *count < most;
        *count += usize::from(room);
        room
    })
}

/// The network of an address: /24, or /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_network_gets_half_of_the_handshakes_and_gives_them_back() {
        let places = Places::new(4, 9);
        let first = places.handshake(from("192.0.2.1")).unwrap();
        let _second = places.handshake(from("::ffff:192.0.2.2")).unwrap();
        assert!(places.handshake(from("192.0.2.3")).is_err());
        let _others = [1, 2].map(|last| places.handshake([198, 51, 100, last].into()).unwrap());
        assert!(places.handshake(from("2001:db8::1")).is_err());
        drop(first);
        assert!(places.handshake(from("192.0.2.3")).is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_gets_the_next_one_that_is_free() {
        let places = Places::new(2, 9);
        let first = places.handshake(from("192.0.2.1")).unwrap();
        places.free().await;
        let _second = places.handshake(from("198.51.100.1")).unwrap();
        let waits = tokio::time::timeout(std::time::Duration::from_millis(50), places.free());
        assert!(waits.await.is_err());
        drop(first);
        places.free().await;
    }

    #[test]
    fn one_certificate_has_two_connections_and_all_have_their_number() {
        let places = Places::new(4, 3);
        let first = places.hold([1; 32]).unwrap();
        let _second = places.hold([1; 32]).unwrap();
        assert!(places.hold([1; 32]).is_err());
        let _third = places.hold([2; 32]).unwrap();
        assert!(places.hold([3; 32]).is_err());
        assert_eq!(places.held(), 3);
        drop(first);
        assert!(places.hold([1; 32]).is_ok());
    }
}
