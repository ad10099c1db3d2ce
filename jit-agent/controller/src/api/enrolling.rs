//! How many machines may enrol: they have no token, so nothing else bounds their calls.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::Quota;

use super::problem::{Failure, Word};
use crate::{
    enrol::opened::Opened,
    keyed::{Keyed, network},
};

/// Calls of one network in a minute that do not count for all.
const OWN: NonZeroU32 = NonZeroU32::new(10).expect("it is not 0");

/// How hosts enrol, with its limits.
pub(super) struct Enrolling {
    opened: Opened,
    /// Of one network: a whole site may start at once.
    networks: Keyed<IpAddr>,
    /// Of one network, apart from all others: whoever floods from many keeps none out.
    own: Keyed<IpAddr>,
    /// Of all, above that.
    all: Keyed<()>,
    /// Nonces for all: each is a row of the database for ten minutes.
    nonces: Keyed<()>,
    /// Refusals that are recorded, of all: nobody fills the audit, from however many networks.
    records: Keyed<()>,
}

impl Enrolling {
    /// With its limits.
    pub(super) fn new(opened: Opened) -> Self {
        let quota = |second: u32, burst: u32| {
            let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(number(second)).allow_burst(number(burst))
        };
        Self {
            opened,
            networks: Keyed::new(quota(10, 300)),
            own: Keyed::new(Quota::per_minute(OWN)),
            all: Keyed::new(quota(100, 2000)),
            nonces: Keyed::new(quota(20, 1000)),
            records: Keyed::new(quota(1, 60)),
        }
    }

    /// What hosts need to enrol.
    pub(super) const fn opened(&self) -> &Opened {
        &self.opened
    }

    /// One call from this address.
    ///
    /// # Errors
    /// Too many.
    pub(super) fn call(&self, from: IpAddr) -> Result<(), Failure> {
        let network = network(from);
        let checked = self
            .networks
            .check(&network)
            .and_then(|()| self.own.check(&network).or_else(|_wait| self.all.check(&())));
        checked.map_err(too_many)
    }

    /// A nonce, for a machine of Azure.
    ///
    /// # Errors
    /// None of these enrols here, or there were too many.
    pub(super) fn nonce(&self) -> Result<(), Failure> {
        if self.opened.azure.is_none() {
            let detail =
                "nonces are for machines of Azure, and this controller does not believe it";
            return Err(Failure::new(Word::EnrolmentRefused, detail));
        }
        self.nonces.check(&()).map_err(too_many)
    }

    /// Whether one more refusal is recorded.
    pub(super) fn records(&self) -> bool {
        self.records.check(&()).is_ok()
    }
}

fn too_many(wait: Duration) -> Failure {
    Failure::new(Word::TooMany, "too many machines enrol at once")
        .retry_after(wait.as_secs().saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_floods_from_many_networks_keeps_no_other_out() {
        let opened = Opened::default();
        let enrolling = Enrolling::new(opened);
        let floods = |calls: usize| {
            let mut let_in = 0;
            for network in 1..=40 {
                let from = IpAddr::from([192, 0, 2, network]);
                let_in += (0..calls).filter(|_| enrolling.call(from).is_ok()).count();
            }
            let_in
        };
        let let_in = floods(200);
        // 10 of each, and those that all may have; a second has passed at most.
        assert!((2400..2600).contains(&let_in), "{let_in}");
        assert!(enrolling.call([198, 51, 100, 7].into()).is_ok());
        assert!(enrolling.nonce().is_err(), "there is no Azure here");
        let recorded = (0..1000).filter(|_| enrolling.records()).count();
        assert!((60..70).contains(&recorded), "{recorded}");
    }
}
