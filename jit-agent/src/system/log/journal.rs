//! The journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): priorities and fields
//! by which `journalctl` can select.
//!
//! `tracing-journald` speaks it too, but from the thread that logs, over a socket that blocks: an
//! agent whose journal is stopped would stop with it. Here records wait in the queue of the log like
//! lines of text.

use std::{
    ffi::OsStr,
    fmt::{self, Write as _},
    io,
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use rustix::{
    fs::fstat,
    net::{SendFlags, SocketAddrUnix, sendto},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{Output, Queue};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// The journal's name for this program.
const IDENTIFIER: &str = "jit-agent";
/// What the names of this program's own fields begin with.
const PREFIX: &str = "JIT_";
/// Most bytes of one value: a record must fit into a datagram.
const MAX_VALUE: usize = 32 * 1024;

/// Whether this is the stream that systemd has connected with the journal: JOURNAL_STREAM has its
/// device and inode.
pub(super) fn is_connected(journal_stream: Option<&OsStr>, stream: impl AsFd) -> bool {
    let Some((device, inode)) =
        journal_stream.and_then(OsStr::to_str).and_then(|it| it.split_once(':'))
    else {
        return false;
    };
    let named = device.parse::<u64>().ok().zip(inode.parse::<u64>().ok());
    fstat(stream).is_ok_and(|found| named == Some((found.st_dev, found.st_ino)))
}

/// A socket to the journal. It needs no connection: a journal that was restarted gets the next
/// record.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// Opens a socket.
    ///
    /// # Errors
    /// Nobody listens on the path.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        probe(&socket, path)?;
        Ok(Self { socket, path: path.to_owned() })
    }
}

impl Output for Journal {
    const NAME: &'static str = "the journal";

    fn write(&self, record: &[u8]) -> io::Result<()> {
        self.socket.send_to(record, &self.path).map(drop)
    }

    fn is_back(&self) -> bool {
        probe(&self.socket, &self.path).is_ok()
    }
}

/// Whether somebody listens. The journal drops an empty record. One that is busy is there.
fn probe(socket: &UnixDatagram, path: &Path) -> io::Result<()> {
    match sendto(socket, &[], SendFlags::DONTWAIT, &SocketAddrUnix::new(path)?) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a record of each event.
pub(super) struct Records(pub(super) &'static Queue);

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Self(queue) = self;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        queue.push(&fields.record(*metadata.level(), Some(metadata.target())));
    }
}

/// A record with only a message.
pub(super) fn message(level: Level, text: &str) -> Vec<u8> {
    Fields { message: text.to_owned(), ..Fields::default() }.record(level, None)
}

/// The fields of an event, and how a person reads them after the message.
#[derive(Default)]
struct Fields {
    message: String,
    read: String,
    record: Vec<u8>,
}

impl Fields {
    /// `journalctl` shows the message alone, so it has the fields as well.
    fn record(self, level: Level, target: Option<&str>) -> Vec<u8> {
        let Self { message, read, mut record } = self;
        put(&mut record, "MESSAGE", &format!("{message}{read}"));
        put(&mut record, "PRIORITY", priority(level));
        put(&mut record, "SYSLOG_IDENTIFIER", IDENTIFIER);
        if let Some(target) = target {
            put(&mut record, "TARGET", target);
        }
        record
    }

    /// `value` for a program, `read` for a person.
    fn add(&mut self, field: &Field, value: &str, read: fmt::Arguments<'_>) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            // The crate `log` says with these where a line comes from.
            name if name.starts_with("log.") => {}
            name => {
                // Writing to a string never fails.
                let _written = write!(self.read, " {name}={read}");
                put(&mut self.record, &own_name(name), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, format_args!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, &text, format_args!("{text}"));
    }
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// The journal's name of a field: upper case, digits and underscores.
fn own_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    PREFIX.chars().chain(name.chars().map(letter)).collect()
}

/// Adds a field: with its length, so that it may have any bytes.
fn put(record: &mut Vec<u8>, name: &str, value: &str) {
    let end = value.floor_char_boundary(value.len().min(MAX_VALUE));
    let value = value.get(..end).unwrap_or_default().as_bytes();
    record.extend_from_slice(name.as_bytes());
    record.push(b'\n');
    record.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    record.extend_from_slice(value);
    record.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        os::{fd::AsRawFd as _, linux::fs::MetadataExt as _},
        thread,
        time::{Duration, Instant},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::system::log::{MAX_BYTES, STALLED};

    /// Reads a record as the journal does: lines `NAME=value`, or a name, a length and bytes.
    fn decode(mut record: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = record.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = record.split_at(end);
            let rest = &rest[1..];
            let head = String::from_utf8(head.to_vec()).unwrap();
            if let Some((name, value)) = head.split_once('=') {
                fields.insert(name.to_owned(), value.to_owned());
                record = rest;
                continue;
            }
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let (value, rest) = rest.split_at(usize::try_from(length).unwrap());
            assert_eq!(rest[0], b'\n');
            fields.insert(head, String::from_utf8(value.to_vec()).unwrap());
            record = &rest[1..];
        }
        assert!(record.is_empty());
        fields
    }

    /// A socket in the journal's place, and a queue that writes to it.
    fn journal(path: &Path) -> (UnixDatagram, &'static Queue) {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let journal = Journal::open(path).unwrap();
        thread::spawn(move || {
            let report = |lines| queue.push(&message(Level::WARN, &format!("{lines} lost")));
            queue.write_to(&journal, report);
        });
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 0, "the empty record of the open");
        (socket, queue)
    }

    fn receive(socket: &UnixDatagram) -> BTreeMap<String, String> {
        let mut buffer = vec![0; 256 * 1024];
        // The journal drops an empty record.
        let length = loop {
            match socket.recv(&mut buffer).unwrap() {
                0 => {}
                length => break length,
            }
        };
        decode(&buffer[..length])
    }

    #[test]
    fn an_event_is_one_record_with_priority_and_fields() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, queue) = journal(&directory.path().join("socket"));
        let subscriber = tracing_subscriber::registry().with(Records(queue));
        tracing::subscriber::with_default(subscriber, || {
            let (grant, by) = ("01J9W7K3", "spiffe://example.org/c\nPRIORITY=0");
            tracing::warn!(%grant, by, sessions = 3, "grant {}\nsecond line", "refused");
            tracing::error!("lost");
        });
        let record = receive(&socket);
        assert_eq!(record["PRIORITY"], "4");
        assert_eq!(record["JIT_GRANT"], "01J9W7K3");
        assert_eq!(record["JIT_BY"], "spiffe://example.org/c\nPRIORITY=0");
        assert_eq!(record["JIT_SESSIONS"], "3");
        assert_eq!(record["SYSLOG_IDENTIFIER"], IDENTIFIER);
        assert!(record["TARGET"].starts_with("jit_agent::system::log"));
        let read = "grant refused\nsecond line grant=01J9W7K3 \
                    by=\"spiffe://example.org/c\\nPRIORITY=0\" sessions=3";
        assert_eq!(record["MESSAGE"], read);
        let record = receive(&socket);
        assert_eq!((record["PRIORITY"].as_str(), record["MESSAGE"].as_str()), ("3", "lost"));
    }

    #[test]
    fn a_very_long_value_is_cut_and_still_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, queue) = journal(&directory.path().join("socket"));
        queue.push(&message(Level::INFO, &"ü".repeat(300_000)));
        assert_eq!(receive(&socket)["MESSAGE"].len(), MAX_VALUE);
    }

    #[test]
    fn a_journal_that_is_stopped_delays_nobody_and_gets_the_number_of_dropped_lines() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, queue) = journal(&directory.path().join("socket"));
        let record = message(Level::INFO, &"x".repeat(1_000));
        let began = Instant::now();
        for _ in 0..3 * MAX_BYTES / record.len() {
            queue.push(&record);
        }
        assert!(began.elapsed() < STALLED, "{:?}", began.elapsed());
        let end = began + Duration::from_secs(20);
        let stopped = || queue.state(Instant::now() + STALLED).problem;
        while stopped().is_none_or(|problem| !problem.contains("takes no line")) {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        // Those that the thread took meanwhile made no room that was needed.
        let state = queue.state(Instant::now());
        assert!(state.dropped > 0);
        let said = loop {
            let record = receive(&socket);
            if record["MESSAGE"].ends_with(" lost") {
                break record;
            }
        };
        assert_eq!(said["MESSAGE"], format!("{} lost", state.dropped));
    }

    #[test]
    fn a_journal_that_is_gone_loses_lines_and_one_that_is_back_gets_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, queue) = journal(&path);
        drop(socket);
        queue.push(&message(Level::INFO, "while it is gone"));
        let end = Instant::now() + Duration::from_secs(20);
        while queue.state(Instant::now()).dropped == 0 {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(1));
        }
        let problem = queue.state(Instant::now()).problem.unwrap();
        assert!(problem.starts_with("cannot write the log to the journal: "), "{problem}");
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        queue.push(&message(Level::INFO, "back"));
        assert_eq!(receive(&socket)["MESSAGE"], "back");
        assert_eq!(receive(&socket)["MESSAGE"], "1 lost");
        assert_eq!(queue.state(Instant::now()).problem, None);
    }

    #[test]
    fn a_journal_that_is_back_is_found_without_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, queue) = journal(&path);
        drop(socket);
        queue.push(&message(Level::INFO, "while it is gone"));
        let wait = |failed: bool| {
            let end = Instant::now() + Duration::from_secs(20);
            while queue.state(Instant::now()).problem.is_some() != failed {
                assert!(Instant::now() < end, "failed: {failed}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait(true);
        std::fs::remove_file(&path).unwrap();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        wait(false);
        assert_eq!(receive(&socket)["MESSAGE"], "1 lost");
    }

    #[test]
    fn only_the_stream_that_systemd_names_is_the_journals() {
        let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let found = file.metadata().unwrap();
        let named = format!("{}:{}", found.st_dev(), found.st_ino());
        let is = |named: Option<&str>, file| is_connected(named.map(OsStr::new), file);
        assert!(is(Some(&named), &file));
        assert!(!is(Some(&named), &other), "standard error leads elsewhere: {}", other.as_raw_fd());
        for wrong in [None, Some(""), Some(":"), Some("8"), Some("a:b"), Some("-1:7")] {
            assert!(!is(wrong, &file), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_journal_none_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Journal::open(&directory.path().join("socket")).is_err());
    }
}
