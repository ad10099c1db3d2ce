//! Debian's kernels. One package of each release names its newest kernel. apt downloads and checks
//! the kernel; it is unpacked and never installed. Everything is below `target/vm-test`. apt runs
//! with its own lists and caches, and its own empty list of installed packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::packages::{self, Package};
use crate::{
    debian::{self, Archives},
    shell,
};

/// The package that depends on the newest kernel for virtual machines.
const NEWEST: &str = "linux-image-cloud-amd64";
/// Bound for the packages of one kernel: more than any kernel has.
const MOST_PACKAGES: usize = 16;

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its name in the matrix: major and minor number, or `newest`.
    pub(super) label: &'static str,
    /// The release of Debian with this kernel.
    suite: &'static str,
    /// Whether that release has security updates.
    updated: bool,
    /// Whether it is part of the reduced run.
    pub(super) quick: bool,
}

/// The matrix, oldest first.
pub(super) const CHOICES: [Choice; 4] = [
    Choice { label: "5.10", suite: "bullseye", updated: true, quick: true },
    Choice { label: "6.1", suite: "bookworm", updated: true, quick: false },
    Choice { label: "6.12", suite: "trixie", updated: true, quick: true },
    Choice { label: "newest", suite: "sid", updated: false, quick: false },
];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// The kernel's entry in the matrix.
    pub(super) label: &'static str,
    /// The version of its package.
    pub(super) version: String,
    /// The image.
    pub(super) image: PathBuf,
    /// Directory of its modules.
    pub(super) modules: PathBuf,
}

/// Finds, downloads and unpacks a kernel, unless an earlier run has done it.
pub(super) fn provide(choice: Choice, archives: &Archives, scratch: &Path) -> Result<Kernel> {
    let directory = scratch.join("kernels").join(choice.label);
    let done = directory.join("version");
    if let Ok(version) = fs::read_to_string(&done) {
        return unpacked(choice, version, &directory.join("root"));
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).context("removing a kernel that was unpacked in part")?;
    }
    let apt = Apt::new(choice, archives, &directory)?;
    shell::long(&format!("list of packages of {}", choice.suite), &mut apt.run(["update"]))?;
    let (version, names) = apt.newest()?;
    let debs = directory.join("packages");
    fs::create_dir_all(&debs).context("making a directory for packages")?;
    let mut download = apt.run(["download"]);
    download.args(&names).current_dir(&debs);
    shell::long(&format!("kernel {version} of {}", choice.suite), &mut download)?;
    let root = directory.join("root");
    for entry in fs::read_dir(&debs).context("listing the downloaded packages")? {
        let deb = entry.context("listing the downloaded packages")?.path();
        shell::quiet(shell::program("dpkg", ["-x"]).arg(deb).arg(&root))?;
    }
    for directory in [debs, apt.directory] {
        fs::remove_dir_all(directory).context("removing what is unpacked")?;
    }
    let kernel = unpacked(choice, version.clone(), &root)?;
    fs::write(done, version).context("noting which kernel this is")?;
    Ok(kernel)
}

/// A separate apt for one release.
struct Apt {
    directory: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn new(choice: Choice, archives: &Archives, below: &Path) -> Result<Self> {
        let directory = below.join("apt");
        for part in ["etc/preferences.d", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("making apt's directories")?;
        }
        let Choice { suite, updated, .. } = choice;
        let updates = format!("{suite}-security");
        let updates = updated.then_some(updates.as_str());
        let sources = archives.sources(&[suite], updates.as_slice())?;
        let configuration = directory.join("apt.conf");
        let path = directory.display();
        let own = format!(
            "Dir \"{path}\";\nDir::Etc \"{path}/etc\";\nDir::Etc::sourcelist \"{path}/sources\";\n\
             Dir::Etc::sourceparts \"-\";\nDir::State \"{path}/state\";\n\
             Dir::State::status \"{path}/status\";\nDir::Cache \"{path}/cache\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             Acquire::Languages \"none\";\n"
        );
        for (file, text) in [
            ("sources", sources.as_str()),
            ("status", ""),
            ("apt.conf", &format!("{}{own}", debian::acquisition())),
        ] {
            fs::write(directory.join(file), text).context("writing apt's configuration")?;
        }
        Ok(Self { directory, configuration })
    }

    fn run<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = shell::program("apt-get", ["--quiet=1"].iter().chain(&arguments));
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    fn show(&self, name: &str) -> Result<Package> {
        let mut show = shell::program("apt-cache", ["--no-all-versions", "show", name]);
        let shown = shell::answer(show.env("APT_CONFIG", &self.configuration));
        shown
            .and_then(|shown| packages::package(&shown))
            .with_context(|| format!("the archive has no package {name}"))
    }

    /// Version of the newest kernel, and the names of all its packages.
    fn newest(&self) -> Result<(String, Vec<String>)> {
        let newest = self.show(NEWEST)?;
        let (version, mut wanted) = (newest.version, newest.siblings);
        let mut names = Vec::new();
        while let Some(name) = wanted.pop() {
            ensure!(names.len() < MOST_PACKAGES, "{NEWEST} depends on too many packages");
            wanted.extend(self.show(&name)?.siblings);
            names.push(name);
            wanted.retain(|name| !names.contains(name));
        }
        ensure!(!names.is_empty(), "{NEWEST} {version} names no kernel");
        Ok((version, names))
    }
}

/// Finds image and modules in the unpacked packages. Their place differs from release to release.
fn unpacked(choice: Choice, version: String, root: &Path) -> Result<Kernel> {
    let Choice { label, .. } = choice;
    if label != "newest" && packages::kernel_number(label) != packages::kernel_number(&version) {
        bail!("{} has kernel {version} now, and no longer {label}", choice.suite);
    }
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|place| first_entry(&root.join(place), ""))
        .with_context(|| format!("no modules below {}", root.display()))?;
    let image = Some(modules.join("vmlinuz"))
        .filter(|image| image.exists())
        .or_else(|| first_entry(&root.join("boot"), "vmlinuz-"))
        .with_context(|| format!("no vmlinuz below {}", root.display()))?;
    Ok(Kernel { label, version, image, modules })
}

fn first_entry(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.flatten();
    let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))?;
    Some(found.path())
}
