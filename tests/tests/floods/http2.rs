//! HTTP/2 by hand (RFC 9113), over TLS: a peer that keeps no rule it does not want to keep.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use jit_tests::sockets::connect_from;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::scene::Scene;

/// Longest wait of a read or write.
const PATIENCE: Duration = Duration::from_secs(3);
/// Larger than any limit: what a peer without flow control of its own allows (section 6.9.1).
const WIDE_OPEN: u32 = 0x7fff_ffff;
const FIRST_WINDOW: i64 = 65_535;

/// Types of frames (section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RESET: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GO_AWAY: u8 = 7;
    pub(crate) const WINDOW: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

/// `SETTINGS_INITIAL_WINDOW_SIZE` (section 6.5.2).
pub(crate) const INITIAL_WINDOW: u16 = 4;

pub(crate) struct Raw {
    tls: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
    /// What the agent lets this peer send: in all, on a new stream, and on each.
    window: i64,
    initial: i64,
    streams: HashMap<u32, i64>,
    /// Streams that the agent has ended.
    pub(crate) ended: Vec<u32>,
    pub(crate) gone: bool,
}

/// Connects by TCP and makes the TLS connection, or fails.
pub(crate) fn connect(
    config: &Arc<ClientConfig>,
    source: SocketAddr,
    agent: SocketAddr,
) -> io::Result<Raw> {
    secure(config, connect_from(source, agent, PATIENCE)?)
}

/// Makes the TLS connection over this one, or fails.
pub(crate) fn secure(config: &Arc<ClientConfig>, tcp: TcpStream) -> io::Result<Raw> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    tcp.set_nodelay(true)?;
    let name = Scene::server_name();
    let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(session, tcp);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(Raw {
        tls,
        received: Vec::new(),
        window: FIRST_WINDOW,
        initial: FIRST_WINDOW,
        streams: HashMap::new(),
        ended: Vec::new(),
        gone: false,
    })
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header fields, each as a literal with its name (RFC 7541 section 6.2.2).
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// The header of a call, with more fields.
pub(crate) fn call(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/jit.v1.JitAgent/{method}");
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", &path),
        (":authority", "agent"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    fields(&[&head, more].concat())
}

/// A message with its prefix (gRPC over HTTP/2).
pub(crate) fn message(content: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

impl Raw {
    /// The preface, and this initial window of answers.
    pub(crate) fn greet(&mut self, window: u32) -> io::Result<()> {
        let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
        let settings = frame(kind::SETTINGS, 0, 0, &setting);
        self.write(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat())
    }

    /// The same with room for every answer.
    pub(crate) fn greet_well(&mut self) -> io::Result<()> {
        self.greet(WIDE_OPEN)?;
        let more = WIDE_OPEN - u32::try_from(FIRST_WINDOW).unwrap();
        self.write(&frame(kind::WINDOW, 0, 0, &more.to_be_bytes()))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, stream: u32, head: &[u8]) -> io::Result<()> {
        self.streams.insert(stream, self.initial);
        self.write(&frame(kind::HEADERS, flag::END_HEADERS, stream, head))
    }

    /// Sends bodies, in turn, as far as the agent lets it. Returns how much each still has.
    pub(crate) fn send(&mut self, bodies: &mut [(u32, &[u8])], within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && !self.gone {
            let mut sent = false;
            for (stream, body) in bodies.iter_mut() {
                let window = self.streams.get(stream).copied().unwrap_or(0).min(self.window);
                let length = body.len().min(16_384).min(usize::try_from(window).unwrap_or(0));
                if length == 0 || self.ended.contains(stream) {
                    continue;
                }
                let (now, later) = body.split_at(length);
                self.tls.write_all(&frame(kind::DATA, 0, *stream, now))?;
                *body = later;
                let length = i64::try_from(length).unwrap();
                self.window -= length;
                *self.streams.get_mut(stream).unwrap() -= length;
                sent = true;
            }
            self.tls.flush()?;
            let open =
                |(stream, body): &(u32, &[u8])| !body.is_empty() && !self.ended.contains(stream);
            if !bodies.iter().any(open) {
                return Ok(());
            }
            self.listen(if sent { Duration::from_millis(1) } else { Duration::from_millis(100) })?;
        }
        Ok(())
    }

    /// Ends the body of a call.
    pub(crate) fn finish(&mut self, stream: u32) -> io::Result<()> {
        self.write(&frame(kind::DATA, flag::END_STREAM, stream, &[]))
    }

    /// Whether the agent has ended the connection, or does within a time. Answers nothing.
    pub(crate) fn is_closed(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.tls.sock.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        while !self.gone && Instant::now() < deadline {
            match self.tls.read(&mut [0; 16_384]) {
                Ok(1..) => {}
                Err(error) if jit_tests::sockets::is_silence(&error) => {}
                Ok(0) | Err(_) => self.gone = true,
            }
        }
        self.gone
    }

    /// Reads what has come, and what comes within a time.
    pub(crate) fn listen(&mut self, within: Duration) -> io::Result<()> {
        self.tls.sock.set_read_timeout(Some(within))?;
        let mut bytes = [0; 16_384];
        match self.tls.read(&mut bytes) {
            Ok(0) => self.gone = true,
            Ok(read) => self.received.extend_from_slice(&bytes[..read]),
            Err(error) if jit_tests::sockets::is_silence(&error) => {}
            Err(error) => return Err(error),
        }
        while let Some(length) = self.received.get(..9).map(|head| {
            9 + usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()
        }) {
            if self.received.len() < length {
                break;
            }
            let frame: Vec<_> = self.received.drain(..length).collect();
            self.heard(&frame)?;
        }
        Ok(())
    }

    fn heard(&mut self, received: &[u8]) -> io::Result<()> {
        let word = |at: usize| {
            received.get(at..at + 4).map(|word| u32::from_be_bytes(word.try_into().unwrap()))
        };
        let (kind, flags, stream) = (received[3], received[4], word(5).unwrap());
        match kind {
            kind::SETTINGS if flags & flag::ACK == 0 => {
                for setting in received[9..].chunks_exact(6) {
                    if setting[..2] == INITIAL_WINDOW.to_be_bytes() {
                        let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                        let more = i64::from(value) - self.initial;
                        self.initial += more;
                        self.streams.values_mut().for_each(|window| *window += more);
                    }
                }
                self.write(&frame(kind::SETTINGS, flag::ACK, 0, &[]))?;
            }
            kind::PING if flags & flag::ACK == 0 => {
                self.write(&frame(kind::PING, flag::ACK, 0, &received[9..]))?;
            }
            kind::WINDOW => {
                let more = i64::from(word(9).unwrap());
                match self.streams.get_mut(&stream) {
                    Some(window) => *window += more,
                    None if stream == 0 => self.window += more,
                    None => {}
                }
            }
            kind::RESET => self.ended.push(stream),
            kind::HEADERS | kind::DATA if flags & flag::END_STREAM != 0 => self.ended.push(stream),
            kind::GO_AWAY => self.gone = true,
            _ => {}
        }
        Ok(())
    }
}
