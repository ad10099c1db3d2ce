//! The figures of the control side, of a real agent with real namespaces and a real disk: push to
//! open, rates, many ends at once, start, memory, idle work, `status`, `why`, size.
//!
//! `cargo bench -p jit-tests --bench control [NAME...]` runs these parts, or all.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

mod ending;
mod grants;
mod oncall;
mod opening;
mod rates;
mod resources;
mod starts;

/// A part, and its name on the command line.
const PARTS: [(&str, fn()); 7] = [
    ("opening", opening::measure),
    ("rates", rates::measure),
    ("ending", ending::measure),
    ("resources", resources::measure),
    ("oncall", oncall::measure),
    ("starts", starts::measure),
    ("sizes", resources::sizes),
];

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    let wanted: Vec<_> = std::env::args().skip(1).filter(|name| !name.starts_with("--")).collect();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure();
        }
    }
}
