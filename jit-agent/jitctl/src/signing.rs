//! Opens the keys that the command line names.

use jit_client::keys::{Key, KeySpec, KeyTrouble};
use jit_proto::dsse::MAX_SIGNATURES;

use crate::{failure::Failure, files};

/// Opens keys; at most as many as an envelope has room for.
pub(crate) fn signing_keys(specs: &[KeySpec]) -> Result<Vec<Key>, Failure> {
    if specs.len() > MAX_SIGNATURES {
        return Err(Failure::usage(format!(
            "an envelope has at most {MAX_SIGNATURES} signatures; name fewer keys"
        )));
    }
    let open = |spec: &KeySpec| {
        if let KeySpec::Pem(path) = spec {
            files::warn_if_exposed(path, "the signing key");
        }
        Ok(Key::open(spec)?)
    };
    specs.iter().map(open).collect()
}

impl From<KeyTrouble> for Failure {
    fn from(error: KeyTrouble) -> Self {
        Self::files(error.to_string())
    }
}
