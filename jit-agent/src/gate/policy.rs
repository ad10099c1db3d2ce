//! The policies that this gate knows: the file's own, pushed ones, and which of them is in force.
//!
//! This file has the policies themselves. `push` accepts them, `apply` puts them in force, and
//! `outside` shows the open grants that they would refuse.

mod apply;
mod outside;
mod push;

use std::time::Duration;

use jit_common::{PortKey, Protocol};
use jit_proto::{PortSection, Refusal, v1, words::counted};
use prost::Message as _;

pub use push::{PolicyDraft, PolicyPush};

use outside::Outside;

use crate::{
    config::Config,
    disk::store::StoredPolicies,
    rules::{
        clock::{BootNanos, Now},
        commit::{Commit, Pending, Versioned},
        keyring::Keyring,
        policy::Policy,
        proposal::{self, Proposal, VerifiedPolicy},
    },
};

/// A pushed policy and the envelope that it came in.
#[derive(Clone, Debug, PartialEq)]
struct Pushed {
    policy: VerifiedPolicy,
    envelope: v1::Envelope,
}

/// The policies that this gate knows; the one in force is `config.policy`.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    /// The file's own sections.
    file: Policy,
    commit: Commit<Pushed>,
    /// There was a pushed policy, but it cannot be read.
    lost: Option<String>,
    /// Problems of the policy in force, a sentence each.
    problems: Vec<String>,
    /// Open grants that would be refused now.
    outside: Outside,
}

impl Policies {
    /// Whether the one in force waits to be confirmed.
    pub(super) const fn waits(&self) -> bool {
        self.commit.pending().is_some()
    }

    /// The file's own sections.
    pub(super) const fn file_policy(&self) -> &Policy {
        &self.file
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// When the time of the waiting policy ends. If its time has ended and it could not be taken
    /// back, that is tried again at the usual times.
    pub(super) fn next_change(&self, now: Now) -> Option<Duration> {
        self.commit.next_change(now).filter(|left| !left.is_zero())
    }

    /// Which policy is in force.
    pub(super) fn state(&self, config: &Config, now: Now) -> v1::PolicyState {
        let commit = &self.commit;
        let mut state = v1::PolicyState {
            highest_version: commit.highest(),
            confirm_left_ms: self.confirm_left_ms(now),
            previous_version: match commit.pending() {
                Some(_) => commit.confirmed().map_or(0, |policy| policy.version),
                None => 0,
            },
            accepts_policies: config.ceiling.is_some(),
            ..v1::PolicyState::default()
        };
        if let Some(Versioned { version, policy: Pushed { policy, .. }, .. }) = commit.in_force() {
            let v1::Policy { author, justification, issued_at_ms, .. } =
                policy.proposal().message();
            state.version = *version;
            state.signers = policy.signers().to_vec();
            state.author.clone_from(author);
            state.justification.clone_from(justification);
            state.issued_at_ms = *issued_at_ms;
        }
        state
    }

    /// The future of the policy in force, for `status`.
    pub(super) fn soon(&self, config: &Config, now: Now) -> Vec<String> {
        let commit = &self.commit;
        let mut soon = Vec::new();
        if let Some(Pending { policy, deadline, .. }) = commit.pending() {
            let before = match commit.confirmed() {
                Some(before) => format!("version {} returns", before.version),
                None => "the [[port]] sections of the configuration return".into(),
            };
            soon.push(format!(
                "policy version {} is not confirmed: {before} in {} s",
                policy.version,
                now.until(*deadline).as_secs()
            ));
        }
        if let Some(Versioned { version, policy: Pushed { policy, .. }, .. }) = commit.in_force()
            && !policy.is_trusted(&config.keyring)
        {
            soon.push(format!(
                "policy version {version} was signed by keys that may not sign policies any more; it \
                 stays in force, but should be pushed again"
            ));
        }
        soon
    }

    /// Reads back the pushed policies. Returns whether a policy waited for a confirmation that did
    /// not come in time.
    fn read_back(
        &mut self,
        stored: StoredPolicies,
        config: &Config,
        this_boot: &str,
        now: Now,
    ) -> bool {
        let StoredPolicies { highest, confirmed, pending, boot_id, deadline } = stored;
        let waited = pending.is_some();
        let confirmed = confirmed.and_then(|envelope| self.reread(envelope, config));
        let deadline = (boot_id == this_boot).then_some(BootNanos(deadline));
        let pending = pending.and_then(|envelope| self.reread(envelope, config));
        let pending = pending.map(|policy| (policy, deadline));
        self.commit = Commit::restore(highest, confirmed, pending, now);
        waited && !self.waits()
    }

    fn reread(&mut self, envelope: v1::Envelope, config: &Config) -> Option<Versioned<Pushed>> {
        // While the host's id is not known, what was in force stays in force.
        let own = if config.host.is_empty() { named(&envelope) } else { config.host.clone() };
        match proposal::reread(&envelope, &config.keyring, &own) {
            Ok(policy) => Some(Versioned {
                version: policy.proposal().version(),
                digest: *policy.digest(),
                policy: Pushed { policy, envelope },
            }),
            Err(refused) if refused.refusal == Refusal::WrongHost => {
                tracing::warn!("the stored policy is another host's: {refused}");
                None
            }
            // It may be of a newer version of the agent. The gate must never be more open than it
            // was.
            Err(refused) => {
                self.lost = Some(format!("the stored policy cannot be used: {refused}"));
                None
            }
        }
    }

    /// The policy that returns if the waiting one is not confirmed.
    fn before(&self, config: &Config) -> Policy {
        let before = self.commit.confirmed();
        self.with(before.map(|policy| policy.policy.policy.proposal()), config)
    }

    /// The policy in force under this configuration.
    fn current(&self, config: &Config) -> Policy {
        let pushed = self.commit.in_force();
        self.with(pushed.map(|policy| policy.policy.policy.proposal()), config)
    }

    /// The policy in force, from this pushed policy, the file's sections and a configuration's
    /// ceiling.
    fn with(&self, pushed: Option<&Proposal>, config: &Config) -> Policy {
        let own = control_port(config);
        match (&config.ceiling, pushed) {
            (Some(ceiling), Some(pushed)) => ceiling.in_force(pushed.sections(), &self.file, own),
            (Some(ceiling), None) if self.lost.is_some() => ceiling.everything(&self.file, own),
            _ => self.file.clone(),
        }
    }

    /// Looks for what is wrong with the policy in force.
    fn check(&mut self, config: &Config) {
        let mut problems = Vec::new();
        if let Some(why) = &self.lost {
            problems.push(format!(
                "{why}: every port of [ceiling] arm is closed until a policy is pushed"
            ));
        }
        if let (Some(policy), Some(ceiling)) = (self.commit.in_force(), &config.ceiling) {
            let Versioned { version, policy: Pushed { policy, .. }, .. } = policy;
            if let Err(refused) = ceiling.check(policy.proposal().sections(), &self.file) {
                problems.push(format!(
                    "policy version {version} is in force, but the file would not allow it any more: \
                     {}; push another one",
                    refused.detail
                ));
            }
        }
        // The file's own sections are checked when it is read.
        if let Some(detail) = unreachable_threshold(config.policy.sections(), &config.keyring) {
            problems.push(format!("{detail}: no grant can open it"));
        }
        self.problems = problems;
    }

    fn confirm_left_ms(&self, now: Now) -> i64 {
        let left = self.commit.pending().map(|pending| now.until(pending.deadline));
        left.map_or(0, |left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1))
    }

    /// The policies in the form for the disk.
    fn stored(&self, this_boot: &str) -> StoredPolicies {
        let envelope = |policy: &Versioned<Pushed>| policy.policy.envelope.clone();
        let pending = self.commit.pending();
        StoredPolicies {
            highest: self.commit.highest(),
            confirmed: self.commit.confirmed().map(envelope),
            pending: pending.map(|pending| envelope(&pending.policy)),
            boot_id: pending.map(|_| this_boot.to_owned()).unwrap_or_default(),
            deadline: pending.map_or(0, |pending| pending.deadline.0),
        }
    }
}

/// A host that a stored policy names.
fn named(envelope: &v1::Envelope) -> String {
    let message = v1::Policy::decode(&*envelope.payload).unwrap_or_default();
    message.hosts.into_iter().next().unwrap_or_default()
}

/// The agent's own port.
fn control_port(config: &Config) -> Option<PortKey> {
    let listen = config.control.as_ref()?.listen;
    Some(PortKey { protocol: Protocol::Tcp, port: listen.port() })
}

/// The first section that asks for more approvals than there are keys.
fn unreachable_threshold(sections: &[PortSection], keyring: &Keyring) -> Option<String> {
    let signers = keyring.most_approvals(|_| true);
    let section = sections.iter().find(|section| section.approvals > signers)?;
    Some(format!(
        "{}: approvals is {}, and this host trusts only {} for grants",
        section.range,
        section.approvals,
        counted(signers, "key"),
    ))
}
