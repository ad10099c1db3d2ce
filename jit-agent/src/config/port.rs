//! `[[port]]`: what is protected, and a policy as a file of such sections.

use std::{str::FromStr, time::Duration};

use jit_common::{Family, PortKey, Protocol};

use crate::{
    config::{
        limits::DEFAULT_MAX_DURATION,
        raw,
        value::{duration, each, moment, width},
    },
    prefix::SourcePrefix,
    rules::{
        ceiling::{DEFAULT_APPROVALS, DEFAULT_PORT_DURATION},
        grant::{PortRange, Sessions},
        policy::{Exemption, Policy, PortPolicy},
        proposal::{DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6},
    },
};

/// A policy as a file: the configuration's `[[port]]` sections, and whom it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyFile {
    /// Its version, if the file says.
    pub version: Option<u64>,
    /// The hosts it is for; empty when the file does not say.
    pub hosts: Vec<String>,
    /// What it protects; no port stands in two sections.
    pub sections: Vec<PortPolicy>,
}

impl FromStr for PolicyFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let raw: raw::PolicyFile =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let raw::PolicyFile { version, hosts, port } = raw;
        // How many keys a host trusts is the host's to know.
        let policy = policy(port, usize::MAX, DEFAULT_MAX_DURATION)?;
        Ok(Self { version, hosts, sections: policy.sections().to_vec() })
    }
}

/// All sections; no port stands in two of them. `signers`: how many keys sign grants.
pub(super) fn policy(
    ports: Vec<raw::Port>,
    signers: usize,
    max_duration: Duration,
) -> Result<Policy, String> {
    let sections =
        ports.into_iter().map(|port| section(port, signers)).collect::<Result<_, _>>()?;
    Policy::new(sections, max_duration).map_err(|PortKey { port, protocol }| {
        format!("[[port]]: {port}/{} stands in two sections", protocol.word())
    })
}

fn section(raw: raw::Port, signers: usize) -> Result<PortPolicy, String> {
    let raw::Port {
        port,
        protocol,
        mode,
        sources,
        widest_v4,
        widest_v6,
        max_duration,
        approvals,
        sessions,
        terminates,
        exempt,
    } = raw;
    let protocol = match protocol {
        raw::Protocol::Tcp => Protocol::Tcp,
        raw::Protocol::Udp => Protocol::Udp,
    };
    let range = port_range(&port, protocol)?;
    let at = |what: String| format!("[[port]] {range}: {what}");
    let sources: Vec<SourcePrefix> = each("sources", &sources).map_err(at)?;
    if sources.is_empty() {
        let what = "sources is empty: no grant could ever open it; [\"0.0.0.0/0\", \"::/0\"] is \
                    everyone";
        return Err(at(what.into()));
    }
    let max_duration = max_duration
        .map_or(Ok(DEFAULT_PORT_DURATION), |text| duration("max_duration", &text))
        .map_err(at)?;
    let approvals = approvals.map_or(DEFAULT_APPROVALS, usize::from);
    if approvals == 0 || approvals > signers {
        return Err(at(format!(
            "approvals: {approvals}, but there are {signers} [[signer]] keys that sign grants; from 1 \
             to that"
        )));
    }
    let widest_v4 = width("widest_v4", widest_v4, Family::V4).map_err(at)?;
    let widest_v6 = width("widest_v6", widest_v6, Family::V6).map_err(at)?;
    Ok(PortPolicy {
        range,
        observe: mode.is_some_and(|mode| mode == raw::Mode::Observe),
        sources,
        widest_v4: widest_v4.unwrap_or(DEFAULT_WIDEST_V4),
        widest_v6: widest_v6.unwrap_or(DEFAULT_WIDEST_V6),
        max_duration,
        approvals,
        sessions: match sessions {
            None | Some(raw::Sessions::Drain) => Sessions::Drain,
            Some(raw::Sessions::Cut) => Sessions::Cut,
        },
        forwarded: terminates.is_some_and(|place| place == raw::Terminates::Forwarded),
        exemptions: exempt
            .into_iter()
            .map(|raw| exemption(raw).map_err(at))
            .collect::<Result<_, _>>()?,
    })
}

fn exemption(raw: raw::Exempt) -> Result<Exemption, String> {
    let raw::Exempt { source, reason, owner, until } = raw;
    if reason.is_empty() || owner.is_empty() {
        return Err(format!("exempt {source}: reason and owner may not be empty"));
    }
    let until = moment("until", until).map_err(|error| format!("exempt {source}: {error}"))?;
    let source = source.parse().map_err(|error| format!("exempt: source: {error}"))?;
    Ok(Exemption { source, reason, owner, until })
}

fn port_range(port: &raw::Ports, protocol: Protocol) -> Result<PortRange, String> {
    let (first, last) = match port {
        raw::Ports::One(port) => (*port, *port),
        raw::Ports::Range(text) => {
            let bounds = text.split_once('-').unwrap_or((text, text));
            let (Ok(first), Ok(last)) = (bounds.0.trim().parse(), bounds.1.trim().parse()) else {
                return Err(format!("[[port]] port: {text:?} is not a port or first-last"));
            };
            (first, last)
        }
    };
    if first == 0 || first > last {
        return Err(format!("[[port]] port: {first}-{last} is no range from 1 to 65535"));
    }
    Ok(PortRange { protocol, first, last })
}
