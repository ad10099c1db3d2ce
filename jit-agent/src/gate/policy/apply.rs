//! Puts policies in force: the file's at start and SIGHUP, pushed ones, and those that return. All
//! go through [`Gate::apply`].

use jit_common::Settings;
use jit_proto::{
    Refusal,
    v1::{self, event::What},
};
use prost::bytes::Bytes;

use crate::{
    config::Config,
    disk::{
        audit::{EventCode, Record},
        store::StoredPolicies,
    },
    gate::{Gate, policy::Pushed, report::grant_event},
    kernel::datapath::{Datapath, DatapathError},
    rules::{
        clock::Now,
        commit::{Commit, Versioned},
        impact::Impact,
        ledger::{HeldGrant, Stage},
        policy::Policy,
        refusal::Refused,
    },
};

/// Events a second and CPU for dropped packets.
const DROP_EVENTS: u32 = 128;
/// Events a second and CPU for connections let in.
const GRANT_EVENTS: u32 = 4096;

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration file.
    File,
    /// A controller.
    Pushed,
    /// It was in force before, and its successor was not confirmed.
    Returned,
}

impl<D: Datapath> Gate<D> {
    /// Reads back what was pushed before, and makes it the policy of `config`. Called once, before
    /// anything is in force.
    pub(in crate::gate) fn restore_policies(
        &mut self,
        stored: Option<StoredPolicies>,
        lost: Option<String>,
        now: Now,
    ) {
        self.policies.file = self.config.policy.clone();
        self.policies.lost = lost;
        if let Some(stored) = stored
            && self.policies.read_back(stored, &self.config, &self.boot_id, now)
        {
            tracing::warn!("the policy that waited for a confirmation did not get it in time");
            let confirmed = self.policies.commit.confirmed();
            let version = confirmed.map_or(0, |policy| policy.version);
            self.report_returned(version, "it was not confirmed in time", now);
            self.outbox.policies(self.policies.stored(&self.boot_id));
        }
        if let Some(why) = &self.policies.lost {
            tracing::error!("{why}: every port that a policy may arm is closed");
        }
        if self.config.ceiling.is_none() {
            self.forget_policies(now);
        }
        self.use_policy(self.policies.current(&self.config));
        self.policies.check(&self.config);
    }

    /// Without a `[ceiling]` no pushed policy is in force: only the file's sections count again.
    fn forget_policies(&mut self, now: Now) {
        self.policies.lost = None;
        if self.policies.commit.in_force().is_none() {
            return;
        }
        self.policies.commit.clear();
        tracing::warn!(
            "there is no [ceiling]: the [[port]] sections are in force, no pushed policy"
        );
        self.outbox.policies(self.policies.stored(&self.boot_id));
        self.report_returned(0, "there is no [ceiling]", now);
    }

    /// The host has another id: a policy that names others is in force no more.
    pub(in crate::gate) fn forget_policies_of_others(&mut self, now: Now) {
        let host = &self.config.host;
        let names = |policy: &Versioned<Pushed>| {
            policy.policy.policy.proposal().message().hosts.iter().any(|name| name == host)
        };
        let commit = &self.policies.commit;
        let pending = commit.pending().map(|pending| &pending.policy);
        if commit.confirmed().into_iter().chain(pending).all(names) {
            return;
        }
        let before = self.policies.commit.clone();
        self.policies.commit.clear();
        let policy = self.policies.current(&self.config);
        if let Err(refused) = self.apply(policy, Origin::Returned, now) {
            // The kernel did not take it. The review of the tables puts it right.
            tracing::error!("the policy of another host stays in force: {refused}");
            self.policies.commit = before;
            return;
        }
        tracing::warn!("the pushed policy names another host: the [[port]] sections are in force");
        self.policies.check(&self.config);
        self.outbox.policies(self.policies.stored(&self.boot_id));
        self.report_returned(0, "the pushed policy names another host", now);
    }

    /// Takes another configuration: its sections, or the pushed policy within its ceiling, come
    /// into force. On an error nothing changed.
    pub(in crate::gate) fn apply_config(
        &mut self,
        config: Config,
        now: Now,
    ) -> Result<(), Refused> {
        let config = self.identified(config);
        let file = std::mem::replace(&mut self.policies.file, config.policy.clone());
        let policy = self.policies.current(&config);
        let in_force = self.config.policy.clone();
        let old = std::mem::replace(&mut self.config, Config { policy: in_force, ..config });
        if let Err(refused) = self.apply(policy, Origin::File, now) {
            self.config = old;
            self.policies.file = file;
            // The settings of the whole gate are in the kernel by now.
            drop(self.apply_policy());
            return Err(refused);
        }
        if self.config.ceiling.is_none() {
            self.forget_policies(now);
        }
        self.policies.check(&self.config);
        self.recheck_scheduled(false, now);
        self.settle_or_log(now);
        Ok(())
    }

    /// The policy before the one that waits returns when its time has ended.
    pub(in crate::gate) fn return_policy(&mut self, now: Now) {
        if !self.policies.commit.deadline_passed(now) {
            return;
        }
        let previous = self.policies.commit.confirmed().map(|policy| policy.version);
        let policy = self.policies.before(&self.config);
        // On an error the kernel did not take it; it is tried again later.
        if let Err(refused) = self.apply(policy, Origin::Returned, now) {
            tracing::error!("the previous policy cannot return: {refused}");
            return;
        }
        let given_up = self.policies.commit.give_up().map_or(0, |policy| policy.version);
        self.policies.check(&self.config);
        let version = previous.unwrap_or_default();
        tracing::warn!(
            version = given_up,
            "policy not confirmed in time: version {version} is back"
        );
        let detail = format!("version {given_up} was not confirmed in time");
        self.report_returned(version, &detail, now);
        if let Err(refused) = self.persist_policies(now) {
            // After a restart its time has still ended.
            tracing::error!("{refused}");
        }
    }

    /// Writes settings, protected ports and their rules.
    pub(in crate::gate) fn apply_policy(&mut self) -> Result<(), DatapathError> {
        self.ending.anywhere();
        self.datapath.settings(self.settings())?;
        self.datapath.protect(&self.rules())?;
        self.translate_for_ports();
        Ok(())
    }

    pub(in crate::gate) fn settings(&self) -> Settings {
        self.trials.settings(Settings {
            observe: u32::from(self.config.gate.observe),
            drop_events: DROP_EVENTS,
            grant_events: GRANT_EVENTS,
            translates_sources: u32::from(self.translations.source_chain.is_some()),
            ..Settings::default()
        })
    }

    /// Puts a policy in force; there is no other way. Exemptions are written to the tables, then
    /// ports and rules. On an error the policy before stays in force. A policy that returns comes
    /// into force even if there is no room for all of its exemptions.
    pub(super) fn apply(
        &mut self,
        policy: Policy,
        origin: Origin,
        now: Now,
    ) -> Result<(), Refused> {
        let old = self.use_policy(policy);
        let impact = Impact::between(&old, &self.config.policy, now.wall);
        let exempted = self.put_exemptions(now);
        let result = match (exempted, origin) {
            (Err(refused), Origin::File | Origin::Pushed) => Err(refused),
            (exempted, _) => {
                if let Err(refused) = exempted {
                    tracing::error!("{refused}");
                }
                self.apply_policy()
                    .map_err(|error| Refused::new(Refusal::Storage, error.to_string()))
            }
        };
        if result.is_err() {
            self.use_policy(old);
            // The entries before fit again.
            drop(self.put_exemptions(now));
            drop(self.apply_policy());
        } else {
            self.note_outside();
            if !impact.is_empty() {
                log_impact(&impact, origin);
            }
        }
        result
    }

    /// Makes this the policy that grants are judged by; returns the one before.
    fn use_policy(&mut self, policy: Policy) -> Policy {
        self.ledger.set_unseen(policy.longest_ahead());
        std::mem::replace(&mut self.config.policy, policy)
    }

    fn put_exemptions(&mut self, now: Now) -> Result<(), Refused> {
        let result = self.exempt(now);
        self.write_changed();
        result
    }

    /// Replaces the exemptions by those of the policy in force.
    pub(in crate::gate) fn exempt(&mut self, now: Now) -> Result<(), Refused> {
        // A clock that is earlier than it was before would make their ends too late.
        let now = self.clock.not_before_floor(now);
        self.ledger.exempt(self.config.policy.exemptions(), now)
    }

    /// Removes scheduled grants that keys and policy do not admit any more, as if they had never
    /// been accepted. `only_due`: only those whose window has begun.
    pub(in crate::gate) fn recheck_scheduled(&mut self, only_due: bool, now: Now) {
        self.sweep_replacements();
        let Config { policy, keyring, .. } = &self.config;
        let judge = |held: &HeldGrant| {
            if !matches!(held.stage, Stage::Scheduled { .. }) {
                return None;
            }
            let refused = policy.check(&held.grant, keyring, now).err();
            let refused = refused.or_else(|| self.replacement_refused(held, now))?;
            // It began and ended since the last look: it opens nothing, and ends what it replaces.
            let payload = Bytes::copy_from_slice(held.grant.payload());
            (refused.refusal != Refusal::Expired).then_some((
                held.grant.id(),
                refused.of(held.grant.id()),
                payload,
            ))
        };
        let refused: Vec<_> = if only_due {
            self.ledger.due(now).filter_map(judge).collect()
        } else {
            self.ledger.grants().filter_map(judge).collect()
        };
        for (id, refused, payload) in refused {
            let asked = self.keep_refused(&refused, &payload, "agent", now);
            let single = self.recorder.refused(&refused, &asked, "agent", now);
            let Refused { refusal, detail, .. } = refused;
            self.ledger.forget(id);
            self.outbox.remove(id);
            self.outbox.write_soon(now);
            if single {
                let reason = refusal.word();
                tracing::warn!(grant = %id, reason, "scheduled grant refused: {detail}");
                let event = grant_event("refused", id, "agent");
                self.report_grant(v1::GrantEvent { reason: reason.into(), detail, ..event }, now);
            }
        }
        self.write_changed();
    }

    pub(super) fn persist_policies(&mut self, now: Now) -> Result<(), Refused> {
        self.outbox.policies(self.policies.stored(&self.boot_id));
        self.settle(&[], now).map_err(|error| Refused::new(Refusal::Storage, error.to_string()))
    }

    /// Goes back to the state before a failed change. The change may be on the disk even so: the
    /// next transaction takes it back there.
    pub(super) fn take_back(&mut self, before: Commit<Pushed>) {
        self.policies.commit = before;
        self.outbox.policies(self.policies.stored(&self.boot_id));
    }

    fn report_returned(&mut self, version: u64, detail: &str, now: Now) {
        let event = policy_event("returned", version, "agent");
        self.report_policy(v1::PolicyEvent { detail: detail.into(), ..event }, now);
        let record = Record::new(EventCode::PolicyReturned).by("agent").with("version", version);
        self.record(record.detail(detail), now);
    }

    pub(super) fn report_policy(&self, event: v1::PolicyEvent, now: Now) {
        self.journal.add(now.wall.0, What::Policy(event));
    }
}

/// Something happened to a policy.
pub(super) fn policy_event(kind: &str, version: u64, by: &str) -> v1::PolicyEvent {
    v1::PolicyEvent { kind: kind.into(), version, by: by.into(), ..v1::PolicyEvent::default() }
}

fn log_impact(impact: &Impact, origin: Origin) {
    let v1::PolicyChanges { closed, opened, .. } = v1::PolicyChanges::from(impact);
    tracing::info!(
        closed = jit_proto::words::ranges_text(&closed),
        opened = jit_proto::words::ranges_text(&opened),
        "policy of the {} in force",
        match origin {
            Origin::File => "configuration",
            Origin::Pushed => "controller",
            Origin::Returned => "time before",
        }
    );
}
