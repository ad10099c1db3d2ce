//! The host's own key: an Ed25519 key, made at the first start. It signs what this host reports
//! about itself, such as the end of its audit.
//!
//! A signature proves its origin to those who have the public key. It is no protection from root on
//! this machine, who can use the key as well.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jit_proto::pem as strict_pem;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use sha2::{Digest as _, Sha256};

use crate::{
    rules::keyring::{Ed25519Key, KeyError},
    system::sys::{self, FileError, Readers},
};

/// File of the private key, PKCS#8 in PEM, mode 0600.
const PRIVATE: &str = "host.key";
/// File of the public key, SubjectPublicKeyInfo in PEM.
const PUBLIC: &str = "host.pub.pem";
/// Beginning and end of the file names of public keys that are no longer used.
const RETIRED: (&str, &str) = ("host-", ".pub.pem");

/// The host's private key.
#[derive(Debug)]
pub struct HostSigningKey {
    key: Ed25519KeyPair,
    public: HostPublicKey,
}

/// A host's public key.
#[derive(Clone, Debug, PartialEq)]
pub struct HostPublicKey {
    key: Ed25519Key,
    id: String,
}

/// How a key came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file existed.
    Found,
    /// The key was made, because there was no file.
    Made,
    /// The key was made, because the file could not be read. That file is kept.
    Replaced(PathBuf),
}

impl HostSigningKey {
    /// Reads the key in the state directory, or makes one.
    pub fn open(state: &Path) -> Result<(Self, Origin), FileError> {
        let path = state.join(PRIVATE);
        match sys::read_secret(&path, Readers::Owner) {
            Ok(pem) => {
                if let Some(key) = Self::from_pem(&pem) {
                    // The file of the public key may be missing after a crash.
                    if HostPublicKey::read(&state.join(PUBLIC)).ok().as_ref() != Some(&key.public) {
                        key.write_public(state)?;
                    }
                    return Ok((key, Origin::Found));
                }
                let aside = state.join(format!("{PRIVATE}.damaged-{}", sys::now().wall.0));
                fs::rename(&path, &aside).map_err(io("move aside", &path))?;
                Ok((Self::make(state)?, Origin::Replaced(aside)))
            }
            Err(FileError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => {
                Ok((Self::make(state)?, Origin::Made))
            }
            Err(FileError::Io { error, .. }) if error.kind() == ErrorKind::InvalidData => {
                let aside = state.join(format!("{PRIVATE}.damaged-{}", sys::now().wall.0));
                fs::rename(&path, &aside).map_err(io("move aside", &path))?;
                Ok((Self::make(state)?, Origin::Replaced(aside)))
            }
            Err(error) => Err(error),
        }
    }

    /// First 8 bytes of the SHA-256 of the public key (SubjectPublicKeyInfo, DER), hex.
    pub fn id(&self) -> &str {
        &self.public.id
    }

    /// The public key.
    pub fn public(&self) -> HostPublicKey {
        self.public.clone()
    }

    /// Signs these bytes with Ed25519.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.key.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// Reads PKCS#8 in PEM. Version 1 (by `openssl genpkey`) has no public key in it.
    fn from_pem(text: &str) -> Option<Self> {
        let der = strict_pem::one(text, &["PRIVATE KEY"]).ok()?.der;
        Self::from_pkcs8(&der)
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
        let public = key.public_key().as_ref().try_into().ok()?;
        let public = HostPublicKey::new(Ed25519Key::from_bytes(public).ok()?);
        Some(Self { key, public })
    }

    fn make(state: &Path) -> Result<Self, FileError> {
        let path = state.join(PRIVATE);
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok();
        let made = made.and_then(|pkcs8| {
            let key = Self::from_pkcs8(pkcs8.as_ref())?;
            Some((key, strict_pem::encode("PRIVATE KEY", pkcs8.as_ref())))
        });
        let Some((key, pem)) = made else {
            let error = std::io::Error::other("the kernel gave no random bytes for a key");
            return Err(io("make", &path)(error));
        };
        // The old public key stays, so that its signatures can still be checked.
        let public = state.join(PUBLIC);
        if let Ok(old) = HostPublicKey::read(&public) {
            let (prefix, suffix) = RETIRED;
            let retired = state.join(format!("{prefix}{}{suffix}", old.id));
            fs::rename(&public, &retired).map_err(io("rename", &public))?;
        }
        key.write_public(state)?;
        write(&path, pem.as_bytes(), 0o600)?;
        Ok(key)
    }

    fn write_public(&self, state: &Path) -> Result<(), FileError> {
        let path = state.join(PUBLIC);
        let pem = strict_pem::encode("PUBLIC KEY", &self.public.key.spki());
        write(&path, pem.as_bytes(), 0o644)
    }
}

impl HostPublicKey {
    fn new(key: Ed25519Key) -> Self {
        let digest = Sha256::digest(key.spki());
        Self { key, id: hex::encode(digest.get(..8).unwrap_or_default()) }
    }

    /// Reads a public key in PEM.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let pem = fs::read_to_string(path).map_err(io("read", path))?;
        let key = strict_pem::one(&pem, &["PUBLIC KEY"])
            .map_err(KeyError::from)
            .and_then(|document| Ed25519Key::from_spki(&document.der));
        let key = key.map_err(|error| {
            let cause = format!("no Ed25519 public key in PEM: {error}");
            io("read", path)(std::io::Error::new(ErrorKind::InvalidData, cause))
        })?;
        Ok(Self::new(key))
    }

    /// The public keys in a state directory: the one in use, and those that were used before.
    pub fn all(state: &Path) -> Result<Vec<Self>, FileError> {
        let mut keys = vec![Self::read(&state.join(PUBLIC))?];
        for entry in fs::read_dir(state).map_err(io("list", state))?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (prefix, suffix) = RETIRED;
            if name.starts_with(prefix) && name.ends_with(suffix) {
                keys.push(Self::read(&entry.path())?);
            }
        }
        Ok(keys)
    }

    /// As [`HostSigningKey::id`].
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether this key signed these bytes.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verifies(message, signature)
    }
}

/// Writes a file completely or not at all: under another name, then synced and renamed.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = || -> std::io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        // The unit's UMask= has been taken off it.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sys::sync_directory_of(path)
    };
    written().map_err(io("write", path))?;
    Ok(())
}

fn io<'a>(verb: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FileError + use<'a> {
    move |error| FileError::Io { verb, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_private() {
        let state = tempfile::tempdir().unwrap();
        let (key, origin) = HostSigningKey::open(state.path()).unwrap();
        assert_eq!(origin, Origin::Made);
        let mode = |name: &str| {
            fs::metadata(state.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(PRIVATE), mode(PUBLIC)), (0o600, 0o644));
        let (again, origin) = HostSigningKey::open(state.path()).unwrap();
        assert_eq!((again.id(), origin), (key.id(), Origin::Found));
        let public = HostPublicKey::read(&state.path().join(PUBLIC)).unwrap();
        assert!(public.verifies(b"text", &again.sign(b"text")));
        assert!(!public.verifies(b"other", &again.sign(b"text")));
    }

    #[test]
    fn a_key_that_another_program_made_is_taken() {
        use ed25519_dalek::{
            Signer as _, SigningKey,
            pkcs8::{EncodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding},
        };
        let theirs = SigningKey::from_bytes(&[7; 32]);
        // PKCS#8 with the public key in it, which earlier versions wrote, and without it.
        let without = KeypairBytes { secret_key: theirs.to_bytes(), public_key: None };
        for pem in [theirs.to_pkcs8_pem(LineEnding::LF), without.to_pkcs8_pem(LineEnding::LF)]
            .map(Result::unwrap)
        {
            let state = tempfile::tempdir().unwrap();
            write(&state.path().join(PRIVATE), pem.as_bytes(), 0o600).unwrap();
            let (key, origin) = HostSigningKey::open(state.path()).unwrap();
            assert_eq!(origin, Origin::Found);
            assert_eq!(key.sign(b"text"), theirs.sign(b"text").to_bytes());
            let public = HostPublicKey::read(&state.path().join(PUBLIC)).unwrap();
            assert_eq!(public.id(), key.id());
        }
    }

    #[test]
    fn other_programs_read_the_files_of_the_keys() {
        use ed25519_dalek::{
            SigningKey, VerifyingKey,
            pkcs8::{DecodePrivateKey as _, DecodePublicKey as _},
        };
        let state = tempfile::tempdir().unwrap();
        HostSigningKey::open(state.path()).unwrap();
        let text = |name: &str| fs::read_to_string(state.path().join(name)).unwrap();
        let private = SigningKey::from_pkcs8_pem(&text(PRIVATE)).unwrap();
        let public = VerifyingKey::from_public_key_pem(&text(PUBLIC)).unwrap();
        assert_eq!(private.verifying_key(), public);
    }

    #[test]
    fn a_damaged_key_is_kept_aside_and_its_public_half_retired() {
        let state = tempfile::tempdir().unwrap();
        let (old, _) = HostSigningKey::open(state.path()).unwrap();
        for garbage in [&b"garbage"[..], &[0xff, 0xfe]] {
            fs::write(state.path().join(PRIVATE), garbage).unwrap();
            let (new, origin) = HostSigningKey::open(state.path()).unwrap();
            let Origin::Replaced(aside) = origin else { panic!("{origin:?}") };
            assert_eq!(fs::read(&aside).unwrap(), garbage);
            fs::remove_file(aside).unwrap();
            let all = HostPublicKey::all(state.path()).unwrap();
            assert_eq!(all.first().map(HostPublicKey::id), Some(new.id()));
            assert!(all.iter().any(|key| key.id() == old.id()));
        }
    }

    #[test]
    fn a_key_that_others_could_have_written_is_refused_by_name() {
        let state = tempfile::tempdir().unwrap();
        HostSigningKey::open(state.path()).unwrap();
        let path = state.path().join(PRIVATE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = HostSigningKey::open(state.path()).unwrap_err();
        assert!(matches!(error, FileError::Untrusted { .. }), "{error}");
    }
}
