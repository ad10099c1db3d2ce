//! Limits on the length of the contract's free texts.

/// Longest name (requester, approver, author, owner, reason of an exemption) or ticket, bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest justification, bytes.
pub const MAX_TEXT_BYTES: usize = 2048;

/// Refuses an empty text, and one of more than `most` bytes; `field` names it in the error.
pub fn check(field: &str, text: &str, most: usize) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("{field} is empty")),
        bytes if bytes > most => Err(format!("{field} has {bytes} bytes; at most {most}")),
        _ => Ok(()),
    }
}
