//! Places for connections of which nobody knows yet whose they are. Who comes from a network gets a place
//! while that network has less than half of what others leave: one that takes all it can leaves half of
//! them, two leave a quarter, and whoever comes from another network gets one. A small part each may have.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// This part of all places is small: a network may have it while there is any place. Otherwise,
/// when thousands come from many networks, each would have too much as soon as few places are left.
const SMALL: usize = 64;

/// The places.
#[derive(Debug)]
pub(crate) struct Sites {
    most: usize,
    of_site: Mutex<HashMap<IpAddr, usize>>,
    taken: watch::Sender<usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Sites>,
    /// `None`: it counts for no network.
    site: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All are taken.
    All,
    /// The network has its part.
    Site,
}

impl Sites {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, of_site: Mutex::default(), taken: watch::channel(0).0 })
    }

    /// A place for a connection from this address.
    pub(crate) fn take(self: &Arc<Self>, from: IpAddr) -> Result<Place, Full> {
        let site = site(from);
        let mut of_site = self.of_site();
        let own = of_site.get(&site).copied().unwrap_or(0);
        let all = *self.taken.borrow();
        let left = self.most.saturating_sub(all);
        if left == 0 {
            return Err(Full::All);
        }
        if own > 0 && own >= (left + own).div_ceil(2).max(self.most / SMALL) {
            return Err(Full::Site);
        }
        of_site.insert(site, own + 1);
        self.taken.send_replace(all + 1);
        Ok(Place { of: Arc::clone(self), site: Some(site) })
    }

    /// A place for a connection that many share, such as one of a proxy.
    pub(crate) fn take_shared(self: &Arc<Self>) -> Result<Place, Full> {
        let _of_site = self.of_site();
        let all = *self.taken.borrow();
        if all >= self.most {
            return Err(Full::All);
        }
        self.taken.send_replace(all + 1);
        Ok(Place { of: Arc::clone(self), site: None })
    }

    /// Waits until not all are taken.
    pub(crate) async fn free(&self) {
        let mut taken = self.taken.subscribe();
        let _free = taken.wait_for(|taken| *taken < self.most).await;
    }

    /// The lock of both numbers.
    fn of_site(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.of_site.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_site = self.of.of_site();
        if let Some(site) = self.site
            && let Some(own) = of_site.get_mut(&site)
        {
            *own -= 1;
            if *own == 0 {
                of_site.remove(&site);
            }
        }
        self.of.taken.send_modify(|taken| *taken -= 1);
    }
}

/// The network of an address, as far as one owner reaches: /24, or /48 of IPv6.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            [a, b, c, 0, 0, 0, 0, 0].into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn all_of(sites: &Arc<Sites>, address: &str) -> Vec<Place> {
        std::iter::from_fn(|| sites.take(from(address)).ok()).collect()
    }

    #[test]
    fn one_network_gets_half_and_gives_it_back() {
        let sites = Sites::new(4);
        let first = sites.take(from("192.0.2.1")).unwrap();
        let _second = sites.take(from("::ffff:192.0.2.2")).unwrap();
        assert_eq!(sites.take(from("192.0.2.3")).unwrap_err(), Full::Site);
        let others = ["198.51.100.1", "2001:db8::1"].map(|one| sites.take(from(one)).unwrap());
        assert_eq!(sites.take(from("203.0.113.1")).unwrap_err(), Full::All);
        assert_eq!(sites.take_shared().unwrap_err(), Full::All);
        drop((first, others));
        assert!(sites.take(from("192.0.2.3")).is_ok());
        assert!(sites.take_shared().is_ok());
    }

    #[test]
    fn networks_that_take_all_they_can_leave_places_for_others() {
        let sites = Sites::new(4096);
        let taken = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8:1::1", "2001:db8:2::1"]
            .map(|one| all_of(&sites, one));
        assert_eq!(taken.each_ref().map(Vec::len), [2048, 1024, 512, 256, 128]);
        // Other networks of the same owner are the same one.
        assert_eq!(sites.take(from("2001:db8:2:ffff::1")).unwrap_err(), Full::Site);
        assert_eq!(all_of(&sites, "192.0.3.1").len(), 64);
        drop(taken);
        assert_eq!(all_of(&sites, "192.0.2.1").len(), 2048);
    }

    #[test]
    fn a_crowd_from_many_networks_takes_every_place() {
        let sites = Sites::new(4096);
        let networks = (0..100).map(|network| IpAddr::from([10, 0, network, 1]));
        let mut taken = Vec::new();
        // In turn.
        for network in networks.cycle().take(4096) {
            taken.push(sites.take(network).unwrap());
        }
        assert_eq!(sites.take(from("192.0.2.1")).unwrap_err(), Full::All);
    }

    #[tokio::test]
    async fn who_waits_for_a_place_gets_the_next_one_that_is_free() {
        let sites = Sites::new(2);
        let first = sites.take(from("192.0.2.1")).unwrap();
        sites.free().await;
        let _second = sites.take(from("198.51.100.1")).unwrap();
        let waits = tokio::time::timeout(std::time::Duration::from_millis(50), sites.free());
        assert!(waits.await.is_err());
        drop(first);
        sites.free().await;
    }
}
