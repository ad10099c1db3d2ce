//! `[metrics]`: where the agent serves its metrics. Off unless the file says where.

use std::{fmt, net::SocketAddr, path::PathBuf};

use crate::config::{Paths, raw};

/// What begins the path of a unix socket.
const UNIX: &str = "unix:";

/// Where the metrics are served. Nobody on another machine reaches either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A TCP port of a loopback address.
    Loopback(SocketAddr),
    /// A unix socket; an absolute path.
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl MetricsAddress {
    /// Checks a `[metrics]`.
    pub(super) fn new(raw: raw::Metrics, paths: &Paths) -> Result<Option<Self>, String> {
        let raw::Metrics { listen } = raw;
        let Some(text) = listen else { return Ok(None) };
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = PathBuf::from(path);
            return if !path.is_absolute() {
                Err(format!("[metrics] listen: {text:?}: the path of a socket is absolute"))
            } else if path == paths.socket() {
                Err(format!("[metrics] listen: {text:?} is the socket of the command line"))
            } else {
                Ok(Some(Self::Unix(path)))
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            format!(
                "[metrics] listen: {text:?} is neither \"unix:/PATH\" nor a loopback address with \
                 its port, such as \"127.0.0.1:9477\""
            )
        })?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "[metrics] listen: {} is no loopback address: metrics have no encryption and ask \
                 nobody who he is. Listen on 127.0.0.1, on [::1] or on a unix socket",
                address.ip()
            ));
        }
        Ok(Some(Self::Loopback(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(listen: &str) -> Result<Option<MetricsAddress>, String> {
        MetricsAddress::new(raw::Metrics { listen: Some(listen.into()) }, &Paths::default())
    }

    #[test]
    fn metrics_are_off_or_on_a_unix_socket_or_on_loopback() {
        assert_eq!(MetricsAddress::new(raw::Metrics::default(), &Paths::default()), Ok(None));
        for good in
            ["127.0.0.1:9477", "127.5.5.5:1", "[::1]:9477", "unix:/run/jit-agent/metrics.sock"]
        {
            assert_eq!(of(good).unwrap().unwrap().to_string(), good);
        }
        for (bad, says) in [
            ("0.0.0.0:9477", "0.0.0.0 is no loopback address"),
            ("[::]:9477", ":: is no loopback address"),
            ("192.0.2.1:9477", "192.0.2.1 is no loopback address"),
            ("[::ffff:192.0.2.1]:9477", "is no loopback address"),
            ("localhost:9477", "neither"),
            ("127.0.0.1", "neither"),
            ("", "neither"),
            ("unix:metrics.sock", "absolute"),
            ("unix:", "absolute"),
            ("unix:/run/jit-agent/agent.sock", "command line"),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.starts_with("[metrics] listen: ") && error.contains(says), "{error}");
        }
    }
}
