//! What an account may see.
//!
//! Administrators see everything. A host is seen by who may `read`, `approve` or `configure` there. A
//! request is seen by who asked, by who may approve on one of its hosts (who decides must see all of it),
//! and by who may read all of its hosts.

use std::collections::{BTreeSet, HashMap};

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
pub(crate) struct Sight<'s> {
    state: &'s ApiState,
    account: &'s Account,
    /// `None`: there are none yet.
    rules: Option<Rules>,
    now_ms: i64,
    hosts: HashMap<String, View>,
}

/// What is known of one host. Rules are asked when it matters.
#[derive(Default)]
struct View {
    /// `None`: it was removed meanwhile, and nobody sees a request by it.
    host: Option<Host>,
    read: Option<bool>,
    approve: Option<bool>,
}

impl<'s> Sight<'s> {
    pub(crate) async fn new(
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
    pub(crate) fn sees_all(&self) -> bool {
        self.account.is_admin()
    }

    /// Whether it may do this on a host. Administrators may read and configure everywhere.
    pub(crate) fn may(&self, action: Action, host: &Host) -> bool {
        let by_office = matches!(action, Action::Configure | Action::Read) && self.sees_all();
        let by_rules = |rules: &Rules| rules.may(self.account, action, host, self.now_ms);
        // The office first: lists of administrators ask for each of thousands of hosts.
        by_office || self.rules.as_ref().is_some_and(by_rules)
    }

    /// Whether it sees a host.
    pub(crate) fn host(&self, host: &Host) -> bool {
        [Action::Read, Action::Approve, Action::Configure]
            .iter()
            .any(|action| self.may(*action, host))
    }

    /// Whether it sees a request.
    pub(crate) async fn request(&mut self, request: &Request) -> Result<bool, Failure> {
        if self.owns(request) {
            return Ok(true);
        }
        let hosts = &request.proposal.hosts;
        self.learn(hosts.iter()).await?;
        let reads_all = hosts.iter().all(|id| self.may_on(id, Action::Read));
        Ok(reads_all || hosts.iter().any(|id| self.may_on(id, Action::Approve)))
    }

    /// Looks up at once what [`Self::request`] needs for each of these.
    pub(crate) async fn prepare(&mut self, requests: &[Request]) -> Result<(), Failure> {
        let others: Vec<_> = requests.iter().filter(|request| !self.owns(request)).collect();
        self.learn(others.iter().flat_map(|request| &request.proposal.hosts)).await
    }

    fn owns(&self, request: &Request) -> bool {
        self.sees_all() || request.proposal.requester == self.account.subject
    }

    fn may_on(&mut self, id: &str, action: Action) -> bool {
        let Some(view) = self.hosts.get(id) else { return false };
        let known = if action == Action::Read { view.read } else { view.approve };
        let may =
            known.unwrap_or_else(|| view.host.as_ref().is_some_and(|host| self.may(action, host)));
        if let Some(view) = self.hosts.get_mut(id) {
            let kept = if action == Action::Read { &mut view.read } else { &mut view.approve };
            *kept = Some(may);
        }
        may
    }

    /// A request that it sees.
    pub(crate) async fn find(&mut self, id: &str) -> Result<Request, Failure> {
        let missing = || Failure::not_found("request", id);
        let request = self.state.store().request(id).await?.ok_or_else(missing)?;
        if self.request(&request).await? { Ok(request) } else { Err(missing()) }
    }

    async fn learn(&mut self, ids: impl Iterator<Item = &String>) -> Result<(), Failure> {
        if self.hosts.len() > MEMORY {
            self.hosts.clear();
        }
        let unknown: BTreeSet<_> = ids.filter(|id| !self.hosts.contains_key(*id)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<_> = unknown.into_iter().cloned().collect();
        for known in self.state.store().hosts_by_id(&unknown).await? {
            let view = View { host: Some(known.host.clone()), ..View::default() };
            self.hosts.insert(known.host.id, view);
        }
        for id in unknown {
            self.hosts.entry(id).or_default();
        }
        Ok(())
    }
}
