//! The command that compares what has arrived with a checkpoint.

use crate::gate::{
    Asked,
    command::{Compared, GateHandle, Gone, Read},
};

impl GateHandle {
    /// Compares what has arrived with a checkpoint.
    pub async fn compare(&self, asked: Asked, by: &str) -> Result<Compared, Gone> {
        let check = self.verification.checkpoint(asked.envelope.clone(), by).await;
        let (asked, by) = (Box::new(asked), by.to_owned());
        let check = check.map_err(|_| Gone)?;
        self.ask(|reply| Read::Compare { asked, check, by, reply }).await
    }
}
