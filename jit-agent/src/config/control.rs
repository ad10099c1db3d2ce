//! `[control]` and `[[controller]]`: where controllers connect, and what each of them may do.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::PathBuf,
};

use jit_common::{PortKey, Protocol};
use jit_proto::{permission::Permissions, wrong::Wrongs};

use crate::{
    config::{base::Base, raw, value::line_at},
    rules::policy::Policy,
};

/// Where controllers connect, and the certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Address and TCP port to listen on.
    pub listen: SocketAddr,
    /// The agent's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of the CAs that issue controllers' certificates, PEM.
    pub client_ca: PathBuf,
}

/// The lines of the file with the keys of `[control]`; 0: there is no such section.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlLines {
    listen: usize,
    certificate: usize,
    key: usize,
    client_ca: usize,
}

impl ControlLines {
    pub(super) fn new(raw: &raw::Control, text: &str) -> Self {
        let raw::Control { listen, certificate, key, client_ca } = raw;
        Self {
            listen: line_at(text, listen.span().start),
            certificate: line_at(text, certificate.span().start),
            key: line_at(text, key.span().start),
            client_ca: line_at(text, client_ca.span().start),
        }
    }

    /// The line that a text about `[control] KEY` is about, in front of the text.
    pub fn locate(&self, text: &str) -> String {
        let Self { listen, certificate, key, client_ca } = *self;
        let keys = [
            ("listen", listen),
            ("certificate", certificate),
            ("key", key),
            ("client_ca", client_ca),
        ];
        let named = text.strip_prefix("[control] ").unwrap_or_default();
        let found = keys.iter().find(|(key, line)| named.starts_with(key) && *line > 0);
        found.map_or_else(|| text.to_owned(), |(_, line)| format!("line {line}: {text}"))
    }
}

/// A controller that may connect, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// A subject alternative name in its certificate: a URI or a DNS name.
    pub identity: String,
    /// What it may do.
    pub may: Permissions,
}

impl Control {
    /// Checks a `[control]`. `None`: it is wrong.
    pub(super) fn new(
        raw: raw::Control,
        base: &Base<'_>,
        policy: &Policy,
        wrongs: &mut Wrongs,
    ) -> Option<Self> {
        let raw::Control { listen, certificate, key, client_ca } = raw;
        // One that is missing was put in, and said already.
        let spans = [listen.span(), certificate.span(), key.span(), client_ca.span()];
        if spans.iter().any(Range::is_empty) {
            return None;
        }
        let listen = listen.into_inner();
        let Ok(listen) = listen.parse::<SocketAddr>() else {
            wrongs.add("control.listen", no_address(&listen));
            return None;
        };
        if policy.port(PortKey { protocol: Protocol::Tcp, port: listen.port() }).is_some() {
            let what = format!(
                "[control] listen: a [[port]] section protects port {}, so the gate would lock the \
                 controllers out; listen on another port",
                listen.port()
            );
            wrongs.add("control.listen", what);
        }
        Some(Self {
            listen,
            certificate: base.path(certificate.into_inner()),
            key: base.path(key.into_inner()),
            client_ca: base.path(client_ca.into_inner()),
        })
    }
}

fn no_address(listen: &str) -> String {
    let port = listen.rsplit(':').next().unwrap_or_default().trim();
    let meant = if port.parse::<u16>().is_ok()
        && matches!(listen.trim_end_matches(port), "" | ":" | "*:")
    {
        format!("; write \"0.0.0.0:{port}\", or \"[::]:{port}\" for IPv6 as well")
    } else if listen.parse::<IpAddr>().is_ok() {
        "; a port is missing, such as 7443".to_owned()
    } else {
        String::new()
    };
    format!("[control] listen: {listen:?} is not ADDRESS:PORT{meant}")
}

impl Controller {
    /// Checks all `[[controller]]` sections: no two have the same identity.
    pub(super) fn all(raw: Vec<raw::Controller>, wrongs: &mut Wrongs) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (index, raw::Controller { identity, may }) in raw.into_iter().enumerate() {
            let at = format!("controller.{index}.identity");
            if identity.is_empty() {
                wrongs.add(at, "[[controller]] identity is empty");
            } else if all.iter().any(|one| one.identity == identity) {
                let what = format!("[[controller]] identity {identity:?} is in two sections");
                wrongs.add(at, what);
            }
            all.push(Self { identity, may: may.into_iter().collect() });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_part_is_refused_with_what_is_missing() {
        for (listen, says) in [
            ("7443", "write \"0.0.0.0:7443\""),
            (":7443", "write \"0.0.0.0:7443\""),
            ("*:7443", "\"[::]:7443\" for IPv6"),
            ("192.0.2.1", "a port is missing"),
        ] {
            assert!(no_address(listen).contains(says), "{}", no_address(listen));
        }
        assert!(no_address("web-1:7443").ends_with("is not ADDRESS:PORT"));
    }
}
