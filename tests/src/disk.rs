//! A file system of a few MiB, which a test can fill up.

use std::{fs, path::PathBuf, process::Command};

/// A small file system of its own for the agent's state.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes the directory and mounts 8 MiB there.
    pub fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a small disk");
        let disk = Self { path };
        disk.run("mount", &["-t", "tmpfs", "-o", "size=8m,mode=700", "none"]);
        disk
    }

    /// Makes the file system read-only, or writable again. Fails while a file is open for writing.
    pub fn read_only(&self, read_only: bool) {
        self.run("mount", &["-o", if read_only { "remount,ro" } else { "remount,rw" }]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status =
            Command::new(program).args(arguments).arg(&self.path).status().expect("a small disk");
        assert!(status.success(), "{program}");
    }

    /// Fills the file system up.
    pub fn fill(&self) {
        let mut size = 1 << 20;
        let mut content = Vec::new();
        while size > 0 {
            content.resize(content.len() + size, 0);
            if fs::write(self.path.join("ballast"), &content).is_err() {
                content.truncate(content.len() - size);
                fs::write(self.path.join("ballast"), &content).expect("a small disk");
                size /= 2;
            }
            if size < 256 {
                break;
            }
        }
    }

    /// Frees the room that [`Self::fill`] took.
    pub fn make_room(&self) {
        fs::remove_file(self.path.join("ballast")).expect("a small disk");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _done = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
