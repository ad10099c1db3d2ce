//! `[[syslog]]`: receivers of the audit.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jit_client::{
    files,
    pem::{Holds, certificates, private_key},
};
use jit_proto::wrong::Wrongs;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde::Deserialize;

use crate::audit::{
    export::Format,
    forward::{Pace, Receiver},
};

/// A `[[syslog]]` as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    server: String,
    server_name: Option<String>,
    ca: PathBuf,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(default)]
    format: RawFormat,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawFormat {
    #[default]
    Jsonl,
    Ocsf,
}

/// A receiver of the audit.
#[derive(Clone, Debug)]
pub struct Syslog {
    /// `HOST:PORT`; also the name of its cursor.
    pub server: String,
    server_name: ServerName<'static>,
    /// File with the authority of its certificate.
    pub ca: PathBuf,
    /// Files with the controller's own certificate and key, if it asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
    format: Format,
}

/// Why a receiver cannot be reached with these files, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[[syslog]] {server}: {why}")]
pub struct SyslogError {
    /// The receiver.
    pub server: String,
    /// What is wrong.
    pub why: String,
}

impl Syslog {
    pub(super) fn of(
        raw: Raw,
        number: usize,
        directory: &Path,
        wrongs: &mut Wrongs,
    ) -> Option<Self> {
        let Raw { server, server_name, ca, certificate, key, format } = raw;
        let at = |key: &str| format!("syslog.{number}.{key}");
        let host = match server.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                host.trim_start_matches('[').trim_end_matches(']')
            }
            _ => {
                let what = format!("[[syslog]] server: {server:?} is no HOST:PORT, like siem:6514");
                wrongs.add(at("server"), what);
                return None;
            }
        };
        let name = server_name.clone().unwrap_or_else(|| host.to_owned());
        let Ok(server_name) = ServerName::try_from(name.clone()) else {
            let key = if server_name.is_some() { "server_name" } else { "server" };
            wrongs.add(at(key), format!("[[syslog]] {key}: {name:?} is no name of a host"));
            return None;
        };
        let own = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some((directory.join(certificate), directory.join(key)))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let what = "[[syslog]] certificate and key belong together; name both, or none";
                wrongs.add(format!("syslog.{number}"), what);
                return None;
            }
        };
        let format = match format {
            RawFormat::Jsonl => Format::Jsonl,
            RawFormat::Ocsf => Format::Ocsf,
        };
        Some(Self { server, server_name, ca: directory.join(ca), own, format })
    }

    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be used.
    pub fn receiver(&self) -> Result<Receiver, SyslogError> {
        let failed = |why: String| SyslogError { server: self.server.clone(), why };
        let read = |path: &Path, what: &str| {
            files::read_text(path, what).map_err(|error| failed(error.to_string()))
        };
        let unusable = |path: &Path, why: &dyn std::fmt::Display| {
            failed(format!("cannot use {}: {why}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        let text = read(&self.ca, "its CA")?;
        for certificate in
            certificates(&text, Holds::One).map_err(|why| unusable(&self.ca, &why))?
        {
            roots.add(certificate).map_err(|why| unusable(&self.ca, &why))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| failed(why.to_string()))?
            .with_root_certificates(roots);
        let tls = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read(certificate, "the certificate for it")?;
                let chain =
                    certificates(&chain, Holds::Both).map_err(|why| unusable(certificate, &why))?;
                let text = read(key, "the private key for it")?;
                let own = private_key(&text, Holds::Both).map_err(|why| unusable(key, &why))?;
                builder.with_client_auth_cert(chain, own).map_err(|why| unusable(key, &why))?
            }
        };
        Ok(Receiver {
            name: self.server.clone(),
            server: self.server.clone(),
            server_name: self.server_name.clone(),
            tls: Arc::new(tls),
            format: self.format,
            pace: Pace::default(),
        })
    }
}
