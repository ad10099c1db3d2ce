//! Standard output of the on-call commands.

use std::io::Write as _;

use jit_proto::printable;
use serde_json::Value;

/// Prints to standard output. A reader that has closed it (`| head`) is not an error.
pub(super) fn print(text: &str) {
    let _gone = std::io::stdout().write_all(text.as_bytes());
}

/// Prints JSON on several lines.
pub(super) fn print_json(value: &Value) {
    print(&format!("{}\n", printable::json_pretty(value)));
}
