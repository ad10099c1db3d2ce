//! When grants were committed, as another connection to the database sees it.

use std::{collections::BTreeMap, thread, time::Duration};

use jit_proto::GrantId;
use sqlx::{AnyPool, Row as _, query};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle, time::sleep};

use super::board::now_us;

/// Between two looks.
const LOOK: Duration = Duration::from_micros(500);

type Seen = BTreeMap<GrantId, u64>;

/// Looks until it is asked for what it has seen.
pub(crate) struct Commits {
    end: oneshot::Sender<()>,
    looking: JoinHandle<Seen>,
}

impl Commits {
    /// Looks at this database from now on.
    pub(crate) fn of(runtime: &Runtime, url: &str) -> Self {
        let pool = runtime.block_on(AnyPool::connect(url)).unwrap();
        let (end, ended) = oneshot::channel();
        let looking = runtime.spawn(look(pool, ended));
        thread::sleep(100 * LOOK);
        Self { end, looking }
    }

    /// When each grant was last not there yet, microseconds since the Unix epoch: it was committed then, or
    /// later by the time of one look.
    pub(crate) fn take(self, runtime: &Runtime) -> Seen {
        self.end.send(()).unwrap();
        runtime.block_on(self.looking).unwrap()
    }
}

async fn look(pool: AnyPool, mut ended: oneshot::Receiver<()>) -> Seen {
    let last = "SELECT COALESCE(MAX(rowid), 0) AS number FROM delivery";
    let mut last: i64 = query(last).fetch_one(&pool).await.unwrap().get("number");
    let (mut seen, mut before) = (Seen::new(), now_us());
    while ended.try_recv().is_err() {
        let now = now_us();
        let rows = "SELECT rowid AS number, grant_id FROM delivery WHERE rowid > $1 ORDER BY rowid";
        for row in query(rows).bind(last).fetch_all(&pool).await.unwrap() {
            let grant: String = row.get("grant_id");
            seen.entry(grant.parse().unwrap()).or_insert(before);
            last = row.get("number");
        }
        before = now;
        sleep(LOOK).await;
    }
    seen
}
