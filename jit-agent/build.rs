//! Builds the kernel programs, which the agent carries inside its binary.
//!
//! The eBPF target needs a Rust compiler with the sources of `core` and a bpf-linker of the same
//! LLVM major. Two places are known, in this order: rustup's nightly with `rust-src`, and Debian's
//! `rustc-web` with `rust-web-src`. `cargo xtask setup` installs one of them.
//!
//! What is embedded has no debug information: BTF is made from it, and nothing reads it after that.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aya_build::{Package, Result, Toolchain, build_ebpf};
use object::build::elf;

/// The program of the package with the kernel programs, and so the name of the object.
const OBJECT: &str = "jit-agent-ebpf";
/// Name that `cargo xtask setup` links Debian's compiler under.
const DEBIAN_TOOLCHAIN: &str = "jit-agent-bpf";
const HELP: &str = "cannot build the kernel programs: {}\n\
                    run `cargo xtask setup`, or set AYA_BUILD_SKIP=1 to check without them";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=../jit-common");
    println!("cargo::rerun-if-changed=../jit-agent-ebpf");
    // Chooses the layouts of the tables: see jit-common/build.rs, which the inner cargo runs too.
    println!("cargo::rerun-if-env-changed=JIT_NEXT_ABI");
    if env::var_os("JIT_NEXT_ABI").is_some_and(|next| next == "1") {
        println!(
            "cargo::warning=JIT_NEXT_ABI=1: the tables' next layouts, for tests of upgrades only"
        );
    }
    println!("cargo::rustc-check-cfg=cfg(jit_agent_no_object)");
    let skipped = env::var_os("AYA_BUILD_SKIP").is_some_and(|skip| skip == "1" || skip == "true");
    if skipped {
        println!("cargo::rustc-cfg=jit_agent_no_object");
    }
    let package = Package { name: OBJECT, root_dir: "../jit-agent-ebpf", ..Package::default() };
    // What the inner cargo says reaches the user as warnings: let it be only those. Its profile is
    // `release` too, whose `lto` is chosen for the agent's size: the kernel programs keep theirs,
    // another changes their instructions. The names of source files stay in the object, for the
    // verifier's log: let them not say where this machine has them.
    for (name, value) in [
        ("CARGO_TERM_QUIET", "true"),
        ("CARGO_PROFILE_RELEASE_LTO", "thin"),
        ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all"),
        ("CARGO_UNSTABLE_TRIM_PATHS", "true"),
    ] {
        // SAFETY: the build script has one thread.
        unsafe { env::set_var(name, value) };
    }
    let toolchain = match toolchain() {
        Some(Found::Nightly) => Toolchain::Nightly,
        Some(Found::Debian) => {
            // SAFETY: the build script has one thread.
            unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
            Toolchain::Custom(DEBIAN_TOOLCHAIN)
        }
        None if skipped => Toolchain::Nightly,
        None => fail("no Rust compiler with the sources of `core` (rust-src) was found"),
    };
    if !skipped && !runs("bpf-linker", &["--version"]) {
        fail("bpf-linker is not on the PATH");
    }
    build_ebpf([package], toolchain)?;
    if !skipped {
        let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
        let object = PathBuf::from(out).join(OBJECT);
        let stripped = without_debug_sections(&fs::read(&object)?)?;
        fs::write(&object, stripped)?;
    }
    Ok(())
}

/// The object without its debug sections, as `llvm-strip --strip-debug` leaves it: BTF and the
/// symbols stay, which the loader and the kernel read. The relocations of `.BTF.ext` go, too: they
/// only repeat places that stand in the section itself, and nobody reads them.
fn without_debug_sections(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = elf::Builder::read(object)?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug")
            || name.starts_with(b".rel.debug")
            || name == b".rel.BTF.ext";
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections among those of symbols, and the writer apart.
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

enum Found {
    Nightly,
    Debian,
}

fn toolchain() -> Option<Found> {
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    let has_sources =
        |root: &Path| root.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists();
    if sysroot.is_some_and(|sysroot| has_sources(&PathBuf::from(sysroot.trim()))) {
        return Some(Found::Nightly);
    }
    (has_sources(Path::new("/usr"))
        && runs("rustup", &["run", DEBIAN_TOOLCHAIN, "rustc", "--version"]))
    .then_some(Found::Debian)
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn fail(what: &str) -> ! {
    eprintln!("{}", HELP.replace("{}", what));
    std::process::exit(1)
}
