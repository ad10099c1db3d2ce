//! A request with all that belongs to it, as it was at one moment.

use std::time::{Duration, Instant};

use super::{Delivery, Request, Store, StoreError, StoredGrant};
use crate::model::Decision;

/// How often it is read again when it changes meanwhile.
const ATTEMPTS: usize = 16;

/// For how long that goes on: a request for many hosts is much to read, and changes often while they answer.
const LONGEST: Duration = Duration::from_millis(500);

/// A request with all that belongs to it.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The request.
    pub request: Request,
    /// Decisions on it, the oldest first.
    pub decisions: Vec<Decision>,
    /// What its hosts have to hear, and what they answered.
    pub deliveries: Vec<Delivery>,
    /// Its grants.
    pub grants: Vec<StoredGrant>,
}

impl Store {
    /// The request with this id and all that belongs to it. Each change of any of it raises the
    /// request's revision: what is read between two equal revisions belongs together. A request that
    /// changes all the time is answered as it was read last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn whole(&self, id: &str) -> Result<Option<Whole>, StoreError> {
        let Some(mut before) = self.request(id).await? else { return Ok(None) };
        let (mut attempts, began) = (0, Instant::now());
        loop {
            let decisions = self.decisions(id).await?;
            let deliveries = self.deliveries_of(id).await?;
            let grants = self.grants_of(id).await?;
            let Some(request) = self.request(id).await? else { return Ok(None) };
            attempts += 1;
            let enough = attempts == ATTEMPTS || began.elapsed() > LONGEST;
            if enough || request.revision == before.revision {
                return Ok(Some(Whole { request, decisions, deliveries, grants }));
            }
            before = request;
        }
    }
}
