//! Asks an HTTP proxy for a connection (CONNECT, RFC 9110 section 9.3.6). Of the answer only the
//! status line counts; a proxy that says too much, or nothing, is given up.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jit_proto::printable;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::control::link::Through;

/// The longest head of an answer.
const LONGEST: usize = 8 * 1024;
/// The longest wait for it.
const ANSWER: Duration = Duration::from_secs(10);

/// The connection to the other side of the proxy. The error is a sentence.
pub(super) async fn through(mut proxy: TcpStream, through: &Through) -> Result<TcpStream, String> {
    let asking = async {
        let broken = |error: std::io::Error| format!("the proxy broke the connection: {error}");
        proxy.write_all(request(through).as_bytes()).await.map_err(broken)?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head is not the proxy's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= LONGEST {
                return Err(format!("the proxy's answer is longer than {LONGEST} bytes"));
            }
            match proxy.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) if head.is_empty() => {
                    return Err("the proxy closed the connection without an answer".into());
                }
                Err(error) => return Err(broken(error)),
            }
        }
        accepted(&head)
    };
    match timeout(ANSWER, asking).await {
        Ok(done) => done.map(|()| proxy),
        Err(_) => Err("the proxy did not answer within 10 s".into()),
    }
}

fn request(Through { target, credentials }: &Through) -> String {
    let login = match credentials.as_str() {
        "" => String::new(),
        some => format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(some)),
    };
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n")
}

/// Whether the proxy made the connection. The error has its number and its words.
fn accepted(head: &[u8]) -> Result<(), String> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let junk = || format!("the proxy's answer is no HTTP: {:?}", printable::clean(&line, 60));
    let (version, rest) = line.split_once(' ').ok_or_else(junk)?;
    let (number, words) = rest.split_at_checked(3).ok_or_else(junk)?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0")
        || !digits
        || !matches!(words.get(..1), None | Some(" "))
    {
        return Err(junk());
    }
    let words = printable::clean(words.trim(), 100);
    match number {
        _ if number.starts_with('2') => Ok(()),
        "407" => Err(format!(
            "the proxy asks who this is (407 {words}): put USER:PASSWORD into a file and name it in \
             [uplink] proxy_credentials"
        )),
        "403" => {
            Err(format!("the proxy does not allow it (403 {words}): have the hub allowed there"))
        }
        _ => Err(format!("the proxy refused: {number} {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_decides_and_its_words_are_clean() {
        for good in ["HTTP/1.1 200 Connection established\r\n\r\n", "HTTP/1.0 200\r\n\r\n"] {
            assert_eq!(accepted(good.as_bytes()), Ok(()), "{good}");
        }
        for (answer, says) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy_credentials"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow it (403 Forbidden)"),
            ("HTTP/1.1 502 Bad\u{1b}[31m\r\n\r\n", "refused: 502 Bad"),
            ("HTTP/1.1 2000 x\r\n\r\n", "no HTTP"),
            ("HTTP/2 200 x\r\n\r\n", "no HTTP"),
            ("SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
            ("HTTP/1.1 20\r\n\r\n", "no HTTP"),
            ("\r\n\r\n", "no HTTP"),
        ] {
            let why = accepted(answer.as_bytes()).unwrap_err();
            assert!(why.contains(says) && !why.contains('\u{1b}'), "{answer:?}: {why}");
        }
    }

    #[test]
    fn every_cut_and_every_other_byte_is_an_answer_or_an_error() {
        let good = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
        for at in 0..good.len() {
            let _cut = accepted(&good[..at]);
            for byte in 0..=u8::MAX {
                let mut other = *good;
                other[at] = byte;
                let is_accepted = accepted(&other).is_ok();
                // Only the class of the number and the words may be others.
                let same = byte == good[at];
                assert!(!is_accepted || same || at == 7 || at >= 10, "{at} {byte}");
            }
        }
    }

    #[test]
    fn credentials_are_sent_as_rfc_7617_has_them() {
        let through = Through { target: "hub.example.org:443".into(), credentials: "a:b".into() };
        let text = request(&through);
        assert!(text.starts_with("CONNECT hub.example.org:443 HTTP/1.1\r\nHost: hub"), "{text}");
        assert!(text.ends_with("Proxy-Authorization: Basic YTpi\r\n\r\n"), "{text}");
        assert!(!request(&Through { credentials: String::new(), ..through }).contains("Proxy-"));
    }
}
