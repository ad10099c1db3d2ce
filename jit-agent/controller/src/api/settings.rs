//! The section `[api]` of the configuration.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use jit_proto::{SourcePrefix, webauthn::RelyingParty};
use reqwest::Url;
use serde::Deserialize;

use crate::messages::Retry;

/// Where the API listens without a word about it.
const LISTEN: &str = "127.0.0.1:8443";
/// Calls a second of one account or address, over a longer time.
const RATE: u32 = 100;
/// Calls at once.
const BURST: u32 = 1000;
/// Streams of events at once: of each open page, and of programs.
const STREAMS: usize = 2000;
/// The same of one account.
const ACCOUNT_STREAMS: usize = 50;

/// The section as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSettings {
    /// `ADDRESS:PORT`; without it 127.0.0.1:8443.
    pub listen: Option<String>,
    /// Where people reach the controller, `https://NAME`: links in messages lead there. Without it
    /// they have none.
    pub public_url: Option<String>,
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
    /// Streams of events at once, of one account.
    pub account_streams: Option<usize>,
    /// File with 32 random bytes from which the secrets of webhooks follow; without it `webhook.key`. It
    /// is made if it does not exist.
    pub webhook_key: Option<PathBuf>,
    /// File with certificates of authorities, PEM, that webhooks' servers may have too.
    pub webhook_ca: Option<PathBuf>,
    /// Webhooks may go to this machine, to link-local addresses and over plain HTTP.
    pub allow_private: bool,
}

/// The section, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where people reach it, without a `/` at the end; `None`: nobody has said.
    pub public_url: Option<String>,
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
    /// Streams of events at once, of one account.
    pub account_streams: usize,
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
            public_url: raw.public_url.as_deref().map(public_url).transpose()?,
            certificate: path(raw.certificate, "api.pem"),
            key: path(raw.key, "api.key"),
            trusted_proxies: proxies.collect::<Result<_, _>>()?,
            account: rate("account", raw.account_rate, raw.account_burst)?,
            address: rate("address", raw.address_rate, raw.address_burst)?,
            streams: raw.streams.unwrap_or(STREAMS),
            account_streams: raw.account_streams.unwrap_or(ACCOUNT_STREAMS),
            webhook_key: path(raw.webhook_key, "webhook.key"),
            webhook_ca: raw.webhook_ca.map(|file| directory.join(file)),
            allow_private: raw.allow_private,
            webhook_retry: Retry::default(),
        })
    }
}

impl Settings {
    /// For whom passkeys are: the pages at `public_url`.
    ///
    /// # Errors
    /// There can be none there, and why.
    pub fn relying_party(&self) -> Result<RelyingParty, String> {
        let url = self.public_url.as_deref().ok_or(
            "`[api] public_url` of controller.toml does not say where people reach the pages",
        )?;
        let url = Url::parse(url).map_err(|why| format!("`[api] public_url`: {why}"))?;
        let host = url.host_str().unwrap_or_default();
        let party = RelyingParty::new(host, vec![url.origin().ascii_serialization()]);
        party.map_err(|why| format!("`[api] public_url`: {why}"))
    }
}

/// An URL to which paths of pages can be added.
fn public_url(text: &str) -> Result<String, String> {
    let wrong = |why: &str| {
        format!("api.public_url: {text:?} {why}; write `https://NAME`, or `https://NAME:PORT`")
    };
    let url = Url::parse(text).map_err(|why| wrong(&format!("is no URL ({why})")))?;
    let bare = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "https" || url.host_str().is_none_or(str::is_empty) || !bare {
        return Err(wrong("does not begin with https:// and the name of a host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
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
    fn links_begin_with_the_url_that_people_use() {
        let url = |text: &str| read(&format!("public_url = \"{text}\"")).unwrap().public_url;
        assert_eq!(url("https://jit.example.org/"), Some("https://jit.example.org".into()));
        assert_eq!(
            url("https://a.example.org:8443/jit/"),
            Some("https://a.example.org:8443/jit".into())
        );
    }

    #[test]
    fn passkeys_are_for_the_pages_where_people_reach_them() {
        let party = |text: &str| read(text).unwrap().relying_party();
        let with_path = party("public_url = \"https://JIT.example.org:8443/jit/\"").unwrap();
        assert_eq!(with_path.id(), "jit.example.org");
        assert_eq!(with_path.origins(), ["https://jit.example.org:8443"]);
        let plain = party("public_url = \"https://jit.example.org:443\"").unwrap();
        assert_eq!(plain.origins(), ["https://jit.example.org"]);
        assert!(party("").unwrap_err().contains("public_url"));
        let address = party("public_url = \"https://192.0.2.1:8443\"").unwrap_err();
        assert!(address.contains("is no domain"), "{address}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("listen = \"8443\"", "api.listen"),
            ("trusted_proxies = [\"proxy\"]", "api.trusted_proxies"),
            ("account_rate = 0", "api.account_rate"),
            ("public_url = \"jit.example.org\"", "api.public_url"),
            ("public_url = \"http://jit.example.org\"", "api.public_url"),
            ("public_url = \"https://jit.example.org/?a=b\"", "api.public_url"),
            ("address_burst = 0", "api.address_burst"),
            ("listens = \"[::]:8443\"", "listens"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
