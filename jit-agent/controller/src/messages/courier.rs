//! Brings what happens to one service, in order, each at least once: its cursor in the audit moves
//! on only after the service has taken what came before.

use std::time::Duration;

use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    Retry,
    news::{About, Page},
};
use crate::{
    clock::now_ms,
    desk::{Desk, DeskError},
    store::StoreError,
};

/// How often it is looked for what other processes have committed.
const LOOK: Duration = Duration::from_secs(2);
/// Records that are read at once.
const CHUNK: u32 = 100;

/// Why a message was not taken, in words, and for how long nothing more is wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A sentence.
    pub text: String,
    /// The service asks for this pause; `None`: it does not say.
    pub pause: Option<Duration>,
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, pause: None }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        error.to_string().into()
    }
}

impl From<DeskError> for Trouble {
    fn from(error: DeskError) -> Self {
        error.to_string().into()
    }
}

/// Somebody who takes messages.
pub trait Service: Send + Sync + 'static {
    /// Its name: that of its cursor too.
    fn name(&self) -> &str;

    /// Says it. What was said already is left out.
    fn say(&self, desk: &Desk, about: &About) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Says again what it could not say to somebody while it said the rest. `site`: where links
    /// lead.
    fn again(
        &self,
        _desk: &Desk,
        _site: Option<&str>,
        _retry: Retry,
    ) -> impl Future<Output = Result<(), Trouble>> + Send {
        async { Ok(()) }
    }
}

/// Brings messages for as long as it lives.
#[derive(Debug)]
pub struct Courier(AbortHandle);

impl Drop for Courier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Courier {
    /// Brings what happens from now on; after a restart from where it ended. `site`: where links
    /// lead.
    pub fn start(desk: Desk, service: impl Service, site: Option<String>, retry: Retry) -> Self {
        Self(tokio::spawn(run(desk, service, site, retry)).abort_handle())
    }
}

async fn run(desk: Desk, service: impl Service, site: Option<String>, retry: Retry) {
    let mut changes = desk.changes();
    let (mut failures, mut last) = (0, String::new());
    loop {
        changes.mark_unchanged();
        let Err(trouble) = round(&desk, &service, site.as_deref(), retry).await else {
            if failures > 0 {
                tracing::info!("{}: it takes messages again", service.name());
            }
            (failures, last) = (0, String::new());
            if let Ok(Err(_)) = timeout(LOOK, changes.changed()).await {
                return;
            }
            continue;
        };
        if trouble.text != last {
            tracing::warn!(
                "{}: messages wait, and are tried again: {}",
                service.name(),
                trouble.text
            );
            last.clone_from(&trouble.text);
        }
        let pause = u64::try_from(retry.pause_ms(failures)).unwrap_or_default();
        failures += 1;
        sleep(Duration::from_millis(pause).max(trouble.pause.unwrap_or_default())).await;
    }
}

/// Says all that there is.
async fn round(
    desk: &Desk,
    service: &impl Service,
    site: Option<&str>,
    retry: Retry,
) -> Result<(), Trouble> {
    let store = desk.store();
    let mut cursor = store.audit_cursor(service.name()).await?;
    if cursor == 0 {
        // What was before is no news.
        (cursor, _) = store.audit_tip().await?;
        store.set_audit_cursor(service.name(), cursor, now_ms()).await?;
    }
    loop {
        let lines = store.audit_after(cursor, CHUNK).await?;
        let Some(end) = lines.last().map(|line| line.seq) else {
            return service.again(desk, site, retry).await;
        };
        let mut page = Page::default();
        for line in &lines {
            if let Some(about) = page.about(desk, line, site, now_ms()).await? {
                service.say(desk, &about).await?;
                store.set_audit_cursor(service.name(), line.seq, now_ms()).await?;
            }
        }
        store.set_audit_cursor(service.name(), end, now_ms()).await?;
        cursor = end;
    }
}
