//! What the database holds: tables of the right version, rules that can be read, somebody who may
//! administer, and a clock that fits.

use std::collections::BTreeSet;

use jit_proto::words::counted;

use super::finding::Findings;
use crate::{
    clock::{self, moment},
    rules::Rules,
    store::{Store, StoreError, migrations},
};

/// Clocks may differ by this much, milliseconds.
const SKEW_MS: i64 = 5_000;

/// Looks at an open database; `about` is its name.
///
/// # Errors
/// It does not answer, or a newer version has changed its tables.
pub(crate) async fn look(
    store: &Store,
    about: &str,
    now_ms: i64,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let (known, there): (BTreeSet<_>, _) =
        (migrations::versions().into_iter().collect(), store.versions().await?);
    if let Some(newer) = there.difference(&known).next() {
        return Err(StoreError::Newer(*newer));
    }
    if there.is_empty() {
        findings.error(about, "it has no tables; `jit-controller init` makes them");
        return Ok(());
    }
    if there != known {
        let missing = known.difference(&there).map(ToString::to_string).collect::<Vec<_>>();
        let text = format!(
            "its tables are of an earlier version (without {}); `serve` brings them up to date, make \
             a backup before",
            missing.join(", ")
        );
        findings.warn(about, text);
        return Ok(());
    }
    let (hosts, (seq, _)) = (store.host_count().await?, store.audit_tip().await?);
    let (hosts, records) = (counted(hosts, "host"), counted(seq, "record"));
    findings.good(about, format!("answers; {hosts}, {records} in the audit"));
    rules(store, findings).await?;
    people(store, now_ms, findings).await?;
    clock(store, seq, now_ms, findings).await
}

async fn rules(store: &Store, findings: &mut Findings) -> Result<(), StoreError> {
    let Some(saved) = store.rules_in_force().await? else {
        findings
            .error("rules", "there are none: every request is denied; `jitctl rules` saves some");
        return Ok(());
    };
    match Rules::parse(saved.version, &saved.text) {
        Ok(_) => findings.good("rules", format!("version {} is in force", saved.version)),
        Err(mistakes) => {
            for mistake in mistakes {
                let text = format!(
                    "version {}, line {}, column {}: {}",
                    saved.version, mistake.line, mistake.column, mistake.text
                );
                findings.error("rules", text);
            }
        }
    }
    Ok(())
}

async fn people(store: &Store, now_ms: i64, findings: &mut Findings) -> Result<(), StoreError> {
    let admins: BTreeSet<_> = store
        .accounts()
        .await?
        .into_iter()
        .filter(crate::model::Account::is_admin)
        .map(|account| account.name)
        .collect();
    let tokens = store.tokens(None).await?;
    let good = tokens.iter().filter(|token| {
        admins.contains(&token.account) && token.revoked_ms == 0 && token.ends_ms > now_ms
    });
    match good.map(|token| token.ends_ms).max() {
        Some(end) => findings.good(
            "accounts",
            format!(
                "{}; the last of their tokens ends {}",
                counted(admins.len(), "administrator"),
                moment(end)
            ),
        ),
        None => {
            let (mut with_password, mut with_passkey) = (0, 0);
            for admin in &admins {
                with_password += usize::from(store.password(admin).await?.is_some());
                with_passkey += usize::from(!store.passkeys(admin).await?.is_empty());
            }
            match (with_password, with_passkey) {
                (0, 0) => findings.warn(
                    "accounts",
                    "no administrator has a good token, a password or a passkey: nobody can change \
                     accounts, hosts and rules, unless a provider signs one in; `jit-controller accounts \
                     password NAME` lets one in",
                ),
                _ => findings.good(
                    "accounts",
                    format!(
                        "{}; with a password: {with_password}, with a passkey: {with_passkey}",
                        counted(admins.len(), "administrator")
                    ),
                ),
            }
        }
    }
    Ok(())
}

async fn clock(
    store: &Store,
    seq: i64,
    now_ms: i64,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let last = store.audit_after(seq.saturating_sub(1), 1).await?;
    if let Some(line) = last.first().filter(|line| line.time_ms > now_ms + SKEW_MS) {
        let text = format!(
            "it says {}, and the last record of the audit is of {}: it went back; set it",
            moment(now_ms),
            moment(line.time_ms)
        );
        findings.error("clock", text);
        return Ok(());
    }
    if let Some(server) = store.server_time_ms().await?
        && (server - clock::now_ms()).abs() > SKEW_MS
    {
        let text = format!("the database's clock says {}; one of the two is wrong", moment(server));
        findings.warn("clock", text);
        return Ok(());
    }
    findings.good("clock", moment(now_ms));
    Ok(())
}
