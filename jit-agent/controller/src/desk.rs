//! What may be done with a request, and by whom. Every change of a request goes through here, each
//! as one transaction with its audit record.
//!
//! ```text
//! submit -> pending --decide--> approved --sign--> delivering --answers--> open | partly | refused
//!    |         | withdraw, deny, expire     | more signatures        | revoke, end, replace
//!    +-> denied                             +-> awaiting_signatures
//! ```
//!
//! The desk holds no key. What it approves the signer checks again, and each host after it.

mod answers;
mod approve;
mod ask;
mod close;
mod close_bounds;
mod closed;
mod decide;
mod end;
mod error;
mod extend;
mod keys;
mod sign;
mod submit;
mod tick;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

pub use answers::{Heard, What};
pub use ask::Ask;
pub(crate) use ask::new_id;
pub use close::{Close, Closes};
pub(crate) use end::renamed;
pub use error::DeskError;
pub use submit::Preview;
use tokio::sync::watch;

use crate::{
    audit::{self, Code, Record},
    model::{Account, Host},
    rules::Rules,
    signer::Signer,
    store::{Request, Store, StoreError, StoredHost, Tx},
};

/// Who acts when nobody does.
pub(crate) const CONTROLLER: &str = "controller";

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long people can agree to a request.
    pub approve_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { approve_within: Duration::from_secs(24 * 3600) }
    }
}

/// What may be done with requests.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    settings: Settings,
    /// `None`: another process of this controller signs.
    signer: Option<Signer>,
    /// The rules that were parsed last.
    rules: Mutex<Option<Rules>>,
    changes: watch::Sender<u64>,
}

/// Notices that something was committed. What it was stands in the audit.
pub type Changes = watch::Receiver<u64>;

impl Desk {
    /// A desk over this database.
    pub fn new(store: Store, signer: Option<Signer>, settings: Settings) -> Self {
        let (changes, _) = watch::channel(0);
        let rules = Mutex::new(None);
        Self { inner: Arc::new(Inner { store, settings, signer, rules, changes }) }
    }

    /// Its database.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What signs in this process; `None`: another one does.
    pub(crate) fn signer(&self) -> Option<&Signer> {
        self.inner.signer.as_ref()
    }

    /// Notices each change from now on.
    pub fn changes(&self) -> Changes {
        self.inner.changes.subscribe()
    }

    /// Says that something was committed.
    pub fn changed(&self) {
        self.inner.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The rules in force.
    ///
    /// # Errors
    /// There are none, they cannot be read, or the database does not answer.
    pub async fn rules(&self) -> Result<Rules, DeskError> {
        let saved = self.store().rules_in_force().await?.ok_or_else(|| {
            DeskError::Conflict("there are no rules; save some: `jitctl rules save FILE`".into())
        })?;
        let mut last = self.inner.rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(rules) = last.as_ref().filter(|rules| rules.version() == saved.version) {
            return Ok(rules.clone());
        }
        let rules = Rules::parse(saved.version, &saved.text).map_err(|mistakes| {
            StoreError::corrupt(
                "text of rules",
                mistakes.first().map_or_else(String::new, ToString::to_string),
            )
        })?;
        *last = Some(rules.clone());
        Ok(rules)
    }

    /// The hosts of a request, in its order.
    async fn hosts(&self, ids: &[String]) -> Result<Vec<StoredHost>, DeskError> {
        let found = self.store().hosts_by_id(ids).await?;
        if let Some(missing) =
            ids.iter().find(|id| !found.iter().any(|known| known.host.id == **id))
        {
            let why = format!("there is no host {missing:?}; `jitctl hosts` lists them");
            return Err(DeskError::Invalid { field: "hosts", why });
        }
        Ok(found)
    }

    /// Records an attempt that was refused, and returns the refusal.
    async fn refuse(
        &self,
        who: &Account,
        request: &str,
        word: &'static str,
        detail: String,
        now_ms: i64,
    ) -> DeskError {
        let fields = serde_json::json!({
            "account": who.name, "word": word, "detail": detail,
        });
        let record = Record::new(Code::Refused, request, &who.subject, fields);
        let written = async {
            let mut tx = self.store().begin().await?;
            audit::append(&mut tx, now_ms, &record).await?;
            tx.commit().await
        };
        match written.await {
            Ok(()) => self.changed(),
            Err(error) => {
                tracing::warn!(%error, word, "an attempt was refused and could not be recorded")
            }
        }
        DeskError::Forbidden { word, detail }
    }

    /// Reads a request for a change.
    async fn lock(tx: &mut Tx, id: &str) -> Result<Request, DeskError> {
        let found = crate::store::requests::lock(tx, id).await?;
        found.ok_or_else(|| DeskError::NotFound(format!("request {id}")))
    }

    /// Commits, and says so.
    async fn commit(&self, tx: Tx) -> Result<(), DeskError> {
        tx.commit().await?;
        self.changed();
        Ok(())
    }
}

/// An account that may do nothing.
fn enabled(who: &Account) -> Result<(), DeskError> {
    if who.disabled {
        let detail = format!("the account {} was removed", who.name);
        return Err(DeskError::Forbidden { word: "account_disabled", detail });
    }
    Ok(())
}

fn descriptions(hosts: &[StoredHost]) -> Vec<Host> {
    hosts.iter().map(|known| known.host.clone()).collect()
}
