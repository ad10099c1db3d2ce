//! Tasks of the workspace, which a person runs from a clone. They are never installed.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod checks;
mod coverage;
mod crates;
mod debian;
mod demo;
mod dist;
mod fuzz;
mod mutants;
mod outside;
mod pages;
mod previous;
mod setup;
mod shell;
mod test;
mod test_lanes;
mod test_output;
mod test_programs;
mod vm;

/// Tasks of the jit-agent workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure the gate beside its peers: time a packet, drop rates, push to open, memory
    Bench(bench::Options),
    /// Install what building and testing need and is missing
    Setup(setup::Options),
    /// Build jit-agent and jitctl, kernel programs included
    Build(build::Options),
    /// Measure which lines the tests without root reach, against their bounds
    Coverage(coverage::Options),
    /// Feed parsers and decisions with random and damaged input
    Fuzz(fuzz::Options),
    /// Change the decision in every small way, and check that a test notices
    Mutants(mutants::Options),
    /// Show the gate at work: real agent, real connections, in network namespaces
    Demo(demo::Options),
    /// Make the packages of a release: .deb, .rpm and tarballs, with their checksums
    Dist(dist::Options),
    /// Write the man pages and shell completions of jit-agent, jit-controller and jitctl
    Pages(pages::Options),
    /// Test the last release's programs together with those of this tree
    Previous(previous::Options),
    /// Check formatting, lints and licences, and run every test
    Test(test::Options),
    /// Run the tests that matter there on old and new kernels, in virtual machines
    VmTest(vm::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Bench(options) => bench::run(options),
        Task::Pages(options) => pages::run(options),
        Task::Setup(options) => setup::run(options),
        Task::Build(options) => build::run(options),
        Task::Coverage(options) => coverage::run(options),
        Task::Dist(options) => dist::run(options),
        Task::Demo(options) => demo::run(options),
        Task::Fuzz(options) => fuzz::run(options),
        Task::Mutants(options) => mutants::run(options),
        Task::Previous(options) => previous::run(options),
        Task::Test(options) => test::run(options),
        Task::VmTest(options) => vm::run(options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
