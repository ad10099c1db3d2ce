//! The program `jitctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    jitctl::run()
}
