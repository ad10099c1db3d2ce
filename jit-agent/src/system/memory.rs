//! The allocator (glibc's): one heap, and what is free in it goes back to the kernel.
//!
//! By itself glibc makes a heap for each thread, raises its thresholds after each large block that
//! is freed, and keeps free pages below a block that is in use. What one large list or one reading
//! of the kernel's types took once would then stay resident for ever. Another allocator would do the
//! same for 300 KB and more of the binary.

/// Blocks of at least this size are mappings of their own, which go back when they are freed; and
/// this much stays free at the end of the heap, bytes. (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of
/// mallopt(3): a value that is set is not raised.)
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 * 1024;

/// Sets the allocator up. It must come first in `main`: a thread keeps the heap that it has.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, THRESHOLD),
        (libc::M_TRIM_THRESHOLD, THRESHOLD),
    ] {
        // SAFETY: mallopt takes two integers, and these are parameters of mallopt(3). One that it
        // refuses stays as it was.
        let _refused = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives all free pages back to the kernel, also those below a block that is in use.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and may be called at any time, from any thread. It
    // touches only what is free.
    let _any = unsafe { libc::malloc_trim(0) };
}
