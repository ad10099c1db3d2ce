//! The rules: who may ask for what, who must agree, for how long at most. Cedar, with a strict schema.
//!
//! Pure: time is an argument, nothing is read or written (but for [`command`], which reads files).
//! What cannot be judged is denied: an error in a rule, a host that is not known, an empty list.
//! The alternative, an own language of conditions, was refused: Cedar's checker finds misspelled names
//! before they are saved, and its semantics are proved.

mod annotation;
pub mod cases;
pub mod command;
pub mod diff;
mod evaluate;
mod judge;
mod mistake;
mod people;
mod reach;
mod region;
mod sentence;
mod written;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use cedar_policy::{PolicyId, PolicySet, Schema};

pub use self::{mistake::Mistake, people::Eligible};
use self::{reach::Reach, written::Written};
use crate::model::{Account, Host, Proposal, Verdict};

/// What `init` saves as version 1.
pub const DEFAULT: &str = include_str!("rules/default.cedar");

/// Cases for [`DEFAULT`]: an example of a file for [`cases::run`].
pub const DEFAULT_CASES: &str = include_str!("rules/default-cases.toml");

/// What rules can speak of, as a schema of Cedar.
pub const SCHEMA: &str = include_str!("rules/schema.cedarschema");

/// The longest text of rules, bytes.
pub const MAX_BYTES: usize = 256 * 1024;

static PARSED_SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let (schema, _warnings) = Schema::from_cedarschema_str(SCHEMA).expect("a test parses it");
    schema
});

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// What somebody may do on a host.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action { $($(#[$doc])* $variant,)* }

        impl Action {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its word in rules.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

actions! {
    /// Agree to what somebody else asks for.
    Approve = "approve",
    /// Have what is asked for without anybody who agrees.
    AutoApprove = "auto_approve",
    /// Change what is known of the host, its alarms and its policy.
    Configure = "configure",
    /// Ask for access.
    Initiate = "initiate",
    /// See the host and its requests.
    Read = "read",
    /// End somebody's access.
    Revoke = "revoke",
}

/// Rules that were read and checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    version: i64,
    text: String,
    policies: PolicySet,
    /// Without what forbids.
    permits: PolicySet,
    /// In the order of the text.
    written: Vec<Written>,
    index: BTreeMap<PolicyId, usize>,
    reach: Reach,
}

impl Rules {
    /// Reads and checks a text.
    ///
    /// # Errors
    /// Every mistake with its place, in the order of the text.
    pub fn parse(version: i64, text: &str) -> Result<Self, Vec<Mistake>> {
        let written::Read { policies, permits, written, reach } =
            written::read(text, &PARSED_SCHEMA)?;
        let index =
            written.iter().enumerate().map(|(at, rule)| (rule.policy.clone(), at)).collect();
        let text = text.to_owned();
        Ok(Self(Arc::new(Inner { version, text, policies, permits, written, index, reach })))
    }

    /// The version that was given to [`Rules::parse`].
    pub fn version(&self) -> i64 {
        self.0.version
    }

    /// The text that was read.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What becomes of a proposal. `hosts` are those that it names; one that is missing is denied.
    pub fn judge(
        &self,
        requester: &Account,
        hosts: &[Host],
        proposal: &Proposal,
        now_ms: i64,
    ) -> Verdict {
        judge::judge(&self.0, requester, hosts, proposal, now_ms)
    }

    /// Whether an account may do this on a host.
    ///
    /// For `initiate` and `auto_approve` it depends on what is asked for: yes means that there is
    /// something that it may ask for, as far as the rules can say without a proposal.
    pub fn may(&self, account: &Account, action: Action, host: &Host, now_ms: i64) -> bool {
        self.barred(account, action, [host], now_ms).is_none()
    }

    /// The id of a host on which an account may not do this; `None`: it may on all. Hosts that no rule
    /// distinguishes are judged once.
    pub fn barred<'h>(
        &self,
        account: &Account,
        action: Action,
        hosts: impl IntoIterator<Item = &'h Host>,
        now_ms: i64,
    ) -> Option<String> {
        people::barred(&self.0, account, action, hosts, now_ms)
    }

    /// Ids of hosts that rules name. They distinguish all others by labels and groups only; `None`: by their
    /// ids, too.
    pub fn named_hosts(&self) -> Option<&BTreeSet<String>> {
        self.0.reach.named_hosts()
    }

    /// Who can agree to a proposal: members of the groups that its verdict needs, who may `approve` on
    /// every host of it. In the order of their subjects.
    pub fn eligible(
        &self,
        accounts: &[Account],
        hosts: &[Host],
        proposal: &Proposal,
        verdict: &Verdict,
        now_ms: i64,
    ) -> Vec<Eligible> {
        people::eligible(&self.0, accounts, hosts, proposal, verdict, now_ms)
    }
}
