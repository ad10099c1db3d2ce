//! How often one address or one account may call.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use governor::Quota;

use super::{
    problem::{Failure, Word},
    settings::{Rate, Settings},
};
use crate::keyed::{Keyed, network};

/// The limits of calls.
pub(super) struct Limits {
    addresses: Keyed<IpAddr>,
    accounts: Keyed<String>,
    /// Records of refusals: one a minute for each token and word, so that nobody fills the audit.
    refusals: Keyed<(String, String)>,
}

impl Limits {
    /// Limits as the configuration says.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            addresses: Keyed::new(quota(settings.address)),
            accounts: Keyed::new(quota(settings.account)),
            refusals: Keyed::new(Quota::per_minute(NonZeroU32::MIN)),
        }
    }

    /// One call from this address.
    ///
    /// # Errors
    /// Too many.
    pub(super) fn address(&self, address: IpAddr) -> Result<(), Failure> {
        self.addresses.check(&network(address)).map_err(|wait| too_many("this address", wait))
    }

    /// One call of this account.
    ///
    /// # Errors
    /// Too many.
    pub(super) fn account(&self, account: &str) -> Result<(), Failure> {
        self.accounts.check(&account.to_owned()).map_err(|wait| too_many("this account", wait))
    }

    /// Whether a refusal of this token by this word is recorded.
    pub(super) fn records(&self, token: &str, word: &str) -> bool {
        self.refusals.check(&(token.to_owned(), word.to_owned())).is_ok()
    }
}

fn quota(rate: Rate) -> Quota {
    Quota::per_second(rate.per_second).allow_burst(rate.burst)
}

fn too_many(whose: &str, wait: Duration) -> Failure {
    Failure::new(Word::TooMany, format!("too many calls from {whose}"))
        .retry_after(wait.as_secs().saturating_add(1))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::settings::RawSettings;

    #[test]
    fn a_network_is_counted_as_one_and_others_are_not_hit() {
        let raw =
            RawSettings { address_burst: Some(2), address_rate: Some(1), ..RawSettings::default() };
        let limits = Limits::new(&Settings::of(raw, Path::new("/")).unwrap());
        let of = |text: &str| limits.address(text.parse().unwrap());
        assert!(of("2001:db8::1").is_ok() && of("2001:db8::2").is_ok());
        let refused = of("2001:db8::3").unwrap_err();
        assert_eq!(refused.parts().retry_after_s, Some(1));
        assert!(of("2001:db8:0:1::1").is_ok() && of("192.0.2.1").is_ok());
        assert!(of("::ffff:192.0.2.1").is_ok() && of("192.0.2.1").is_err());
    }

    #[test]
    fn the_same_refusal_is_recorded_once_a_minute() {
        let limits = Limits::new(&Settings::of(RawSettings::default(), Path::new("/")).unwrap());
        assert!(limits.records("T", "scope_missing") && !limits.records("T", "scope_missing"));
        assert!(limits.records("T", "self_approval"));
    }
}
