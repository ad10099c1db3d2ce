//! `cargo xtask setup`: says of each thing that building and testing need whether it is there, and
//! installs what is missing. Runs as often as one likes; changes nothing that is in order.

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

mod apt;
mod compiler;
mod system;

pub(crate) use system::client_python;

/// What to install, and from where.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the compiler for the kernel programs comes from, when it is missing
    #[arg(long, value_enum, default_value_t = Source::Auto)]
    toolchain: Source,
    /// Only say what is missing; change nothing
    #[arg(long)]
    check: bool,
}

/// Where the compiler for the kernel programs comes from.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// rustup if it may download (RUSTUP_AUTO_INSTALL is not 0) and its servers answer, else Debian
    Auto,
    /// Debian's archive: rustc-web, rust-web-src and LLVM
    Debian,
    /// rustup: nightly with rust-src
    Rustup,
}

/// What a task is about to do, and so what has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building the programs.
    Build,
    /// Running them in namespaces.
    Demo,
    /// Testing them, with clients of other make.
    Test,
}

/// One thing that is there or not.
struct Need {
    name: &'static str,
    /// The first task, in the order of `Purpose`, that cannot do without it.
    from: Purpose,
    find: fn() -> Found,
    provide: fn(Source) -> Result<()>,
}

enum Found {
    /// There, in this form.
    Yes(String),
    /// Not there, or not usable as it is, for this reason.
    No(String),
}

const NEEDS: &[Need] = &[
    Need {
        name: "compiler for the kernel programs",
        from: Purpose::Build,
        find: compiler::find,
        provide: compiler::provide,
    },
    Need {
        name: "bpf-linker",
        from: Purpose::Build,
        find: compiler::find_linker,
        provide: compiler::provide_linker,
    },
    Need {
        name: "ip",
        from: Purpose::Demo,
        find: || system::find_program("ip"),
        provide: |_| apt::install("creating network namespaces", &["iproute2"]),
    },
    Need {
        name: "bpffs",
        from: Purpose::Demo,
        find: system::find_bpffs,
        provide: system::mount_bpffs,
    },
    Need {
        name: "systemd-analyze",
        from: Purpose::Test,
        find: || system::find_program("systemd-analyze"),
        provide: |_| apt::install("scoring the unit (systemd is not started)", &["systemd"]),
    },
    Need {
        name: "python for the independent client",
        from: Purpose::Test,
        find: system::find_client_python,
        provide: system::provide_client_python,
    },
];

/// Installs, or with `--check` only tells.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { toolchain, check } = options;
    let mut missing = 0_usize;
    for need in NEEDS {
        match (need.find)() {
            Found::Yes(form) => println!("✓ {}: {form}", need.name),
            Found::No(why) if check => {
                missing += 1;
                println!("✗ {}: {why}", need.name);
            }
            Found::No(why) => provide(need, &why, toolchain)?,
        }
    }
    system::tell_optional();
    if missing > 0 {
        bail!("{missing} missing: `cargo xtask setup` installs them");
    }
    Ok(())
}

/// Installs what this purpose needs and is missing; says nothing when all is there.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    for need in NEEDS.iter().filter(|need| need.from as u8 <= purpose as u8) {
        if let Found::No(why) = (need.find)() {
            provide(need, &why, Source::Auto)?;
        }
    }
    Ok(())
}

fn provide(need: &Need, why: &str, source: Source) -> Result<()> {
    let name = need.name;
    println!("+ {name}: {why}");
    (need.provide)(source).with_context(|| format!("setting up: {name}"))?;
    match (need.find)() {
        Found::Yes(form) => println!("✓ {name}: {form}"),
        Found::No(why) => bail!("{name} was installed and still cannot be used: {why}"),
    }
    Ok(())
}
