//! Mail: to those who may agree, when they are asked; to who asked, when something becomes of it.
//!
//! Each person gets a mail of his own, as plain text. Texts of people are cleaned before they come
//! near a header: a newline is two visible letters, and can begin no header of its own.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use lettre::{
    Address, Message as Mail,
    message::{
        Mailbox, SinglePart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use serde::Deserialize;

use super::{
    Card, Retry,
    courier::{Service, Trouble},
    news::About,
    smtp::{ANSWER, Protection, Refusal, Server},
};
use crate::{
    audit::syslog::host_name,
    clock::now_ms,
    desk::Desk,
    here::is_here,
    model::State,
    secret,
    store::{Message, Whole},
};

/// Mails that waited and are tried again before it is looked for what is new. No more begin once
/// these have taken longer than one answer may.
const AGAIN: usize = 20;
/// Longest subject, letters.
const MOST_SUBJECT: usize = 150;
/// The name of its cursor, and the beginning of its outboxes.
const NAME: &str = "mail";
/// The place of a mail that is tried again.
const WAITS: &str = "waits";

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
        if tls == RawTls::None && !is_here(&host) {
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
    server: Server,
    /// When a mail that waits for its recipient is due, milliseconds since the Unix epoch: nothing
    /// is looked for before. `i64::MAX`: none waits.
    due_ms: AtomicI64,
}

impl Post {
    /// As the configuration says.
    ///
    /// # Errors
    /// A file that it names cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let Settings { host, port, from, tls, ca, login } = settings;
        let failed = |what: &str, why: String| format!("[messages.mail] {what}: {why}");
        let name = host_name();
        let name = if name.is_empty() { ClientId::default() } else { ClientId::Domain(name) };
        let mut protection = Protection::None;
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
            protection = match tls {
                RawTls::Tls => Protection::Tls(parameters),
                RawTls::None | RawTls::Starttls => Protection::Starttls(parameters),
            };
        }
        let mut credentials = None;
        if let Some((user, file)) = login {
            let password = secret::read(file).map_err(|why| failed("password_file", why))?;
            credentials = Some(Credentials::new(user.clone(), password.to_string()));
        }
        let server = Server {
            host: host.clone(),
            port: *port,
            tls: protection,
            name,
            login: credentials,
            answer: ANSWER,
        };
        Ok(Self { from: from.clone(), server, due_ms: AtomicI64::new(0) })
    }

    /// Says something to one account, once for each `said`. Returns whether its mail waits.
    async fn to(
        &self,
        desk: &Desk,
        about: (&Whole, &Card),
        to: &Recipient,
        before: Option<Wait>,
    ) -> Result<bool, Trouble> {
        let request = &about.0.request.proposal.id;
        let mut said = Message { said: to.said.to_owned(), ..Message::default() };
        let account = &to.account;
        let left_out =
            |why: String| tracing::error!("mail to the account {account} is left out: {why}");
        match compose(&self.from, &to.address, about.1, request, to.because) {
            Err(why) => left_out(why),
            Ok((address, mail)) => {
                match self.server.send(&self.from.email, &address, &mail).await {
                    Ok(()) => {}
                    Err(Refusal::Address(why)) => left_out(why),
                    Err(Refusal::Mail(why)) => {
                        let wait = before.unwrap_or(Wait { since_ms: now_ms(), ..Wait::default() });
                        if wait.tries == 0 {
                            tracing::warn!("mail to the account {account} waits: {why}");
                        }
                        (said.place, said.stamp) = (WAITS.to_owned(), wait.stamp());
                        self.due_ms.fetch_min(wait.next_ms, Ordering::Relaxed);
                    }
                    Err(Refusal::Server(why)) => return Err(why.into()),
                }
            }
        }
        desk.store().set_message(&outbox(account), request, &said, now_ms()).await?;
        Ok(said.place == WAITS)
    }
}

/// Who gets a mail, and which.
struct Recipient {
    account: String,
    address: String,
    /// What it says, in a word.
    said: &'static str,
    because: &'static str,
}

/// How long a mail waits for its recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wait {
    since_ms: i64,
    tries: i64,
    next_ms: i64,
}

impl Wait {
    /// As it is stored.
    fn stamp(self) -> String {
        let Self { since_ms, tries, next_ms } = self;
        format!("{since_ms} {tries} {next_ms}")
    }

    fn of(stamp: &str) -> Self {
        let mut numbers = stamp.split(' ').map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        Self { since_ms: next(), tries: next(), next_ms: next() }
    }
}

fn outbox(account: &str) -> String {
    format!("{NAME}:{account}")
}

/// Who gets a mail about a request as it is now.
async fn recipients(desk: &Desk, whole: &Whole) -> Result<Vec<Recipient>, Trouble> {
    let request = &whole.request;
    let addresses = desk.store().addresses_of_mail().await?;
    let of = |account: &String, said, because| {
        let address = addresses.get(account)?.clone();
        Some(Recipient { account: account.clone(), address, said, because })
    };
    if request.state == State::Pending {
        let (_, eligible) = desk.open_needs(request, now_ms()).await?;
        // Of several accounts of one person the first that has an address.
        let first = |accounts: &[String]| {
            accounts.iter().find_map(|name| of(name, "asked", "You may agree to it."))
        };
        return Ok(eligible.iter().filter_map(|one| first(&one.accounts)).collect());
    }
    let of_news = is_news(request.state)
        .then(|| of(&request.account, request.state.word(), "You asked for it."));
    Ok(of_news.flatten().into_iter().collect())
}

impl Service for Post {
    fn name(&self) -> &str {
        NAME
    }

    async fn say(&self, desk: &Desk, about: &About) -> Result<(), Trouble> {
        let About::Request(whole, card) = about else { return Ok(()) };
        let request = &whole.request.proposal.id;
        for to in recipients(desk, whole).await? {
            let before = desk.store().message(&outbox(&to.account), request).await?;
            // Said, or tried again by itself.
            if before.is_none_or(|before| before.said != to.said) {
                self.to(desk, (whole, card), &to, None).await?;
            }
        }
        Ok(())
    }

    /// Tries again what one recipient's server did not want yet. What is no news any more is left
    /// out.
    async fn again(&self, desk: &Desk, site: Option<&str>, retry: Retry) -> Result<(), Trouble> {
        if self.due_ms.load(Ordering::Relaxed) > now_ms() {
            return Ok(());
        }
        let waiting = desk.store().messages_in(&outbox(""), WAITS).await?;
        self.due_ms.store(i64::MAX, Ordering::Relaxed);
        let (began, mut tried) = (Instant::now(), 0);
        // Who did not take one mail does not get the next one tried at once.
        let mut not_now = BTreeSet::new();
        for (outbox, request, message) in waiting {
            let (wait, now_ms) = (Wait::of(&message.stamp), now_ms());
            let is_later = tried >= AGAIN || began.elapsed() > ANSWER || not_now.contains(&outbox);
            if wait.next_ms > now_ms || is_later {
                self.due_ms.fetch_min(wait.next_ms, Ordering::Relaxed);
                continue;
            }
            let done = Message { said: message.said.clone(), ..Message::default() };
            let waits_ms = u128::try_from(now_ms.saturating_sub(wait.since_ms)).unwrap_or_default();
            let is_too_old = waits_ms >= retry.give_up.as_millis();
            let whole = desk.store().whole(&request).await?;
            let to = match &whole {
                Some(whole) => recipients(desk, whole).await?,
                None => Vec::new(),
            };
            let is_this =
                |to: &&Recipient| self::outbox(&to.account) == outbox && to.said == message.said;
            let (Some(whole), Some(to), false) = (&whole, to.iter().find(is_this), is_too_old)
            else {
                if is_too_old {
                    let account = outbox.strip_prefix(&self::outbox("")).unwrap_or(&outbox);
                    tracing::error!(
                        "mail to the account {account} is left out: it waited too long"
                    );
                }
                desk.store().set_message(&outbox, &request, &done, now_ms).await?;
                continue;
            };
            let (missing, eligible) = desk.open_needs(&whole.request, now_ms).await?;
            let card = Card::of_request(whole, &missing, &eligible, site);
            let tries = wait.tries.saturating_add(1);
            let next_ms = now_ms.saturating_add(retry.pause_ms(tries));
            let wait = Wait { tries, next_ms, ..wait };
            tried += 1;
            match self.to(desk, (whole, &card), to, Some(wait)).await {
                Ok(true) => {
                    not_now.insert(outbox);
                }
                Ok(false) => {}
                Err(trouble) => {
                    // The server takes none: all that waits is looked at again.
                    self.due_ms.store(0, Ordering::Relaxed);
                    return Err(trouble);
                }
            }
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
) -> Result<(Address, Mail), String> {
    let to = address(to)?;
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
        .to(Mailbox::new(None, to.clone()))
        .subject(subject)
        .date_now()
        .message_id(Some(format!("<{}@{domain}>", ulid::Ulid::generate())))
        .references(format!("<{request}@{domain}>"))
        .raw_header(automatic)
        .singlepart(SinglePart::plain(text))
        .map(|mail| (to, mail))
        .map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_mail_waits_is_read_as_it_was_written() {
        let wait = Wait { since_ms: 1, tries: 2, next_ms: 3 };
        assert_eq!(Wait::of(&wait.stamp()), wait);
        assert_eq!(Wait::of("x"), Wait::default());
    }

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
        let text = String::from_utf8(mail.unwrap().1.formatted()).unwrap();
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
