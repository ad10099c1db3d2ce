//! Who uses the controller: accounts, and the person that an account belongs to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A way in for one person or one program.
///
/// The *subject* is the person: two accounts of one person have the same subject, and count as one
/// wherever people are counted. Nobody approves what the same subject asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name of the account, unique: `ana`, `ana-admin`, `ci-deploy`.
    pub name: String,
    /// The person or program: `ana@example.org`.
    pub subject: String,
    /// Groups that rules speak of. `admins` may change accounts, hosts and rules.
    pub groups: BTreeSet<String>,
    /// An account that was removed stays, so that the past can be read; it may do nothing.
    pub disabled: bool,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// The group whose members may change accounts, hosts and rules.
pub const ADMINS: &str = "admins";
/// The group whose members read the whole audit, beside administrators.
pub const AUDITORS: &str = "auditors";

impl Account {
    /// Whether it may change accounts, hosts and rules.
    pub fn is_admin(&self) -> bool {
        !self.disabled && self.groups.contains(ADMINS)
    }

    /// Whether it may read the whole audit, and who could get in where.
    pub fn is_auditor(&self) -> bool {
        self.is_admin() || (!self.disabled && self.groups.contains(AUDITORS))
    }
}
