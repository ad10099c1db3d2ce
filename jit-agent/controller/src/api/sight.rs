//! What an account may see.
//!
//! Administrators see everything. A host is seen by who may `read`, `approve` or `configure` there.
//! A request is seen by who asked, by who may approve on one of its hosts (who decides must see all
//! of it), and by who may read all of its hosts. A rollout is seen by who sees every host that its
//! waves name, and a policy by who sees one of its rollouts: what is brought to named hosts says
//! what these protect. A policy that was brought nowhere is everybody's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{problem::Failure, state::ApiState};
use crate::{
    desk::DeskError,
    model::{Account, Host, rollout::Wave},
    rules::{Action, Rules},
    store::{Policy, Request, Rollout},
};

/// Hosts that are remembered during one call.
const MEMORY: usize = 20_000;

/// Hosts because of which a rollout halted that are looked at.
const BAD: u32 = 100;

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
        self.barred(action, [host]).is_none()
    }

    /// The id of a host on which it may not; `None`: it may on all of them.
    pub(crate) fn barred<'h>(
        &self,
        action: Action,
        hosts: impl IntoIterator<Item = &'h Host>,
    ) -> Option<String> {
        // The office first: lists of administrators ask for each of thousands of hosts.
        if matches!(action, Action::Configure | Action::Read) && self.sees_all() {
            return None;
        }
        match &self.rules {
            Some(rules) => rules.barred(self.account, action, hosts, self.now_ms),
            None => hosts.into_iter().next().map(|host| host.id.clone()),
        }
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

    /// Those of these rollouts that it sees. Why one has halted is left out if that may name
    /// another host.
    pub(crate) async fn rollouts(&mut self, found: Vec<Rollout>) -> Result<Vec<Rollout>, Failure> {
        if self.sees_all() {
            return Ok(found);
        }
        let mut seen = Vec::new();
        for mut rollout in found {
            if !self.waves(&rollout.waves).await? {
                continue;
            }
            let bad = self.state.store().rollout_hosts_bad(&rollout.id, BAD).await?;
            let bad: Vec<_> = bad.into_iter().map(|host| host.host).collect();
            // Where more are bad it may name one that was not looked at.
            let is_full = bad.len() >= usize::try_from(BAD).unwrap_or(usize::MAX);
            if is_full || !self.all(&bad).await? {
                "a host refused it, degraded or stayed silent".clone_into(&mut rollout.why);
            }
            seen.push(rollout);
        }
        Ok(seen)
    }

    /// A rollout that it sees.
    pub(crate) async fn find_rollout(&mut self, id: &str) -> Result<Rollout, Failure> {
        let found = self.state.store().rollout(id).await?.into_iter().collect();
        let seen = self.rollouts(found).await?.pop();
        seen.ok_or_else(|| Failure::not_found("rollout", id))
    }

    /// Those of these policies that it sees.
    pub(crate) async fn policies(&mut self, found: Vec<Policy>) -> Result<Vec<Policy>, Failure> {
        if self.sees_all() {
            return Ok(found);
        }
        let ids: Vec<_> = found.iter().map(|policy| policy.id.clone()).collect();
        let mut sees: BTreeMap<String, bool> = BTreeMap::new();
        for (policy, waves) in self.state.store().waves_of_policies(&ids).await? {
            if sees.get(&policy) != Some(&true) {
                let is_seen = self.waves(&waves).await?;
                sees.insert(policy, is_seen);
            }
        }
        let is_seen = |policy: &Policy| sees.get(&policy.id).copied().unwrap_or(true);
        Ok(found.into_iter().filter(is_seen).collect())
    }

    /// A policy that it sees.
    pub(crate) async fn find_policy(&mut self, id: &str) -> Result<Policy, Failure> {
        let found = self.state.store().policy(id).await?.into_iter().collect();
        let seen = self.policies(found).await?.pop();
        seen.ok_or_else(|| Failure::not_found("policy", id))
    }

    /// Whether it sees every host that these waves name.
    async fn waves(&mut self, waves: &[Wave]) -> Result<bool, Failure> {
        let named = waves.iter().flat_map(Wave::named).cloned();
        let named: Vec<_> = named.collect();
        self.all(&named).await
    }

    /// Whether it sees all of these hosts.
    async fn all(&mut self, ids: &[String]) -> Result<bool, Failure> {
        self.learn(ids.iter()).await?;
        let host = |id: &String| self.hosts.get(id).and_then(|view| view.host.as_ref());
        Ok(ids.iter().all(|id| host(id).is_some_and(|host| self.host(host))))
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
