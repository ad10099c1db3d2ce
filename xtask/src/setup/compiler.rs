//! The compiler and linker of the kernel programs. The compiler is rustup's nightly with the
//! sources of `core`, or Debian's; `jit-agent/build.rs` looks for the same two. Compiler and linker
//! must have the same LLVM major version: an older linker cannot read the output of a newer
//! compiler.

use std::{env, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    apt,
    need::{Found, Source},
};
use crate::shell;

/// The name of Debian's compiler as a rustup toolchain. The build script looks for this name.
const DEBIAN_TOOLCHAIN: &str = "jit-agent-bpf";
const LINKER_VERSION: &str = "0.13.0";
/// LLVM major versions that this bpf-linker can be built for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Oldest Rust that compiles the kernel programs.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");
/// Longest time that rustup may take for a download, seconds.
const RUSTUP_LIMIT: &str = "600";

struct Compiler {
    origin: &'static str,
    release: String,
    llvm: u32,
}

pub(super) fn find() -> Found {
    match installed() {
        Some(Compiler { origin, release, llvm }) => {
            Found::Yes(format!("{origin}, Rust {release}, LLVM {llvm}"))
        }
        None => Found::No("no Rust with the sources of `core` (rust-src)".to_owned()),
    }
}

pub(super) fn provide(source: Source) -> Result<()> {
    if shell::find("rustup").is_none() {
        bail!("rustup is not on the PATH, and the build finds compilers through it");
    }
    let may_download = env::var_os("RUSTUP_AUTO_INSTALL").is_none_or(|value| value != "0");
    match source {
        Source::Debian => debian(),
        Source::Rustup => rustup(),
        Source::Auto if !may_download => {
            println!("  RUSTUP_AUTO_INSTALL=0: rustup is not asked to download");
            debian()
        }
        Source::Auto => match rustup() {
            Err(error) if apt::available() => {
                println!("  rustup cannot: {error:#}\n  taking Debian's compiler");
                debian()
            }
            other => other,
        },
    }
}

/// The LLVM major version of the compiler.
pub(super) fn llvm() -> Option<u32> {
    installed().map(|compiler| compiler.llvm)
}

pub(super) fn find_linker() -> Found {
    let Some(path) = shell::find("bpf-linker") else {
        return Found::No("not on the PATH".to_owned());
    };
    let version = shell::answer(&mut shell::program(&path, ["--version"]));
    let Some(version) = version else {
        return Found::No(format!("{} does not run", path.display()));
    };
    match (linker_llvm(&path), installed().map(|compiler| compiler.llvm)) {
        (Some(linker), Some(compiler)) if linker != compiler => {
            Found::No(format!("{version} is for LLVM {linker}, the compiler's is {compiler}"))
        }
        (Some(linker), _) => Found::Yes(format!("{version}, LLVM {linker}")),
        (None, _) => Found::Yes(format!("{version}, LLVM unknown (it says nothing of its own)")),
    }
}

pub(super) fn provide_linker(_: Source) -> Result<()> {
    let llvm = installed().context("the compiler comes first")?.llvm;
    ensure!(
        LINKER_LLVM.contains(&llvm),
        "the compiler's LLVM is {llvm}, bpf-linker {LINKER_VERSION} can be built for {} to {}",
        LINKER_LLVM.start(),
        LINKER_LLVM.end()
    );
    if apt::available() {
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        ensure!(
            apt::has(&packages[0]),
            "Debian's archive has no LLVM {llvm}, which the compiler uses. With Debian's own \
             compiler this cannot be: `rustup component remove rust-src --toolchain nightly`, \
             then `cargo xtask setup --toolchain debian`"
        );
        let packages: Vec<&str> = packages
            .iter()
            .map(String::as_str)
            .chain(["zlib1g-dev", "libzstd-dev", "libxml2-dev"])
            .collect();
        apt::install("building bpf-linker", &packages)?;
    }
    let features = format!("llvm-{llvm}");
    let mut install = shell::cargo([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--no-default-features",
        "--features",
        &features,
        "--locked",
        "--force",
    ]);
    // LLVM does the work, and it has been compiled already.
    install.env("CARGO_PROFILE_RELEASE_DEBUG", "none").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if env::var_os("LLVM_PREFIX").is_none() && Path::new(&prefix).exists() {
        install.env("LLVM_PREFIX", prefix);
    }
    shell::long(&format!("building bpf-linker {LINKER_VERSION} for LLVM {llvm}"), &mut install)?;
    if shell::find("bpf-linker").is_none() {
        bail!("bpf-linker was built, but cargo's bin directory is not on the PATH");
    }
    Ok(())
}

/// The compiler that the build script will take. It looks in the same two places in the same order.
fn installed() -> Option<Compiler> {
    let sources = |sysroot: &str| {
        Path::new(sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()
    };
    let nightly = shell::answer(&mut shell::program(
        "rustup",
        ["run", "nightly", "rustc", "--print", "sysroot"],
    ));
    if nightly.is_some_and(|sysroot| sources(&sysroot)) {
        return compiler("rustup's nightly", "nightly");
    }
    if sources("/usr") { compiler("Debian's rustc-web", DEBIAN_TOOLCHAIN) } else { None }
}

fn compiler(origin: &'static str, toolchain: &str) -> Option<Compiler> {
    let version = shell::answer(&mut shell::program("rustup", ["run", toolchain, "rustc", "-vV"]))?;
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
    Some(Compiler {
        origin,
        release: field("release: ")?.to_owned(),
        llvm: leading_number(field("LLVM version: ")?)?,
    })
}

fn rustup() -> Result<()> {
    let mut install = shell::program(
        "timeout",
        [
            RUSTUP_LIMIT,
            "rustup",
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
            "--no-self-update",
        ],
    );
    shell::long("rustup toolchain install nightly with rust-src", &mut install)
}

fn debian() -> Result<()> {
    let packages = ["rustc-web", "rust-web-src"];
    apt::install("compiling the kernel programs", &packages)?;
    let release = shell::answer(&mut shell::program("/usr/bin/rustc", ["--version"]))
        .context("/usr/bin/rustc does not run")?;
    let number = release.split(' ').nth(1).unwrap_or_default();
    ensure!(
        minor(number) >= minor(OLDEST),
        "{release} is older than {OLDEST}: is the archive with security updates among apt's sources?"
    );
    println!("  rustup toolchain link {DEBIAN_TOOLCHAIN} /usr");
    shell::quiet(&mut shell::program("rustup", ["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))?;
    Ok(())
}

/// LLVM major version of a bpf-linker: from the library that it is linked with, else from cargo's
/// note of the build.
fn linker_llvm(path: &Path) -> Option<u32> {
    let linked = shell::answer(&mut shell::program("ldd", [path])).unwrap_or_default();
    let library = linked.split_once("libLLVM").and_then(|(_, rest)| {
        leading_number(rest.trim_start_matches(|c: char| !c.is_ascii_digit()))
    });
    library.or_else(|| {
        let home = env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
        let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))?;
        let noted = std::fs::read(home.join(".crates2.json")).ok()?;
        let noted: serde_json::Value = serde_json::from_slice(&noted).ok()?;
        let installs = noted.get("installs")?.as_object()?;
        let (_, linker) = installs.iter().find(|(name, _)| name.starts_with("bpf-linker "))?;
        let mut features = linker.get("features")?.as_array()?.iter();
        features.find_map(|feature| leading_number(feature.as_str()?.strip_prefix("llvm-")?))
    })
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// First two numbers of a version.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(leading_number);
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_not_by_letter() {
        assert!(minor("1.100.0") > minor("1.95"));
        assert!(minor("1.85.0") < minor("1.95"));
        assert_eq!(minor("1.96.0+dfsg1-1"), Some((1, 96)));
        assert_eq!(minor("nonsense"), None);
    }

    #[test]
    fn llvm_major_is_the_number_in_front() {
        assert_eq!(leading_number("22.1.8"), Some(22));
        assert_eq!(leading_number("22.so.1"), Some(22));
        assert_eq!(leading_number(""), None);
    }
}
