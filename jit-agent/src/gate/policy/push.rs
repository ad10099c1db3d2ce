//! Pushed policies: the checks before they are accepted, the changes that they would make, and the
//! answers.

use std::{collections::BTreeSet, time::Duration};

use jit_proto::{
    GrantId, Refusal,
    confirm::{DEFAULT_WINDOW, MAX_WINDOW},
    v1,
};

use crate::{
    config::Config,
    disk::audit::{EventCode, Record},
    gate::{
        Gate, Target,
        policy::{
            Pushed,
            apply::{Origin, policy_event},
            control_port, unreachable_threshold,
        },
    },
    kernel::datapath::Datapath,
    rules::{
        clock::{BootNanos, Now},
        commit::{CommitError, MAX_VERSION, Standing, Versioned},
        impact::{Impact, refused_grant},
        policy::Policy,
        proposal::{self, Proposal, VerifiedPolicy},
        refusal::Refused,
    },
};

/// A policy to put in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyPush {
    /// As received.
    pub envelope: v1::Envelope,
    /// How long it waits for a confirmation. `None`: the default time.
    pub confirm_within: Option<Duration>,
    /// Revoke the grants that it would refuse, also those that an earlier one would have refused.
    pub strict: bool,
}

/// A policy for a question about its effect.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyDraft {
    /// Signed.
    Envelope(v1::Envelope),
    /// Not signed yet.
    Message(Box<v1::Policy>),
}

/// Result of the checks of a pushed policy.
enum Verdict {
    /// This version is in force already.
    Known(u64),
    New(Box<NewPolicy>),
}

/// A policy that may be put in force.
struct NewPolicy {
    pushed: Versioned<Pushed>,
    /// The policy that will be in force.
    policy: Policy,
    changes: v1::PolicyChanges,
    /// How long it waits for a confirmation; `None`: it need not wait.
    window: Option<Duration>,
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
        let strict = push.strict;
        let result = match self.judge_push(push, now) {
            Ok(Verdict::Known(version)) => {
                let changes = v1::PolicyChanges::default();
                let (revoked, warning) = self.revoke_refused(strict, &changes, version, by, now);
                Ok(v1::PushPolicyResponse {
                    reason: "known".into(),
                    version,
                    confirm_left_ms: self.policies.confirm_left_ms(now),
                    revoked,
                    warning,
                    ..v1::PushPolicyResponse::default()
                })
            }
            Ok(Verdict::New(new)) => self.accept_policy(*new, strict, by, now),
            Err(refused) => Err(refused),
        };
        if let Err(Refused { refusal, detail, .. }) = &result {
            let word = refusal.word();
            tracing::warn!(by, reason = word, "policy refused: {detail:?}");
            let event = policy_event("refused", 0, by);
            let (reason, text) = (word.into(), detail.clone());
            self.report_policy(v1::PolicyEvent { reason, detail: text, ..event }, now);
            let record = Record::new(EventCode::PolicyRefused).by(by).reason(word).detail(detail);
            self.recorder.bounded(record, by, word, now);
        }
        result
    }

    /// Checks a policy, and computes the changes that it would make. Changes nothing.
    fn judge_push(&self, push: PolicyPush, now: Now) -> Result<Verdict, Refused> {
        let PolicyPush { envelope, confirm_within, strict: _ } = push;
        let window = confirm_within.unwrap_or(DEFAULT_WINDOW);
        if window < Duration::from_secs(1) || window > MAX_WINDOW {
            let most = MAX_WINDOW.as_secs();
            let detail = format!("confirm_within_s: {} is not 1 to {most}", window.as_secs());
            return Err(Refused::new(Refusal::Malformed, detail));
        }
        let (verified, standing) = self.verify_policy(&envelope, now)?;
        let version = verified.proposal().version();
        if standing == Standing::Known {
            return Ok(Verdict::Known(version));
        }
        let policy = self.policies.with(Some(verified.proposal()), &self.config);
        let changes = self.changes(&policy, now);
        let window = changes.confirm.then_some(window);
        let digest = *verified.digest();
        let pushed = Versioned { version, digest, policy: Pushed { policy: verified, envelope } };
        Ok(Verdict::New(Box::new(NewPolicy { pushed, policy, changes, window })))
    }

    /// Writes to the audit first: a policy may open ports, and no port opens without an
    /// explanation. Then come the disk and the kernel. If one of them fails, the policy is taken
    /// back.
    fn accept_policy(
        &mut self,
        new: NewPolicy,
        strict: bool,
        by: &str,
        now: Now,
    ) -> Result<v1::PushPolicyResponse, Refused> {
        let NewPolicy { pushed, policy, changes, window } = new;
        let version = pushed.version;
        let signers = pushed.policy.policy.signers().join(", ");
        let record = pushed_record(&pushed.policy.policy, &changes).by(by);
        let recorded = self.recorder.commit(vec![record], now);
        recorded.map_err(|error| Refused::new(Refusal::Storage, error.to_string()))?;
        let before = self.policies.commit.clone();
        self.policies.commit.accept(pushed, window, now);
        if let Err(refused) = self.persist_policies(now) {
            self.take_back(before);
            return Err(refused);
        }
        if let Err(refused) = self.apply(policy, Origin::Pushed, now) {
            self.take_back(before);
            self.settle_or_log(now);
            return Err(refused);
        }
        self.policies.lost = None;
        self.policies.check(&self.config);
        let kind = if window.is_some() { "pending" } else { "applied" };
        tracing::info!(version, by, signers, "policy {kind}");
        if let Some(window) = window {
            let record = Record::new(EventCode::PolicyArmed).by(by).with("version", version);
            self.record(record.with("confirm_within_s", window.as_secs()), now);
        }
        let event = policy_event(kind, version, by);
        self.report_policy(v1::PolicyEvent { detail: summary(&changes), ..event }, now);
        let confirm_left_ms = self.policies.confirm_left_ms(now);
        let (revoked, warning) = self.revoke_refused(strict, &changes, version, by, now);
        Ok(v1::PushPolicyResponse {
            reason: if window.is_some() { "pending" } else { "ok" }.into(),
            version,
            confirm_left_ms,
            changes: Some(changes),
            revoked,
            warning,
        })
    }

    /// With `strict`, revokes the grants that a policy in force would refuse: those that it shuts out,
    /// and those that were outside before.
    fn revoke_refused(
        &mut self,
        strict: bool,
        changes: &v1::PolicyChanges,
        version: u64,
        by: &str,
        now: Now,
    ) -> (u32, String) {
        let grants = changes.grants.iter();
        let shut_out = grants.filter_map(|one| GrantId::from_bytes(&one.grant_id));
        let refused: BTreeSet<_> = shut_out.chain(self.ids_outside()).collect();
        if refused.is_empty() || !strict {
            return (0, String::new());
        }
        let why = format!("policy version {version}, strict");
        let revoked = self.revoke(&Target::Ids(refused.into_iter().collect()), by, &why, now);
        (revoked.ended, revoked.warning)
    }

    /// Notes that the policy that [`Gate::push_policy`] accepted is in force by now: connections
    /// that are accepted later count as new.
    pub fn policy_applied(&mut self, now: Now) {
        self.policies.commit.applied(now);
    }

    /// Keeps a policy that waits. `connected`: when the asking connection was accepted.
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
            // It still waits. Unless the disk takes the confirmation in time, the policy before
            // returns.
            self.take_back(before);
            return Err(refused);
        }
        // Sessions that waited for the confirmation can be cut now.
        self.ending.anywhere();
        tracing::info!(version, by, "policy confirmed");
        self.record(Record::new(EventCode::PolicyConfirmed).by(by).with("version", version), now);
        self.report_policy(policy_event("confirmed", version, by), now);
        Ok(v1::ConfirmPolicyResponse { reason: "ok".into() })
    }

    /// Sets the version that the next policy must be higher than, also to a lower one. Older policies
    /// can then be pushed again, so the audit has it first.
    pub fn set_policy_floor(
        &mut self,
        version: u64,
        by: &str,
        now: Now,
    ) -> Result<v1::SetPolicyFloorResponse, Refused> {
        if version == 0 || version > MAX_VERSION {
            let detail = format!("version: {version} is not 1 to {MAX_VERSION}");
            return Err(Refused::new(Refusal::Malformed, detail));
        }
        let before = self.policies.commit.clone();
        let previous = self.policies.commit.set_highest(version);
        let record = Record::new(EventCode::PolicyFloorSet).by(by);
        let record = record.with("version", version).with("previous", previous);
        let recorded = self.recorder.commit(vec![record], now);
        let stored = recorded
            .map_err(|error| Refused::new(Refusal::Storage, error.to_string()))
            .and_then(|()| self.persist_policies(now));
        if let Err(refused) = stored {
            self.take_back(before);
            return Err(refused);
        }
        tracing::warn!(by, previous, "the next policy must be higher than version {version}");
        Ok(v1::SetPolicyFloorResponse { previous })
    }

    /// The changes that a policy would make, and whether it would be accepted.
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
            Ok((proposal, standing)) => {
                let policy = self.policies.with(Some(&proposal), &self.config);
                v1::DiffPolicyResponse {
                    reason: if standing == Standing::Known { "known" } else { "ok" }.into(),
                    detail: String::new(),
                    changes: Some(self.changes(&policy, now)),
                }
            }
            Err(Refused { refusal, detail, .. }) => {
                v1::DiffPolicyResponse { reason: refusal.word().into(), detail, changes: None }
            }
        }
    }

    /// The policy in force.
    pub fn show_policy(&self, now: Now) -> v1::ShowPolicyResponse {
        v1::ShowPolicyResponse {
            state: Some(self.policies.state(&self.config, now)),
            ports: self.config.policy.sections().iter().map(v1::PolicyPort::from).collect(),
            host: self.config.host.clone(),
        }
    }

    /// All steps before a policy is accepted.
    fn verify_policy(
        &self,
        envelope: &v1::Envelope,
        now: Now,
    ) -> Result<(VerifiedPolicy, Standing), Refused> {
        self.clock.check(now)?;
        let Config { keyring, host, .. } = &self.config;
        let policy = proposal::verify(envelope, keyring, host)?;
        let approvals = policy.approvals(keyring, now)?;
        let signed = Some((policy.digest(), approvals));
        let standing = self.check_proposal(policy.proposal(), signed, now)?;
        Ok((policy, standing))
    }

    /// Checks times, ceiling, threshold and version (docs/grants.md, steps `times` to `version`).
    /// `signed`: digest and number of approvals; `None`: it is not signed yet.
    fn check_proposal(
        &self,
        proposal: &Proposal,
        signed: Option<(&[u8; 32], usize)>,
        now: Now,
    ) -> Result<Standing, Refused> {
        let beyond = |detail: String| Err(Refused::new(Refusal::Ceiling, detail));
        // It may be pushed again after a time-out, even a long one: the answer is the same.
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
        let own = control_port(&self.config);
        let takes = |port| proposal.sections().iter().any(|section| section.range.has(port));
        if let Some(port) = own.filter(|port| takes(*port)) {
            return beyond(format!(
                "{}/tcp is the port that this agent listens on: the controllers would be locked out",
                port.port
            ));
        }
        if let Some(detail) = unreachable_threshold(proposal.sections(), keyring) {
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

    /// The changes that a policy would make in place of the one in force.
    fn changes(&self, policy: &Policy, now: Now) -> v1::PolicyChanges {
        let impact = Impact::between(&self.config.policy, policy, now.wall);
        let mut changes = v1::PolicyChanges::from(&impact);
        // A policy that already waits must not become the measure of a new one.
        if self.policies.waits() {
            let before = self.policies.before(&self.config);
            changes.confirm = Impact::between(&before, policy, now.wall).shuts_out();
        }
        let Config { policy: in_force, keyring, .. } = &self.config;
        let mut grants: Vec<_> = self
            .ledger
            .grants()
            .filter_map(|held| {
                let refused = policy.check(&held.grant, keyring, now).err()?;
                // The policy in force refuses the grant, too: so this is no change.
                in_force.check(&held.grant, keyring, now).ok()?;
                Some(refused_grant(held, &refused))
            })
            .collect();
        grants.sort_by(|a, b| a.grant_id.cmp(&b.grant_id));
        changes.grants = grants;
        changes
    }
}

fn refuse(error: CommitError) -> Refused {
    let refusal = match error {
        CommitError::NotFresh(_) => Refusal::NotFresh,
        CommitError::NothingPending { .. } => Refusal::NothingPending,
        CommitError::Stale { .. } => Refusal::StaleVersion,
        CommitError::TooHigh { .. } => Refusal::Malformed,
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

/// The most important changes, on one line.
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
