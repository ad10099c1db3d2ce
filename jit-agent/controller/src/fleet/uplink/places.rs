//! Bounds of a hub: handshakes at the same time, of one network too, connections in all and of one
//! certificate. Who takes a place gives it back by dropping it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::sites::{self, Full, Sites};

/// SHA-256 of a certificate.
pub(super) type Fingerprint = [u8; 32];
/// Connections with the same certificate: the one in use, and the one that follows it.
const OF_ONE: usize = 2;

/// All places.
pub(super) struct Places {
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

    /// Waits until there is a place for a handshake.
    pub(super) async fn free(&self) {
        self.handshakes.free().await;
    }

    /// A place for a handshake with this address.
    pub(super) fn handshake(&self, from: IpAddr) -> Result<sites::Place, &'static str> {
        self.handshakes.take(from).map_err(|full| match full {
            Full::All => "there are too many handshakes at once",
            Full::Site => "there are too many handshakes at once of its network",
        })
    }

    /// A place for a connection with this certificate.
    pub(super) fn hold(self: &Arc<Self>, certificate: Fingerprint) -> Result<Held, String> {
        let mut certificates = self.certificates();
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
