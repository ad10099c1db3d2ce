//! `[bus]` of the controller's configuration: which servers, and who this is to them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jit_proto::wrong::Wrongs;
use serde::Deserialize;

/// The most servers that may be named.
const SERVERS: usize = 32;
/// The stream of mailboxes.
const STREAM: &str = "JIT";

/// `[bus]` as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// Servers, `tls://nats-1.example.org:4222`.
    pub servers: Vec<String>,
    /// File with the seed of this controller's nkey (`SU...`).
    pub nkey: PathBuf,
    /// CA of the servers' certificates, PEM.
    pub ca: PathBuf,
    /// This controller's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Name of the stream: `JIT`. The reports' stream has the same name with `UP`.
    pub stream: Option<String>,
    /// Servers that keep each message: 3, or 1 with fewer than three servers.
    pub replicas: Option<usize>,
}

/// Which servers, and who this is to them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Servers.
    pub servers: Vec<String>,
    /// File with the seed.
    pub nkey: PathBuf,
    /// CA of the servers' certificates, PEM.
    pub ca: PathBuf,
    /// This controller's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The stream of mailboxes.
    pub stream: String,
    /// Servers that keep each message.
    pub replicas: usize,
    /// A message stays for this time after its end: a host's clock may be late.
    pub skew: Duration,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// A message is published again for this time, until it is acknowledged.
    pub patience: Duration,
}

impl RawSettings {
    /// The settings; paths are below `directory`.
    ///
    /// # Errors
    /// Every wrong value, by its path below the section.
    pub fn check(self, directory: &Path) -> Result<Settings, Wrongs> {
        let Self { servers, nkey, ca, certificate, key, stream, replicas } = self;
        let mut wrongs = Wrongs::default();
        if servers.is_empty() || servers.len() > SERVERS {
            let text = format!("servers: {} of them are named, not 1 to {SERVERS}", servers.len());
            wrongs.add("servers", text);
        }
        for server in &servers {
            let address = server.strip_prefix("tls://").and_then(|rest| rest.rsplit_once(':'));
            let port = address.and_then(|(host, port)| (!host.is_empty()).then_some(port));
            if port.is_none_or(|port| !port.parse().is_ok_and(|port: u16| port > 0)) {
                let text = format!("servers: {server:?} is not `tls://HOST:PORT`");
                wrongs.add("servers", text);
            }
        }
        let stream = stream.unwrap_or_else(|| STREAM.to_owned());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=32).contains(&stream.len()) || !stream.bytes().all(plain) {
            wrongs.add(
                "stream",
                format!("stream: {stream:?} is not 1 to 32 letters, digits, - or _"),
            );
        }
        let replicas = replicas.unwrap_or(if servers.len() < 3 { 1 } else { 3 });
        if ![1, 3, 5].contains(&replicas) {
            wrongs.add("replicas", format!("replicas: {replicas} is not 1, 3 or 5"));
        }
        let [nkey, ca, certificate, key] =
            [nkey, ca, certificate, key].map(|file| directory.join(file));
        wrongs.end(Settings {
            servers,
            nkey,
            ca,
            certificate,
            key,
            stream,
            replicas,
            skew: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
            patience: Duration::from_secs(20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(servers: &str, more: &str) -> RawSettings {
        let files = "nkey = 'bus.nk'\nca = 'ca.pem'\ncertificate = 'c.pem'\nkey = 'c.key'";
        toml::from_str(&format!("servers = [{servers}]\n{files}\n{more}")).unwrap()
    }

    #[test]
    fn three_servers_keep_three_copies_and_one_keeps_one() {
        let one = raw("'tls://192.0.2.1:4222'", "").check(Path::new("/etc/x")).unwrap();
        assert_eq!((one.replicas, one.nkey.as_path()), (1, Path::new("/etc/x/bus.nk")));
        let three = "'tls://192.0.2.1:4222', 'tls://192.0.2.2:4222', 'tls://[2001:db8::1]:4222'";
        assert_eq!(raw(three, "").check(Path::new("/")).unwrap().replicas, 3);
    }

    #[test]
    fn every_wrong_value_is_named() {
        let paths = |raw: RawSettings| -> Vec<_> {
            let wrongs = raw.check(Path::new("/")).unwrap_err();
            wrongs.into_iter().map(|wrong| wrong.path).collect()
        };
        assert_eq!(
            paths(raw("", "stream = 'a.b'\nreplicas = 2")),
            ["servers", "stream", "replicas"]
        );
        for bad in ["nats://192.0.2.1:4222", "tls://192.0.2.1", "tls://:1", "tls://192.0.2.1:0"] {
            assert_eq!(paths(raw(&format!("'{bad}'"), "")), ["servers"], "{bad}");
        }
    }
}
