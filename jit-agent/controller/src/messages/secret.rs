//! A secret in a file of its own.

use std::path::Path;

use zeroize::Zeroizing;

/// Reads it, without the space around it.
pub(super) fn read(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    match text.trim() {
        "" => Err(format!("{}: it is empty", file.display())),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}
