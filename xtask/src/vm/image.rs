//! Makes the initramfs: busybox, the programs under test, the libraries that they are linked with,
//! and the kernel's modules.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    checks::{PROGRAMS, Step},
    kernels::Kernel,
    modules,
};
use crate::shell;

/// Directory of everything else inside the machine.
const TOOLS: &str = "/vm/tools";
const MODULES: &str = "/vm/modules";
/// busybox is static, so that it runs before any library is there.
const BUSYBOX: &str = "/bin/busybox";
/// Programs that busybox lacks, or has without an option that the tests need.
const FROM_THE_MACHINE: [&str; 2] = ["ip", "tc"];

/// Makes the part that all kernels share: programs, tools, libraries. `programs`: the programs
/// under test, and their names in the machine.
pub(super) fn base(programs: &[(PathBuf, String)], scratch: &Path) -> Result<PathBuf> {
    let root = fresh(&scratch.join("base"))?;
    let mut libraries = BTreeSet::new();
    for (from, name) in programs {
        let to = inside(&root, PROGRAMS).join(name);
        install(from, &to)?;
        strip(&to);
        libraries.extend(linked(from)?);
    }
    for name in FROM_THE_MACHINE {
        let from = shell::find(name).with_context(|| format!("{name} is not installed"))?;
        install(&from, &inside(&root, TOOLS).join(name))?;
        libraries.extend(linked(&from)?);
    }
    for library in libraries {
        install(&library, &inside(&root, &library))?;
    }
    let busybox = shell::find("busybox").context("busybox is not installed")?;
    install(&busybox, &inside(&root, BUSYBOX))?;
    let init = root.join("init");
    fs::write(&init, include_str!("init.sh")).context("writing the first process")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .context("making the first process executable")?;
    let archive = scratch.join("base.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// Adds the modules of one kernel and its list of checks to the shared part.
pub(super) fn complete(
    base: &Path,
    kernel: &Kernel,
    steps: &[Step],
    scratch: &Path,
) -> Result<PathBuf> {
    let root = fresh(&scratch.join("own"))?;
    let directory = inside(&root, MODULES);
    fs::create_dir_all(&directory).context("making a directory for modules")?;
    let order = modules::unpack(&kernel.modules, &directory)?;
    ensure!(!order.is_empty(), "{} has none of the modules", kernel.modules.display());
    fs::write(directory.join("order"), order.join("\n") + "\n").context("listing modules")?;
    let list: String = steps
        .iter()
        .map(|Step { name, limit, command, .. }| format!("{name} {} {command}\n", limit.as_secs()))
        .collect();
    fs::write(inside(&root, "/vm/checks"), list).context("listing checks")?;
    let own = scratch.join("own.cpio");
    pack(&root, &own)?;
    // The kernel unpacks archives that follow each other into the same root.
    let whole = scratch.join("initramfs.cpio");
    let mut to = File::create(&whole).context("writing the initramfs")?;
    for part in [base, &own] {
        let mut from = File::open(part).with_context(|| format!("reading {}", part.display()))?;
        io::copy(&mut from, &mut to).context("writing the initramfs")?;
    }
    Ok(whole)
}

fn fresh(directory: &Path) -> Result<PathBuf> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("removing {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory.to_owned())
}

/// A path of the machine below the directory that becomes its root.
fn inside(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn install(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    fs::copy(from, to)
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Removes debug information, which is three quarters of a program's size. A failure here does not
/// matter.
fn strip(program: &Path) {
    if shell::find("strip").is_some() {
        let _smaller = shell::answer(shell::program("strip", ["--strip-debug"]).arg(program));
    }
}

/// The libraries of a program, and its dynamic loader.
fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let output = shell::quiet(shell::program("ldd", [program]).stderr(Stdio::piped()));
    let printed = match &output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) if format!("{error}").contains("not a dynamic executable") => String::new(),
        Err(error) => bail!("the libraries of {}: {error}", program.display()),
    };
    libraries(&printed).with_context(|| format!("the libraries of {}", program.display()))
}

/// Reads what `ldd` prints.
fn libraries(printed: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in printed.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("{line}");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.into());
        }
    }
    Ok(paths)
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let file = File::create(archive).with_context(|| format!("writing {}", archive.display()))?;
    let script = "find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet";
    let mut pack = shell::program("sh", ["-c", script]);
    let status = pack.current_dir(root).stdin(Stdio::null()).stdout(file).status();
    let status = status.context("cannot start cpio")?;
    ensure!(status.success(), "`{script}` failed ({status}) in {}", root.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_from_ldd() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd8a5f2000)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f7a2c000000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f7a2c3f5000)\n";
        let expected =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries(printed).unwrap(), expected);
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibbpf.so.1 => not found\n").is_err());
    }
}
