//! The socket between the gate and its front, with a queue of what it does not take at once.
//!
//! Whoever sends writes by himself where the socket takes it: a task between would cost each call two
//! changes of threads.

use std::{
    collections::VecDeque,
    io,
    marker::PhantomData,
    os::unix::net::UnixStream as Socket,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use prost::{
    Message,
    bytes::{Buf as _, Bytes, BytesMut},
};
use tokio::{net::UnixStream, sync::Notify};

use crate::control::link::{Garbled, encode, take};

/// Bytes of the queue above which whoever can wait does.
const FULL: usize = 1024 * 1024;
/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Both ends of one socket: what is sent, and what is received.
pub(crate) fn pipe<O, I>(socket: Socket) -> io::Result<(Sender<O>, Receiver<I>)> {
    socket.set_nonblocking(true)?;
    let stream = Arc::new(UnixStream::from_std(socket)?);
    let shared = Shared {
        stream: Arc::clone(&stream),
        queue: Mutex::default(),
        queued: AtomicUsize::new(0),
        more: Notify::new(),
        room: Notify::new(),
    };
    let sender = Sender { shared: Arc::new(shared), kind: PhantomData };
    Ok((sender, Receiver { stream, bytes: BytesMut::new(), kind: PhantomData }))
}

/// The sending side. Clones send to the same socket.
#[derive(Debug)]
pub(crate) struct Sender<O> {
    shared: Arc<Shared>,
    kind: PhantomData<fn(O)>,
}

#[derive(Debug)]
struct Shared {
    stream: Arc<UnixStream>,
    queue: Mutex<VecDeque<Bytes>>,
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// The queue is not empty any more.
    more: Notify,
    /// The queue is not full any more.
    room: Notify,
}

impl<O> Clone for Sender<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), kind: PhantomData }
    }
}

impl<O: Message> Sender<O> {
    /// Sends a message, or queues what the socket does not take now. Its number is bounded by the
    /// caller: each is the answer to something, or follows [`Sender::room`].
    pub(crate) fn send(&self, message: &O) {
        let mut bytes = encode(message);
        let Shared { stream, queued, more, .. } = &*self.shared;
        let mut queue = self.shared.lock();
        if queue.is_empty() {
            // An error shows at the reader, too.
            let written = stream.try_write(&bytes).unwrap_or(0);
            bytes.advance(written);
        }
        if !bytes.is_empty() {
            queued.fetch_add(bytes.len(), Ordering::Relaxed);
            queue.push_back(bytes);
            more.notify_one();
        }
    }

    /// Sends a message that may be lost, if there is room.
    pub(crate) fn send_if_room(&self, message: &O) {
        if !self.is_full() {
            self.send(message);
        }
    }

    /// Waits until the queue is not full.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.shared.room.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Writes what is queued, for as long as the socket works.
    pub(crate) async fn flush_forever(&self) -> io::Error {
        loop {
            self.shared.more.notified().await;
            while !self.shared.lock().is_empty() {
                if let Err(error) = self.shared.stream.writable().await {
                    return error;
                }
                match self.shared.write() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return error,
                    _ => {}
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.shared.queued.load(Ordering::Relaxed) >= FULL
    }
}

impl Shared {
    /// Writes what the socket takes.
    fn write(&self) -> io::Result<()> {
        let mut queue = self.lock();
        while let Some(first) = queue.front_mut() {
            let written = self.stream.try_write(first)?;
            first.advance(written);
            if first.is_empty() {
                queue.pop_front();
            }
            let before = self.queued.fetch_sub(written, Ordering::Relaxed);
            if before >= FULL && before - written < FULL {
                self.room.notify_waiters();
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing more is received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("it closed its end")]
    Closed,
    #[error(transparent)]
    Garbled(#[from] Garbled),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Receiver<I> {
    stream: Arc<UnixStream>,
    bytes: BytesMut,
    kind: PhantomData<fn() -> I>,
}

impl<I: Message + Default> Receiver<I> {
    /// The next message. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<I, Broken> {
        loop {
            if let Some(message) = take(&mut self.bytes)? {
                return Ok(message);
            }
            self.stream.readable().await?;
            self.bytes.reserve(READ);
            match self.stream.try_read_buf(&mut self.bytes) {
                Ok(0) => return Err(Broken::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{runtime::Builder, time::timeout};

    use super::*;
    use crate::control::link::{Answer, Order, ToFront, ToGate};

    fn part(call: u64, length: usize) -> ToFront {
        let data = Bytes::from(vec![7; length]);
        ToFront { order: Some(Order::Answer(Answer { call, data, ..Answer::default() })) }
    }

    #[test]
    fn what_the_socket_does_not_take_waits_and_arrives_in_order() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, far) = Socket::pair().unwrap();
            let (sender, _silent) = pipe::<ToFront, ToGate>(near).unwrap();
            let (_unused, mut receiver) = pipe::<ToGate, ToFront>(far).unwrap();
            let writer = sender.clone();
            let writer = tokio::spawn(async move { writer.flush_forever().await });
            for call in 0..40 {
                sender.send(&part(call, 100_000));
            }
            let waits = timeout(Duration::from_millis(20), sender.room()).await;
            assert!(waits.is_err(), "4 MB are queued");
            for call in 0..40 {
                assert_eq!(receiver.next().await.unwrap(), part(call, 100_000));
            }
            sender.room().await;
            writer.abort();
            assert!(writer.await.is_err());
            drop((sender, _silent));
            assert!(matches!(receiver.next().await, Err(Broken::Closed)));
        });
    }
}
