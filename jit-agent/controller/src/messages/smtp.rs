//! One mail over SMTP (RFC 5321), command by command: which one was refused says whether the others
//! get theirs. Each answer has a time limit of its own, which lettre's transport has not.

use std::time::Duration;

use lettre::{
    Address, Message as Mail,
    transport::smtp::{
        Error,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail as From, Rcpt},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
    },
};
use tokio::time::timeout;

use crate::causes::causes;

/// Longest wait for an answer of the server.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// Longest wait for the answer to QUIT: it changes nothing.
const LEAVE: Duration = Duration::from_secs(2);

/// A server that takes mail.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Protection,
    /// The name by which it is greeted.
    pub(super) name: ClientId,
    /// `None`: it asks for none.
    pub(super) login: Option<Credentials>,
    /// Longest wait for an answer.
    pub(super) answer: Duration,
}

/// How a connection is protected.
pub(super) enum Protection {
    /// Not at all.
    None,
    /// From the command STARTTLS on.
    Starttls(TlsParameters),
    /// From the beginning.
    Tls(TlsParameters),
}

/// Why a mail was not taken, in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its address is not taken, whenever it is tried.
    Address(String),
    /// This mail is not taken now; others may be.
    Mail(String),
    /// The server takes none at all now.
    Server(String),
}

impl Server {
    /// Sends a mail to one address.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(super) async fn send(
        &self,
        from: &Address,
        to: &Address,
        mail: &Mail,
    ) -> Result<(), Refusal> {
        let mut connection = self.connection().await.map_err(Refusal::Server)?;
        let sent = self.talk(&mut connection, from, to, mail).await;
        let _ = timeout(LEAVE, connection.abort()).await;
        match sent {
            // It may have gone away for all.
            Err(Refusal::Mail(why)) => match self.connection().await {
                Ok(mut connection) => {
                    let _ = timeout(LEAVE, connection.abort()).await;
                    Err(Refusal::Mail(why))
                }
                Err(_) => Err(Refusal::Server(why)),
            },
            sent => sent,
        }
    }

    /// A connection that is protected, and logged in.
    async fn connection(&self) -> Result<AsyncSmtpConnection, String> {
        let server = (self.host.as_str(), self.port);
        let tls = match &self.tls {
            Protection::Tls(tls) => Some(tls.clone()),
            Protection::None | Protection::Starttls(_) => None,
        };
        let connect =
            AsyncSmtpConnection::connect_tokio1(server, Some(self.answer), &self.name, tls, None);
        let mut connection = self.within(connect).await.map_err(|failed| failed.why)?;
        if let Protection::Starttls(tls) = &self.tls {
            let starttls = connection.starttls(tls.clone(), &self.name);
            self.within(starttls).await.map_err(|failed| failed.why)?;
        }
        if let Some(login) = &self.login {
            let login = connection.auth(DEFAULT_MECHANISMS, login);
            self.within(login).await.map_err(|failed| failed.why)?;
        }
        Ok(connection)
    }

    async fn talk(
        &self,
        connection: &mut AsyncSmtpConnection,
        from: &Address,
        to: &Address,
        mail: &Mail,
    ) -> Result<(), Refusal> {
        let text = mail.formatted();
        let is_ascii = |address: &Address| AsRef::<str>::as_ref(address).is_ascii();
        let mut parameters = Vec::new();
        if !is_ascii(from) || !is_ascii(to) {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                let why =
                    "the address has letters that are not ASCII, and the server has no SMTPUTF8";
                return Err(match is_ascii(from) {
                    true => Refusal::Address(why.to_owned()),
                    false => Refusal::Server(why.to_owned()),
                });
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        if !text.is_ascii() {
            if !connection.server_info().supports_feature(Extension::EightBitMime) {
                let why = "the mail has letters that are not ASCII, and the server has no 8BITMIME";
                return Err(Refusal::Address(why.to_owned()));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = connection.command(From::new(Some(from.clone()), parameters));
        self.within(from).await.map_err(|failed| Refusal::Server(failed.why))?;
        let rcpt = connection.command(Rcpt::new(to.clone(), Vec::new()));
        self.within(rcpt).await.map_err(|failed| failed.of_address(self.login.is_some()))?;
        // What is said from here on is of this mail, or a limit of all: it is tried again.
        let of_mail = |failed: Failed| Refusal::Mail(failed.why);
        self.within(connection.command(Data)).await.map_err(of_mail)?;
        self.within(connection.message(&text)).await.map_err(of_mail)?;
        Ok(())
    }
    /// The answer, if it comes in time.
    async fn within<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
        match timeout(self.answer, answer).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(error)) => {
                let text = std::error::Error::source(&error).map(ToString::to_string);
                let answer = error.status().map(|code| (code.into(), text.unwrap_or_default()));
                Err(Failed { why: causes(&error), answer })
            }
            Err(_) => {
                let why = format!("the server did not answer within {:?}", self.answer);
                Err(Failed { why, answer: None })
            }
        }
    }
}

/// What went wrong at one command.
struct Failed {
    why: String,
    /// The server's answer: its code, and the text after that.
    answer: Option<(u16, String)>,
}

impl Failed {
    /// The meaning of an answer to RCPT.
    fn of_address(self, is_logged_in: bool) -> Refusal {
        let Self { why, answer } = self;
        let Some((code, text)) = answer else { return Refusal::Mail(why) };
        match code {
            // It wants a login (RFC 4954 section 6), from everybody.
            530..=539 if !is_logged_in => Refusal::Server(why),
            500..=529 | 540..=599 if is_of_address(&text) => Refusal::Address(why),
            _ => Refusal::Mail(why),
        }
    }
}

/// Whether an answer to RCPT is about the address or its mailbox. Codes of RFC 3463 say so; a
/// server that sends none means the address.
fn is_of_address(text: &str) -> bool {
    let code = text.split_whitespace().next().unwrap_or_default();
    let mut parts = code.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("5"), Some(subject), Some(_)) => matches!(subject, "0" | "1" | "2"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn an_answer_to_an_address_is_its_own_unless_it_says_otherwise() {
        let of = |code, text: &str, is_logged_in| {
            let failed = Failed { why: "x".into(), answer: Some((code, text.to_owned())) };
            failed.of_address(is_logged_in)
        };
        let (address, mail) = (Refusal::Address("x".into()), Refusal::Mail("x".into()));
        for text in ["no such user", "5.1.1 no such user", "5.2.2 full", "5.5", ""] {
            assert_eq!(of(550, text, true), address, "{text}");
        }
        // A limit of the day, and a policy.
        for text in ["5.4.5 daily limit", "5.7.1 policy", "5.3.4 too large"] {
            assert_eq!(of(550, text, true), mail, "{text}");
        }
        for code in [421, 450, 452] {
            assert_eq!(of(code, "later", true), mail, "{code}");
        }
        assert_eq!(of(530, "5.7.0 login first", true), mail);
        assert_eq!(of(530, "5.7.0 login first", false), Refusal::Server("x".into()));
        let silent = Failed { why: "x".into(), answer: None };
        assert_eq!(silent.of_address(true), mail);
    }

    /// What a server says to each command: the letters it begins with, and the answer; an empty one
    /// is none.
    type Says = &'static [(&'static str, &'static str)];

    /// A server that takes all but what `says` has, and what it got.
    async fn server(says: Says) -> (Server, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, says, Arc::clone(&seen)));
            }
        });
        let server = Server {
            host: "127.0.0.1".into(),
            port,
            tls: Protection::None,
            name: ClientId::default(),
            login: None,
            answer: Duration::from_millis(300),
        };
        (server, got)
    }

    async fn talk(stream: TcpStream, says: Says, got: Arc<Mutex<Vec<String>>>) {
        let mut stream = BufReader::new(stream);
        let mut line = "greeting".to_owned();
        loop {
            let said = says.iter().find(|(command, _)| line.starts_with(command));
            let answer = match (said, line.get(..4).unwrap_or_default()) {
                (Some((_, answer)), _) => answer,
                (None, "gree") => "220 hello",
                (None, "DATA") => "354 go on",
                (None, "EHLO" | "MAIL" | "RCPT" | "QUIT") => "250 ok",
                (None, _) if line == ".\r\n" => "250 taken",
                // The text of the mail.
                (None, _) => "",
            };
            if !answer.is_empty() {
                stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            got.lock().unwrap().push(line.trim_end().to_owned());
        }
    }

    async fn sent(says: Says, to: &str) -> Result<(), Refusal> {
        let (server, got) = server(says).await;
        let (from, to): (Address, Address) =
            ("jit@example.org".parse().unwrap(), to.parse().unwrap());
        let mail = Mail::builder()
            .from(lettre::message::Mailbox::new(None, from.clone()))
            .to(lettre::message::Mailbox::new(None, to.clone()))
            .body("text".to_owned())
            .unwrap();
        let sent = server.send(&from, &to, &mail).await;
        let is_whole = got.lock().unwrap().iter().any(|line| line == ".");
        assert!(is_whole || sent.is_err(), "{:?}", got.lock().unwrap());
        sent
    }

    #[tokio::test]
    async fn who_is_refused_says_whether_others_get_theirs() {
        const LI: &str = "li@example.org";
        assert_eq!(sent(&[], LI).await, Ok(()));
        let utf8: Says = &[("EHLO", "250-x\r\n250-8BITMIME\r\n250 SMTPUTF8")];
        assert_eq!(sent(utf8, "lü@example.org").await, Ok(()));
        assert!(matches!(sent(&[], "lü@example.org").await, Err(Refusal::Address(_))));
        assert!(matches!(sent(&[("RCPT", "550 nobody")], LI).await, Err(Refusal::Address(_))));
        // Not the address, or not for good. The server may be silent at one address only.
        for says in [
            &[("RCPT", "")][..],
            &[("RCPT", "421 busy")],
            &[("RCPT", "450 later")],
            &[("RCPT", "550 5.4.5 daily limit")],
            &[("RCPT", "what")],
            &[("DATA", "554 no")],
            &[(".", "552 too much")],
            &[(".", "")],
        ] {
            let sent = sent(says, LI).await;
            assert!(matches!(sent, Err(Refusal::Mail(_))), "{says:?}: {sent:?}");
        }
        // It is nobody's address.
        for says in [
            &[("greeting", "421 closed")][..],
            &[("greeting", "")],
            &[("EHLO", "550 no")],
            &[("MAIL", "550 sender rejected")],
            &[("MAIL", "421 busy")],
            &[("MAIL", "")],
            &[("RCPT", "530 login first")],
        ] {
            let sent = sent(says, LI).await;
            assert!(matches!(sent, Err(Refusal::Server(_))), "{says:?}: {sent:?}");
        }
    }
}
