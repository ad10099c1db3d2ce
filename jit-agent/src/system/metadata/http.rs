//! One request to a metadata service over plain HTTP/1.1, and its answer within bounds.
//!
//! hyper's connection is in the tree for the metrics and the command line, so it reads the answer here
//! too. There is no proxy, no redirect, no name to look up, no second try: a variable of the environment
//! or an answer cannot lead a request elsewhere.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderMap},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::fault::Fault;

/// The longest wait for a connection.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// The longest wait for a whole answer, the connection included.
pub(super) const WHOLE: Duration = Duration::from_secs(2);
/// The largest body that is read, bytes.
const BODY: usize = 64 * 1024;
/// The largest head of an answer, bytes, and the most headers.
const HEAD: usize = 16 * 1024;
const HEADERS: usize = 64;

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    /// The name that the service goes by; it is not looked up.
    pub(super) host: &'a str,
    /// Path and query.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, &'a str)],
}

/// An answer that came whole. Its status may be any but a redirect.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// This end of the connection.
    pub(super) local: SocketAddr,
}

impl Answer {
    /// The body of an answer of status 200.
    pub(super) fn good(self) -> Result<Vec<u8>, Fault> {
        if self.status == StatusCode::OK {
            return Ok(self.body);
        }
        Err(Fault::Refused(self.status.as_u16()))
    }
}

/// Sends one request.
pub(super) async fn ask(to: SocketAddr, asked: &Asked<'_>) -> Result<Answer, Fault> {
    let end = Instant::now() + WHOLE;
    let stream = match timeout(CONNECT, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unconnected(&error)),
        Err(_) => return Err(Fault::Unreached),
    };
    let local = stream.local_addr().map_err(|error| Fault::Broken(error.to_string()))?;
    match timeout_at(end, exchange(stream, asked)).await {
        Ok(done) => done.map(|(status, headers, body)| Answer { status, headers, body, local }),
        Err(_) => Err(Fault::Slow),
    }
}

fn unconnected(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Fault::NoRoute,
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Fault::Absent,
        ErrorKind::TimedOut => Fault::Unreached,
        _ => Fault::Broken(error.to_string()),
    }
}

type Whole = (StatusCode, HeaderMap, Vec<u8>);

async fn exchange(stream: TcpStream, asked: &Asked<'_>) -> Result<Whole, Fault> {
    let Asked { method, host, path, headers } = asked;
    let mut request = Request::builder()
        .method(method)
        .uri(*path)
        .header(HOST, *host)
        .header(CONNECTION, "close");
    for (name, value) in *headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Fault::Broken(error.to_string()))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(HEADERS);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = answer.into_parts();
        if head.status.is_redirection() {
            return Err(Fault::Redirect(head.status.as_u16()));
        }
        Ok((head.status, head.headers, whole(body).await?))
    };
    tokio::pin!(answered);
    tokio::select! {
        biased;
        done = &mut answered => done,
        // All that came may wait to be read.
        _ended = connection => answered.await,
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, Fault> {
    let most = u64::try_from(BODY).unwrap_or(u64::MAX);
    if body.size_hint().lower() > most {
        return Err(Fault::TooLarge);
    }
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        if read.len().saturating_add(data.len()) > BODY {
            return Err(Fault::TooLarge);
        }
        read.extend_from_slice(data);
    }
    Ok(read)
}

fn broken(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::TooLarge;
    }
    if error.is_parse() {
        return Fault::Malformed(format!("no HTTP ({error})"));
    }
    Fault::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Asks a server that reads the request and then sends this, and keeps the connection if it is to.
    async fn of(answer: Vec<u8>, keeps: bool) -> (Result<Answer, Fault>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = peer.read(&mut asked).await.unwrap();
            asked.truncate(length);
            // It may be cut off.
            let _cut = peer.write_all(&answer).await;
            if keeps {
                let _closed = peer.read(&mut [0]).await;
            }
            String::from_utf8(asked).unwrap()
        });
        let headers = [("Metadata", "true")];
        let asked =
            Asked { method: Method::GET, host: "192.0.2.1", path: "/a?b=c", headers: &headers };
        let answered = ask(at, &asked).await;
        (answered, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_whole_answer_is_read_by_length_by_chunks_and_to_the_end() {
        for (head, body) in [
            ("content-length: 5\r\n\r\n", "hello"),
            ("transfer-encoding: chunked\r\n\r\n", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
            ("\r\n", "hello"),
        ] {
            let keeps = head != "\r\n";
            let (answer, asked) =
                of(format!("HTTP/1.1 200 OK\r\n{head}{body}").into(), keeps).await;
            assert_eq!(answer.unwrap().good().unwrap(), b"hello");
            assert!(asked.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("host: 192.0.2.1\r\n") && asked.contains("metadata: true\r\n"));
        }
    }

    #[tokio::test]
    async fn what_is_no_good_answer_is_a_fault_of_its_own_kind() {
        let length = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 10 << 20);
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 10 << 20]].concat();
        let chunk =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", 10 << 20);
        let chunked = [chunk.as_bytes(), &vec![b'x'; 1 << 20]].concat();
        let headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(65));
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(32 << 10));
        let found = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n";
        for (answer, fault) in [
            (length.into_bytes(), Fault::TooLarge),
            (endless, Fault::TooLarge),
            (chunked, Fault::TooLarge),
            (headers.into_bytes(), Fault::TooLarge),
            (long.into_bytes(), Fault::TooLarge),
            (found.into(), Fault::Redirect(302)),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(), Fault::Refused(404)),
        ] {
            let (answer, _) = of(answer, false).await;
            assert_eq!(answer.and_then(Answer::good).unwrap_err(), fault);
        }
        let (answer, _) = of("SSH-2.0-OpenSSH_9.2\r\n".into(), true).await;
        assert!(matches!(answer.unwrap_err(), Fault::Malformed(_)));
        let (answer, _) =
            of("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello".into(), false).await;
        assert!(matches!(answer.unwrap_err(), Fault::Broken(_)));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_or_drips_is_slow_and_nobody_is_absent() {
        let began = Instant::now();
        for part in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"] {
            let (answer, _) = of(part.into(), true).await;
            assert_eq!(answer.unwrap_err(), Fault::Slow);
        }
        assert!(began.elapsed() < 3 * WHOLE);
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let asked = Asked { method: Method::GET, host: "a", path: "/", headers: &[] };
        assert_eq!(ask(nobody, &asked).await.unwrap_err(), Fault::Absent);
    }
}
