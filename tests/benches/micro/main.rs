//! Parts of the agent by themselves, by `criterion`: the decision about a frame, verification,
//! reconciliation, the summary of the tables, and the database with its sync.
//!
//! `cargo bench -p jit-tests --bench micro [FILTER]`.
#![expect(clippy::unwrap_used, reason = "a measurement that meets the unexpected panics")]

mod frames;
mod grants;
mod tables;

use std::time::{Duration, Instant};

use criterion::Criterion;
use jit_tests::figures::{Figure, GATE, size};

/// Number of values of a row: the least that the library takes, in the shortest form.
const SAMPLES: (usize, usize) = (50, 10);

fn main() {
    // `cargo bench` passes `--bench`, `cargo test --benches` does not: then this is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not a measurement without --bench");
        return;
    }
    let (full, short) = SAMPLES;
    let time = |full, short| size(Duration::from_millis(full), Duration::from_millis(short));
    let criterion = Criterion::default()
        .sample_size(size(full, short))
        .warm_up_time(time(500, 20))
        .measurement_time(time(1_500, 50))
        .nresamples(size(10_000, 1_000))
        .without_plots()
        .configure_from_args();
    let mut bench = Bench { criterion };
    frames::measure(&mut bench);
    grants::measure(&mut bench);
    tables::measure(&mut bench);
}

/// Measures rows and reports them.
pub(crate) struct Bench {
    criterion: Criterion,
}

impl Bench {
    /// Measures how long a routine takes. Returns nanoseconds; none if the command line has a filter
    /// that leaves this row out.
    pub(crate) fn row(&mut self, row: &str, mut routine: impl FnMut()) -> Vec<f64> {
        let mut values = Vec::new();
        self.criterion.bench_function(row, |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    routine();
                }
                let took = start.elapsed();
                values.push(took.as_secs_f64() * 1e9 / f64::from(u32::try_from(count).unwrap()));
                took
            });
        });
        // Those before were to warm up.
        let (full, short) = SAMPLES;
        let values = values.split_off(values.len().saturating_sub(size(full, short)));
        if !values.is_empty() {
            let (table, unit, more_is_better) = ("parts by themselves", "ns", false);
            let values = values.clone();
            Figure { table, row, subject: GATE, unit, more_is_better, values }.report();
        }
        values
    }
}
