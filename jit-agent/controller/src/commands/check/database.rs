//! The database: that it answers, and what is in it.

use super::super::output::moment;
use crate::{
    config::{Config, Database},
    health::{self, Findings},
    store::Store,
};

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
    if let Err(error) = health::database(&store, &about, now_ms, findings).await {
        findings.error(about, error.to_string());
    }
    store.close().await;
}
