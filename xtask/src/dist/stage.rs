//! Lays out the files of a package as they will be on the host, below a directory.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Kind,
    contents::{Entry, From, Package},
    control,
    release::{Programs, Release},
};
use crate::shell;

/// A package's files below a directory.
pub(super) struct Staged {
    pub(super) root: PathBuf,
    pub(super) files: Vec<StagedFile>,
}

/// A file of a package.
pub(super) struct StagedFile {
    /// The absolute path on the host.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) is_configuration: bool,
    pub(super) is_directory: bool,
}

/// Lays out a package.
pub(super) fn lay_out(
    package: &Package,
    kind: Kind,
    programs: &Programs,
    pages: &Path,
    release: &Release,
    root: &Path,
) -> Result<Staged> {
    let mut staged = Staged { root: root.to_owned(), files: Vec::new() };
    for entry in package.files {
        staged.add(package, entry, programs)?;
    }
    staged.add_pages(package, kind, pages)?;
    staged.add_copyright(package, kind, release)?;
    staged.files.sort_by(|one, other| one.path.cmp(&other.path));
    staged.set_times(release.epoch)?;
    Ok(staged)
}

impl Staged {
    fn add(&mut self, package: &Package, entry: &Entry, programs: &Programs) -> Result<()> {
        let Entry { from, to, mode, is_configuration } = entry;
        let mut put = |source: &Path, path: String| {
            self.put(source, &path, *mode)?;
            let is_configuration = *is_configuration;
            let file = StagedFile { path, mode: *mode, is_configuration, is_directory: false };
            self.files.push(file);
            anyhow::Ok(())
        };
        match from {
            From::Program => {
                let program = programs.get(package.name);
                let program = program.with_context(|| format!("{} was not built", package.name))?;
                put(program, (*to).to_owned())
            }
            From::File(source) => put(&shell::root().join(source), (*to).to_owned()),
            From::Directory(source) => {
                for source in files(&shell::root().join(source))? {
                    let name = name(&source)?;
                    put(&source, format!("{to}{name}"))?;
                }
                Ok(())
            }
            From::Empty => {
                let path = to.trim_end_matches('/').to_owned();
                let place = self.place(&path);
                fs::create_dir_all(&place)?;
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode))?;
                let file = StagedFile {
                    path,
                    mode: *mode,
                    is_configuration: *is_configuration,
                    is_directory: true,
                };
                self.files.push(file);
                Ok(())
            }
        }
    }

    /// Man pages, compressed, and completions of three shells.
    fn add_pages(&mut self, package: &Package, kind: Kind, pages: &Path) -> Result<()> {
        let Package { name: program, section, .. } = package;
        let of_program = |name: &str| {
            let rest = name.strip_prefix(program);
            rest.is_some_and(|rest| rest.starts_with(['.', '-']) && name.ends_with(section))
        };
        for page in files(&pages.join("man"))? {
            let name = name(&page)?;
            if of_program(&name) {
                let path = format!("/usr/share/man/man{section}/{name}.gz");
                self.compress(&page, path)?;
            }
        }
        let zsh = if kind == Kind::Deb { "vendor-completions" } else { "site-functions" };
        let completions = [
            (format!("{program}.bash"), format!("bash-completion/completions/{program}")),
            (format!("{program}.fish"), format!("fish/vendor_completions.d/{program}.fish")),
            (format!("_{program}"), format!("zsh/{zsh}/_{program}")),
        ];
        for (from, to) in completions {
            self.plain(&pages.join("completions").join(from), format!("/usr/share/{to}"))?;
        }
        Ok(())
    }

    fn add_copyright(&mut self, package: &Package, kind: Kind, release: &Release) -> Result<()> {
        let doc = format!("/usr/share/doc/{}", package.name);
        match kind {
            Kind::Deb => {
                self.text(&format!("{doc}/copyright"), &control::copyright()?)?;
                let overrides = format!("/usr/share/lintian/overrides/{}", package.name);
                self.text(&overrides, &control::overrides(package.name))?;
                let changes = self.root.with_extension("changes");
                fs::write(&changes, control::changelog(package, release)?)?;
                self.compress(&changes, format!("{doc}/changelog.Debian.gz"))?;
                fs::remove_file(&changes)?;
            }
            Kind::Rpm | Kind::Tar => {
                for license in ["LICENSE-APACHE", "LICENSE-MIT"] {
                    let to = format!("/usr/share/licenses/{}/{license}", package.name);
                    self.plain(&shell::root().join(license), to)?;
                }
            }
        }
        let changelog = shell::root().join("CHANGELOG.md");
        self.compress(&changelog, format!("{doc}/changelog.gz"))
    }

    fn plain(&mut self, source: &Path, path: String) -> Result<()> {
        self.put(source, &path, 0o644)?;
        self.files.push(plain(path));
        Ok(())
    }

    fn text(&mut self, path: &str, text: &str) -> Result<()> {
        let place = self.place(path);
        make_parent(&place)?;
        fs::write(&place, text).with_context(|| format!("writing {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?;
        self.files.push(plain(path.to_owned()));
        Ok(())
    }

    fn compress(&mut self, source: &Path, path: String) -> Result<()> {
        let mut gzip = shell::program("gzip", ["-9", "--no-name", "--stdout", "--"]);
        let output = shell::quiet(gzip.arg(source))?;
        let place = self.place(&path);
        make_parent(&place)?;
        fs::write(&place, output.stdout).with_context(|| format!("writing {}", place.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?;
        self.files.push(plain(path));
        Ok(())
    }

    fn put(&self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let place = self.place(path);
        make_parent(&place)?;
        let copied = fs::copy(source, &place);
        copied.with_context(|| format!("copying {} to {path}", source.display()))?;
        fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Where a file of the host is laid out.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// All files and directories get the time of the release, and directories mode 755.
    fn set_times(&self, epoch: u64) -> Result<()> {
        let declared = |path: &str| self.files.iter().find(|file| file.path == path);
        let mut find = shell::program("find", [self.root.as_os_str()]);
        let output = shell::quiet(find.args(["-type", "d"]))?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let path = line.strip_prefix(&*self.root.to_string_lossy()).unwrap_or(line);
            let mode = declared(path).map_or(0o755, |file| file.mode);
            fs::set_permissions(line, fs::Permissions::from_mode(mode))?;
        }
        let mut touch = shell::program("find", [self.root.as_os_str()]);
        touch.args(["-exec", "touch", "--no-dereference", "--date"]);
        touch.arg(format!("@{epoch}")).args(["{}", "+"]);
        shell::quiet(&mut touch)?;
        Ok(())
    }
}

fn plain(path: String) -> StagedFile {
    StagedFile { path, mode: 0o644, is_configuration: false, is_directory: false }
}

fn make_parent(place: &Path) -> Result<()> {
    let Some(parent) = place.parent() else { bail!("{} has no directory", place.display()) };
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))
}

/// The files of a directory, by name.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("reading {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).with_context(|| format!("the name of {}", path.display()))
}
