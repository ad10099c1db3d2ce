//! Reads the files that a call needs, up to a limit.

use std::{fs::File, io::Read as _, path::Path};

use crate::CallError;

/// Largest file that is read, bytes: keys, certificates and envelopes are far smaller.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads a whole file of at most 1 MiB; `what` names the file's role in the error.
pub fn read(path: &Path, what: &str) -> Result<Vec<u8>, CallError> {
    read_up_to(path, what, MAX_FILE_BYTES)
}

/// The same for a file of at most this number of bytes.
pub fn read_up_to(path: &Path, what: &str, most: u64) -> Result<Vec<u8>, CallError> {
    let failed =
        |why: String| CallError::Files(format!("cannot read {what} {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > most {
        return Err(failed(format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

/// As [`read`], for a text in UTF-8.
pub fn read_text(path: &Path, what: &str) -> Result<String, CallError> {
    String::from_utf8(read(path, what)?).map_err(|_| {
        CallError::Files(format!(
            "cannot read {what} {}: it is not text; PEM is expected (convert DER with \
             `openssl pkey -inform DER` or `openssl x509 -inform DER`)",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_file_is_not_read_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path, "file").unwrap_err().to_string().contains("larger than"));
    }
}
