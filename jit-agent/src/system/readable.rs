//! A descriptor of which a task waits for news, and does not care how many.

use std::{io, os::fd::OwnedFd};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Most reads after which the news are reported, even if there are more.
const BURST: usize = 256;

/// A descriptor that does not block.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers it with the runtime.
    ///
    /// # Errors
    /// The kernel refuses to watch it.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, so it is open and the same one until this is dropped.
        unsafe { AsyncFd::register(descriptor) }.map(Self).map_err(io::Error::from)
    }

    /// Waits until there is something to read, and reads it. What came together is one piece of news.
    ///
    /// # Errors
    /// Nothing more can be read.
    pub async fn news(&self, read: impl Fn(&OwnedFd) -> Result<(), Errno>) -> io::Result<()> {
        let Self(descriptor) = self;
        let mut ready = descriptor.readable().await?;
        for _ in 0..BURST {
            match read(descriptor.get_ref()) {
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
