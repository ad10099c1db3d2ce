//! What somebody fills in at *Open a port*.

use jit_client::controller::types::NewRequest;

use super::guard::Fields;
use crate::{
    api::{self, ApiState, Call, Failure, Sight},
    clock,
    desk::Ask,
    people::session::SignedIn,
    rules::Action,
    store::StoredHost,
};

/// The most hosts of a request by these pages.
const MAX_HOSTS: usize = 200;

/// What somebody fills in.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) hosts: Vec<String>,
    pub(super) ports: Vec<String>,
    pub(super) sources: Vec<String>,
    pub(super) reason: String,
    pub(super) ticket: String,
    pub(super) duration: String,
}

impl Wish {
    pub(super) fn of(fields: &Fields) -> Self {
        let list = |names: &[&str]| {
            let all = names.iter().flat_map(|name| fields.all(name));
            let words = all.flat_map(|text| text.split(|letter: char| ", \n\r\t".contains(letter)));
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        // What was typed counts, not what was chosen before.
        let typed = list(&["other_source"]);
        let sources = if typed.is_empty() { list(&["source"]) } else { typed };
        let mut hosts: Vec<_> = fields.all("host").map(str::to_owned).collect();
        hosts.sort();
        hosts.dedup();
        Self {
            hosts,
            ports: list(&["port", "other_port"]),
            sources,
            reason: fields.text("reason").to_owned(),
            ticket: fields.text("ticket").to_owned(),
            duration: fields.text("duration").to_owned(),
        }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(super) fn ask(&self, call: &Call) -> Result<Ask, Failure> {
        let new = NewRequest {
            hosts: self.hosts.clone(),
            sources: self.sources.clone(),
            ports: self.ports.clone(),
            duration: Some(self.duration.clone()),
            reason: self.reason.clone(),
            ticket: self.ticket.clone(),
            ..NewRequest::default()
        };
        api::ask(new, call)
    }
    /// The hosts, if the account may ask for access there or sees them.
    ///
    /// # Errors
    /// There is one that it does not see, there are too many, or the database does not answer.
    pub(super) async fn known_hosts(
        &self,
        state: &ApiState,
        signed_in: &SignedIn,
    ) -> Result<Vec<StoredHost>, Failure> {
        let ids = &self.hosts;
        if ids.len() > MAX_HOSTS {
            let why = format!("{} hosts; a form takes {MAX_HOSTS}", ids.len());
            let next = "use `jitctl ask` for more hosts at once";
            return Err(Failure::field("hosts", why).next(next));
        }
        let sight = Sight::new(state, signed_in.account(), clock::now_ms()).await?;
        let mut hosts = state.store().hosts_by_id(ids).await?;
        hosts.retain(|known| sight.may(Action::Initiate, &known.host) || sight.host(&known.host));
        match ids.iter().find(|id| !hosts.iter().any(|known| known.host.id == **id)) {
            Some(missing) => Err(Failure::not_found("host", missing)),
            None => Ok(hosts),
        }
    }
}
