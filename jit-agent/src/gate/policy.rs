//! Policies at the gate: the file's at start and SIGHUP, pushed ones, and those that return. All go
//! through [`Gate::apply`].

use std::time::Duration;

use jit_common::{PortKey, Protocol};
use jit_proto::{
    GrantId, PayloadType, PortSection, Refusal,
    confirm::{DEFAULT_WINDOW, MAX_WINDOW},
    v1::{self, event::What},
};

use crate::{
    config::Config,
    disk::{
        audit::{EventCode, Record},
        store::{StoredPolicies, Transaction},
    },
    gate::{Gate, Target},
    kernel::datapath::Datapath,
    rules::{
        clock::{BootNanos, Now},
        commit::{Commit, CommitError, Pending, Standing, Versioned},
        impact::{Impact, refused_grant},
        keyring::Keyring,
        ledger::Stage,
        policy::Policy,
        proposal::{self, Proposal, VerifiedPolicy},
        reconcile::EntryKey,
        refusal::Refused,
    },
};

/// A pushed policy and the envelope that it came in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pushed {
    policy: VerifiedPolicy,
    envelope: v1::Envelope,
}

/// Where a policy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration file.
    File,
    /// A controller.
    Pushed,
    /// It was in force before, and the one after it was not confirmed.
    Returned,
}

/// The policies that this gate knows; the one in force is `config.policy`.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    /// The file's own sections.
    file: Policy,
    commit: Commit<Pushed>,
    /// There was a pushed policy, and nobody can tell which.
    lost: Option<String>,
    /// What is wrong with the one in force, a sentence each.
    pub(super) problems: Vec<String>,
}

impl Policies {
    /// Whether the one in force waits to be confirmed.
    pub(super) const fn waits(&self) -> bool {
        self.commit.pending().is_some()
    }
}

/// A policy to put in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyPush {
    /// As received.
    pub envelope: v1::Envelope,
    /// How long it waits for a confirmation; `None`: as long as usual.
    pub confirm_within: Option<Duration>,
    /// Revoke the grants that it would refuse.
    pub strict: bool,
}

/// What a policy may be asked about.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyDraft {
    /// Signed.
    Envelope(v1::Envelope),
    /// Not signed yet.
    Message(Box<v1::Policy>),
}

impl<D: Datapath> Gate<D> {
    /// Puts a signed policy in force: durable on the disk, then in the kernel, then answered. One
    /// that shuts somebody out waits for [`Gate::confirm_policy`].
    pub fn push_policy(
        &mut self,
        push: PolicyPush,
        by: &str,
        now: Now,
    ) -> Result<v1::PushPolicyResponse, Refused> {
        let result = self.try_push_policy(push, by, now);
        if let Err(Refused { refusal, detail, .. }) = &result {
            tracing::warn!(by, reason = refusal.word(), "policy refused: {detail:?}");
            self.tell_policy("refused", 0, refusal.word(), by, detail, now);
            let word = refusal.word();
            let record = Record::new(EventCode::PolicyRefused).by(by).reason(word).detail(detail);
            self.recorder.bounded(record, by, word, now);
        }
        result
    }

    fn try_push_policy(
        &mut self,
        push: PolicyPush,
        by: &str,
        now: Now,
    ) -> Result<v1::PushPolicyResponse, Refused> {
        let PolicyPush { envelope, confirm_within, strict } = push;
        let window = confirm_within.unwrap_or(DEFAULT_WINDOW);
        if window < Duration::from_secs(1) || window > MAX_WINDOW {
            let most = MAX_WINDOW.as_secs();
            let detail = format!("confirm_within_s: {} is not 1 to {most}", window.as_secs());
            return Err(Refused::new(Refusal::Malformed, detail));
        }
        let (verified, standing) = self.verify_policy(&envelope, now)?;
        let version = verified.proposal().version();
        if standing == Standing::Known {
            return Ok(v1::PushPolicyResponse {
                reason: "known".into(),
                version,
                confirm_left_ms: self.confirm_left_ms(now),
                ..v1::PushPolicyResponse::default()
            });
        }
        let policy = self.policy_of(Some(verified.proposal()), &self.config);
        let changes = self.changes(&policy, now);
        let refused: Vec<GrantId> =
            changes.grants.iter().filter_map(|one| GrantId::from_bytes(&one.grant_id)).collect();
        let window = changes.confirm.then_some(window);
        let digest = *verified.digest();
        let signers = verified.signers().join(", ");
        let pushed = Pushed { policy: verified, envelope };
        // In the audit first: a policy may open ports, and none opens without an explanation.
        let record = pushed_record(&pushed.policy, &changes).by(by);
        let recorded = self.recorder.audit.commit(vec![record], now);
        recorded.map_err(|error| Refused::new(Refusal::Storage, error.to_string()))?;
        let before = self.policies.commit.clone();
        self.policies.commit.accept(Versioned { version, digest, policy: pushed }, window, now);
        if let Err(refused) = self.persist_policies(now) {
            self.take_back(before);
            return Err(refused);
        }
        if let Err(refused) = self.apply(policy, Origin::Pushed, now) {
            self.take_back(before);
            let settled = self.settle(Transaction::default(), now);
            settled.unwrap_or_else(|error| tracing::error!("{error}"));
            return Err(refused);
        }
        self.policies.lost = None;
        self.look_at_policies();
        let kind = if window.is_some() { "pending" } else { "applied" };
        tracing::info!(version, by, signers, "policy {kind}");
        if let Some(window) = window {
            let record = Record::new(EventCode::PolicyArmed).by(by).with("version", version);
            self.record(record.with("confirm_within_s", window.as_secs()), now);
        }
        self.tell_policy(kind, version, "", by, &summary(&changes), now);
        let mut response = v1::PushPolicyResponse {
            reason: if window.is_some() { "pending" } else { "ok" }.into(),
            version,
            confirm_left_ms: self.confirm_left_ms(now),
            changes: Some(changes),
            ..v1::PushPolicyResponse::default()
        };
        if strict && !refused.is_empty() {
            let why = format!("policy version {version}, strict");
            let revoked = self.revoke(&Target::Ids(refused), by, &why, now);
            (response.revoked, response.warning) = (revoked.ended, revoked.warning);
        }
        Ok(response)
    }

    /// Notes that what [`Gate::push_policy`] answered is in force by now: connections that are made
    /// from here on are fresh.
    pub fn policy_applied(&mut self, now: Now) {
        self.policies.commit.applied(now);
    }

    /// Keeps a policy that waits. `connected`: when the connection was accepted that asks for it.
    pub fn confirm_policy(
        &mut self,
        version: u64,
        connected: BootNanos,
        by: &str,
        now: Now,
    ) -> Result<v1::ConfirmPolicyResponse, Refused> {
        let before = self.policies.commit.clone();
        let standing = self.policies.commit.confirm(version, connected, now).map_err(refuse)?;
        if standing == Standing::Known {
            return Ok(v1::ConfirmPolicyResponse { reason: "known".into() });
        }
        if let Err(refused) = self.persist_policies(now) {
            // It still waits, and returns unless the disk takes it in time.
            self.take_back(before);
            return Err(refused);
        }
        // Sessions that only waited for this.
        self.ending.anywhere();
        tracing::info!(version, by, "policy confirmed");
        self.record(Record::new(EventCode::PolicyConfirmed).by(by).with("version", version), now);
        self.tell_policy("confirmed", version, "", by, "", now);
        Ok(v1::ConfirmPolicyResponse { reason: "ok".into() })
    }

    /// What a policy would change, and whether it would be accepted.
    pub fn diff_policy(&self, draft: &PolicyDraft, now: Now) -> v1::DiffPolicyResponse {
        let judged = match draft {
            PolicyDraft::Envelope(envelope) => self
                .verify_policy(envelope, now)
                .map(|(policy, standing)| (policy.proposal().clone(), standing)),
            PolicyDraft::Message(message) => {
                Proposal::new(message.as_ref().clone(), &self.config.host).and_then(|proposal| {
                    let standing = self.check_proposal(&proposal, None, now)?;
                    Ok((proposal, standing))
                })
            }
        };
        match judged {
            Ok((proposal, standing)) => v1::DiffPolicyResponse {
                reason: if standing == Standing::Known { "known" } else { "ok" }.into(),
                detail: String::new(),
                changes: Some(self.changes(&self.policy_of(Some(&proposal), &self.config), now)),
            },
            Err(Refused { refusal, detail, .. }) => {
                v1::DiffPolicyResponse { reason: refusal.word().into(), detail, changes: None }
            }
        }
    }

    /// The policy in force.
    pub fn show_policy(&self, now: Now) -> v1::ShowPolicyResponse {
        v1::ShowPolicyResponse {
            state: Some(self.policy_state(now)),
            ports: self.config.policy.sections().iter().map(v1::PolicyPort::from).collect(),
            host: self.config.host.clone(),
        }
    }

    /// Which policy is in force.
    pub(super) fn policy_state(&self, now: Now) -> v1::PolicyState {
        let Policies { commit, .. } = &self.policies;
        let mut state = v1::PolicyState {
            highest_version: commit.highest(),
            confirm_left_ms: self.confirm_left_ms(now),
            previous_version: match commit.pending() {
                Some(_) => commit.confirmed().map_or(0, |policy| policy.version),
                None => 0,
            },
            accepts_policies: self.config.ceiling.is_some(),
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

    /// What will become of the policy in force, for `status`.
    pub(super) fn policy_soon(&self, now: Now) -> Vec<String> {
        let Policies { commit, .. } = &self.policies;
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
            && !policy.is_trusted(&self.config.keyring)
        {
            soon.push(format!(
                "policy version {version} was signed by keys that may not sign policies any more; it \
                 stays in force, but should be pushed again"
            ));
        }
        soon
    }

    /// Reads back what was pushed before, and makes it the policy of `config`. Called once, before
    /// anything is in force.
    pub(super) fn restore_policies(
        &mut self,
        stored: Option<StoredPolicies>,
        lost: Option<String>,
        now: Now,
    ) {
        self.policies.file = self.config.policy.clone();
        self.policies.lost = lost;
        if let Some(stored) = stored {
            self.read_back(stored, now);
        }
        if let Some(why) = &self.policies.lost {
            tracing::error!("{why}: every port that a policy may arm is closed");
        }
        if self.config.ceiling.is_none() {
            self.forget_policies(now);
        }
        self.config.policy = self.policy_of(self.pushed(), &self.config);
        self.look_at_policies();
    }

    fn read_back(&mut self, stored: StoredPolicies, now: Now) {
        let StoredPolicies { highest, confirmed, pending, boot_id, deadline } = stored;
        let was_pending = pending.is_some();
        let confirmed = confirmed.and_then(|envelope| self.reread(envelope));
        let deadline = (boot_id == self.boot_id).then_some(BootNanos(deadline));
        let pending = pending.and_then(|envelope| self.reread(envelope));
        let pending = pending.map(|policy| (policy, deadline));
        let commit = Commit::restore(highest, confirmed, pending, now);
        if was_pending && commit.pending().is_none() {
            tracing::warn!("the policy that waited for a confirmation did not get it in time");
            let version = commit.confirmed().map_or(0, |policy| policy.version);
            self.tell_returned(version, "it was not confirmed in time", now);
            self.owed.policies = Some(self.stored_policies(&commit));
        }
        self.policies.commit = commit;
    }

    fn reread(&mut self, envelope: v1::Envelope) -> Option<Versioned<Pushed>> {
        let Config { keyring, host, .. } = &self.config;
        match proposal::reread(&envelope, keyring, host) {
            Ok(policy) => Some(Versioned {
                version: policy.proposal().version(),
                digest: *policy.digest(),
                policy: Pushed { policy, envelope },
            }),
            Err(refused) if refused.refusal == Refusal::WrongHost => {
                tracing::warn!("the stored policy is another host's: {refused}");
                None
            }
            // As of a newer version of the agent: never more open than it was.
            Err(refused) => {
                self.policies.lost = Some(format!("the stored policy cannot be used: {refused}"));
                None
            }
        }
    }

    /// Without a `[ceiling]` no pushed policy holds: the file says it all again.
    fn forget_policies(&mut self, now: Now) {
        let Policies { commit, lost, .. } = &mut self.policies;
        *lost = None;
        if commit.in_force().is_none() {
            return;
        }
        commit.clear();
        tracing::warn!(
            "there is no [ceiling]: the [[port]] sections are in force, no pushed policy"
        );
        let stored = self.stored_policies(&self.policies.commit);
        self.owed.policies = Some(stored);
        self.tell_returned(0, "there is no [ceiling]", now);
    }

    /// Takes another configuration: its sections, or the pushed policy within its ceiling, come into
    /// force. On an error nothing changed.
    pub(super) fn apply_config(&mut self, config: Config, now: Now) -> Result<(), Refused> {
        let file = std::mem::replace(&mut self.policies.file, config.policy.clone());
        let policy = self.policy_of(self.pushed(), &config);
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
        self.look_at_policies();
        self.recheck_scheduled(false, now);
        if let Err(error) = self.settle(Transaction::default(), now) {
            tracing::error!("{error}");
        }
        Ok(())
    }

    /// The policy before the one that waits returns when its time is over.
    pub(super) fn return_policy(&mut self, now: Now) {
        if !self.policies.commit.deadline_passed(now) {
            return;
        }
        let previous = self.policies.commit.confirmed().map(|policy| policy.version);
        let policy = self.policy_before();
        // On an error the kernel did not take it; the next look tries again.
        if let Err(refused) = self.apply(policy, Origin::Returned, now) {
            tracing::error!("the previous policy cannot return: {refused}");
            return;
        }
        let given_up = self.policies.commit.give_up().map_or(0, |policy| policy.version);
        self.look_at_policies();
        let version = previous.unwrap_or_default();
        tracing::warn!(
            version = given_up,
            "policy not confirmed in time: version {version} is back"
        );
        let detail = format!("version {given_up} was not confirmed in time");
        self.tell_returned(version, &detail, now);
        if let Err(refused) = self.persist_policies(now) {
            // At a restart its time is over just the same.
            tracing::error!("{refused}");
        }
    }

    /// When a policy's time is over. One that is over and could not be taken back is tried again in
    /// the ordinary rhythm.
    pub(super) fn policy_wake(&self, now: Now) -> Option<Duration> {
        self.policies.commit.next_change(now).filter(|left| !left.is_zero())
    }

    /// The one way of a policy into force: exemptions into the tables, then ports and rules. On an
    /// error what was in force before is so still; a policy that returns does so even when there is no
    /// room for all of its exemptions.
    pub(super) fn apply(
        &mut self,
        policy: Policy,
        origin: Origin,
        now: Now,
    ) -> Result<(), Refused> {
        let old = std::mem::replace(&mut self.config.policy, policy);
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
            self.config.policy = old;
            // What stood before fits again.
            drop(self.put_exemptions(now));
            drop(self.apply_policy());
        } else if !impact.is_empty() {
            let v1::PolicyChanges { closed, opened, .. } = v1::PolicyChanges::from(&impact);
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
        result
    }

    fn put_exemptions(&mut self, now: Now) -> Result<(), Refused> {
        let mut touched = Vec::new();
        let result = self.exempt(now, &mut touched);
        self.write(&touched);
        result
    }

    /// Replaces the exemptions by those of the policy in force.
    pub(super) fn exempt(&mut self, now: Now, touched: &mut Vec<EntryKey>) -> Result<(), Refused> {
        // A clock behind what it was before would make their ends too late.
        let now = Now { wall: now.wall.max(self.floor), ..now };
        self.ledger.exempt(self.config.policy.exemptions(), now, touched)
    }

    /// Scheduled grants that keys and policy do not admit any more are taken away, as if they had
    /// never been: `only_due`, those whose window has begun.
    pub(super) fn recheck_scheduled(&mut self, only_due: bool, now: Now) {
        let Config { policy, keyring, .. } = &self.config;
        let judge = |record: &crate::rules::ledger::Record| {
            if !matches!(record.stage, Stage::Scheduled { .. }) {
                return None;
            }
            let refused = policy.check(&record.grant, keyring, now).err()?;
            // Begun and over while nobody looked: it opens nothing, and ends what it replaces.
            (refused.refusal != Refusal::Expired).then_some((record.grant.id(), refused))
        };
        let refused: Vec<_> = if only_due {
            self.ledger.due(now).filter_map(judge).collect()
        } else {
            self.ledger.grants().filter_map(judge).collect()
        };
        let mut touched = Vec::new();
        for (id, refused) in refused {
            self.recorder.refused(&refused, "agent", now);
            let Refused { refusal, detail, .. } = refused;
            tracing::warn!(grant = %id, reason = refusal.word(), "scheduled grant refused: {detail}");
            self.ledger.forget(id, &mut touched);
            self.owed.remove.push(id);
            self.next_floor = now.boot;
            self.tell_grant("refused", id, refusal.word(), "agent", &detail, now);
        }
        self.write(&touched);
    }

    /// All steps before a policy is accepted.
    fn verify_policy(
        &self,
        envelope: &v1::Envelope,
        now: Now,
    ) -> Result<(VerifiedPolicy, Standing), Refused> {
        if !self.clock_is_trusted(now) {
            let detail = format!(
                "this host's clock says {}, but it has been {} before",
                now.wall, self.floor
            );
            return Err(Refused::new(Refusal::ClockUntrusted, detail));
        }
        let Config { keyring, host, .. } = &self.config;
        let policy = proposal::verify(envelope, keyring, host)?;
        let approvals = policy.approvals(keyring, now)?;
        let signed = Some((policy.digest(), approvals));
        let standing = self.check_proposal(policy.proposal(), signed, now)?;
        Ok((policy, standing))
    }

    /// Times, ceiling, threshold, version (docs/grants.md, steps `times` to `version`). `signed`:
    /// digest and number of approvals, unless it is not signed yet.
    fn check_proposal(
        &self,
        proposal: &Proposal,
        signed: Option<(&[u8; 32], usize)>,
        now: Now,
    ) -> Result<Standing, Refused> {
        let beyond = |detail: String| Err(Refused::new(Refusal::Ceiling, detail));
        // Pushed again after a time-out, perhaps a long one: the answer is the same.
        let digest = signed.map_or(&[0; 32], |(digest, _)| digest);
        let standing = self.policies.commit.standing(proposal.version(), digest);
        if standing == Ok(Standing::Known) {
            return Ok(Standing::Known);
        }
        proposal.check_times(now)?;
        let Config { ceiling, keyring, .. } = &self.config;
        let Some(ceiling) = ceiling else {
            return beyond("this host has no [ceiling], and so takes no policies".into());
        };
        ceiling.check(proposal.sections(), &self.policies.file)?;
        for section in proposal.sections() {
            if let Some(port) = self.spared().filter(|port| section.range.has(*port)) {
                return beyond(format!(
                    "{}/tcp is the port that this agent listens on: the controllers would be locked \
                     out",
                    port.port
                ));
            }
        }
        if let Some(detail) = never_met(proposal.sections(), keyring) {
            return beyond(detail);
        }
        let needed = ceiling.policy_approvals;
        if let Some((_, approvals)) = signed.filter(|(_, approvals)| *approvals < needed) {
            let detail = format!(
                "[ceiling] policy_approvals asks for {needed} distinct keys; there are {approvals}"
            );
            return Err(Refused::new(Refusal::ApprovalsMissing, detail));
        }
        standing.map_err(refuse)
    }

    /// What a policy in place of the one in force would change.
    fn changes(&self, policy: &Policy, now: Now) -> v1::PolicyChanges {
        let impact = Impact::between(&self.config.policy, policy, now.wall);
        let mut changes = v1::PolicyChanges::from(&impact);
        // What waits already must not become the measure of what is new.
        if self.policies.commit.pending().is_some() {
            changes.confirm = Impact::between(&self.policy_before(), policy, now.wall).shuts_out();
        }
        let Config { policy: in_force, keyring, .. } = &self.config;
        let mut grants: Vec<_> = self
            .ledger
            .grants()
            .filter_map(|record| {
                let refused = policy.check(&record.grant, keyring, now).err()?;
                // What is refused by the policy in force as well is not this one's doing.
                in_force.check(&record.grant, keyring, now).ok()?;
                Some(refused_grant(record, &refused))
            })
            .collect();
        grants.sort_by(|a, b| a.grant_id.cmp(&b.grant_id));
        changes.grants = grants;
        changes
    }

    /// The policy that returns when what waits is not confirmed.
    fn policy_before(&self) -> Policy {
        let before = self.policies.commit.confirmed();
        self.policy_of(before.map(|policy| policy.policy.policy.proposal()), &self.config)
    }

    fn pushed(&self) -> Option<&Proposal> {
        self.policies.commit.in_force().map(|policy| policy.policy.policy.proposal())
    }

    /// What is in force with this pushed policy, and the file's sections and a configuration's ceiling.
    fn policy_of(&self, pushed: Option<&Proposal>, config: &Config) -> Policy {
        let file = &self.policies.file;
        let spared = spared(config);
        match (&config.ceiling, pushed) {
            (Some(ceiling), Some(pushed)) => ceiling.in_force(pushed.sections(), file, spared),
            (Some(ceiling), None) if self.policies.lost.is_some() => {
                ceiling.everything(file, spared)
            }
            _ => file.clone(),
        }
    }

    /// The agent's own port.
    fn spared(&self) -> Option<PortKey> {
        spared(&self.config)
    }

    /// Looks for what is wrong with the policy in force.
    pub(super) fn look_at_policies(&mut self) {
        let mut problems = Vec::new();
        if let Some(why) = &self.policies.lost {
            problems.push(format!(
                "{why}: every port of [ceiling] arm is closed until a policy is pushed"
            ));
        }
        if let (Some(policy), Some(ceiling)) =
            (self.policies.commit.in_force(), &self.config.ceiling)
        {
            let Versioned { version, policy: Pushed { policy, .. }, .. } = policy;
            if let Err(refused) = ceiling.check(policy.proposal().sections(), &self.policies.file) {
                problems.push(format!(
                    "policy version {version} is in force, but the file would not allow it any more: \
                     {}; push another one",
                    refused.detail
                ));
            }
        }
        // The file's own sections are checked when it is read.
        if let Some(detail) = never_met(self.config.policy.sections(), &self.config.keyring) {
            problems.push(format!("{detail}: no grant can open it"));
        }
        self.policies.problems = problems;
    }

    fn confirm_left_ms(&self, now: Now) -> i64 {
        let left = self.policies.commit.pending().map(|pending| now.until(pending.deadline));
        left.map_or(0, |left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1))
    }

    fn stored_policies(&self, commit: &Commit<Pushed>) -> StoredPolicies {
        let envelope = |policy: &Versioned<Pushed>| policy.policy.envelope.clone();
        let pending = commit.pending();
        StoredPolicies {
            highest: commit.highest(),
            confirmed: commit.confirmed().map(envelope),
            pending: pending.map(|pending| envelope(&pending.policy)),
            boot_id: pending.map(|_| self.boot_id.clone()).unwrap_or_default(),
            deadline: pending.map_or(0, |pending| pending.deadline.0),
        }
    }

    fn persist_policies(&mut self, now: Now) -> Result<(), Refused> {
        let policies = Some(self.stored_policies(&self.policies.commit));
        let transaction = Transaction { policies, ..Transaction::default() };
        self.settle(transaction, now)
            .map_err(|error| Refused::new(Refusal::Storage, error.to_string()))
    }

    /// Goes back to what was before a change that failed. What failed may be on the disk all the same:
    /// the next transaction takes it back there.
    fn take_back(&mut self, before: Commit<Pushed>) {
        self.policies.commit = before;
        self.owed.policies = Some(self.stored_policies(&self.policies.commit));
    }

    fn tell_returned(&mut self, version: u64, detail: &str, now: Now) {
        self.tell_policy("returned", version, "", "agent", detail, now);
        let record = Record::new(EventCode::PolicyReturned).by("agent").with("version", version);
        self.record(record.detail(detail), now);
    }

    pub(super) fn tell_policy(
        &self,
        kind: &str,
        version: u64,
        reason: &str,
        by: &str,
        detail: &str,
        now: Now,
    ) {
        let event = v1::PolicyEvent {
            kind: kind.into(),
            version,
            reason: reason.into(),
            by: by.into(),
            detail: detail.into(),
        };
        self.journal.add(now.wall.0, What::Policy(event));
    }
}

fn spared(config: &Config) -> Option<PortKey> {
    let listen = config.control.as_ref()?.listen;
    Some(PortKey { protocol: Protocol::Tcp, port: listen.port() })
}

/// The first section that asks for more approvals than there are keys.
fn never_met(sections: &[PortSection], keyring: &Keyring) -> Option<String> {
    let signers = keyring.signers_of(PayloadType::Grant).count();
    let section = sections.iter().find(|section| section.approvals > signers)?;
    Some(format!(
        "{}: approvals is {}, but this host trusts {signers} keys that sign grants",
        section.range, section.approvals
    ))
}

fn refuse(error: CommitError) -> Refused {
    let refusal = match error {
        CommitError::NotFresh(_) => Refusal::NotFresh,
        CommitError::NothingPending { .. } => Refusal::NothingPending,
        CommitError::Stale { .. } => Refusal::StaleVersion,
    };
    Refused::new(refusal, error.to_string())
}

fn pushed_record(policy: &VerifiedPolicy, changes: &v1::PolicyChanges) -> Record {
    let v1::Policy { version, author, justification, .. } = policy.proposal().message();
    Record::new(EventCode::PolicyPushed)
        .with("version", *version)
        .text("author", author)
        .text("why", justification)
        .with("signers", policy.signers().to_vec())
        .with("digest", hex::encode(policy.digest()))
        .detail(&summary(changes))
}

/// The most important of what changes, on one line.
fn summary(changes: &v1::PolicyChanges) -> String {
    let v1::PolicyChanges { closed, opened, exemptions_lost, grants, .. } = changes;
    let counted = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let ranges = |ranges: &[v1::PortRange], what: &str| {
        (!ranges.is_empty()).then(|| format!("{what} {}", jit_proto::words::ranges_text(ranges)))
    };
    let parts = [
        ranges(closed, "closes"),
        ranges(opened, "opens"),
        counted(exemptions_lost.len(), "exemptions lost"),
        counted(grants.len(), "grants that it would refuse"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
