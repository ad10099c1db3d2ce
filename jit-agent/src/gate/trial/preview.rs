//! What a configuration would close, whom it would shut out, and whether anybody could open it again.

use jit_common::{Address, PortKey, Protocol};
use jit_proto::{
    Permission, SourcePrefix, WallTime,
    prefix::{bits, masked},
    v1,
    words::counted,
};

use crate::{
    config::{Config, Controller},
    gate::{Gate, changes::Changes, report::address_bytes, trial::Session},
    kernel::datapath::Datapath,
    rules::{clock::Now, reconcile::EntryKey},
};

/// The most sessions that the answer to a question lists.
const LISTED: usize = 64;

/// Why no grant could open something again that a configuration closes; `None`: one can.
pub fn no_signer(config: &Config, now: WallTime) -> Option<String> {
    let Config { keyring, absent_signers, policy, .. } = config;
    let signers = keyring.most_approvals(|signer| signer.mandate.valid_at(now).is_ok());
    let closed = policy.sections().iter().filter(|section| !section.observe);
    let section = closed.clone().find(|section| section.approvals > signers)?;
    let absent = match absent_signers.as_slice() {
        [] => String::new(),
        ids => format!(" (the key of {} cannot be used)", ids.join(", ")),
    };
    Some(format!(
        "no grant could open {} again: it takes {}, and the keys that this host trusts now can give \
         {signers}{absent}; add a [[signer]] (docs/signing.md), `jit-agent check`, `systemctl reload \
         jit-agent`, then try again",
        section.range,
        counted(section.approvals, "approval"),
    ))
}

/// Why no grant comes over the network.
fn no_controller(config: &Config) -> Option<String> {
    let grants = |one: &Controller| one.may.contains(Permission::Grant);
    let why = if config.control.is_none() && config.uplink.is_none() {
        "there is no [control] and no [uplink]"
    } else if !config.controllers.iter().any(grants) {
        "no [[controller]] may push grants"
    } else {
        return None;
    };
    Some(format!(
        "{why}: no grant can come over the network; only root on this host can open a port then \
         (`jit-agent break-glass`)"
    ))
}

/// What a configuration closes that is in force now.
pub fn closes(before: &Config, config: &Config, now: WallTime) -> Vec<String> {
    Changes::between(before, config, &[], now).closed
}

impl<D: Datapath> Gate<D> {
    /// What a configuration would close, and whom it would shut out of these sessions.
    pub(in crate::gate) fn preview(
        &self,
        config: &Config,
        sessions: &[Session],
        now: Now,
    ) -> v1::EnforceResponse {
        let closes = closes(&self.config, config, now.wall);
        let closed = |port: u16| {
            let port = PortKey { protocol: Protocol::Tcp, port };
            config.policy.port(port).is_some_and(|section| !section.observe)
        };
        let bytes = |address: Address| {
            address_bytes(address.family as u8, &address.bytes()).to_vec().into()
        };
        let (mut listed, mut total) = (Vec::new(), 0_u32);
        for (peer, peer_port, local, port) in sessions {
            if !closed(*port) || self.is_covered(*peer, *port, now) {
                continue;
            }
            total = total.saturating_add(1);
            if listed.len() < LISTED {
                listed.push(v1::Session {
                    peer: bytes(*peer),
                    peer_port: (*peer_port).into(),
                    local: bytes(*local),
                    port: (*port).into(),
                });
            }
        }
        let warnings = no_controller(config).into_iter().collect();
        v1::EnforceResponse {
            trial: None,
            closes,
            sessions: listed,
            sessions_total: total,
            warnings,
        }
    }

    /// Whether a grant or an exemption lets a peer in now.
    fn is_covered(&self, peer: Address, port: u16, now: Now) -> bool {
        let port = PortKey { protocol: Protocol::Tcp, port };
        (0..=bits(peer.family)).any(|length| {
            let Ok(source) = SourcePrefix::new(masked(peer, length), length) else { return false };
            let entry = self.tables.installed().get(&EntryKey { port, source });
            entry.is_some_and(|entry| {
                entry.accesses().iter().any(|access| access.deadline > now.boot)
            })
        })
    }
}
