//! A thread that can open no file.
//!
//! aya's loader reads all types of the running kernel when it is made, whether it needs them or not:
//! some 20 MiB, and a quarter of the time until the gate is in force. It goes on without them if it
//! cannot read them. So it is made on a thread that Landlock (Linux 5.13) keeps from reading files.
//! On a kernel without Landlock the types are read, and dropped.

use std::thread;

use crate::system::landlock::{self, Denials};

/// Makes a value on a thread that can read no file. Without such a thread the value is made here.
pub(super) fn without_files<T: Send + 'static>(make: fn() -> T) -> T {
    let blind = move || {
        if let Err(error) = landlock::give_up(&[landlock::READ_FILE], Denials::Unrecorded) {
            tracing::debug!("cannot keep a thread from reading files: {error}");
        }
        make()
    };
    let made = thread::Builder::new().name("blind".into()).spawn(blind);
    made.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(make)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TYPES: &str = "/proc/self/status";

    #[test]
    fn the_thread_reads_no_file_and_its_maker_still_does() {
        let read = || fs::read(TYPES).is_ok();
        assert_eq!(without_files(read), landlock::version().is_err());
        assert!(read());
    }
}
