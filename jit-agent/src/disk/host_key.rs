//! The host's own key: an Ed25519 key, made at the first start. It signs what this host reports
//! about itself, such as the end of its audit.
//!
//! A signature proves its origin to those who have the public key. It is no protection from root on
//! this machine, who can use the key as well.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ed25519_dalek::{
    Signature, Signer as _, SigningKey, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    },
};
use p256::pkcs8::LineEnding;
use sha2::{Digest as _, Sha256};

use crate::system::sys::{self, FileError, Readers};

/// File of the private key, PKCS#8 in PEM, mode 0600.
const PRIVATE: &str = "host.key";
/// File of the public key, SubjectPublicKeyInfo in PEM.
const PUBLIC: &str = "host.pub.pem";
/// Beginning and end of the file names of public keys that are no longer used.
const RETIRED: (&str, &str) = ("host-", ".pub.pem");

/// The host's private key.
#[derive(Debug)]
pub struct HostSigningKey {
    key: SigningKey,
    id: String,
}

/// A host's public key.
#[derive(Clone, Debug, PartialEq)]
pub struct HostPublicKey {
    key: VerifyingKey,
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
                if let Ok(key) = SigningKey::from_pkcs8_pem(&pem) {
                    let key = Self::new(key);
                    // The file of the public key may be missing after a crash.
                    if HostPublicKey::read(&state.join(PUBLIC)).ok().as_ref() != Some(&key.public())
                    {
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
        &self.id
    }

    /// The public key.
    pub fn public(&self) -> HostPublicKey {
        HostPublicKey::new(self.key.verifying_key())
    }

    /// Signs these bytes with Ed25519.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    fn new(key: SigningKey) -> Self {
        let id = HostPublicKey::new(key.verifying_key()).id;
        Self { key, id }
    }

    fn make(state: &Path) -> Result<Self, FileError> {
        let mut seed = [0; 32];
        let path = state.join(PRIVATE);
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| io("make", &path)(error.into()))?;
        let key = Self::new(SigningKey::from_bytes(&seed));
        let pem = key.key.to_pkcs8_pem(LineEnding::LF).map_err(|error| {
            io("encode", &path)(std::io::Error::new(ErrorKind::InvalidData, error.to_string()))
        })?;
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
        let pem = self.key.verifying_key().to_public_key_pem(LineEnding::LF).map_err(|error| {
            io("encode", &path)(std::io::Error::new(ErrorKind::InvalidData, error.to_string()))
        })?;
        write(&path, pem.as_bytes(), 0o644)
    }
}

impl HostPublicKey {
    fn new(key: VerifyingKey) -> Self {
        let id = key
            .to_public_key_der()
            .map(|der| hex::encode(Sha256::digest(der.as_bytes()).get(..8).unwrap_or_default()))
            .unwrap_or_default();
        Self { key, id }
    }

    /// Reads a public key in PEM.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let pem = fs::read_to_string(path).map_err(io("read", path))?;
        let key = VerifyingKey::from_public_key_pem(&pem).map_err(|error| {
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
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
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
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sys::sync_directory_of(path)
    };
    written().map_err(io("write", path))?;
    debug_assert!(fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o777 == mode));
    Ok(())
}

fn io<'a>(verb: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> FileError + use<'a> {
    move |error| FileError::Io { verb, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
