//! The database: that it answers and has the right tables, rules that can be read, somebody who may
//! administer, and a clock that fits.

use std::collections::BTreeSet;

use super::{super::output::moment, Findings};
use crate::{
    config::{Config, Database},
    rules::Rules,
    store::{Store, StoreError, migrations},
};

/// Clocks may differ by this much, milliseconds.
const SKEW_MS: i64 = 5_000;
/// 2025-01-01: no clock is right that is before.
const EARLIEST_MS: i64 = 1_735_689_600_000;

pub(super) async fn check(config: &Config, now_ms: i64, findings: &mut Findings) {
    let about = config.store.to_string();
    if now_ms < EARLIEST_MS {
        findings.error("clock", format!("it says {}; set it", moment(now_ms)));
    }
    if let Database::Sqlite(file) = &config.store
        && !file.exists()
    {
        let text = "it does not exist; `jit-controller init` makes one, `restore` puts a copy back";
        return findings.error(about, text);
    }
    let store = match config.store.url() {
        Err(why) => return findings.error(about, why),
        Ok(url) => match Store::connect(&url).await {
            Err(error) => return findings.error(about, error.to_string()),
            Ok(store) => store,
        },
    };
    if let Err(error) = look(&store, &about, now_ms, findings).await {
        findings.error(about, error.to_string());
    }
    store.close().await;
}

async fn look(
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
    findings.good(about, format!("answers; {hosts} hosts, {seq} records in the audit"));
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
                "{} administrators; the last of their tokens ends {}",
                admins.len(),
                moment(end)
            ),
        ),
        None => findings.warn(
            "accounts",
            "no administrator has a good token: nobody can change accounts, hosts and rules",
        ),
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
        && (server - crate::clock::now_ms()).abs() > SKEW_MS
    {
        let text = format!("the database's clock says {}; one of the two is wrong", moment(server));
        findings.warn("clock", text);
        return Ok(());
    }
    findings.good("clock", moment(now_ms));
    Ok(())
}
