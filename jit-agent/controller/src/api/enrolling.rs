//! How many machines may enrol: they have no token, so nothing else bounds their calls.

use std::{net::IpAddr, num::NonZeroU32};

use governor::Quota;

use super::problem::{Failure, Word};
use crate::{
    enrol::opened::Opened,
    keyed::{Keyed, network},
};

/// How hosts enrol, with its limits.
pub(super) struct Enrolling {
    opened: Opened,
    /// Of one network: a whole site may start at once.
    networks: Keyed<IpAddr>,
    /// Of all.
    all: Keyed<()>,
}

impl Enrolling {
    /// With its limits.
    pub(super) fn new(opened: Opened) -> Self {
        let quota = |second: u32, burst: u32| {
            let number = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(number(second)).allow_burst(number(burst))
        };
        Self { opened, networks: Keyed::new(quota(10, 300)), all: Keyed::new(quota(100, 2000)) }
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
        let checked = self.networks.check(&network(from)).and_then(|()| self.all.check(&()));
        checked.map_err(|wait| {
            Failure::new(Word::TooMany, "too many machines enrol at once")
                .retry_after(wait.as_secs().saturating_add(1))
        })
    }
}
