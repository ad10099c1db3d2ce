//! Reads the private keys that the command line names.

use std::path::PathBuf;

use jit_client::{files::read_text, signing::SigningKey};
use jit_proto::dsse::MAX_SIGNATURES;

use crate::{failure::Failure, files};

/// Reads private keys; at most as many as an envelope has room for.
pub(crate) fn signing_keys(paths: &[PathBuf]) -> Result<Vec<SigningKey>, Failure> {
    if paths.len() > MAX_SIGNATURES {
        return Err(Failure::usage(format!(
            "an envelope has at most {MAX_SIGNATURES} signatures; name fewer keys"
        )));
    }
    paths
        .iter()
        .map(|path| {
            let pem = read_text(path, "the signing key")?;
            files::warn_if_exposed(path, "the signing key");
            SigningKey::from_pem(&pem).map_err(|error| {
                Failure::files(format!("cannot sign with {}: {error}", path.display()))
            })
        })
        .collect()
}
