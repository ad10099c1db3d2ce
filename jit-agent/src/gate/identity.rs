//! The host's id where a metadata service gives it (`[host] id = "auto"`): known from the last time, or
//! not known yet, or another one than before.
//!
//! The gate waits for no answer. With another id this is another machine, such as one that was made of
//! the image of the first: what that one held is closed here.

use crate::{
    config::Config,
    gate::{Gate, Target},
    kernel::datapath::Datapath,
    rules::clock::Now,
    system::metadata::{Found, Source},
};

/// Why grants end.
const ANOTHER: &str = "the metadata service says that this is another host than the one they name";

/// Where the host's id comes from, in a word; empty: it is not known.
pub(super) fn source_word(config: &Config) -> &'static str {
    if config.auto_host { config.host_source.map_or("", Source::word) } else { "file" }
}

impl<D: Datapath> Gate<D> {
    /// A configuration with the id that is in force, where the file has none.
    pub(super) fn identified(&self, config: Config) -> Config {
        if !config.auto_host {
            return config;
        }
        let Config { host, host_source, .. } = &self.config;
        Config { host: host.clone(), host_source: *host_source, ..config }
    }

    /// From now on this is the host's id. Closes all grants that were held for another one, those that
    /// root opened on the host among them; returns how many.
    pub fn identify(&mut self, found: Found, now: Now) -> u32 {
        let Found { source, id: host } = found;
        self.config.host_source = Some(source);
        if self.config.host == host {
            return 0;
        }
        let before = std::mem::replace(&mut self.config.host, host.clone());
        let mut closed = 0;
        if !before.is_empty() {
            let held = self.ledger.grants().map(|held| held.grant.id());
            let ids: Vec<_> = held.chain(self.held_back.ids()).collect();
            if !ids.is_empty() {
                closed = self.revoke(&Target::Ids(ids), "agent", ANOTHER, now).ended;
            }
        }
        self.recorder.identified(&host, &before, closed, now);
        self.forget_policies_of_others(now);
        self.restore_unsigned(now);
        self.record_alarms(now);
        self.settle_audit(now);
        closed
    }
}
