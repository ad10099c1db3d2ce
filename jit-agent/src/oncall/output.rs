//! What a command prints.

use std::io::Write as _;

use jit_proto::printable;
use serde_json::Value;

/// Prints; a reader that has gone away (`| head`) is no error.
pub(super) fn print(text: &str) {
    let _gone = std::io::stdout().write_all(text.as_bytes());
}

/// Prints JSON for people and programs.
pub(super) fn print_json(value: &Value) {
    print(&format!("{}\n", printable::json_pretty(value)));
}
