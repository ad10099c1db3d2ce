//! What hosts answer to signed revocations.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{CONTROLLER, Desk, DeskError, close};
use crate::{
    audit::{self, Code, Record},
    store::{ClosingAnswer, closings, closings::Heard},
};

impl Desk {
    /// Keeps answers of hosts, in one transaction: the last of each host to each revocation.
    ///
    /// # Errors
    /// Those of the database: nothing of it is kept then.
    pub async fn closed(&self, answers: &[ClosingAnswer], now_ms: i64) -> Result<(), DeskError> {
        let last: BTreeMap<_, _> =
            answers.iter().map(|one| ((&one.closing, &one.host), one)).collect();
        let last: Vec<_> = last.into_values().collect();
        let mut parts = Vec::new();
        for id in last.iter().map(|one| &one.closing).collect::<BTreeSet<_>>() {
            let found = self.store().closing(id).await?;
            let Some(closing) = found else { continue };
            // Of one for every host nothing is left that could be in another state.
            let requests = match closing.message.every_host {
                true => Vec::new(),
                false => self.store().closed_requests(id).await?,
            };
            parts.push((closing, requests));
        }
        let mut tx = self.store().begin().await?;
        for one in last.iter().filter(|one| one.heard == Heard::Refused) {
            let before = closings::refusal(&mut tx, &one.closing, &one.host).await?;
            if before.as_ref() != Some(&one.word) {
                let fields = json!({
                    "revocation": one.closing, "host": one.host, "word": one.word,
                    "detail": one.detail,
                });
                let record = Record::new(Code::ClosingRefused, "", &one.host, fields);
                audit::append(&mut tx, now_ms, &record).await?;
            }
        }
        closings::answered(&mut tx, &last).await?;
        for (closing, requests) in parts {
            let of_it = last.iter().filter(|one| one.closing == closing.id);
            let hosts: Vec<_> = of_it.map(|one| one.host.as_str()).collect();
            closings::close_deliveries_of(&mut tx, &closing.id, &hosts, now_ms).await?;
            close::restate(&mut tx, &requests, now_ms).await?;
            if closings::complete(&mut tx, &closing.id, now_ms).await? {
                let took_ms = now_ms.saturating_sub(closing.message.issued_before_ms);
                let fields = json!({ "revocation": closing.id, "took_ms": took_ms });
                let record = Record::new(Code::ClosingComplete, "", CONTROLLER, fields);
                audit::append(&mut tx, now_ms, &record).await?;
            }
        }
        self.commit(tx).await
    }
}
