//! What programs are built for: the machine, its C library, and what building for it needs here.

use std::{
    env::consts::ARCH,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{setup, shell};

/// The sources of Debian's compiler, and the name of their directory in programs.
const SOURCES: [&str; 2] = ["/usr/lib/rustlib/src/rust", "/rust"];
/// Debian's compiler, which has the sources of the standard library.
const DEBIAN_COMPILER: &str = "/usr/bin/rustc";
/// Flags of C code: <https://www.gnu.org/software/gcc/gcc-12/> for the first, features.h for the other.
const C_FLAGS: &str = "-fstack-protector-strong -D_FORTIFY_SOURCE=2";

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// 64-bit ARM, glibc
    Aarch64,
    /// 64-bit x86, glibc
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit x86, without any library: for hosts whose glibc is older than the one here
    #[value(name = "x86_64-static")]
    X86_64Static,
}

/// Where the standard library of a target comes from.
enum Library {
    /// It is installed beside the compiler that is used for everything.
    Installed,
    /// It is compiled from the sources of Debian's compiler.
    Sources,
}

impl Target {
    /// That of this machine.
    pub(crate) fn native() -> Result<Self> {
        Ok(match ARCH {
            "aarch64" => Self::Aarch64,
            "x86_64" => Self::X86_64,
            other => bail!("no packages are made on {other}"),
        })
    }

    /// The name that rustc has for it.
    pub(super) const fn triple(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::X86_64Static => "x86_64-unknown-linux-musl",
        }
    }

    /// The architecture, as Debian calls it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
            Self::X86_64 | Self::X86_64Static => "amd64",
        }
    }

    /// The architecture, as rpm(8) and Linux call it.
    pub(crate) const fn linux(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 | Self::X86_64Static => "x86_64",
        }
    }

    /// What a tarball's name says after `linux-`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
            Self::X86_64Static => "x86_64-static",
        }
    }

    /// Whether its programs need no libraries of the host.
    pub(crate) const fn is_static(self) -> bool {
        matches!(self, Self::X86_64Static)
    }

    /// The command of cargo that builds a program, without its name, profile, place and time. `directories`
    /// are names of this machine and what stands for them in the programs.
    pub(super) fn cargo(self, directories: &[(&Path, &str)]) -> Result<Command> {
        let mut cargo = shell::cargo(["auditable", "build", "--locked"]);
        cargo.args(["--target", self.triple()]);
        let mut flags: Vec<String> = directories.iter().map(remapped).collect();
        let mut c_flags = C_FLAGS.to_owned();
        for (from, to) in directories {
            c_flags += &format!(" -ffile-prefix-map={}={to}", from.display());
        }
        if let Library::Sources = self.library()? {
            cargo.args(["-Z", "build-std=std,panic_unwind"]);
            cargo.env("RUSTC", DEBIAN_COMPILER).env("RUSTC_BOOTSTRAP", "1");
            flags.push(format!("--remap-path-prefix={}={}", SOURCES[0], SOURCES[1]));
            if self == Self::X86_64Static {
                setup::ensure_unwinder()?;
                flags.extend(musl()?);
            }
        }
        if let Some((c, linker)) = self.c_compiler()? {
            cargo.env(variable("CC", self), c);
            cargo.env(format!("CARGO_TARGET_{}_LINKER", self.shouted()), linker);
        }
        cargo.env(variable("CFLAGS", self), c_flags);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        Ok(cargo)
    }

    /// The compiler of C code and the linker, where they are not the machine's own.
    fn c_compiler(self) -> Result<Option<(&'static str, &'static str)>> {
        let (c, linker, package) = match self {
            Self::X86_64Static => ("musl-gcc", "gcc", "musl-tools"),
            Self::Aarch64 if ARCH != "aarch64" => {
                let gcc = "aarch64-linux-gnu-gcc";
                (gcc, gcc, "gcc-aarch64-linux-gnu")
            }
            Self::X86_64 if ARCH != "x86_64" => {
                let gcc = "x86_64-linux-gnu-gcc";
                (gcc, gcc, "gcc-x86-64-linux-gnu")
            }
            Self::Aarch64 | Self::X86_64 => return Ok(None),
        };
        for program in [c, linker] {
            setup::ensure_program(program, package, &format!("building for {}", self.label()))?;
        }
        Ok(Some((c, linker)))
    }

    fn library(self) -> Result<Library> {
        let triple = self.triple();
        let mut ask = shell::program("rustc", ["--print", "target-libdir", "--target", triple]);
        let directory = shell::answer(ask.current_dir(shell::root())).map(PathBuf::from);
        if directory.is_some_and(|directory| directory.is_dir()) {
            return Ok(Library::Installed);
        }
        ensure!(
            Path::new(SOURCES[0]).join("library/std/Cargo.toml").is_file()
                && Path::new(DEBIAN_COMPILER).is_file(),
            "there is no standard library for {triple} here: `rustup target add {triple}`, or \
             `cargo xtask setup --toolchain debian` for its sources"
        );
        Ok(Library::Sources)
    }

    fn shouted(self) -> String {
        self.triple().to_uppercase().replace('-', "_")
    }
}

/// A variable of the `cc` crate for a target.
fn variable(name: &str, target: Target) -> String {
    format!("{name}_{}", target.triple().replace('-', "_"))
}

fn remapped((from, to): &(&Path, &str)) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// Flags that link with Debian's musl. rustup's library for this target brings an own musl and its
/// own start files; one that is compiled from sources finds neither. Debian's `musl-gcc` cannot
/// link a position-independent static program, so gcc does, with musl's files by name.
fn musl() -> Result<Vec<String>> {
    const MUSL: &str = "/usr/lib/x86_64-linux-musl";
    let archives = archives_alone(Path::new(MUSL))?;
    let mut flags = vec![
        "-Clink-self-contained=no".to_owned(),
        format!("-Lnative={}", archives.display()),
        format!("-Lnative={}", setup::unwinder().display()),
        "-Clink-arg=-nostartfiles".to_owned(),
        // The unwinder was compiled for glibc. Of that it needs one function that musl has not, for
        // the message before it aborts.
        "-Clink-arg=-Wl,--defsym=__fprintf_chk=abort".to_owned(),
    ];
    // Without the end of gcc's, the unwinder reads past the last frame.
    for (file, is_of_gcc) in [
        ("rcrt1.o", false),
        ("crti.o", false),
        ("crtbeginS.o", true),
        ("crtendS.o", true),
        ("crtn.o", false),
    ] {
        let name = format!("-print-file-name={file}");
        let path = if is_of_gcc { shell::answer(&mut shell::program("gcc", [name])) } else { None };
        let path = path.map_or_else(|| Path::new(MUSL).join(file), PathBuf::from);
        ensure!(path.is_file(), "{} is missing: install gcc and musl-dev", path.display());
        flags.push(format!("-Clink-arg={}", path.display()));
    }
    // Again, for the start files.
    flags.push("-Clink-arg=-lc".to_owned());
    Ok(flags)
}

/// A directory with links to the static libraries of this one. Where rustc asks for the dynamic kind
/// of some library, the linker would take the dynamic libc that stands beside the static one.
fn archives_alone(musl: &Path) -> Result<PathBuf> {
    let directory = shell::target().join("setup/musl");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for entry in
        fs::read_dir(musl).with_context(|| format!("{}: install musl-dev", musl.display()))?
    {
        let archive = entry.with_context(|| musl.display().to_string())?.path();
        let link = directory.join(archive.file_name().unwrap_or_default());
        if archive.extension().is_some_and(|kind| kind == "a") && !link.exists() {
            symlink(&archive, &link).with_context(|| link.display().to_string())?;
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn a_target_is_chosen_by_the_label_that_tarballs_have() {
        for target in Target::value_variants() {
            assert_eq!(Target::from_str(target.label(), false), Ok(*target));
        }
    }

    #[test]
    fn names_of_this_machine_are_replaced_in_rust_and_c() {
        let target = Target::native().unwrap();
        let directories = [(Path::new("/home/somebody/work"), "/jit-agent")];
        let cargo = target.cargo(&directories).unwrap();
        let value = |name: &str| {
            let mut all = cargo.get_envs();
            let found = all.find(|(found, _)| *found == name).and_then(|(_, value)| value);
            found.unwrap_or_else(|| panic!("{name} is not set")).to_str().unwrap().to_owned()
        };
        assert_eq!(
            value("CARGO_ENCODED_RUSTFLAGS"),
            "--remap-path-prefix=/home/somebody/work=/jit-agent"
        );
        let c_flags = value(&variable("CFLAGS", target));
        assert!(c_flags.contains("-fstack-protector-strong"), "{c_flags}");
        assert!(c_flags.contains("-ffile-prefix-map=/home/somebody/work=/jit-agent"), "{c_flags}");
    }
}
