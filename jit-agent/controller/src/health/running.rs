//! What runs: the signer, hosts, what they must still hear, the audit's ends, and who takes
//! messages.

use jit_proto::words::{self, counted};

use super::finding::Findings;
use crate::{
    audit::Code,
    clock::moment,
    desk::Desk,
    model::{State, host::Condition},
    signer::Process,
    store::{Page, StoreError},
};

/// What takes longer than this is not on its way any more, milliseconds.
const LATE_MS: i64 = 30_000;
/// The end of the audit is signed every minute: a head that is missing for longer is missed.
const UNSIGNED_MS: i64 = 5 * 60_000;
/// Records of a receiver may wait for this time.
const BEHIND_MS: i64 = 2 * 60_000;

/// Looks at a controller that runs.
///
/// # Errors
/// The database does not answer.
pub(crate) async fn look(
    desk: &Desk,
    now_ms: i64,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    signer(desk, now_ms, findings).await?;
    hosts(desk, findings).await?;
    deliveries(desk, now_ms, findings).await?;
    audit(desk, now_ms, findings).await?;
    receivers(desk, now_ms, findings).await?;
    webhooks(desk, findings).await
}

async fn signer(desk: &Desk, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let about = "signer";
    if let Some(signer) = desk.signer() {
        for (purpose, Process { keys, pid, trouble }) in signer.processes() {
            let signs = purpose.words();
            let keys: Vec<_> = keys.into_iter().map(|key| key.key_id).collect();
            match pid {
                Some(pid) => {
                    let keys = keys.join(", ");
                    findings.good(about, format!("process {pid} signs {signs} with the key {keys}"));
                }
                None if trouble.is_empty() => findings.error(
                    about,
                    format!(
                        "its process for {signs} has ended and is started again; if it stays so, look \
                         into the log: `journalctl -u jit-controller`"
                    ),
                ),
                None => findings.error(
                    about,
                    format!(
                        "its process for {signs} does not start, and is tried again: {trouble}"
                    ),
                ),
            }
        }
    }
    let agreed = Page { state: Some(State::Approved), most: 500, ..Page::default() };
    let waiting = desk.store().requests(&agreed).await?;
    let Some(oldest) = waiting.last() else {
        findings.good(about, "no request waits for it");
        return Ok(());
    };
    let lines = desk.store().audit_of(&oldest.proposal.id).await?;
    let agreed = lines.iter().rev().find(|line| line.code == Code::Granted.id());
    let since_ms = agreed.map_or(oldest.proposal.created_ms, |line| line.time_ms);
    if now_ms.saturating_sub(since_ms) < LATE_MS {
        findings.good(about, "signs what was agreed to just now");
        return Ok(());
    }
    findings.error(
        about,
        format!(
            "{} agreed to and not signed, the first since {}: see that a process with the role \
             `signer` runs, and look into its log: `journalctl -u jit-controller`",
            counted(waiting.len() as u64, "request"),
            moment(since_ms)
        ),
    );
    Ok(())
}

async fn hosts(desk: &Desk, findings: &mut Findings) -> Result<(), StoreError> {
    let about = "hosts";
    let counts = desk.store().host_conditions().await?;
    let of = |condition: Condition| counts.get(condition.word()).copied().unwrap_or(0);
    let all: i64 = counts.values().sum();
    if all == 0 {
        findings.warn(about, "there are none; add some: `jitctl hosts import FILE`");
        return Ok(());
    }
    findings.good(about, format!("{} of {all} in force", of(Condition::Enforcing)));
    let held = desk.store().hosts_held().await?;
    if held > 0 {
        let text = format!(
            "{held} of which two machines are connected: nothing is opened there before somebody has looked \
             and cleared the alarm; the page of each host says where both are"
        );
        findings.error(about, text);
    }
    for (condition, what, next) in [
        (Condition::NotEnforcing, "not in force", "anybody gets in there: look at these first"),
        (
            Condition::Unreachable,
            "silent",
            "nothing can be opened or closed there; the page of each host says why",
        ),
        (Condition::Degraded, "in force, with a problem", "the page of each host names it"),
        (
            Condition::Unknown,
            "without an answer so far",
            "see that a process with the role `hub` runs, and that each host's address is right",
        ),
    ] {
        let count = of(condition);
        let text = format!("{count} {what}: {next}");
        match (count, condition) {
            (0, _) => {}
            (_, Condition::NotEnforcing) => findings.error(about, text),
            _ => findings.warn(about, text),
        }
    }
    Ok(())
}

async fn deliveries(desk: &Desk, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let about = "deliveries";
    let waiting = desk.store().waiting_deliveries(now_ms, LATE_MS).await?;
    if waiting.late > 0 {
        let text = format!(
            "due for over {}, and nobody brings them: {} of {}; see that a process with the role `hub` \
             runs, and look into its log",
            words::duration(LATE_MS),
            waiting.late,
            waiting.all
        );
        findings.error(about, text);
    }
    if waiting.failing > 0 {
        let since = moment(waiting.failing_since_ms);
        let text = format!(
            "{} waiting for hosts that do not answer, the first since {since}: tried again until the grant \
             ends; the page of each host says why",
            waiting.failing
        );
        findings.warn(about, text);
    }
    if waiting.late == 0 && waiting.failing == 0 {
        findings.good(about, format!("{} on the way", waiting.all));
    }
    Ok(())
}

async fn audit(desk: &Desk, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let about = "audit";
    let store = desk.store();
    let (tip, hash) = store.audit_tip().await?;
    let head = store.last_signed_head().await?;
    let (signed, signed_ms) = head.map_or((0, 0), |head| (head.seq, head.time_ms));
    let first = store.audit_after(signed, 1).await?;
    let since_ms = first.first().map_or(now_ms, |line| line.time_ms);
    if now_ms.saturating_sub(since_ms) < UNSIGNED_MS {
        let records = counted(tip, "record");
        let text = match signed {
            0 => format!("{records}; the last has the hash {hash}"),
            signed => format!(
                "{records}; the end at {signed} was signed {}; the last has the hash {hash}",
                moment(signed_ms)
            ),
        };
        findings.good(about, text);
        return Ok(());
    }
    let text = format!(
        "{} without a signed end, the first of {}: see that a process with the role `signer` runs, and that \
         `[audit] key` names its key; `jit-controller check` looks at the file",
        counted(tip.saturating_sub(signed), "record"),
        moment(since_ms)
    );
    findings.warn(about, text);
    Ok(())
}

/// Syslog, a chat, mail: who takes what happens, in order.
async fn receivers(desk: &Desk, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let store = desk.store();
    for (name, seq) in store.audit_cursors().await? {
        let next = store.audit_after(seq, 1).await?;
        let since_ms = next.first().map_or(now_ms, |line| line.time_ms);
        if now_ms.saturating_sub(since_ms) < BEHIND_MS {
            findings.good(name, "has all that happened");
            continue;
        }
        let (tip, _) = store.audit_tip().await?;
        let text = format!(
            "takes nothing: {} waiting since {}; the log says why; if it is not in the configuration any \
             more, this is its last place",
            counted(tip.saturating_sub(seq), "record"),
            moment(since_ms)
        );
        findings.warn(name, text);
    }
    Ok(())
}

async fn webhooks(desk: &Desk, findings: &mut Findings) -> Result<(), StoreError> {
    for hook in desk.store().webhooks().await? {
        let about = format!("webhook {}", hook.id);
        if !hook.enabled {
            let why = if hook.why.is_empty() { "somebody switched it off" } else { &hook.why };
            let text = format!("{} is not called: {why}; `jitctl webhooks` changes it", hook.url);
            findings.warn(about, text);
        } else if !hook.trouble.is_empty() {
            let text = format!(
                "{} fails since {}: {}; it is tried again",
                hook.url,
                moment(hook.since_ms),
                hook.trouble
            );
            findings.warn(about, text);
        } else {
            findings.good(about, format!("{} takes what happens", hook.url));
        }
    }
    Ok(())
}
