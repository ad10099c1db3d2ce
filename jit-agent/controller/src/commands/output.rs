//! Standard output and standard error of commands.

use std::io::{ErrorKind, Write as _};

use jit_proto::printable::{clean_lines, json_pretty};

use super::Failure;

/// Writes to standard output. A reader that has closed it (`| head`) is not an error: the command goes
/// on without it.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match follow(text.as_bytes()) {
        Err(failure) if failure == Failure::output_closed() => Ok(()),
        other => other,
    }
}

/// The same for a command without an end of its own: it ends, without an error, when the reader has
/// closed standard output.
pub(super) fn follow(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::output_closed(),
        _ => Failure::files(format!("cannot write to standard output: {error}")),
    })
}

/// Writes a JSON document on several lines.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", json_pretty(value)))
}

/// Prints a sentence to standard error. If nobody can read it, there is nowhere to say so.
pub fn complain(sentence: &str) {
    let _gone = writeln!(std::io::stderr(), "jit-controller: {}", clean_lines(sentence));
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC.
pub(super) fn moment(milliseconds: i64) -> String {
    jit_proto::WallTime(milliseconds).exact()
}

/// Who runs this, as the audit names him: somebody on this machine.
pub(super) fn person() -> String {
    format!("local uid {}", rustix::process::getuid().as_raw())
}
