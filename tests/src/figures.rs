//! What the benches measure: values of one subject (the gate, or a peer) for one row of a table.
//!
//! A bench prints each figure, and appends it as a line of JSON to the file that `cargo xtask bench`
//! names. Subjects of one row are measured in turns in one run, so that a ratio between them means
//! something on a machine that has other work too.

use std::{env, fs::OpenOptions, io::Write as _};

use serde::Serialize;

/// Variable with the path of the file that figures are appended to.
const FILE: &str = "JIT_BENCH_FIGURES";
/// Variable that asks for few and short rounds: that it runs matters, not what it measures.
const QUICK: &str = "JIT_BENCH_QUICK";

/// Variable with the number of rounds, in place of the bench's own.
const ROUNDS: &str = "JIT_BENCH_ROUNDS";

/// The subject that the others are compared with.
pub const GATE: &str = "jit-agent";

/// The values of one subject for one row.
#[derive(Clone, Debug, Serialize)]
pub struct Figure<'a> {
    /// The table, for example `packets`.
    pub table: &'a str,
    /// The row, for example `SYN denied, IPv4, 1,000 grants`.
    pub row: &'a str,
    /// What was measured: [`GATE`] or a peer.
    pub subject: &'a str,
    /// Unit of the values, for example `ns`, `Mpps`, `ms`, `MiB`.
    pub unit: &'a str,
    /// Whether more is better, as for a rate.
    pub more_is_better: bool,
    /// One value for each round.
    pub values: Vec<f64>,
}

impl Figure<'_> {
    /// Prints the figure, and appends it to the file if there is one.
    pub fn report(&self) {
        let Self { table, row, subject, unit, values, .. } = self;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len() - 1));
        let [low, median, high] = [0, 50, 100].map(|share| at(share).copied().unwrap_or(f64::NAN));
        println!("{table}: {row}: {subject}: {median:.3} {unit} ({low:.3} to {high:.3})");
        let Some(path) = env::var_os(FILE) else { return };
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("open it");
        let line = serde_json::to_string(self).expect("a figure is JSON");
        writeln!(file, "{line}").expect("write a figure");
    }
}

/// Whether only the shortest form is wanted.
pub fn quick() -> bool {
    env::var_os(QUICK).is_some()
}

/// This size, or the other one in the shortest form.
pub fn size<T>(full: T, short: T) -> T {
    if quick() { short } else { full }
}

/// The number of rounds: what the variable says, or this number.
pub fn rounds(default: usize) -> usize {
    let Ok(wanted) = env::var(ROUNDS) else { return default };
    let wanted = wanted.parse().ok().filter(|wanted| *wanted > 0);
    wanted.unwrap_or_else(|| panic!("{ROUNDS} is no number of rounds"))
}

/// A subject, and how one value of it is measured.
pub type Subject<'a> = (&'a str, Box<dyn FnMut() -> f64 + 'a>);

/// Measures the subjects of one row in turns, and reports each. `rounds` is the bench's own number
/// of rounds.
pub fn in_turns(
    (table, row): (&str, &str),
    (unit, more_is_better): (&str, bool),
    rounds: usize,
    subjects: &mut [Subject<'_>],
) {
    let mut values = vec![Vec::new(); subjects.len()];
    for _ in 0..self::rounds(rounds) {
        for ((_, measure), values) in subjects.iter_mut().zip(&mut values) {
            values.push(measure());
        }
    }
    for ((subject, _), values) in subjects.iter().zip(values) {
        Figure { table, row, subject, unit, more_is_better, values }.report();
    }
}
