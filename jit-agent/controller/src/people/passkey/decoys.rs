//! Ids of passkeys for accounts that have none: who asks for the passkeys of a name does not learn
//! whether there is such an account. They follow from the name and from a secret of the controller,
//! so that they are the same each time.

use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use super::sent;
use crate::store::{Store, StoreError, settings};

/// Name of the secret among the settings.
const SECRET: &str = "passkey_decoys";
/// Bytes of ids, as common authenticators make them.
const LENGTHS: [usize; 4] = [16, 20, 32, 64];

/// Ids for this name: mostly one, as most people have.
pub(super) async fn of(store: &Store, name: &str) -> Result<Vec<String>, StoreError> {
    let key = hmac::Key::new(hmac::HMAC_SHA512, secret(store).await?.as_bytes());
    let block = |number: u8| {
        let mut context = hmac::Context::with_key(&key);
        context.update(&[number]);
        context.update(name.as_bytes());
        context.sign()
    };
    let choice = block(0);
    let choice = |at: usize| usize::from(choice.as_ref().get(at).copied().unwrap_or_default());
    let count = if choice(0) % 4 == 0 { 2 } else { 1 };
    let one = |number: u8| {
        let length = LENGTHS.get(choice(usize::from(number)) % LENGTHS.len()).copied();
        let id = block(number);
        sent::written(id.as_ref().get(..length.unwrap_or(32)).unwrap_or_default())
    };
    Ok((1..=count).map(one).collect())
}

async fn secret(store: &Store) -> Result<String, StoreError> {
    if let Some(secret) = store.setting(SECRET).await? {
        return Ok(secret);
    }
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).expect("getrandom(2) answers");
    let mut tx = store.begin().await?;
    settings::set_new(&mut tx, SECRET, &sent::written(&bytes)).await?;
    tx.commit().await?;
    // Another process may have been first.
    Ok(store.setting(SECRET).await?.unwrap_or_default())
}
