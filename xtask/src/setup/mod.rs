//! `cargo xtask setup`: shows which of the things that building and testing need are there, and
//! installs those that are missing. It can run any number of times: it changes nothing that is in
//! order.

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::need::{Found, Source};

mod apt;
mod backports;
mod compiler;
mod deny;
mod nats;
mod need;
mod node;
mod promtool;
mod system;
mod tools;
mod unwinder;

pub(crate) use deny::deny;
pub(crate) use nats::nats_server;
pub(crate) use node::{modules as node_modules, program as node_program};
pub(crate) use promtool::promtool;
pub(crate) use system::{ansible_playbook, client_python};
pub(crate) use unwinder::unwinder;

/// Options of the installation.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the compiler for the kernel programs comes from, when it is missing
    #[arg(long, value_enum, default_value_t = Source::Auto)]
    toolchain: Source,
    /// Only say what is missing; change nothing
    #[arg(long)]
    check: bool,
    /// Also install what only `bench`, `coverage`, `dist` and `mutants` need (they also install it when they
    /// run)
    #[arg(long)]
    all: bool,
}

/// What a task does. The things that it needs depend on this.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building the programs.
    Build,
    /// Running the programs in namespaces.
    Demo,
    /// Testing the programs, with clients in other languages.
    Test,
    /// Running the tests in virtual machines with other kernels.
    VirtualMachines,
    /// Running the packages in a virtual machine with systemd.
    SystemdMachine,
    /// Fuzzing.
    Fuzz,
    /// Making packages.
    Packages,
    /// Measuring which lines the tests reach.
    Coverage,
    /// Running mutants.
    Mutants,
    /// Measuring the gate beside its peers.
    Bench,
}

/// One thing that a task may need.
struct Need {
    name: &'static str,
    /// The first purpose, in the order of `Purpose`, that needs it.
    from: Purpose,
    find: fn() -> Found,
    provide: fn(Source) -> Result<()>,
}

impl Need {
    /// Build, demo and tests: each needs everything that the one before needs. Of the others,
    /// fuzzing needs everything that the tests need, and virtual machines and measurements need the
    /// demo's `ip`.
    fn serves(&self, purpose: Purpose) -> bool {
        let up_to = match purpose {
            Purpose::Build | Purpose::Demo | Purpose::Test => purpose,
            Purpose::VirtualMachines | Purpose::SystemdMachine | Purpose::Bench => Purpose::Demo,
            Purpose::Fuzz => Purpose::Test,
            Purpose::Coverage | Purpose::Mutants | Purpose::Packages => Purpose::Build,
        };
        self.from == purpose || self.from as u8 <= up_to as u8
    }
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
        name: "nft and iptables",
        from: Purpose::Test,
        find: || system::find_programs(&["nft", "iptables-legacy", "iptables-nft"]),
        provide: |_| {
            let packages = ["nftables", "iptables"];
            apt::install("redirecting ports in network namespaces", &packages)
        },
    },
    Need {
        name: "strace",
        from: Purpose::Test,
        find: || system::find_program("strace"),
        provide: |_| apt::install("killing the agent at a system call", &["strace"]),
    },
    Need {
        name: "groff",
        from: Purpose::Test,
        find: || system::find_program("groff"),
        provide: |_| apt::install("reading the man pages", &["groff-base"]),
    },
    Need {
        name: "shellcheck",
        from: Purpose::Test,
        find: || system::find_program("shellcheck"),
        provide: |_| apt::install("checking the packages' scripts", &["shellcheck"]),
    },
    Need {
        name: "chromium",
        from: Purpose::Test,
        find: || system::find_programs(&["chromium", "chromedriver"]),
        provide: |_| {
            let packages = ["chromium", "chromium-driver", "fonts-liberation"];
            apt::install("trying the pages in a browser", &packages)
        },
    },
    Need {
        name: "postgres",
        from: Purpose::Test,
        find: system::find_postgres,
        provide: system::provide_postgres,
    },
    Need {
        name: "promtool",
        from: Purpose::Test,
        find: promtool::find,
        provide: promtool::provide,
    },
    Need {
        name: "ssh-agent",
        from: Purpose::Test,
        find: || system::find_programs(&["ssh-agent", "ssh-add", "ssh-keygen"]),
        provide: |_| apt::install("signing with keys of an ssh-agent", &["openssh-client"]),
    },
    Need {
        name: "softhsm2",
        from: Purpose::Test,
        find: || system::find_program("softhsm2-util"),
        provide: |_| apt::install("signing with keys in a PKCS#11 module", &["softhsm2"]),
    },
    Need {
        name: "python for clients and key services",
        from: Purpose::Test,
        find: system::find_client_python,
        provide: system::provide_client_python,
    },
    Need {
        name: "node with a provider of sign-ins",
        from: Purpose::Test,
        find: node::find,
        provide: node::provide,
    },
    Need { name: "nats-server", from: Purpose::Test, find: nats::find, provide: nats::provide },
    Need { name: "cargo-deny", from: Purpose::Test, find: deny::find, provide: deny::provide },
    Need {
        name: "cargo-machete",
        from: Purpose::Test,
        find: || tools::UNUSED.find(),
        provide: |_| tools::UNUSED.provide(),
    },
    Need {
        name: "qemu",
        from: Purpose::VirtualMachines,
        find: || system::find_program("qemu-system-x86_64"),
        provide: |_| apt::install("emulating machines", &["qemu-system-x86"]),
    },
    Need {
        name: "busybox",
        from: Purpose::VirtualMachines,
        find: system::find_static_busybox,
        provide: |_| apt::install("the first programs of a machine", &["busybox-static"]),
    },
    Need {
        name: "archivers of initramfs and modules",
        from: Purpose::VirtualMachines,
        find: || system::find_programs(&["cpio", "xz", "zstd"]),
        provide: |_| apt::install("packing and unpacking kernels", &["cpio", "xz-utils", "zstd"]),
    },
    Need {
        name: "emulator and disk of a whole machine",
        from: Purpose::SystemdMachine,
        find: || {
            system::find_programs(&[
                "qemu-system-x86_64",
                "mmdebstrap",
                "mke2fs",
                "ssh",
                "dpkg-deb",
            ])
        },
        provide: |_| {
            apt::install(
                "emulating a server",
                &["qemu-system-x86", "mmdebstrap", "e2fsprogs", "openssh-client", "dpkg"],
            )
        },
    },
    Need {
        name: "cargo-fuzz",
        from: Purpose::Fuzz,
        find: || tools::FUZZ.find(),
        provide: |_| tools::FUZZ.provide(),
    },
    Need {
        name: "cargo-auditable",
        from: Purpose::Packages,
        find: || tools::AUDITABLE.find(),
        provide: |_| tools::AUDITABLE.provide(),
    },
    Need {
        name: "cargo-cyclonedx",
        from: Purpose::Packages,
        find: || tools::COMPONENTS.find(),
        provide: |_| tools::COMPONENTS.provide(),
    },
    Need {
        name: "packers",
        from: Purpose::Packages,
        find: || system::find_programs(&["dpkg-deb", "dpkg-shlibdeps", "rpmbuild", "xz"]),
        provide: |_| apt::install("making packages", &["dpkg-dev", "rpm", "xz-utils"]),
    },
    Need {
        name: "cargo-llvm-cov",
        from: Purpose::Coverage,
        find: || tools::COVERAGE.find(),
        provide: |_| tools::COVERAGE.provide(),
    },
    Need {
        name: "cargo-mutants",
        from: Purpose::Mutants,
        find: || tools::MUTANTS.find(),
        provide: |_| tools::MUTANTS.provide(),
    },
    Need {
        name: "nats-server, for measurements",
        from: Purpose::Bench,
        find: nats::find,
        provide: nats::provide,
    },
    Need {
        name: "xdp-filter",
        from: Purpose::Bench,
        find: || system::find_program("xdp-filter"),
        provide: |_| apt::install("comparing with xdp-filter", &["xdp-tools"]),
    },
    Need {
        name: "packet filters of Linux",
        from: Purpose::Bench,
        find: || system::find_programs(&["nft", "iptables", "ipset"]),
        provide: |_| apt::install("comparing with them", &["nftables", "iptables", "ipset"]),
    },
    Need {
        name: "fwknop",
        from: Purpose::Bench,
        find: || system::find_programs(&["fwknop", "fwknopd"]),
        provide: |_| apt::install("comparing with fwknop", &["fwknop-client", "fwknop-server"]),
    },
    Need {
        name: "perf",
        from: Purpose::Bench,
        find: system::find_perf,
        provide: |_| apt::install("counting cycles and cache misses", &["linux-perf"]),
    },
];

/// Installs what is missing. With `--check` it only reports.
pub(crate) fn run(options: Options) -> Result<()> {
    let Options { toolchain, check, all } = options;
    let mut missing = 0_usize;
    for need in NEEDS.iter().filter(|need| all || need.from as u8 <= Purpose::Fuzz as u8) {
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

/// Installs what is missing for this purpose. Prints nothing if everything is there.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    for need in NEEDS.iter().filter(|need| need.serves(purpose)) {
        if let Found::No(why) = (need.find)() {
            provide(need, &why, Source::Auto)?;
        }
    }
    Ok(())
}

/// Installs a program that only some machines need, from this package of Debian.
pub(crate) fn ensure_program(program: &str, package: &str, reason: &str) -> Result<()> {
    match system::find_program(program) {
        Found::Yes(_) => Ok(()),
        Found::No(_) => apt::install(reason, &[package]),
    }
}

/// Installs Ansible, which one step of one machine needs.
pub(crate) fn ensure_ansible() -> Result<()> {
    system::ensure_ansible()
}

/// Unpacks the unwinder of static programs, if it is not there.
pub(crate) fn ensure_unwinder() -> Result<()> {
    match unwinder::find() {
        Found::Yes(_) => Ok(()),
        Found::No(_) => unwinder::provide(Source::Auto),
    }
}

fn provide(need: &Need, why: &str, source: Source) -> Result<()> {
    let name = need.name;
    println!("+ {name}: {why}");
    (need.provide)(source).with_context(|| format!("setting up: {name}"))?;
    match (need.find)() {
        Found::Yes(form) => println!("✓ {name}: {form}"),
        Found::No(why) => bail!("{name} was installed but cannot be used: {why}"),
    }
    Ok(())
}
