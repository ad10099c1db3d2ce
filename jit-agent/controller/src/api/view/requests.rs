//! Requests, and what belongs to them.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jit_client::controller::types::{
    AnswerCounts, AnswerView, DecisionView, EligibleView, GrantView, Need, Preview, RequestSummary,
    RequestView, RuleTrace, SignatureView, VerdictView,
};
use jit_proto::{
    dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1, webauthn::challenge,
};

use super::{count, duration, moment, time};
use crate::{
    desk,
    model::{Answer, Decision, Needs, Outcome, Verdict, grant, proposal::SessionsWord},
    rules::Eligible,
    store::{Delivery, Request, StoredGrant},
};

/// Hosts that a list shows of a request.
const HOSTS_SHOWN: usize = 20;

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A request as lists show it.
pub(in crate::api) fn summary(of: &Request) -> RequestSummary {
    let asked = &of.proposal;
    let (ends, ends_ms) = moment(of.ends_ms);
    RequestSummary {
        id: asked.id.clone(),
        state: of.state.word().to_owned(),
        why: of.why.clone(),
        requester: asked.requester.clone(),
        hosts: asked.hosts.iter().take(HOSTS_SHOWN).cloned().collect(),
        hosts_total: count(asked.hosts.len()),
        sources: texts(&asked.sources),
        ports: texts(&asked.ports),
        duration: duration(asked.duration_ms),
        duration_ms: asked.duration_ms,
        start: asked.start_ms.map(time),
        start_ms: asked.start_ms,
        reason: asked.reason.clone(),
        ticket: asked.ticket.clone(),
        needs_text: of.verdict.needs.text(),
        created: time(asked.created_ms),
        created_ms: asked.created_ms,
        approve_until: time(asked.approve_until_ms),
        approve_until_ms: asked.approve_until_ms,
        ends,
        ends_ms,
    }
}

/// What a [`RequestView`] is made of.
pub(in crate::api) struct Parts {
    pub(in crate::api) request: Request,
    pub(in crate::api) missing: Needs,
    pub(in crate::api) eligible: Vec<Eligible>,
    pub(in crate::api) decisions: Vec<Decision>,
    pub(in crate::api) deliveries: Vec<Delivery>,
    pub(in crate::api) grants: Vec<StoredGrant>,
    pub(in crate::api) may: Vec<&'static str>,
}

/// A request.
pub(in crate::api) fn request(of: Parts) -> RequestView {
    let Parts { request, missing, eligible: people, decisions, deliveries, grants, may } = of;
    let asked = &request.proposal;
    let (ends, ends_ms) = moment(request.ends_ms);
    let (escalate, escalate_ms) = moment(request.escalate_ms);
    RequestView {
        id: asked.id.clone(),
        state: request.state.word().to_owned(),
        is_final: request.state.is_final(),
        why: request.why.clone(),
        requester: asked.requester.clone(),
        account: request.account.clone(),
        hosts: asked.hosts.clone(),
        sources: texts(&asked.sources),
        ports: texts(&asked.ports),
        duration: duration(asked.duration_ms),
        duration_ms: asked.duration_ms,
        start: asked.start_ms.map(time),
        start_ms: asked.start_ms,
        reason: asked.reason.clone(),
        ticket: asked.ticket.clone(),
        sessions: asked.sessions.map(|word| sessions(word).to_owned()),
        max_connections: asked.max_connections,
        replaces: asked.replaces.clone(),
        replaced_by: some(&request.replaced_by),
        hash: request.hash.clone(),
        verdict: verdict(&request.verdict),
        missing: needs(&missing),
        missing_text: missing.text(),
        eligible: people.into_iter().map(eligible).collect(),
        decisions: decisions.into_iter().map(decision).collect(),
        counts: counts(&deliveries),
        answers: deliveries.into_iter().map(answer).collect(),
        grants: grants.iter().map(grant).collect(),
        may: texts(&may),
        created: time(asked.created_ms),
        created_ms: asked.created_ms,
        approve_until: time(asked.approve_until_ms),
        approve_until_ms: asked.approve_until_ms,
        escalate,
        escalate_ms,
        ends,
        ends_ms,
        revision: request.revision,
    }
}

const fn sessions(word: SessionsWord) -> &'static str {
    match word {
        SessionsWord::Cut => "cut",
        SessionsWord::Drain => "drain",
    }
}

fn needs(of: &Needs) -> Vec<Need> {
    of.0.iter().map(|(group, count)| Need { group: group.clone(), count: *count }).collect()
}

/// What the rules say.
pub(in crate::api) fn verdict(of: &Verdict) -> VerdictView {
    let outcome = match of.outcome {
        Outcome::Automatic => "automatic",
        Outcome::Denied => "denied",
        Outcome::Manual => "manual",
    };
    let rule = |rule: &crate::model::Rule| RuleTrace {
        id: rule.id.clone(),
        effect: rule.effect.clone(),
        action: rule.action.clone(),
        reason: rule.reason.clone(),
        asks: rule.asks.clone(),
        hosts: rule.hosts.clone(),
        hosts_total: count(rule.hosts_total),
    };
    VerdictView {
        outcome: outcome.to_owned(),
        rules_version: of.rules_version,
        needs: needs(&of.needs),
        needs_text: of.needs.text(),
        max_duration_ms: of.max_duration_ms,
        max_duration: of.max_duration_ms.map(duration),
        escalates_to: of.escalate.as_ref().map(|escalation| escalation.group.clone()),
        escalates_after_ms: of.escalate.as_ref().map(|escalation| escalation.after_ms),
        rules: of.rules.iter().map(rule).collect(),
        denied: of.denied.clone(),
    }
}

/// Somebody who may approve.
fn eligible(of: Eligible) -> EligibleView {
    EligibleView {
        subject: of.subject,
        accounts: of.accounts.into_iter().collect(),
        groups: of.groups.into_iter().collect(),
    }
}

fn decision(of: Decision) -> DecisionView {
    let Decision { request: _, subject, account, ruling, groups, reason, hash, at_ms } = of;
    DecisionView {
        subject,
        account,
        ruling: ruling.word().to_owned(),
        groups: groups.into_iter().collect(),
        reason,
        hash,
        at: time(at_ms),
        at_ms,
    }
}

fn answer(of: Delivery) -> AnswerView {
    let Delivery {
        grant_id,
        host,
        request: _,
        wanted,
        pending,
        answer,
        word,
        detail,
        trouble,
        trouble_since_ms,
        attempts,
        next_ms,
        answered_ms,
        until_ms: _,
    } = of;
    let (since, since_ms) = moment(trouble_since_ms);
    let (next, next_ms) = moment(if pending { next_ms } else { 0 });
    let (answered, answered_ms) = moment(answered_ms);
    AnswerView {
        host,
        grant: grant_id,
        wanted: wanted.word().to_owned(),
        pending,
        answer: answer.word().to_owned(),
        word,
        detail,
        trouble,
        since,
        since_ms,
        attempts,
        next,
        next_ms,
        answered,
        answered_ms,
    }
}

fn counts(deliveries: &[Delivery]) -> AnswerCounts {
    let of = |wanted: Answer| count(deliveries.iter().filter(|one| one.answer == wanted).count());
    let silent = |one: &&Delivery| one.answer == Answer::Waiting && !one.trouble.is_empty();
    AnswerCounts {
        open: of(Answer::Open),
        scheduled: of(Answer::Scheduled),
        refused: of(Answer::Refused),
        waiting: of(Answer::Waiting),
        unreachable: count(deliveries.iter().filter(silent).count()),
        closed: of(Answer::Closed),
    }
}

/// A grant, without its payload.
fn grant(of: &StoredGrant) -> GrantView {
    let (signed, signed_ms) = moment(of.signed_ms);
    let signatures = of.envelope.iter().flat_map(|envelope| &envelope.signatures);
    let state = match (of.signed_ms, &of.envelope) {
        (0, None) => "unsigned",
        (0, Some(_)) => "awaiting_signatures",
        _ => "signed",
    };
    GrantView {
        id: of.part.id.to_string(),
        request: of.request.clone(),
        number: u64::try_from(of.number).unwrap_or(0),
        state: state.to_owned(),
        hosts: of.part.hosts.clone(),
        not_before: time(of.part.not_before_ms),
        not_before_ms: of.part.not_before_ms,
        not_after: time(of.part.not_after_ms),
        not_after_ms: of.part.not_after_ms,
        payload_hash: of.part.payload_hash(),
        signatures_needed: of.signatures_needed,
        signed_by: signatures.map(|one| one.key_id.clone()).collect(),
        signed,
        signed_ms,
        payload_type: None,
        payload: None,
        challenge: None,
        signatures: None,
    }
}

/// A part of an approval by passkey.
fn said(
    of: &v1::Signature,
    part: impl FnOnce(&v1::Assertion) -> &prost::bytes::Bytes,
) -> Option<String> {
    of.assertion.as_deref().map(|assertion| STANDARD.encode(part(assertion)))
}

/// A grant, with its payload and signatures.
pub(in crate::api) fn with_payload(of: &StoredGrant) -> GrantView {
    let signatures = of.envelope.iter().flat_map(|envelope| &envelope.signatures);
    let signature = |one: &v1::Signature| SignatureView {
        key_id: one.key_id.clone(),
        signature: STANDARD.encode(&one.signature),
        authenticator_data: said(one, |assertion| &assertion.authenticator_data),
        client_data_json: said(one, |assertion| &assertion.client_data_json),
    };
    let message = pre_authentication_encoding(GRANT_TYPE, &of.part.payload);
    GrantView {
        payload_type: Some(GRANT_TYPE.to_owned()),
        payload: Some(STANDARD.encode(&of.part.payload)),
        challenge: Some(URL_SAFE_NO_PAD.encode(challenge(&message))),
        signatures: Some(signatures.map(signature).collect()),
        ..grant(of)
    }
}

/// What would become of a request.
pub(in crate::api) fn preview(of: desk::Preview, warnings: Vec<String>, now_ms: i64) -> Preview {
    let (begins_ms, ends_ms) = grant::window(&of.proposal, now_ms);
    let grants = of.proposal.hosts.len().div_ceil(grant::MAX_HOSTS);
    Preview {
        sources: texts(&of.proposal.sources),
        ports: texts(&of.proposal.ports),
        duration: duration(of.proposal.duration_ms),
        duration_ms: of.proposal.duration_ms,
        begins: time(begins_ms),
        begins_ms,
        ends: time(ends_ms),
        ends_ms,
        grants: count(grants),
        verdict: verdict(&of.verdict),
        eligible: of.eligible.into_iter().map(eligible).collect(),
        warnings,
        hosts: of.proposal.hosts,
    }
}
