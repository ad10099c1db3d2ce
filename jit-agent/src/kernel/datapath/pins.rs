//! The paths of the pins, and the check that the pins are ours.
//!
//! aya opens a pinned map without comparing it with the declaration. So the comparison is done
//! here, before anything is touched. The version of the layouts is part of the path. An agent may
//! find the pins of an older or a newer version. It fills its own tables, puts its own programs on
//! those links, and then removes the other's pins. If this breaks off at any point, every link runs
//! a program with filled tables.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use jit_common::ABI_VERSION;
use jit_proto::Hook;

use crate::{
    config::Limits,
    kernel::datapath::{
        bpf::{self, LinkKind},
        error::{DatapathError, chain},
        layout::{Layout, layouts},
        observe,
        rtnetlink::{self, Classifier},
    },
    system::sys::{self, DirectoryLock},
};

/// Name of the pin of the socket guard's link.
const GUARD: &str = "socket_guard";

/// Paths below the pin directory, of one version of the layouts.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    version: u32,
}

/// A table that is in force.
#[derive(Debug)]
pub struct Table {
    /// Name of map and pin.
    pub name: &'static str,
    fd: OwnedFd,
    /// The kernel's id of it.
    pub id: u32,
}

/// The gates that [`Pins::remove`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Interfaces that had a gate, by index.
    pub interfaces: BTreeSet<u32>,
    /// There was a socket guard.
    pub guard: bool,
}

impl Pins {
    /// Pins below this directory.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), version: ABI_VERSION }
    }

    /// The pins of other versions that are there, the newest first.
    pub fn others(&self) -> Result<Vec<Self>, DatapathError> {
        let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        let mut versions: Vec<u32> = list(&self.root)?.iter().filter_map(number).collect();
        versions.retain(|version| *version != self.version);
        versions.sort_unstable_by(|one, other| other.cmp(one));
        let root = &self.root;
        Ok(versions.into_iter().map(|version| Self { root: root.clone(), version }).collect())
    }

    /// The version of the layouts.
    pub const fn layout_version(&self) -> u32 {
        self.version
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pin of a table.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Directory of the links' pins.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// The pin of the link on an interface; names may have dots, which bpffs refuses, so the index.
    pub fn link(&self, interface: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{}-{interface}", hook.word()))
    }

    /// Name of our classifiers, so that `tc filter show` names their owner.
    pub fn owner(&self) -> String {
        let mut name = format!("jit-agent {}", self.root.display());
        // The kernel takes 255 bytes.
        while name.len() > 255 {
            name.pop();
        }
        name
    }

    /// The pin of the socket guard's link.
    pub fn guard(&self) -> PathBuf {
        self.links().join(GUARD)
    }

    /// Hook and interface of a pinned link, from the pin's name.
    pub fn parse_link(path: &Path) -> Option<(Hook, u32)> {
        let (hook, index) = path.file_name()?.to_str()?.split_once('-')?;
        Some((Hook::from_word(hook)?, index.parse().ok()?))
    }

    /// Paths of all pinned links.
    pub fn all_links(&self) -> Result<Vec<PathBuf>, DatapathError> {
        list(&self.links())
    }

    /// Whether a gate is pinned here.
    pub fn exist(&self) -> bool {
        self.version().exists()
    }

    /// Locks the pins of all versions for this process. Creates nothing below the directory.
    pub fn lock(&self) -> Result<DirectoryLock, DatapathError> {
        self.check_place()?;
        sys::private_directory(&self.root, 0o700)?;
        let lock = sys::lock_directory(&self.root)?;
        lock.ok_or_else(|| DatapathError::Locked(self.root.clone()))
    }

    /// Creates the directories, or checks that those that are there are ours alone.
    pub fn prepare(&self) -> Result<(), DatapathError> {
        self.check_place()?;
        for directory in
            [self.root.clone(), self.version(), self.version().join("maps"), self.links()]
        {
            sys::private_directory(&directory, 0o700)?;
        }
        Ok(())
    }

    /// Compares every pinned table with this version's declaration. For another version's pins it
    /// only checks that their kind is known.
    pub fn check(&self, limits: Limits) -> Result<(), DatapathError> {
        for other in self.others()? {
            other.check_links()?;
        }
        for layout in layouts(limits) {
            self.check_table(&layout)?;
        }
        Ok(())
    }

    /// Whether the kind of every pinned link is known.
    fn check_links(&self) -> Result<(), DatapathError> {
        for path in self.all_links()? {
            if path != self.guard() && Self::parse_link(&path).is_none() {
                let what = format!(
                    "version {} of jit-agent's layouts pinned it, and this version does not know \
                     what it is; start that one, or take the gate off first",
                    self.version
                );
                return Err(DatapathError::Pin { path, what });
            }
        }
        Ok(())
    }

    fn check_table(&self, layout: &Layout) -> Result<(), DatapathError> {
        let path = self.map(layout.name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("look at a pinned table")(error)),
        };
        sys::check_trusted(&path, &metadata)?;
        let info = MapInfo::from_pin(&path)
            .map_err(|error| DatapathError::Pin { path: path.clone(), what: chain(&error) })?;
        layout.difference(&info).map_or(Ok(()), |what| Err(DatapathError::Pin { path, what }))
    }

    /// Opens every pinned table, to pin it again if its pin is removed.
    pub fn hold_tables(&self, limits: Limits) -> Result<Vec<Table>, DatapathError> {
        layouts(limits)
            .into_iter()
            .map(|Layout { name, .. }| {
                let path = self.map(name);
                let fd = bpf::open_pin(&path).map_err(failed("open a pinned table"))?;
                let id = map_id(&path).ok_or_else(|| DatapathError::Pin {
                    path: path.clone(),
                    what: "it is no table".into(),
                })?;
                Ok(Table { name, fd, id })
            })
            .collect()
    }

    /// The tables whose pins are gone, or are another table's.
    pub fn missing<'a>(&self, tables: &'a [Table]) -> Vec<&'a Table> {
        tables.iter().filter(|table| map_id(&self.map(table.name)) != Some(table.id)).collect()
    }

    /// Pins those tables again, and names them.
    pub fn restore_tables(&self, tables: &[Table]) -> Result<Vec<&'static str>, DatapathError> {
        let missing = self.missing(tables);
        if !missing.is_empty() {
            self.prepare()?;
        }
        for table in &missing {
            let path = self.map(table.name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove a pin")(error));
                }
                _ => {}
            }
            bpf::pin(&table.fd, &path).map_err(failed("pin a table again"))?;
        }
        Ok(missing.into_iter().map(|table| table.name).collect())
    }

    /// Whether nothing is pinned here, of any version.
    pub fn is_empty(&self) -> Result<bool, DatapathError> {
        Ok(list(&self.root)?.is_empty())
    }

    /// Removes every pin of every version: links first, which opens the gate. Says what was
    /// attached. The directory itself stays: systemd-tmpfiles made it, and without it the service
    /// does not start.
    pub fn remove(&self) -> Result<Removed, DatapathError> {
        let mut removed = Removed::default();
        for (index, classifier) in self.classifiers()? {
            rtnetlink::remove_classifier(index, &classifier)
                .map_err(failed("remove a classifier"))?;
            removed.interfaces.insert(index);
        }
        for version in list(&self.root)? {
            own_directory(&version)?;
            for kind in ["links", "maps"] {
                let directory = version.join(kind);
                own_directory(&directory)?;
                for pin in list(&directory)? {
                    let hook = Self::parse_link(&pin).map(|(hook, _)| hook);
                    if kind == "links" && hook != Some(Hook::Clsact) {
                        bpf::open_pin(&pin)
                            .and_then(bpf::detach_link)
                            .map_err(failed("detach a link"))?;
                    }
                    fs::remove_file(&pin).map_err(failed("remove a pin"))?;
                    if kind == "links" {
                        match Self::parse_link(&pin) {
                            Some((_, index)) => drop(removed.interfaces.insert(index)),
                            None => removed.guard = true,
                        }
                    }
                }
                remove_directory(&directory)?;
            }
            remove_directory(&version)?;
        }
        Ok(removed)
    }

    /// Our classifiers, by interface: they need no pin to stay.
    pub fn classifiers(&self) -> Result<Vec<(u32, Classifier)>, DatapathError> {
        observe::our_classifiers(&self.owner())
    }

    fn check_place(&self) -> Result<(), DatapathError> {
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        if !sys::is_bpffs(parent) && !sys::is_bpffs(&self.root) {
            return Err(DatapathError::NoBpffs(self.root.clone()));
        }
        Ok(())
    }

    /// Removes pins of other versions where this version is in force in their place. Called when
    /// all wanted programs are attached. A pin without a successor stays.
    pub fn retire(&self) -> Result<(), DatapathError> {
        for other in self.others()? {
            for pin in other.all_links()? {
                other.retire_link(&pin, self)?;
            }
            if other.all_links()?.is_empty() {
                for pin in list(&other.version().join("maps"))? {
                    fs::remove_file(&pin).map_err(failed("remove a pin"))?;
                }
                remove_directory(&other.version().join("maps"))?;
                remove_directory(&other.links())?;
                remove_directory(&other.version())?;
                tracing::info!(version = other.version, "pins of another version removed");
            }
        }
        Ok(())
    }

    fn retire_link(&self, pin: &Path, by: &Self) -> Result<(), DatapathError> {
        let gone = || fs::remove_file(pin).map_err(failed("remove a pin"));
        let (own, succeeded) = match Self::parse_link(pin) {
            Some((hook, _)) if LinkKind::of(hook).is_none() => return gone(),
            Some((hook, index)) => {
                let of_it = |pin: &PathBuf| Self::parse_link(pin).is_some_and(|(_, i)| i == index);
                (by.link(index, hook), by.all_links()?.iter().any(of_it))
            }
            None => (by.guard(), by.guard().exists()),
        };
        let look = failed("look at a pinned link");
        let link = bpf::open_pin(pin).map_err(&look)?;
        let info = bpf::any_link_info(&link).map_err(&look)?;
        let same = bpf::open_pin(&own).and_then(bpf::any_link_info).is_ok_and(|o| o.id == info.id);
        if !same && (succeeded || !info.attached) {
            bpf::detach_link(link).map_err(failed("detach a link"))?;
        }
        // A gate without a successor stays while it holds.
        if same || succeeded || !info.attached { gone() } else { Ok(()) }
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }
}

/// The kernel's id of the table that is pinned there, if one is.
fn map_id(pin: &Path) -> Option<u32> {
    MapInfo::from_pin(pin).ok().map(|info| info.id())
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed("list the pins")))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("list the pins")(error)),
    }
}

/// Refuses a link in place of a directory: root, who removes what is in it, does not follow where
/// the service's user leads.
fn own_directory(path: &Path) -> Result<(), DatapathError> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
        let what = "it is no directory: jit-agent did not make it; look at it, and remove it";
        return Err(DatapathError::Pin { path: path.to_owned(), what: what.into() });
    }
    Ok(())
}

/// A directory that is gone is no error.
fn remove_directory(directory: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove a pin directory")(error))
        }
        _ => Ok(()),
    }
}

fn failed(verb: &'static str) -> impl Fn(io::Error) -> DatapathError {
    move |error| DatapathError::Sys { verb, error }
}
