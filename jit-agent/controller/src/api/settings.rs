//! The section `[api]` of the configuration.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use jit_proto::SourcePrefix;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;

/// Where the API listens without a word about it.
const LISTEN: &str = "127.0.0.1:8443";
/// Calls a second of one account or address, over a longer time.
const RATE: u32 = 100;
/// Calls at once.
const BURST: u32 = 1000;

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    /// `ADDRESS:PORT`; without it 127.0.0.1:8443.
    pub listen: Option<String>,
    /// File with the certificate chain, PEM; without it `api.pem`.
    pub certificate: Option<PathBuf>,
    /// File with its private key, PEM; without it `api.key`.
    pub key: Option<PathBuf>,
    /// Proxies whose header `X-Forwarded-For` counts: addresses and prefixes.
    pub trusted_proxies: Vec<String>,
    /// Calls a second of one account, over a longer time.
    pub account_rate: Option<u32>,
    /// Calls of one account at once.
    pub account_burst: Option<u32>,
    /// Calls a second of one address, over a longer time.
    pub address_rate: Option<u32>,
    /// Calls of one address at once.
    pub address_burst: Option<u32>,
    /// Streams of events at once, of all accounts.
    pub streams: Option<usize>,
    /// File with 32 random bytes from which the secrets of webhooks follow; without it `webhook.key`. It
    /// is made if it does not exist.
    pub webhook_key: Option<PathBuf>,
    /// File with certificates of authorities, PEM, that webhooks' servers may have too.
    pub webhook_ca: Option<PathBuf>,
    /// Webhooks may go to this machine, to link-local addresses and over plain HTTP.
    pub allow_private: bool,
}

/// How a webhook that does not answer well is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// After this time it is disabled.
    pub give_up: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(3600),
            give_up: Duration::from_secs(24 * 3600),
        }
    }
}

impl Retry {
    /// The pause after so many failures, milliseconds: between half of it and all of it by chance, so
    /// that not all come back at once.
    pub(super) fn pause_ms(self, failures: i64) -> i64 {
        let doubled = u32::try_from(failures).unwrap_or(u32::MAX).min(20);
        let whole = self.first.saturating_mul(1 << doubled).min(self.longest);
        let whole = i64::try_from(whole.as_millis()).unwrap_or(i64::MAX);
        let mut random = [0_u8; 4];
        // Without random bytes it is the whole pause.
        let part = match SystemRandom::new().fill(&mut random) {
            Ok(()) => i64::from(u32::from_le_bytes(random)) * (whole / 2) / i64::from(u32::MAX),
            Err(_) => whole / 2,
        };
        whole / 2 + part
    }
}

/// The section, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// File with the certificate chain.
    pub certificate: PathBuf,
    /// File with its private key.
    pub key: PathBuf,
    /// Proxies whose header `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<SourcePrefix>,
    /// Limit of an account.
    pub account: Rate,
    /// Limit of an address.
    pub address: Rate,
    /// Streams of events at once.
    pub streams: usize,
    /// File from which the secrets of webhooks follow.
    pub webhook_key: PathBuf,
    /// File with more authorities for webhooks.
    pub webhook_ca: Option<PathBuf>,
    /// Webhooks may go anywhere.
    pub allow_private: bool,
    /// How webhooks are tried again. No file changes it; tests do.
    pub webhook_retry: Retry,
}

/// How many calls are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, over a longer time.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Settings {
    /// Checks the section. Relative paths begin at `directory`.
    ///
    /// # Errors
    /// The first value that is wrong, in words.
    pub fn of(raw: RawSettings, directory: &Path) -> Result<Self, String> {
        let listen = raw.listen.as_deref().unwrap_or(LISTEN);
        let path = |path: Option<PathBuf>, name: &str| {
            directory.join(path.unwrap_or_else(|| PathBuf::from(name)))
        };
        let rate = |key: &str, rate: Option<u32>, burst: Option<u32>| {
            let number = |part: &str, value: u32| {
                NonZeroU32::new(value).ok_or(format!("api.{key}_{part}: 0 would refuse every call"))
            };
            Ok::<_, String>(Rate {
                per_second: number("rate", rate.unwrap_or(RATE))?,
                burst: number("burst", burst.unwrap_or(BURST))?,
            })
        };
        let proxies = raw.trusted_proxies.iter().map(|text| {
            let wrong = |why| format!("api.trusted_proxies: {text:?}: {why}");
            text.parse::<SourcePrefix>().map_err(|why| wrong(why.to_string()))
        });
        Ok(Self {
            listen: listen.parse().map_err(|_| {
                format!("api.listen: {listen:?} is no ADDRESS:PORT such as {LISTEN} or [::]:8443")
            })?,
            certificate: path(raw.certificate, "api.pem"),
            key: path(raw.key, "api.key"),
            trusted_proxies: proxies.collect::<Result<_, _>>()?,
            account: rate("account", raw.account_rate, raw.account_burst)?,
            address: rate("address", raw.address_rate, raw.address_burst)?,
            streams: raw.streams.unwrap_or(500),
            webhook_key: path(raw.webhook_key, "webhook.key"),
            webhook_ca: raw.webhook_ca.map(|file| directory.join(file)),
            allow_private: raw.allow_private,
            webhook_retry: Retry::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let raw = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Settings::of(raw, Path::new("/var/lib/jit-controller"))
    }

    #[test]
    fn without_a_word_it_listens_on_this_machine_only() {
        let settings = read("").unwrap();
        assert!(settings.listen.ip().is_loopback());
        assert_eq!(settings.certificate, Path::new("/var/lib/jit-controller/api.pem"));
        assert!(!settings.allow_private && settings.trusted_proxies.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("listen = \"8443\"", "api.listen"),
            ("trusted_proxies = [\"proxy\"]", "api.trusted_proxies"),
            ("account_rate = 0", "api.account_rate"),
            ("address_burst = 0", "api.address_burst"),
            ("listens = \"[::]:8443\"", "listens"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry::default();
        assert!((500..=1000).contains(&retry.pause_ms(0)));
        assert!((4000..=8000).contains(&retry.pause_ms(3)));
        for failures in [12, 20, i64::MAX] {
            assert!((1_800_000..=3_600_000).contains(&retry.pause_ms(failures)), "{failures}");
        }
    }
}
