//! Mail: to those who may agree, when they are asked; to who asked, when something becomes of it.
//!
//! Each person gets a mail of his own, as plain text. Texts of people are cleaned before they come near a
//! header: a newline is two visible letters, and can begin no header of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor,
    message::{
        Mailbox, SinglePart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use serde::Deserialize;

use super::{
    Card,
    courier::{Service, Trouble},
    news::About,
    secret,
};
use crate::{
    audit::syslog::host_name,
    clock::now_ms,
    desk::Desk,
    model::State,
    store::{Message, Whole},
};

/// Longest wait for the server.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest subject, letters.
const MOST_SUBJECT: usize = 150;
/// Answers of a server to one address, which no attempt changes (RFC 5321, section 4.2.3).
const HOPELESS: [u16; 3] = [550, 551, 553];
/// The name of its cursor.
const NAME: &str = "mail";

/// The section `[messages.mail]` as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSettings {
    /// `HOST:PORT`
    pub server: String,
    /// From whom mails are: `jit@example.org`.
    pub from: String,
    /// `starttls`, `tls` or `none`; without it `tls` at port 465, `starttls` elsewhere.
    pub tls: Option<RawTls>,
    /// File with the authority of the server's certificate, PEM; without it those of the system.
    pub ca: Option<PathBuf>,
    /// The user for the server.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawTls {
    /// Not at all: only on this machine.
    None,
    /// It begins in plain text, and goes on only with TLS.
    Starttls,
    /// TLS from the beginning.
    Tls,
}

/// The section, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    host: String,
    port: u16,
    from: Mailbox,
    tls: RawTls,
    ca: Option<PathBuf>,
    login: Option<(String, PathBuf)>,
}

impl Settings {
    /// Checks the section. Relative paths begin at `directory`.
    ///
    /// # Errors
    /// The first value that is wrong, in words.
    pub fn of(raw: RawSettings, directory: &Path) -> Result<Self, String> {
        let RawSettings { server, from, tls, ca, user, password_file } = raw;
        let wrong = |key: &str, why: &str| format!("[messages.mail] {key}: {why}");
        let parts = server.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let Some((host, port)) = parts else {
            return Err(wrong("server", &format!("{server:?} is no HOST:PORT, like mail:587")));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = from.parse::<Mailbox>();
        let from = address
            .map_err(|why| wrong("from", &format!("{from:?} is no address of mail: {why}")))?;
        let tls = tls.unwrap_or(if port == 465 { RawTls::Tls } else { RawTls::Starttls });
        if tls == RawTls::None && !matches!(host.as_str(), "127.0.0.1" | "::1" | "localhost") {
            return Err(wrong("tls", "`none` is possible on this machine only"));
        }
        let login = match (user, password_file) {
            (Some(user), Some(file)) => Some((user, directory.join(file))),
            (None, None) => None,
            _ => return Err(wrong("user", "user and password_file belong together")),
        };
        Ok(Self { host, port, from, tls, ca: ca.map(|file| directory.join(file)), login })
    }
}

impl Settings {
    /// File with the password for the server; `None`: it asks for none.
    pub fn password_file(&self) -> Option<&PathBuf> {
        self.login.as_ref().map(|(_, file)| file)
    }
}

/// An address to which mail can go.
///
/// # Errors
/// Why it is none.
pub fn address(text: &str) -> Result<Address, String> {
    text.parse::<Address>().map_err(|why| format!("{text:?} is no address of mail: {why}"))
}

/// Sends mail.
pub struct Post {
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Post {
    /// As the configuration says.
    ///
    /// # Errors
    /// A file that it names cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let Settings { host, port, from, tls, ca, login } = settings;
        let failed = |what: &str, why: String| format!("[messages.mail] {what}: {why}");
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(*port)
            .timeout(Some(ANSWER));
        let name = host_name();
        if !name.is_empty() {
            builder = builder.hello_name(ClientId::Domain(name));
        }
        if *tls != RawTls::None {
            let mut parameters = TlsParameters::builder(host.clone());
            if let Some(file) = ca {
                let unusable = |why: &dyn std::fmt::Display| {
                    failed("ca", format!("{}: {why}", file.display()))
                };
                let pem = std::fs::read(file).map_err(|why| unusable(&why))?;
                let authority = Certificate::from_pem(&pem).map_err(|why| unusable(&why))?;
                parameters = parameters
                    .certificate_store(CertificateStore::None)
                    .add_root_certificate(authority);
            }
            let parameters =
                parameters.build_rustls().map_err(|why| failed("tls", why.to_string()))?;
            builder = builder.tls(match tls {
                RawTls::Tls => Tls::Wrapper(parameters),
                RawTls::None | RawTls::Starttls => Tls::Required(parameters),
            });
        }
        if let Some((user, file)) = login {
            let password = secret::read(file).map_err(|why| failed("password_file", why))?;
            builder = builder.credentials(Credentials::new(user.clone(), password.to_string()));
        }
        Ok(Self { from: from.clone(), transport: builder.build() })
    }

    /// Says something to one account, once for each `said`.
    async fn to(
        &self,
        desk: &Desk,
        whole: &Whole,
        card: &Card,
        (account, address): (&str, &str),
        said: &str,
        because: &str,
    ) -> Result<(), Trouble> {
        let (outbox, request) = (format!("{NAME}:{account}"), &whole.request.proposal.id);
        let before = desk.store().message(&outbox, request).await?;
        if before.is_some_and(|before| before.said == said) {
            return Ok(());
        }
        match compose(&self.from, address, card, request, because) {
            Err(why) => tracing::error!("mail to the account {account} is left out: {why}"),
            Ok(mail) => match self.transport.send(mail).await {
                Ok(_) => {}
                Err(error)
                    if error.status().is_some_and(|code| HOPELESS.contains(&code.into())) =>
                {
                    tracing::error!("mail to the account {account} is left out: {error}");
                }
                Err(error) => return Err(causes(&error).into()),
            },
        }
        let said = Message { said: said.to_owned(), ..Message::default() };
        Ok(desk.store().set_message(&outbox, request, &said, now_ms()).await?)
    }
}

impl Service for Post {
    fn name(&self) -> &str {
        NAME
    }

    async fn say(&self, desk: &Desk, about: &About) -> Result<(), Trouble> {
        let About::Request(whole, card) = about else { return Ok(()) };
        let request = &whole.request;
        let addresses = desk.store().addresses_of_mail().await?;
        if request.state == State::Pending {
            let (_, eligible) = desk.open_needs(request, now_ms()).await?;
            for one in eligible {
                // Of several accounts of one person the first that has an address.
                let account = one.accounts.iter().find(|name| addresses.contains_key(*name));
                if let Some((name, address)) =
                    account.and_then(|name| addresses.get_key_value(name))
                {
                    let because = "You may agree to it.";
                    self.to(desk, whole, card, (name.as_str(), address.as_str()), "asked", because)
                        .await?;
                }
            }
        } else if is_news(request.state)
            && let Some((name, address)) = addresses.get_key_value(&request.account)
        {
            let because = "You asked for it.";
            self.to(
                desk,
                whole,
                card,
                (name.as_str(), address.as_str()),
                request.state.word(),
                because,
            )
            .await?;
        }
        Ok(())
    }
}

/// Whether who asked wants to know.
const fn is_news(state: State) -> bool {
    match state {
        State::AwaitingSignatures
        | State::Delivering
        | State::Denied
        | State::ExpiredUnapproved
        | State::Open
        | State::Partly
        | State::Refused
        | State::Revoked
        | State::Scheduled => true,
        State::Approved | State::Ended | State::Pending | State::Withdrawn => false,
    }
}

/// A mail about a request. All of a request are one conversation.
fn compose(
    from: &Mailbox,
    to: &str,
    card: &Card,
    request: &str,
    because: &str,
) -> Result<Mail, String> {
    let subject: String = card.title.chars().filter(|letter| !letter.is_control()).collect();
    let subject: String = subject.chars().take(MOST_SUBJECT).collect();
    let next = match &card.link {
        Some(link) => link.clone(),
        None => format!("jitctl requests show {request}"),
    };
    let text = format!("{}\n\n{}\n{next}\n\n{because}\n", card.title, card.lines());
    let domain = from.email.domain();
    let automatic = HeaderValue::new(
        HeaderName::new_from_ascii_str("Auto-Submitted"),
        "auto-generated".to_owned(),
    );
    Mail::builder()
        .from(from.clone())
        .to(Mailbox::new(None, address(to)?))
        .subject(subject)
        .date_now()
        .message_id(Some(format!("<{}@{domain}>", ulid::Ulid::generate())))
        .references(format!("<{request}@{domain}>"))
        .raw_header(automatic)
        .singlepart(SinglePart::plain(text))
        .map_err(|why| why.to_string())
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_a_header() {
        let from: Mailbox = "jit@example.org".parse().unwrap();
        let hostile = "x\r\nBcc: eve@example.org\r\n\r\nbody";
        let card = Card {
            title: hostile.into(),
            facts: vec![("Why", hostile.into())],
            link: None,
            news: String::new(),
        };
        let mail = compose(&from, "li@example.org", &card, "01KPEXAMP1E000000000000001", "x");
        let text = String::from_utf8(mail.unwrap().formatted()).unwrap();
        let (headers, _) = text.split_once("\r\n\r\n").unwrap();
        let names: Vec<_> = headers
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert!(!names.contains(&"Bcc"), "{headers}");
        for name in ["From", "To", "Subject", "Date", "Message-ID", "References", "Auto-Submitted"]
        {
            assert_eq!(names.iter().filter(|one| **one == name).count(), 1, "{name}: {headers}");
        }
        for wrong in ["li@example.org\r\nBcc: eve@example.org", "li", "li@example.org, eve@x.org"] {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }
}
