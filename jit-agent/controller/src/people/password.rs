//! Passwords: Argon2id (RFC 9106) with 19 MiB and two passes, as OWASP advises for servers.
//!
//! Each check costs that memory, so only two run at once. An account without a password is checked
//! against a hash that no password has.

use std::{sync::Arc, time::Duration};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use zeroize::Zeroizing;

/// Memory of one hash, KiB.
const MEMORY_KIB: u32 = 19 * 1024;
/// Passes over it.
const PASSES: u32 = 2;
/// Hashes at once.
const AT_ONCE: usize = 2;
/// Longest wait for a place.
const WAIT: Duration = Duration::from_secs(5);
/// Bytes of a salt.
const SALT: usize = 16;
/// The fewest letters of a password.
pub const SHORTEST: usize = 12;
/// The most bytes of one. Longer ones are refused before any work.
pub const LONGEST: usize = 1024;

/// Why a password was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum Unchecked {
    /// Others are checked.
    #[error("too many sign in at this moment; try again")]
    Busy,
    /// A defect, or no memory.
    #[error("the password cannot be checked: {0}")]
    Failed(String),
}

/// Hashes passwords, and compares them.
pub(super) struct Passwords {
    places: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The hash to store, a PHC string with a new salt.
    ///
    /// # Errors
    /// No place, or no memory.
    pub(super) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Unchecked> {
        self.work(move || {
            let hashed = argon2().hash_password_with_salt(password.as_bytes(), &salt());
            hashed.map(|hash| hash.to_string()).map_err(|why| why.to_string())
        })
        .await
    }

    /// Whether a password has this hash. Without a hash the work is the same, and it never has.
    ///
    /// # Errors
    /// No place, or no memory.
    pub(super) async fn fits(
        &self,
        password: Zeroizing<String>,
        stored: Option<String>,
    ) -> Result<bool, Unchecked> {
        if password.len() > LONGEST {
            return Ok(false);
        }
        self.work(move || match stored {
            Some(stored) => {
                let stored = PasswordHash::new(&stored).map_err(|why| why.to_string())?;
                Ok(argon2().verify_password(password.as_bytes(), &stored).is_ok())
            }
            None => {
                let hashed = argon2().hash_password_with_salt(password.as_bytes(), &salt());
                hashed.map(|_| false).map_err(|why| why.to_string())
            }
        })
        .await
    }

    /// Does what takes a while beside the calls that are answered.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, Unchecked> {
        let place = timeout(WAIT, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.ok().and_then(Result::ok).ok_or(Unchecked::Busy)?;
        let done = spawn_blocking(move || {
            // A browser that goes away gives no place to another one before the work is done.
            let _place = place;
            work()
        });
        done.await.map_err(|why| Unchecked::Failed(why.to_string()))?.map_err(Unchecked::Failed)
    }
}

/// Checks a new password.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check(account: &str, password: &str) -> Result<(), String> {
    if password.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    if password.chars().count() < SHORTEST {
        return Err(format!(
            "it has fewer than {SHORTEST} letters; several words are easy to keep"
        ));
    }
    if password.to_lowercase().contains(&account.to_lowercase()) {
        return Err("it contains the account's name".into());
    }
    let mut letters: Vec<_> = password.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    if letters.len() < 5 {
        return Err("it repeats the same few letters".into());
    }
    Ok(())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).expect("the parameters are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn salt() -> [u8; SALT] {
    let mut salt = [0_u8; SALT];
    SystemRandom::new().fill(&mut salt).expect("getrandom(2) answers");
    salt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new();
        let hash = passwords.hash(word("correct horse battery")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(passwords.hash(word("correct horse battery")).await.unwrap(), hash);
        assert!(passwords.fits(word("correct horse battery"), Some(hash.clone())).await.unwrap());
        for wrong in ["", "correct horse batterx", &"x".repeat(LONGEST + 1)] {
            assert!(!passwords.fits(word(wrong), Some(hash.clone())).await.unwrap(), "{wrong}");
        }
        assert!(!passwords.fits(word("correct horse battery"), None).await.unwrap());
        assert!(passwords.fits(word("x"), Some("no hash".into())).await.is_err());
    }

    #[test]
    fn a_weak_password_is_refused_with_what_would_be_right() {
        for (weak, part) in [
            ("short", "fewer than 12"),
            ("ana-ana-ana-ana", "account's name"),
            ("ababababababab", "same few"),
            (&"x".repeat(LONGEST + 1), "more than"),
        ] {
            let why = check("ana", weak).unwrap_err();
            assert!(why.contains(part), "{weak}: {why}");
        }
        assert!(check("ana", "correct horse battery").is_ok());
        assert!(check("ana", "пароль из слов").is_ok());
    }
}
