//! Pages of what an account sees, where that is some of what there is.

use super::{problem::Failure, sight::Sight, state::ApiState};
use crate::{
    clock,
    model::Account,
    store::{Policy, Rollout, Store, StoreError},
};

/// What is looked at for one page, at most.
const MAX_SCAN: usize = 500;

/// Something of which an account sees some.
pub(crate) trait Listed: Sized + Send {
    /// Its id.
    fn id(&self) -> &str;

    /// Those before this id, the newest first; at most `most`. An empty id: from the newest on.
    fn read(
        store: &Store,
        before: &str,
        most: u32,
    ) -> impl Future<Output = Result<Vec<Self>, StoreError>> + Send;

    /// Those of these that are seen.
    fn seen(
        sight: &mut Sight<'_>,
        all: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Self>, Failure>> + Send;
}

impl Listed for Policy {
    fn id(&self) -> &str {
        &self.id
    }

    async fn read(store: &Store, before: &str, most: u32) -> Result<Vec<Self>, StoreError> {
        store.policies(before, most).await
    }

    async fn seen(sight: &mut Sight<'_>, all: Vec<Self>) -> Result<Vec<Self>, Failure> {
        sight.policies(all).await
    }
}

impl Listed for Rollout {
    fn id(&self) -> &str {
        &self.id
    }

    async fn read(store: &Store, before: &str, most: u32) -> Result<Vec<Self>, StoreError> {
        store.rollouts(before, most).await
    }

    async fn seen(sight: &mut Sight<'_>, all: Vec<Self>) -> Result<Vec<Self>, Failure> {
        sight.rollouts(all).await
    }
}

/// A page, the newest first, and where the next page begins; `None`: there is none.
///
/// # Errors
/// Those of the database.
pub(crate) async fn listed<T: Listed>(
    state: &ApiState,
    account: &Account,
    mut before: String,
    most: u32,
) -> Result<(Vec<T>, Option<String>), Failure> {
    let room = usize::try_from(most).unwrap_or(usize::MAX);
    let mut sight = Sight::new(state, account, clock::now_ms()).await?;
    let (mut items, mut scanned) = (Vec::new(), 0_usize);
    loop {
        let found = T::read(state.store(), &before, most.saturating_add(1)).await?;
        let is_last = found.len() <= room;
        let ids: Vec<_> = found.iter().map(|one| one.id().to_owned()).collect();
        let mut seen = T::seen(&mut sight, found).await?.into_iter().peekable();
        for id in ids {
            if items.len() == room {
                return Ok((items, Some(before)));
            }
            items.extend(seen.next_if(|one| one.id() == id));
            before = id;
            scanned = scanned.saturating_add(1);
        }
        if is_last || scanned >= MAX_SCAN {
            return Ok((items, (!is_last).then_some(before)));
        }
    }
}
