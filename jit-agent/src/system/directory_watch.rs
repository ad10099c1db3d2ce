//! Waits until something changes in a directory: a file comes, goes or gets another name (inotify(7)).
//! What happens above the directory is not seen: its path may lead to another one.

use std::{io, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::system::readable::Readable;

/// Room for some notifications: 16 bytes and a name each.
const ROOM: usize = 4096;

/// A directory that is watched.
#[derive(Debug)]
pub struct DirectoryWatch(Readable);

impl DirectoryWatch {
    /// Begins to watch a directory.
    ///
    /// # Errors
    /// It is no directory, or the kernel gives no more watches to this user.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, directory, flags)?;
        Readable::new(watch).map(Self)
    }

    /// Waits for a change. Those that came together are one.
    ///
    /// # Errors
    /// Nothing more can be read.
    pub async fn changed(&self) -> io::Result<()> {
        let Self(watch) = self;
        watch.news(|watch| rustix::io::read(watch, &mut [0; ROOM]).map(drop)).await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_comes_goes_or_is_renamed_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let watch = DirectoryWatch::open(directory.path()).unwrap();
        let changed = async || timeout(Duration::from_secs(10), watch.changed()).await.is_ok();
        fs::write(&one, "").unwrap();
        assert!(changed().await);
        fs::rename(&one, &two).unwrap();
        assert!(changed().await);
        fs::remove_file(&two).unwrap();
        assert!(changed().await);
        assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err(), "all is read");
        drop(directory);
        assert!(changed().await, "the directory is gone");
    }

    #[tokio::test]
    async fn what_is_no_directory_cannot_be_watched() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(DirectoryWatch::open(file.path()).is_err());
    }
}
