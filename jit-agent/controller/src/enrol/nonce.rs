//! Nonces for a cloud to sign: 32 letters, once, for ten minutes. Azure takes no longer ones.

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::store::{StoreError, Tx, enrolments};

/// How long one counts, milliseconds.
pub const VALID_MS: i64 = 10 * 60_000;
/// Letters of one.
pub const LETTERS: usize = 32;

/// Gives a new one.
///
/// # Errors
/// Those of the database.
///
/// # Panics
/// The kernel has no random bytes (getrandom(2) fails only before the machine has any).
pub async fn give(tx: &mut Tx, now_ms: i64) -> Result<String, StoreError> {
    let mut bytes = [0_u8; LETTERS / 2];
    SystemRandom::new().fill(&mut bytes).expect("getrandom(2) answers");
    let nonce = hex::encode(bytes);
    enrolments::add_nonce(tx, &nonce, now_ms.saturating_add(VALID_MS), now_ms).await?;
    Ok(nonce)
}

/// Takes one that was given: whether it counts. It never does again.
///
/// # Errors
/// Those of the database.
pub async fn take(tx: &mut Tx, text: &str, now_ms: i64) -> Result<bool, StoreError> {
    if text.len() != LETTERS {
        return Ok(false);
    }
    enrolments::take_nonce(tx, text, now_ms).await
}
