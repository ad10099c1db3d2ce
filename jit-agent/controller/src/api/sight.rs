//! What an account may see.
//!
//! Administrators see everything. A host is seen by who may `read`, `approve` or `configure` there. A
//! request is seen by who asked, by who may approve on one of its hosts (who decides must see all of it),
//! and by who may read all of its hosts.

use std::collections::HashMap;

use super::{problem::Failure, state::ApiState};
use crate::{
    desk::DeskError,
    model::{Account, Host},
    rules::{Action, Rules},
    store::Request,
};

/// Hosts that are remembered during one call.
const MEMORY: usize = 20_000;

/// What one account may see at one moment.
pub(super) struct Sight<'s> {
    state: &'s ApiState,
    account: &'s Account,
    /// `None`: there are none yet.
    rules: Option<Rules>,
    now_ms: i64,
    hosts: HashMap<String, View>,
}

#[derive(Clone, Copy, Default)]
struct View {
    read: bool,
    approve: bool,
}

impl<'s> Sight<'s> {
    pub(super) async fn new(
        state: &'s ApiState,
        account: &'s Account,
        now_ms: i64,
    ) -> Result<Self, Failure> {
        let rules = match state.desk().rules().await {
            Ok(rules) => Some(rules),
            Err(DeskError::Conflict(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { state, account, rules, now_ms, hosts: HashMap::new() })
    }

    /// Whether it sees everything.
    pub(super) fn sees_all(&self) -> bool {
        self.account.is_admin()
    }

    /// Whether it may do this on a host. Administrators may read and configure everywhere.
    pub(super) fn may(&self, action: Action, host: &Host) -> bool {
        let by_office = matches!(action, Action::Configure | Action::Read) && self.sees_all();
        let by_rules = |rules: &Rules| rules.may(self.account, action, host, self.now_ms);
        // The office first: lists of administrators ask for each of thousands of hosts.
        by_office || self.rules.as_ref().is_some_and(by_rules)
    }

    /// Whether it sees a host.
    pub(super) fn host(&self, host: &Host) -> bool {
        [Action::Read, Action::Approve, Action::Configure]
            .iter()
            .any(|action| self.may(*action, host))
    }

    /// Whether it sees a request.
    pub(super) async fn request(&mut self, request: &Request) -> Result<bool, Failure> {
        if self.sees_all() || request.proposal.requester == self.account.subject {
            return Ok(true);
        }
        self.learn(&request.proposal.hosts).await?;
        let views = || request.proposal.hosts.iter().map(|id| self.hosts.get(id).copied());
        let views = || views().map(Option::unwrap_or_default);
        Ok(views().any(|view| view.approve) || views().all(|view| view.read))
    }

    /// A request that it sees.
    pub(super) async fn find(&mut self, id: &str) -> Result<Request, Failure> {
        let missing = || Failure::not_found("request", id);
        let request = self.state.store().request(id).await?.ok_or_else(missing)?;
        if self.request(&request).await? { Ok(request) } else { Err(missing()) }
    }

    async fn learn(&mut self, ids: &[String]) -> Result<(), Failure> {
        if self.hosts.len() > MEMORY {
            self.hosts.clear();
        }
        let unknown: Vec<_> =
            ids.iter().filter(|id| !self.hosts.contains_key(*id)).cloned().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for known in self.state.store().hosts_by_id(&unknown).await? {
            let view = View {
                read: self.may(Action::Read, &known.host),
                approve: self.may(Action::Approve, &known.host),
            };
            self.hosts.insert(known.host.id, view);
        }
        // A host that was removed meanwhile is seen by nobody through it.
        for id in unknown {
            self.hosts.entry(id).or_default();
        }
        Ok(())
    }
}
