//! What the host translates to itself (NAT), for the kernel's tables.
//!
//! A session through a translation has other addresses or ports on the wire than at its socket, so
//! the packet gate finds it only by the kernel's table of translated connections. `nat_watch` reads
//! them; here those that matter are chosen and written. And where sources are translated, the socket
//! guard must not take an own address for the host itself.

use std::collections::BTreeMap;

use jit_common::{Flow, PortKey, PortRule, Protocol, TRANSLATED};

use crate::{
    gate::Gate,
    kernel::{
        datapath::{Datapath, DatapathError},
        netlink::netfilter::Translations,
    },
    rules::problem::ProblemKind,
};

/// The fault's name on the board.
const FAULT: ProblemKind = ProblemKind::Translations;

impl<D: Datapath> Gate<D> {
    /// What an earlier run cannot know: whether sources are translated. Before anything is attached.
    pub(super) fn look_at_source_chain(&mut self) {
        let chain = self.datapath.source_chain();
        self.report_translations(chain.as_ref().err().map(ToString::to_string));
        // If nobody knows, an own address proves nothing.
        self.translations.source_chain = chain.unwrap_or_else(|_| Some("unknown".into()));
    }

    /// What the host translates is another than before, or cannot be read.
    pub(super) fn saw_translations(&mut self, read: Result<Translations, String>) {
        let seen = match read {
            Ok(seen) => seen,
            Err(error) => return self.report_translations(Some(error)),
        };
        let chain = seen.source_chain != self.translations.source_chain;
        self.translations = seen;
        let mut written = self.write_translations();
        if chain {
            let by = self.translations.source_chain.as_deref();
            tracing::warn!(by, "translation of sources for this host itself changed");
            written = self.datapath.settings(self.settings()).and(written);
        }
        self.report_translations(written.err().map(|error| error.to_string()));
    }

    /// The protected ports are others. Before the first reading the table keeps what an earlier run
    /// left in it.
    pub(super) fn translate_for_ports(&mut self) {
        if !self.translations.flows.is_empty() {
            let written = self.write_translations();
            self.report_translations(written.err().map(|error| error.to_string()));
        }
    }

    /// Writes the translated connections to protected ports whose sessions end on this host.
    fn write_translations(&mut self) -> Result<(), DatapathError> {
        let rules = self.config.policy.rules().collect();
        self.datapath.translate(&to_protected(&self.translations.flows, &rules))
    }

    /// What the socket guard does where sources are translated.
    pub(super) fn source_note(&self) -> Option<String> {
        let chain = self.translations.source_chain.as_ref()?;
        Some(format!(
            "nftables ({chain}) translates sources of packets for this host: without a grant the \
             host reaches its own protected ports by 127.0.0.1 and ::1 alone"
        ))
    }

    fn report_translations(&self, error: Option<String>) {
        let text = error.map(|error| {
            format!(
                "cannot follow what this host translates (NAT): {error}; sessions through a \
                 translation may end with their grants on ports that drain"
            )
        });
        if let (Some(text), true) = (&text, self.faults.set(FAULT, text.clone())) {
            tracing::error!("{text}");
        }
    }
}

/// The connections that come to these ports, as many as the table has room for.
fn to_protected(
    flows: &BTreeMap<Flow, Flow>,
    rules: &BTreeMap<PortKey, PortRule>,
) -> BTreeMap<Flow, Flow> {
    let comes_to_one = |flow: &Flow| {
        let port = PortKey { protocol: Protocol::Tcp, port: flow.port };
        rules.get(&port).is_some_and(|rule| rule.forwarded == 0)
    };
    let most = usize::try_from(TRANSLATED).unwrap_or(usize::MAX);
    let flows = flows.iter().filter(|(flow, _)| comes_to_one(flow)).take(most);
    flows.map(|(flow, socket)| (*flow, *socket)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_to_protected_ports_that_end_here_are_written() {
        let flow = |port| Flow { port, family: 4, ..Flow::default() };
        let flows = [22, 80, 443].map(|port| (flow(port), flow(2222))).into();
        let rules = [(22, 0, Protocol::Tcp), (80, 0, Protocol::Udp), (443, 1, Protocol::Tcp)].map(
            |(port, forwarded, protocol)| {
                (PortKey { protocol, port }, PortRule { forwarded, ..PortRule::default() })
            },
        );
        let kept = to_protected(&flows, &rules.into());
        assert_eq!(kept, [(flow(22), flow(2222))].into());
    }
}
