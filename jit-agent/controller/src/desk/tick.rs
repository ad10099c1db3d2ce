//! What time does to requests.

use serde_json::json;

use super::{CONTROLLER, Desk, DeskError};
use crate::{
    audit::{self, Code, Record},
    model::{Answer, State},
    store::{Request, deliveries, requests},
};

impl Desk {
    /// Ends, expires and escalates what is due.
    ///
    /// # Errors
    /// Those of the database; what was done before is committed.
    pub async fn tick(&self, now_ms: i64) -> Result<(), DeskError> {
        for seen in self.store().requests_due(now_ms).await? {
            self.due(&seen.proposal.id, now_ms).await?;
        }
        for seen in self.store().requests_over(now_ms).await? {
            self.over(&seen.proposal.id, now_ms).await?;
        }
        if self.store().ask_scheduled_again(now_ms).await? > 0 {
            self.changed();
        }
        self.settle_closings(now_ms).await
    }

    /// A pending request whose time for agreement has passed, or which others must see.
    async fn due(&self, id: &str, now_ms: i64) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, id).await?;
        if request.state != State::Pending {
            return Ok(());
        }
        let (code, fields) = if request.proposal.approve_until_ms <= now_ms {
            request.state = State::ExpiredUnapproved;
            request.why = "nobody agreed in time".into();
            request.escalate_ms = 0;
            (Code::Expired, json!({ "needed": request.verdict.needs.text() }))
        } else if request.escalate_ms > 0 && request.escalate_ms <= now_ms {
            request.escalate_ms = 0;
            let group =
                request.verdict.escalate.as_ref().map(|escalation| escalation.group.clone());
            (Code::Escalated, json!({ "to": group }))
        } else {
            return Ok(());
        };
        requests::update(&mut tx, &request).await?;
        audit::append(&mut tx, now_ms, &Record::new(code, id, CONTROLLER, fields)).await?;
        self.commit(tx).await
    }

    /// A request whose end has come. Hosts end it by themselves.
    async fn over(&self, id: &str, now_ms: i64) -> Result<(), DeskError> {
        let mut tx = self.store().begin().await?;
        let mut request = Self::lock(&mut tx, id).await?;
        if request.state.is_final() || request.ends_ms == 0 || request.ends_ms > now_ms {
            return Ok(());
        }
        let answers = deliveries::tally(&mut tx, id).await?;
        let (opened, hosts) = (answers.of(Answer::Open), answers.all());
        request.why = ended_words(&request, opened, hosts);
        request.state = State::Ended;
        requests::update(&mut tx, &request).await?;
        let fields = json!({ "hosts_open": opened, "hosts": hosts });
        audit::append(&mut tx, now_ms, &Record::new(Code::Ended, id, CONTROLLER, fields)).await?;
        self.commit(tx).await
    }
}

fn ended_words(request: &Request, opened: u64, hosts: u64) -> String {
    match request.state {
        State::AwaitingSignatures => "its time has passed before it had all signatures".into(),
        State::Approved => "its time has passed before it was signed".into(),
        _ => format!("its time has passed; it was open on {opened} of {hosts} hosts"),
    }
}
