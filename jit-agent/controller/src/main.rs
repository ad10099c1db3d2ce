//! The program `jit-controller`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("signer") => jit_controller::signer::child(),
        _ => ExitCode::from(64),
    }
}
