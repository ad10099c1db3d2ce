//! `[control]` and `[[controller]]`: where controllers connect, and what each of them may do.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use jit_common::{PortKey, Protocol};
use jit_proto::permission::Permissions;

use crate::{
    config::{raw, value::line_at},
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
    /// Checks a `[control]`. Relative paths start in `directory`, that of the configuration.
    pub(super) fn new(
        raw: raw::Control,
        directory: &Path,
        policy: &Policy,
    ) -> Result<Self, String> {
        let raw::Control { listen, certificate, key, client_ca } = raw;
        let listen = listen.into_inner();
        let listen: SocketAddr = listen
            .parse()
            .map_err(|_| format!("[control] listen: {listen:?} is not ADDRESS:PORT"))?;
        if policy.port(PortKey { protocol: Protocol::Tcp, port: listen.port() }).is_some() {
            return Err(format!(
                "[control] listen: a [[port]] section protects port {}, so the gate would lock the \
                 controllers out; listen on another port",
                listen.port()
            ));
        }
        Ok(Self {
            listen,
            certificate: directory.join(certificate.into_inner()),
            key: directory.join(key.into_inner()),
            client_ca: directory.join(client_ca.into_inner()),
        })
    }
}

impl Controller {
    /// Checks a `[[controller]]`.
    fn new(raw: raw::Controller) -> Result<Self, String> {
        let raw::Controller { identity, may } = raw;
        if identity.is_empty() {
            return Err("[[controller]] identity is empty".into());
        }
        Ok(Self { identity, may: may.into_iter().collect() })
    }

    /// Checks all `[[controller]]` sections: no two have the same identity.
    pub(super) fn all(raw: Vec<raw::Controller>) -> Result<Vec<Self>, String> {
        let all = raw.into_iter().map(Self::new).collect::<Result<Vec<_>, _>>()?;
        let mut identities = BTreeSet::new();
        match all.iter().find(|one| !identities.insert(&one.identity)) {
            Some(twice) => {
                Err(format!("[[controller]] identity {:?} is in two sections", twice.identity))
            }
            None => Ok(all),
        }
    }
}
