//! Why the database did not do what was asked.

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has changed it meanwhile.
    #[error("{0} was changed meanwhile; read it again")]
    Conflict(String),
    /// What is stored cannot be read: another program wrote it, or the disk is broken.
    #[error("the database holds something that is no {what}: {why}")]
    Corrupt {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The database refused, or broke off.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// Tables could not be brought up to date.
    #[error("the tables of the database cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A later version of this program has changed the tables.
    #[error(
        "the database has tables of version {0}, which this program does not know: a later \
         jit-controller has changed them; use that one, or restore a backup from before"
    )]
    Newer(i64),
    /// It cannot be opened.
    #[error("the database cannot be opened: {0}")]
    Unreachable(#[source] sqlx::Error),
}

impl StoreError {
    pub(crate) fn corrupt(what: &'static str, why: impl ToString) -> Self {
        Self::Corrupt { what, why: why.to_string() }
    }

    /// Whether the database broke a transaction off for the sake of another one that waited for it,
    /// so that the whole of it can be tried again (serialization_failure, deadlock_detected).
    pub fn is_victim(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        matches!(error.code().as_deref(), Some("40001" | "40P01"))
    }

    /// Whether it is the refusal of a second row with the same key.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// What may be, or hold, an error of the database.
pub trait OfStore {
    /// That error.
    fn of_store(&self) -> Option<&StoreError>;
}

impl OfStore for StoreError {
    fn of_store(&self) -> Option<&StoreError> {
        Some(self)
    }
}

/// How often a whole change is tried again.
const AGAIN: usize = 2;

/// Makes a whole change, and again if the database broke it off for the sake of another one
/// ([`StoreError::is_victim`]).
///
/// # Errors
/// Those of the change.
pub async fn again<T, E, F>(mut change: impl FnMut() -> F) -> Result<T, E>
where
    E: OfStore,
    F: Future<Output = Result<T, E>>,
{
    for _ in 0..AGAIN {
        match change().await {
            Err(error) if error.of_store().is_some_and(StoreError::is_victim) => {
                tracing::debug!("another change was in the way of one, which is tried again");
            }
            done => return done,
        }
    }
    change().await
}

/// Reads a column that holds JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|why| StoreError::corrupt(what, why))
}

/// Writes one.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the store's values are texts, numbers and lists")
}
