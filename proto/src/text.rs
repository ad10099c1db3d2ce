//! Free texts of the contract, and how long they may be.

/// Longest name (requester, approver, author, owner, reason of an exemption) or ticket, bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest justification, bytes.
pub const MAX_TEXT_BYTES: usize = 2048;

/// That a text is there, and not longer than `most` bytes.
pub fn check(field: &str, text: &str, most: usize) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("{field} is empty")),
        bytes if bytes > most => Err(format!("{field} has {bytes} bytes; at most {most}")),
        _ => Ok(()),
    }
}
