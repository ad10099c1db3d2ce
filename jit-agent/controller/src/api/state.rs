//! What handlers share.

use std::{ops::Deref, sync::Arc};

use super::{
    deliver::WebhookKey,
    enrolling::Enrolling,
    limits::Limits,
    problem::{Failure, Word},
    settings::Settings,
    streams::{Place, Streams},
};
use crate::{
    desk::Desk,
    enrol::opened::Opened,
    fleet::Fleet,
    people::People,
    store::{Store, StoreError, Tx},
};

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Parts>);

/// The parts of an [`ApiState`].
pub struct Parts {
    desk: Desk,
    fleet: Option<Fleet>,
    settings: Settings,
    limits: Limits,
    people: People,
    streams: Arc<Streams>,
    webhook_key: Option<WebhookKey>,
    enrolling: Option<Enrolling>,
}

impl ApiState {
    /// The state of an API over this desk, with local accounts only. Without a fleet it cannot ask
    /// hosts, and begins no rollouts; without the key of webhooks none can be made.
    pub fn new(
        desk: Desk,
        settings: Settings,
        webhook_key: Option<WebhookKey>,
        fleet: Option<Fleet>,
    ) -> Self {
        Self::with_people(desk, settings, webhook_key, fleet, People::default(), None)
    }

    /// The same, with other ways to sign in, and with what hosts need to enrol.
    pub fn with_people(
        desk: Desk,
        settings: Settings,
        webhook_key: Option<WebhookKey>,
        fleet: Option<Fleet>,
        people: People,
        enrolment: Option<Opened>,
    ) -> Self {
        let enrolling = enrolment.map(Enrolling::new);
        let limits = Limits::new(&settings);
        let streams = Streams::new(settings.streams, settings.account_streams);
        Self(Arc::new(Parts {
            desk,
            fleet,
            settings,
            limits,
            people,
            streams,
            webhook_key,
            enrolling,
        }))
    }
}

impl Deref for ApiState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Parts {
    /// What may be done with requests.
    pub const fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The hosts.
    pub const fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_ref()
    }

    /// The database.
    pub fn store(&self) -> &Store {
        self.desk.store()
    }

    /// The configuration.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often somebody may call.
    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// One call of this account.
    ///
    /// # Errors
    /// There were too many.
    pub(crate) fn admit(&self, account: &str) -> Result<(), Failure> {
        self.limits.account(account)
    }

    /// Who browsers are.
    pub const fn people(&self) -> &People {
        &self.people
    }

    /// A place for a stream of events of this account.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn stream(&self, account: &str) -> Result<Place, Failure> {
        self.streams.take(account)
    }

    /// How hosts enrol.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn enrolling(&self) -> Result<&Enrolling, Failure> {
        self.enrolling.as_ref().ok_or_else(|| {
            let detail = "`[enrolment] hub_ca` is not in the controller's configuration";
            Failure::new(Word::EnrolmentOff, detail)
        })
    }

    /// Whether hosts enrol here.
    pub(crate) const fn enrols(&self) -> bool {
        self.enrolling.is_some()
    }

    /// From which the secrets of webhooks follow.
    pub const fn webhook_key(&self) -> Option<&WebhookKey> {
        self.webhook_key.as_ref()
    }

    /// Ends a change, and wakes who waits for it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn commit(&self, tx: Tx) -> Result<(), StoreError> {
        tx.commit().await?;
        self.desk.changed();
        Ok(())
    }
}
