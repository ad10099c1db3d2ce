//! A file system of a few MiB, which a test can fill up; and one that hangs while a test wants it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The longest time for which a file system hangs: `sync` of the whole machine waits for it, too.
const LONGEST_FREEZE: Duration = Duration::from_secs(20);

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

/// A file system on a loop device. While it is frozen, every write to it hangs in the kernel, and not
/// even SIGKILL ends it.
pub struct Freezable {
    path: PathBuf,
    frozen: Arc<AtomicBool>,
}

impl Freezable {
    /// Makes the directory and mounts 32 MiB of ext4 there, from an image beside it.
    pub fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a disk that can hang");
        let image = path.with_extension("image");
        let file = fs::File::create(&image).expect("an image");
        file.set_len(32 << 20).expect("an image");
        let disk = Self { path, frozen: Arc::default() };
        run("mkfs.ext4", &["-q", "-F"], &image);
        run_it(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk.path));
        disk
    }

    /// From now on every write hangs, until [`Self::thaw`] or for 20 s.
    pub fn freeze(&self) {
        run("fsfreeze", &["--freeze"], &self.path);
        self.frozen.store(true, Ordering::Relaxed);
        let (path, frozen) = (self.path.clone(), Arc::clone(&self.frozen));
        let end = Instant::now() + LONGEST_FREEZE;
        thread::spawn(move || {
            while frozen.load(Ordering::Relaxed) && Instant::now() < end {
                thread::sleep(Duration::from_millis(50));
            }
            thaw(&path, &frozen);
        });
    }

    /// The disk answers again.
    pub fn thaw(&self) {
        thaw(&self.path, &self.frozen);
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        self.thaw();
        let _done = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn thaw(path: &Path, frozen: &AtomicBool) {
    if frozen.swap(false, Ordering::Relaxed) {
        run("fsfreeze", &["--unfreeze"], path);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    run_it(Command::new(program).args(arguments).arg(path));
}

fn run_it(command: &mut Command) {
    let status = command.status().expect("a disk that can hang");
    assert!(status.success(), "{command:?}");
}
