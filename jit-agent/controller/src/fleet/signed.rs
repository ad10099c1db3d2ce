//! Signed grants that are on their way to many hosts: each is read from the store once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use jit_proto::v1;
use tokio::sync::OnceCell;

use crate::store::{Store, StoreError};

/// Grants that are kept, at most: a request for 10,000 hosts has 40.
const MOST: usize = 128;

/// A grant with all its signatures. It never changes.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) envelope: v1::Envelope,
    /// When it begins, milliseconds since the Unix epoch.
    pub(super) begins_ms: i64,
}

type Cell = Arc<OnceCell<Signed>>;

/// The grants that were read last.
#[derive(Default)]
pub(super) struct SignedGrants(Mutex<BTreeMap<String, Cell>>);

impl SignedGrants {
    /// The grant with this id; `None`: it is not signed, or there is no such one.
    pub(super) async fn find(&self, store: &Store, id: &str) -> Result<Option<Signed>, StoreError> {
        // Who comes meanwhile waits for the same answer.
        let found = self.cell(id);
        let found = found.get_or_try_init(|| async {
            let grant = store.grant(id).await.map_err(Some)?;
            let signed = grant.and_then(|grant| {
                let begins_ms = grant.part.not_before_ms;
                Some(Signed { envelope: grant.envelope?, begins_ms })
            });
            signed.ok_or(None)
        });
        match found.await {
            Ok(signed) => Ok(Some(signed.clone())),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    fn cell(&self, id: &str) -> Cell {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST && !kept.contains_key(id) {
            // The oldest: ids are in the order in which grants were made.
            kept.pop_first();
        }
        Arc::clone(kept.entry(id.to_owned()).or_default())
    }
}
